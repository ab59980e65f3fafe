//! Who holds how much, and who is before whom because of it: fair shares as integers.
//!
//! A share is a tenant. What counts is its dominant part: of the places of running sequences or of the blocks, whichever
//! is more (dominant resource fairness: Ghodsi et al., NSDI 2011). A running sequence comes after as much as its share
//! holds before it ([`Order`]): first the first of every share, and last the last of the one that holds most. A block
//! that several sequences hold counts for each.
//!
//! Invariants: the first of a share has nothing before it, and within a share the order is that of the keys; with one
//! share it is that alone. Nothing is remembered from step to step but how many sequences each share has queued, so
//! nobody saves up turns. Knows nothing of sequences, budgets and time.

use std::{collections::BTreeMap, sync::Arc};

use super::{Precedence, SequenceKey};

/// How many sequences each share has queued.
#[derive(Debug, Default)]
pub(super) struct Members {
    counts: BTreeMap<Arc<str>, usize>,
}

/// What sequences hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) sequences: usize,
    pub(super) blocks: usize,
}

/// A holding's dominant part; comparable under one capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weight(usize);

/// Running sequences as they are served in a step. Who has to go is taken from the end.
#[derive(Debug, Default)]
pub(super) struct Order {
    of: [Vec<Ranked>; Precedence::ALL.len()],
}

/// A sequence and what its share holds before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked {
    pub(super) before: Weight,
    pub(super) key: SequenceKey,
}

impl Members {
    /// A share has one more.
    pub(super) fn join(&mut self, share: &Arc<str>) {
        *self.counts.entry(Arc::clone(share)).or_default() += 1;
    }

    /// A share has one less.
    pub(super) fn leave(&mut self, share: &str) {
        let Some(count) = self.counts.get_mut(share) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(share);
        }
    }

    /// Is there more than one share?
    pub(super) fn are_several(&self) -> bool {
        self.counts.len() > 1
    }

    /// Sequences of all shares.
    pub(super) fn num_sequences(&self) -> usize {
        self.counts.values().sum()
    }
}

impl Holding {
    /// The same with one sequence more.
    pub(super) fn with(self, blocks: usize) -> Self {
        Self { sequences: self.sequences + 1, blocks: self.blocks + blocks }
    }

    /// Its larger part of all there is.
    pub(super) fn weight(self, capacity: Holding) -> Weight {
        let places = self.sequences.saturating_mul(capacity.blocks);
        Weight(places.max(self.blocks.saturating_mul(capacity.sequences)))
    }
}

impl Order {
    /// Of running sequences in order of their keys, each with its share and its blocks.
    pub(super) fn new<'a>(
        running: impl Iterator<Item = (SequenceKey, &'a str, usize)>,
        capacity: impl Fn(Precedence) -> Holding,
    ) -> Self {
        let mut order = Self::default();
        let mut held: BTreeMap<(Precedence, &str), Holding> = BTreeMap::new();
        for (key, share, blocks) in running {
            let holding = held.entry((key.precedence, share)).or_default();
            let before = holding.weight(capacity(key.precedence));
            *holding = holding.with(blocks);
            order.of[key.precedence as usize].push(Ranked { before, key });
        }
        order.of.iter_mut().for_each(|sequences| sequences.sort_unstable());
        order
    }

    /// Those of one precedence.
    pub(super) fn of(&self, precedence: Precedence) -> &[Ranked] {
        &self.of[precedence as usize]
    }

    /// One more runs. It is behind all that ran before: nobody is displaced by what is admitted in the same step.
    pub(super) fn append(&mut self, key: SequenceKey) {
        self.of[key.precedence as usize].push(Ranked { before: Weight(usize::MAX), key });
    }

    /// Takes the last of one precedence.
    pub(super) fn pop(&mut self, precedence: Precedence) -> Option<SequenceKey> {
        self.of[precedence as usize].pop().map(|ranked| ranked.key)
    }

    /// Takes the last of all.
    pub(super) fn pop_last(&mut self) -> Option<SequenceKey> {
        Precedence::ALL.into_iter().rev().find_map(|precedence| self.pop(precedence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Holding = Holding { sequences: 4, blocks: 100 };

    fn order(running: &[(u64, &str, usize)]) -> Vec<u64> {
        let key = |arrival| SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival };
        let running = running.iter().map(|&(arrival, share, blocks)| (key(arrival), share, blocks));
        Order::new(running, |_| CAPACITY).of(Precedence::Interactive).iter().map(|ranked| ranked.key.arrival).collect()
    }

    #[test]
    fn what_counts_is_the_larger_part() {
        let weight = |sequences, blocks| Holding { sequences, blocks }.weight(CAPACITY);
        assert_eq!(weight(1, 25), weight(1, 3), "a quarter of the places");
        assert_eq!(weight(1, 50), weight(2, 3), "half of the blocks");
        assert!(weight(1, 51) > weight(2, 3) && weight(0, 0) < weight(1, 0));
    }

    #[test]
    fn one_share_is_in_order_of_its_keys() {
        assert_eq!(order(&[(0, "a", 60), (1, "a", 1), (2, "a", 30)]), [0, 1, 2]);
    }

    #[test]
    fn the_first_of_each_share_is_first_and_the_last_of_the_largest_last() {
        assert_eq!(order(&[(0, "a", 1), (1, "a", 1), (2, "a", 1), (3, "b", 1), (4, "b", 1)]), [0, 3, 1, 4, 2]);
        // The second of who holds much comes after the third of who holds little.
        assert_eq!(order(&[(0, "a", 90), (1, "a", 1), (2, "b", 1), (3, "b", 1), (4, "b", 1)]), [0, 2, 3, 4, 1]);
    }

    #[test]
    fn who_has_left_is_no_share_any_more() {
        let [a, b] = ["a", "b"].map(Arc::from);
        let mut members = Members::default();
        [&a, &a, &b].into_iter().for_each(|share| members.join(share));
        assert!(members.are_several() && members.num_sequences() == 3);
        members.leave(&b);
        members.leave(&a);
        assert!(!members.are_several() && members.num_sequences() == 1);
    }
}
