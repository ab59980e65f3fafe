//! Room for sequences: who is admitted next, whether it fits, and who has to go for it.
//!
//! Three make room. A decode that has no block takes one from the last in order ([`Order`]), be it itself. Those in the
//! background go for those that somebody waits for. And a waiting sequence takes the place of others' last ones if its
//! share then holds no more than theirs still do without them.
//!
//! No two shares take places from each other for ever: each such exchange makes what they hold more even, so that it
//! cannot be turned back unless something was computed in between; and the first of a share, which has nothing before it,
//! never goes for another share's. So the first of all always comes to its end, and then there is another first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Plan, Scheduler,
    shares::{Holding, Order, Weight},
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
    /// Running sequences in the order in which they are served.
    pub(super) fn order(&self) -> Order {
        let running =
            self.running.iter().map(|(&key, sequence)| (key, &**sequence.share(), sequence.block_table.len()));
        Order::new(running, |precedence| self.capacity(precedence))
    }

    /// The sequence to be admitted next: the first of the share that holds least, of those that may have one.
    pub(super) fn next_waiting(&self, precedence: Precedence, may: impl Fn(&str) -> bool) -> Option<SequenceKey> {
        if !self.members.are_several() {
            let (&key, _) = self.waiting.first_key_value()?;
            return (key.precedence == precedence).then_some(key);
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
        let capacity = self.capacity(precedence);
        let ranked = firsts.into_iter().filter(|(share, _)| may(share)).map(|(share, key)| {
            let holding = held.get(share).copied().unwrap_or_default();
            (holding.weight(capacity), key)
        });
        ranked.min().map(|(_, key)| key)
    }

    /// Room for the one sequence that is next, where that makes what shares hold more even. It is admitted in its turn.
    pub(super) fn make_way(&mut self, precedence: Precedence, order: &mut Order, plan: &mut Plan) {
        if !self.members.are_several() {
            return;
        }
        let Some(key) = self.next_waiting(precedence, |_| true) else { return };
        if self.waiting[&key].num_unread() > 0 {
            return; // it has been preempted just now
        }
        let share = Arc::clone(self.waiting[&key].share());
        let mine =
            |(at, sequence): &(&SequenceKey, &Sequence)| at.precedence == precedence && *sequence.share() == share;
        let held = self
            .running
            .iter()
            .filter(mine)
            .fold(Holding::default(), |held, (_, sequence)| held.with(sequence.block_table.len()));
        let with_it = held.with(self.blocks_with_room(&self.waiting[&key])).weight(self.capacity(precedence));
        for _ in 0..self.num_victims(key, with_it, order) {
            let victim = order.pop(precedence).expect("so many were counted");
            self.preempt(victim, plan);
        }
    }

    /// The cached blocks that begin a waiting sequence, once there is room for it. Those in the background make room for
    /// those that somebody waits for: none of them has a share of the step yet.
    pub(super) fn make_room(&mut self, key: SequenceKey, order: &mut Order, plan: &mut Plan) -> Option<Vec<BlockId>> {
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

    /// How many of the last in order have to go so that a waiting sequence fits: none if it does, or if it would not even
    /// then. Those of a later precedence go for it anyway, and one goes only if what its share holds before it is no less
    /// than what the waiting one's share is to hold with it.
    fn num_victims(&mut self, key: SequenceKey, with_it: Weight, order: &Order) -> usize {
        let grows =
            |sequence: &&Sequence| sequence.num_pending() == 1 && !sequence.ends() && !self.has_room_for_next(sequence);
        let growing = self.running.values().filter(grows).count();
        let fit = self.fit(key);
        let wanted = fit.wanted + growing;
        let mut freed = Freed::for_one_with(fit.hits);
        for later in Precedence::ALL.into_iter().filter(|precedence| *precedence > key.precedence) {
            for ranked in order.of(later) {
                freed.add(&self.running[&ranked.key], &self.blocks);
            }
        }
        for (n_victims, victim) in order.of(key.precedence).iter().rev().enumerate() {
            let has_blocks = self.blocks.available() + freed.holding.blocks >= wanted;
            if has_blocks && self.has_place(key.precedence, freed.holding) {
                return n_victims;
            }
            if victim.before < with_it {
                return 0;
            }
            freed.add(&self.running[&victim.key], &self.blocks);
        }
        0
    }

    /// Is there a place for one more, once so many have gone?
    fn has_place(&self, precedence: Precedence, freed: Holding) -> bool {
        self.running.len() < self.max_running + freed.sequences
            && match precedence {
                Precedence::Interactive => true,
                Precedence::Background => self.num_background() < self.max_background + freed.sequences,
            }
    }

    fn capacity(&self, precedence: Precedence) -> Holding {
        let sequences = match precedence {
            Precedence::Interactive => self.max_running,
            Precedence::Background => self.max_background,
        };
        Holding { sequences, blocks: self.blocks.counts().total }
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

    /// Blocks for a waiting sequence and one position more than it has tokens: its first decode shall not preempt at once.
    fn blocks_with_room(&self, sequence: &Sequence) -> usize {
        self.blocks_for(sequence.tokens().len() + 1)
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

/// The longest run of cached blocks that begins the sequence. At least one token stays to be computed,
/// since its logits are what the next token is sampled from.
fn cached_prefix(sequence: &mut Sequence, blocks: &BlockPool, block_size: usize) -> Vec<BlockId> {
    if sequence.wants_prompt_rows() {
        return Vec::new();
    }
    let usable = (sequence.tokens().len() - 1) / block_size;
    (0..usable).map_while(|index| blocks.lookup(&sequence.block_hash(index, block_size))).collect()
}
