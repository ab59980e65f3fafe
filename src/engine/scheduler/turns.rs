//! Turns: how a request that is longer than its share's part comes to be computed, and what that costs others.
//!
//! Such a request needs what others have a right to. It is computed in what they leave, and goes for whoever stays within
//! its part. So as not to wait for ever, it has a turn after [`STEPS_WAITED`] steps in which one like it waited: nobody else is
//! admitted until prompts that run have their tokens, then as many go as it takes, and it stays first of all until it has
//! [`TOKENS_PER_TURN`] tokens. What went comes back in the order in which it would have come anyway. The main type is
//! [`Turns`], one for each precedence.
//!
//! Bounds, with n shares and F the steps in which one share alone would compute a prompt as long as the pool, beside decodes.
//! Before a turn nobody is admitted for F steps at most, as what runs fits into the pool. A turn has n F steps for a prompt,
//! which has an even part of each step at least, and one for each token. Whoever stays within its part is admitted between
//! turns as if there were none, and once admitted has its token before a turn begins. So turns hold it for
//! (n + 1) F + [`TOKENS_PER_TURN`] + 2 steps, once. They take about an even part of the time: the next one waits n - 1 times
//! as long as the last one took, with the hold before it and, by the tokens of a step, what went for it. A share whose first
//! request needs turns has one after as many as there are such shares, and each brings tokens, so it comes to its end,
//! whatever others ask for. That others are absent for a step now and then, in which it may be alone or its part larger,
//! takes back no more than that step of what it has waited.
//!
//! Invariants: one sequence at most has its turn, and it counts only where there are several shares. Turns in the background
//! wait for room that those leave whom somebody waits for; as these may hold what would be its part, whoever has nothing there
//! and finds no room has turns, however short. Knows nothing of time.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Plan, Scheduler,
    shares::{Order, Ranked, Standing, Weight},
};
use crate::engine::{
    blocks::{IntegrityError, ensure},
    sequence::{Precedence, SequenceKey},
};

/// Steps that a request longer than a part waits before it may have its turn: enough for the short prompts that come
/// meanwhile, and some seconds at most.
const STEPS_WAITED: usize = 64;

/// Tokens that a turn brings. Its prompt may have to be computed again for them, and others wait meanwhile.
const TOKENS_PER_TURN: usize = 16;

/// Turns of one precedence.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turn: Option<Turn>,
    /// Whose the last one was.
    last: Option<Arc<str>>,
    /// Steps that one has taken so far: those in which others were held for it, its own, and those in which what went for
    /// it is computed again.
    taken: usize,
    /// Steps before the next one may begin, whoever waits.
    pause: usize,
    /// Steps in which one waited for it, less those in which nobody needed it.
    waited: usize,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    key: SequenceKey,
    /// It ends with so many tokens; of one that is not yet admitted that is not known.
    until: Option<usize>,
}

impl Turns {
    /// Who has its turn, or gets it next.
    pub(super) fn key(&self) -> Option<SequenceKey> {
        self.turn.map(|turn| turn.key)
    }

    /// It is admitted, with so many tokens.
    pub(super) fn begin(&mut self, share: &Arc<str>, num_tokens: usize) {
        if let Some(turn) = &mut self.turn {
            turn.until = Some(num_tokens + TOKENS_PER_TURN);
        }
        self.last = Some(Arc::clone(share));
        self.waited = 0;
    }

    /// It is not queued any more.
    pub(super) fn forget(&mut self, key: SequenceKey) {
        self.turn = self.turn.filter(|turn| turn.key != key || turn.until.is_some());
    }

    fn end(&mut self, n_shares: usize) {
        self.turn = None;
        self.pause = std::mem::take(&mut self.taken).saturating_mul(n_shares.saturating_sub(1));
    }

    /// The share that is next of these: turns go round.
    fn next(&self, longs: &BTreeMap<Arc<str>, SequenceKey>) -> Option<SequenceKey> {
        let after = longs.iter().find(|(share, _)| self.last.as_ref().is_none_or(|last| *share > last));
        after.or_else(|| longs.iter().next()).map(|(_, key)| *key)
    }
}

