//! Who holds how much, and who is before whom because of it: fair shares as integers.
//!
//! A share is a tenant. What counts is its dominant part: of the places of running sequences or of the blocks, whichever
//! is more (dominant resource fairness: Ghodsi et al., NSDI 2011). A block that several sequences hold counts for each.
//! Of all there is every share has an even part, and what it holds beyond that is lent ([`Standing`]). A running sequence
//! comes after as much as its share holds before it ([`Order`]): first the first of every share, then what else is within
//! their parts, and last the last of the one that has been lent most.
//!
//! Invariants: all parts together are no more than there is, but for places where there are fewer than shares; a sequence
//! that is the first of its share and no longer than its part has nothing before it; within a share the order is that of the
//! keys, but for one that has its turn (`turns`); with one share it is that alone. Nothing is remembered here from step to
//! step but how many sequences each share has queued. Knows nothing of sequences, budgets and time.

use std::{collections::BTreeMap, sync::Arc};

use super::{Precedence, SequenceKey};

/// How many sequences each share has queued.
#[derive(Debug, Default)]
pub(super) struct Members {
    counts: BTreeMap<Arc<str>, [usize; Precedence::ALL.len()]>,
}

/// What sequences hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) sequences: usize,
    pub(super) blocks: usize,
}

/// A holding's dominant part; comparable under one capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weight(usize);

/// What sequences are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// All there is.
    pub(super) capacity: Holding,
    /// The even part of a share.
    pub(super) part: Holding,
    /// The sequence that has its turn, or gets it next.
    pub(super) in_turn: Option<SequenceKey>,
}

/// What a sequence has a right to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has its turn, or gets it next.
    InTurn,
    /// Its share holds no more than its part with it.
    Within,
    /// Its share holds more than that with it.
    Beyond,
}

/// Running sequences as they are served in a step. Who has to go is taken from the end.
#[derive(Debug, Default)]
pub(super) struct Order {
    of: [Vec<Ranked>; Precedence::ALL.len()],
}

/// A sequence and what its share holds before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked {
    pub(super) standing: Standing,
    pub(super) before: Weight,
    pub(super) key: SequenceKey,
}

impl Members {
    /// A share has one more.
    pub(super) fn join(&mut self, share: &Arc<str>, precedence: Precedence) {
        self.counts.entry(Arc::clone(share)).or_default()[precedence as usize] += 1;
    }

    /// A share has one less.
    pub(super) fn leave(&mut self, share: &str, precedence: Precedence) {
        let Some(counts) = self.counts.get_mut(share) else { return };
        counts[precedence as usize] -= 1;
        if counts.iter().sum::<usize>() == 0 {
            self.counts.remove(share);
        }
    }

    /// Is there more than one share?
    pub(super) fn are_several(&self) -> bool {
        self.counts.len() > 1
    }

    /// Shares that have any of one precedence.
    pub(super) fn num_shares(&self, precedence: Precedence) -> usize {
        self.counts.values().filter(|counts| counts[precedence as usize] > 0).count()
    }

    /// Sequences of all shares.
    pub(super) fn num_sequences(&self) -> usize {
        self.counts.values().flatten().sum()
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

    /// An even part of it. Each share has a place, be there enough or not.
    pub(super) fn part(self, n_shares: usize) -> Self {
        let n_shares = n_shares.max(1);
        Self { sequences: (self.sequences / n_shares).max(1), blocks: self.blocks / n_shares }
    }
}

impl Measure {
    /// Of a sequence with which its share holds so much.
    pub(super) fn standing(&self, key: SequenceKey, with_it: Holding) -> Standing {
        if self.in_turn == Some(key) {
            return Standing::InTurn;
        }
        match with_it.sequences <= self.part.sequences && with_it.blocks <= self.part.blocks {
            true => Standing::Within,
            false => Standing::Beyond,
        }
    }
}

impl Order {
    /// Of running sequences in order of their keys, each with its share and its blocks.
    pub(super) fn new<'a>(
        running: impl Iterator<Item = (SequenceKey, &'a str, usize)>,
        measure: impl Fn(Precedence) -> Measure,
    ) -> Self {
        let mut order = Self::default();
        let measures = Precedence::ALL.map(measure);
        let mut held: BTreeMap<(Precedence, &str), Holding> = BTreeMap::new();
        for (key, share, blocks) in running {
            let measure = &measures[key.precedence as usize];
            let holding = held.entry((key.precedence, share)).or_default();
            let before = holding.weight(measure.capacity);
            *holding = holding.with(blocks);
            let standing = measure.standing(key, *holding);
            order.of[key.precedence as usize].push(Ranked { standing, before, key });
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
        self.of[key.precedence as usize].push(Ranked { standing: Standing::Beyond, before: Weight(usize::MAX), key });
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

    fn key(arrival: u64) -> SequenceKey {
        SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival }
    }

    fn order_of(n_shares: usize, in_turn: Option<u64>, running: &[(u64, &str, usize)]) -> Vec<u64> {
        let running = running.iter().map(|&(arrival, share, blocks)| (key(arrival), share, blocks));
        let measure = Measure { capacity: CAPACITY, part: CAPACITY.part(n_shares), in_turn: in_turn.map(key) };
        Order::new(running, |_| measure).of(Precedence::Interactive).iter().map(|ranked| ranked.key.arrival).collect()
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
        assert_eq!(order_of(1, None, &[(0, "a", 60), (1, "a", 1), (2, "a", 30)]), [0, 1, 2]);
    }

    #[test]
    fn the_first_of_each_share_is_first_and_the_last_of_the_largest_last() {
        let running = [(0, "a", 1), (1, "a", 1), (2, "a", 1), (3, "b", 1), (4, "b", 1)];
        assert_eq!(order_of(2, None, &running), [0, 3, 1, 4, 2]);
        // The second of who holds much comes after the third of who holds little, and all that is lent behind that.
        assert_eq!(
            order_of(2, None, &[(0, "a", 45), (1, "a", 1), (2, "b", 1), (3, "b", 1), (4, "b", 1)]),
            [0, 2, 3, 1, 4]
        );
        assert_eq!(order_of(2, None, &[(0, "a", 51), (2, "b", 1), (3, "b", 1)]), [2, 3, 0]);
        assert_eq!(order_of(2, Some(0), &[(0, "a", 51), (2, "b", 1), (3, "b", 1)]), [0, 2, 3]);
    }

    #[test]
    fn who_has_left_is_no_share_any_more() {
        let [a, b] = ["a", "b"].map(Arc::from);
        let mut members = Members::default();
        [&a, &a, &b].into_iter().for_each(|share| members.join(share, Precedence::Interactive));
        members.join(&a, Precedence::Background);
        assert!(members.are_several() && members.num_sequences() == 4);
        assert_eq!(Precedence::ALL.map(|precedence| members.num_shares(precedence)), [2, 1]);
        members.leave(&b, Precedence::Interactive);
        members.leave(&a, Precedence::Interactive);
        assert!(!members.are_several() && members.num_sequences() == 2);
    }
}
