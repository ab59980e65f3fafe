//! Room for sequences: who is admitted next, whether it fits, and who has to go for it.
//!
//! Four make room. A decode that has no block takes one from the last in order ([`Order`]), be it itself. Those in the
//! background go for those that somebody waits for. A waiting sequence takes the place of others' last ones if its share
//! then holds no more than theirs still do without them. And one with which its share stays within its part takes what
//! others were lent beyond theirs ([`Standing`]). Where several shares are, nobody goes for one that would not fit even then.
//!
//! Who stays within its part is admitted before who does not, and holds up nobody if there is no room for it: parts add up
//! to what there is, so what comes within others' parts takes nothing from its own. Among those beyond their parts one that
//! does not fit holds up the others.
//!
//! No two shares take places from each other for ever. Whoever is within its part goes only for another one that is, and
//! each such exchange makes what they hold more even, so that it cannot be turned back unless something was computed in
//! between; the same holds for exchanges among those beyond their parts. The first of a share goes for another share's only
//! where it alone is more than a part; it has turns then (`turns`). So the first of all always comes to its end, and then
//! there is another first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Plan, Scheduler,
    shares::{Holding, Measure, Order, Ranked, Standing, Weight},
};
use crate::engine::{
    blocks::{BlockId, BlockPool},
    sequence::{Precedence, Sequence, SequenceKey},
};

/// What is there for a waiting sequence.
struct Fit {
    /// The cached blocks that begin it.
    hits: Vec<BlockId>,
    /// Blocks that must be available for them and for its other tokens.
    wanted: usize,
}

/// What comes free for a waiting sequence once some running ones have gone.
struct Freed {
    /// Their places, and the blocks that nobody else holds.
    holding: Holding,
    /// The waiting sequence's cached blocks: it holds them itself then, so none of them comes free.
    hits: BTreeSet<BlockId>,
    /// Of blocks with several holders, how many have gone.
    gone: BTreeMap<BlockId, u32>,
}

impl Freed {
    fn for_one_with(hits: Vec<BlockId>) -> Self {
        Self { holding: Holding::default(), hits: hits.into_iter().collect(), gone: BTreeMap::new() }
    }

    fn add(&mut self, sequence: &Sequence, blocks: &BlockPool) {
        let mut n_freed = 0;
        for &block in sequence.block_table.iter().filter(|block| !self.hits.contains(block)) {
            let n_holders = blocks.num_holders(block);
            n_freed += match n_holders {
                1 => 1,
                _ => {
                    let gone = self.gone.entry(block).or_default();
                    *gone += 1;
                    usize::from(*gone == n_holders)
                }
            };
        }
        self.holding = self.holding.with(n_freed);
    }
}

impl Scheduler {
    /// Running sequences in the order in which they are served. A block that one takes for its next token counts: who
    /// grows beyond its part takes that from nobody who is within its own.
    pub(super) fn order(&self) -> Order {
        let held = |sequence: &Sequence| sequence.block_table.len() + usize::from(self.grows(sequence));
        let running = self.running.iter().map(|(&key, sequence)| (key, &**sequence.share(), held(sequence)));
        Order::new(running, |precedence| self.measure(precedence))
    }

    /// The first waiting sequence of each share that may have one, in the order in which they are to be admitted: those
    /// with which their share stays within its part, and of these that of whoever holds least.
    pub(super) fn firsts_waiting(&self, precedence: Precedence, may: impl Fn(&Arc<str>) -> bool) -> Vec<Ranked> {
        if !self.members.are_several() {
            let first = self.waiting.first_key_value().filter(|(key, _)| key.precedence == precedence);
            let ranked = |(&key, _)| Ranked { standing: Standing::Within, before: Weight::default(), key };
            return first.into_iter().map(ranked).collect();
        }
        let mut firsts: BTreeMap<&Arc<str>, SequenceKey> = BTreeMap::new();
        for (&key, sequence) in self.waiting.iter().filter(|(key, _)| key.precedence == precedence) {
            firsts.entry(sequence.share()).or_insert(key);
        }
        let mut held: BTreeMap<&Arc<str>, Holding> = BTreeMap::new();
        for (_, sequence) in self.running.iter().filter(|(key, _)| key.precedence == precedence) {
            let holding = held.entry(sequence.share()).or_default();
            *holding = holding.with(sequence.block_table.len());
        }
        let measure = self.measure(precedence);
        let ranked = firsts.into_iter().filter(|(share, _)| may(share)).map(|(share, key)| {
            let holding = held.get(share).copied().unwrap_or_default();
            let with_it = holding.with(self.blocks_with_room(&self.waiting[&key]));
            Ranked { standing: measure.standing(key, with_it), before: holding.weight(measure.capacity), key }
        });
        let mut ranked: Vec<Ranked> = ranked.collect();
        ranked.sort_unstable();
        ranked
    }