impl Scheduler {
    /// One more step: turns that are over end.
    pub(super) fn advance_turns(&mut self) {
        let is_one_alone = !self.members.are_several();
        for precedence in Precedence::ALL {
            let n_shares = self.members.num_shares(precedence);
            let turns = &mut self.turns[precedence as usize];
            turns.pause = turns.pause.saturating_sub(1);
            if is_one_alone {
                turns.waited = turns.waited.saturating_sub(1);
            }
            match turns.turn {
                Some(Turn { key, until: Some(until) }) => {
                    turns.taken += 1;
                    // One in the background may have gone for somebody who waits.
                    if self.running.get(&key).is_none_or(|sequence| sequence.num_tokens() >= until) {
                        turns.end(n_shares);
                    }
                }
                // Who is next is asked again in each step.
                Some(Turn { until: None, .. }) => {
                    turns.taken += 1;
                    turns.turn = None;
                }
                None => {}
            }
        }
    }

    /// Whose turn is next, if nobody has one now and one of these has waited for long enough: the first ones that wait, of
    /// each share.
    pub(super) fn call_turn(&mut self, precedence: Precedence, firsts: &[Ranked], order: &Order) -> Option<Ranked> {
        let longs = self.longs(precedence, firsts, order);
        let turns = &self.turns[precedence as usize];
        let is_time = turns.turn.is_none() && turns.waited >= STEPS_WAITED && turns.pause == 0;
        let next = turns.next(&longs).filter(|_| is_time).map(|key| Ranked {
            standing: Standing::InTurn,
            before: Weight::default(),
            key,
        });
        let waits = !longs.is_empty();
        let part = self.measure(precedence).part;
        let mut running = order.of(precedence).iter().map(|ranked| &self.running[&ranked.key]);
        let is_needed = waits || running.any(|sequence| self.blocks_with_room(sequence) > part.blocks);
        let turns = &mut self.turns[precedence as usize];
        turns.waited = match is_needed {
            true => turns.waited + usize::from(waits && turns.turn.is_none()),
            // Not all at once: others may be absent for a step now and then, in which parts are larger.
            false => turns.waited.saturating_sub(1),
        };
        // One in the background may find that others leave no room for it, whoever goes.
        let next = next.filter(|next| self.num_victims(*next, Weight::default(), order).is_some())?;
        self.turns[precedence as usize].turn = Some(Turn { key: next.key, until: None });
        Some(next)
    }

    /// Of the first ones that wait, those that need turns: of shares that hold nothing. They are longer than a part, be there
    /// room for them in this step or not, as one that is not comes within its own. In the background that part may be what
    /// others hold, who come first, and so may be all its places: there it is also whoever finds no room.
    fn longs(&mut self, precedence: Precedence, firsts: &[Ranked], order: &Order) -> BTreeMap<Arc<str>, SequenceKey> {
        let part = self.measure(precedence).part;
        let mut longs = BTreeMap::new();
        for first in firsts.iter().filter(|first| first.before == Weight::default()) {
            let is_long =
                first.standing == Standing::Beyond && self.blocks_with_room(&self.waiting[&first.key]) > part.blocks;
            let may_lack_room = precedence == Precedence::Background;
            if is_long || (may_lack_room && self.num_victims(*first, self.weight_with(first.key), order).is_none()) {
                longs.insert(Arc::clone(self.waiting[&first.key].share()), first.key);
            }
        }
        longs
    }

    /// Room for whose turn is next, once all prompts that run have their tokens.
    pub(super) fn make_way_for_turn(&mut self, next: Ranked, order: &mut Order, plan: &mut Plan) {
        let precedence = next.key.precedence;
        if order.of(precedence).iter().any(|ranked| self.running[&ranked.key].num_pending() > 1) {
            return;
        }
        let n_victims = self.num_victims(next, Weight::default(), order).unwrap_or(0);
        let victims = order.of(precedence).iter().rev().take(n_victims);
        let lost: usize = victims.map(|ranked| self.running[&ranked.key].num_computed).sum();
        self.turns[precedence as usize].taken += lost.div_ceil(self.max_batched_tokens);
        self.preempt_last(n_victims, precedence, order, plan);
    }

    /// Checks whose turn it is against who is queued.
    pub(super) fn check_turns(&self) -> Result<(), IntegrityError> {
        for (precedence, turns) in Precedence::ALL.into_iter().zip(&self.turns) {
            let Some(Turn { key, until }) = turns.turn else { continue };
            ensure(key.precedence == precedence, || format!("{key:?} has a turn of {precedence:?}"))?;
            ensure(until.is_some() || self.waiting.contains_key(&key), || {
                format!("{key:?} is next and does not wait")
            })?;
        }
        Ok(())
    }
}