    /// Room for one sequence that is to be admitted, which then happens in its turn: for the first one for which there is
    /// room, or can be.
    pub(super) fn make_way(&mut self, precedence: Precedence, order: &mut Order, plan: &mut Plan) {
        if !self.members.are_several() {
            return;
        }
        let firsts = self.firsts_waiting(precedence, |_| true);
        if let Some(next) = self.call_turn(precedence, &firsts, order) {
            self.make_way_for_turn(next, order, plan);
            return;
        }
        for first in firsts {
            let sequence = &self.waiting[&first.key];
            // One that has been preempted just now is not admitted yet.
            let n_victims = match sequence.num_unread() {
                0 => self.num_victims(first, self.weight_with(first.key), order),
                _ => None,
            };
            if let Some(n_victims) = n_victims {
                self.preempt_last(n_victims, precedence, order, plan);
                return;
            }
            if first.standing != Standing::Within {
                return;
            }
        }
    }

    /// The cached blocks that begin a waiting sequence, once there is room for it. Those in the background make room for
    /// those that somebody waits for: none of them has a share of the step yet.
    pub(super) fn make_room(&mut self, key: SequenceKey, order: &mut Order, plan: &mut Plan) -> Option<Vec<BlockId>> {
        // With one share nobody comes back while one in front of it waits; with several that would be in vain each time.
        if self.members.are_several() && !self.fits_without_later(key, order) {
            return None;
        }
        loop {
            if self.has_place(key.precedence, Holding::default()) {
                let fit = self.fit(key);
                if self.blocks.available() >= fit.wanted {
                    return Some(fit.hits);
                }
            }
            let mut later = Precedence::ALL.into_iter().rev().take_while(|precedence| *precedence > key.precedence);
            let victim = later.find_map(|precedence| order.pop(precedence))?;
            self.preempt(victim, plan);
        }
    }

    /// Room for the next token of a running sequence, preempting from the end of the order.
    /// False if that took the sequence itself.
    pub(super) fn reserve_next(&mut self, key: SequenceKey, order: &mut Order, plan: &mut Plan) -> bool {
        if self.has_room_for_next(&self.running[&key]) {
            return true;
        }
        loop {
            if let Some(block) = self.blocks.allocate() {
                let sequence = self.running.get_mut(&key).expect("the sequence has not been preempted");
                sequence.block_table.push(block);
                return true;
            }
            let victim = order.pop_last().expect("the sequence runs");
            self.preempt(victim, plan);
            if victim == key {
                return false;
            }
        }
    }

    pub(super) fn num_background(&self) -> usize {
        self.running.keys().rev().take_while(|key| key.precedence == Precedence::Background).count()
    }

    /// How many of the last in order have to go so that a waiting sequence fits, with which its share has such a weight.
    /// Those of a later precedence go for it anyway. One goes only if what its share holds before it is no less than that
    /// weight, or if it is lent to it and the waiting one is within its part. Whose turn it is goes for nobody, and any other
    /// one for it. `None` if it would not fit even then.
    pub(super) fn num_victims(&mut self, waiting: Ranked, with_it: Weight, order: &Order) -> Option<usize> {
        let precedence = waiting.key.precedence;
        let fit = self.fit(waiting.key);
        let mut growing = self.running.values().filter(|sequence| self.grows(sequence)).count();
        let mut freed = self.freed_of_later(precedence, fit.hits, order);
        for later in later_than(precedence) {
            growing -= order.of(later).iter().filter(|ranked| self.grows(&self.running[&ranked.key])).count();
        }
        let may_go = |victim: &Ranked| match (waiting.standing, victim.standing) {
            (_, Standing::InTurn) => false,
            (Standing::InTurn, _) | (Standing::Within, Standing::Beyond) => true,
            (Standing::Within | Standing::Beyond, Standing::Within | Standing::Beyond) => victim.before >= with_it,
        };
        let mut victims = order.of(precedence).iter().rev();
        for n_victims in 0.. {
            let has_blocks = self.blocks.available() + freed.holding.blocks >= fit.wanted + growing;
            if has_blocks && self.has_place(precedence, freed.holding) {
                return Some(n_victims);
            }
            let victim = victims.next().filter(|victim| may_go(victim))?;
            let sequence = &self.running[&victim.key];
            freed.add(sequence, &self.blocks);
            growing -= usize::from(self.grows(sequence));
        }
        None
    }

    /// The last of a precedence go.
    pub(super) fn preempt_last(&mut self, n: usize, precedence: Precedence, order: &mut Order, plan: &mut Plan) {
        for _ in 0..n {
            let victim = order.pop(precedence).expect("so many were counted");
            self.preempt(victim, plan);
        }
    }

    /// What the sequences of a precedence are measured by.
    pub(super) fn measure(&self, precedence: Precedence) -> Measure {
        let sequences = match precedence {
            Precedence::Interactive => self.max_running,
            Precedence::Background => self.max_background,
        };
        let capacity = Holding { sequences, blocks: self.blocks.counts().total };
        let part = capacity.part(self.members.num_shares(precedence));
        // A share alone has no turns; one that began while there were others goes on once they are back.
        let in_turn = self.turns[precedence as usize].key().filter(|_| self.members.are_several());
        Measure { capacity, part, in_turn }
    }

    /// Blocks for a waiting sequence and one position more than it has tokens: its first decode shall not preempt at once.
    pub(super) fn blocks_with_room(&self, sequence: &Sequence) -> usize {
        self.blocks_for(sequence.tokens().len() + 1)
    }

    /// What a waiting sequence's share holds with it.
    pub(super) fn weight_with(&self, key: SequenceKey) -> Weight {
        let waiting = &self.waiting[&key];
        let mine = |(at, sequence): &(&SequenceKey, &Sequence)| {
            at.precedence == key.precedence && sequence.share() == waiting.share()
        };
        let held = self.running.iter().filter(mine);
        let held = held.fold(Holding::default(), |held, (_, sequence)| held.with(sequence.block_table.len()));
        held.with(self.blocks_with_room(waiting)).weight(self.measure(key.precedence).capacity)
    }

    /// Does a waiting sequence fit once all of a later precedence have gone?
    fn fits_without_later(&mut self, key: SequenceKey, order: &Order) -> bool {
        let fit = self.fit(key);
        let freed = self.freed_of_later(key.precedence, fit.hits, order).holding;
        self.blocks.available() + freed.blocks >= fit.wanted && self.has_place(key.precedence, freed)
    }

    fn freed_of_later(&self, precedence: Precedence, hits: Vec<BlockId>, order: &Order) -> Freed {
        let mut freed = Freed::for_one_with(hits);
        for ranked in later_than(precedence).flat_map(|later| order.of(later)) {
            freed.add(&self.running[&ranked.key], &self.blocks);
        }
        freed
    }

    /// Does it take a block for its next token?
    fn grows(&self, sequence: &Sequence) -> bool {
        sequence.num_pending() == 1 && !sequence.ends() && !self.has_room_for_next(sequence)
    }

    /// Is there a place for one more, once so many have gone?
    fn has_place(&self, precedence: Precedence, freed: Holding) -> bool {
        self.running.len() < self.max_running + freed.sequences
            && match precedence {
                Precedence::Interactive => true,
                Precedence::Background => self.num_background() < self.max_background + freed.sequences,
            }
    }

    fn fit(&mut self, key: SequenceKey) -> Fit {
        let with_room = self.blocks_with_room(&self.waiting[&key]);
        let sequence = self.waiting.get_mut(&key).expect("the sequence waits");
        let hits = match self.prefix_caching {
            true => cached_prefix(sequence, &self.blocks, self.block_size),
            false => Vec::new(),
        };
        let revived = hits.iter().filter(|&&block| !self.blocks.is_held(block)).count();
        Fit { wanted: with_room - hits.len() + revived, hits }
    }

    fn has_room_for_next(&self, sequence: &Sequence) -> bool {
        sequence.num_computed < sequence.block_table.len() * self.block_size
    }

    /// A running sequence, which has no share of the step, waits again.
    fn preempt(&mut self, victim: SequenceKey, plan: &mut Plan) {
        let mut sequence = self.running.remove(&victim).expect("the sequence runs");
        self.release_blocks(&mut sequence);
        self.waiting.insert(victim, sequence);
        plan.preempted.push(victim);
    }
}

fn later_than(precedence: Precedence) -> impl Iterator<Item = Precedence> {
    Precedence::ALL.into_iter().filter(move |later| *later > precedence)
}

/// The longest run of cached blocks that begins the sequence. At least one token stays to be computed,
/// since its logits are what the next token is sampled from.
fn cached_prefix(sequence: &mut Sequence, blocks: &BlockPool, block_size: usize) -> Vec<BlockId> {
    if sequence.wants_prompt_rows() {
        return Vec::new();
    }
    let usable = (sequence.tokens().len() - 1) / block_size;
    (0..usable).map_while(|index| blocks.lookup(&sequence.block_hash(index, block_size))).collect()
}
