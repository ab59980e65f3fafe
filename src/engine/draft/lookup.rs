//! Prompt lookup: what followed the last occurrence of a sequence's last tokens follows again. Finds quotations, lists,
//! code and JSON that repeat themselves, and costs a few hash lookups per token. The main type is [`LookupDrafter`].
//!
//! Invariant: each token of a sequence is indexed once, and an index holds at most three positions per token. Method
//! after "Prompt Lookup Decoding" (A. Saxena, 2023).

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::{Drafter, Evidence, N_EVIDENCE, Wanted};

/// Lengths of the runs of tokens that are looked for; a longer one is the better evidence.
pub(super) const SHORTEST: usize = 2;
pub(super) const LONGEST: usize = SHORTEST + N_EVIDENCE - 1;

/// Drafts from the sequence itself.
#[derive(Debug, Default)]
pub struct LookupDrafter {
    indexes: HashMap<u64, LookupIndex>,
    /// Random keys, so that no prompt can be written whose runs collide.
    hasher: RandomState,
}

/// Where the runs of a sequence occurred last.
#[derive(Debug, Default)]
pub struct LookupIndex {
    /// Of runs of `SHORTEST` tokens, of one more, and so on.
    tables: [Table; N_EVIDENCE],
    /// Tokens that have been indexed.
    len: usize,
    found: Option<Occurrence>,
}

/// An earlier occurrence of the last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Tokens of the run.
    pub run: usize,
    /// Position behind it.
    pub end: usize,
}

impl LookupIndex {
    /// Indexes the tokens that are new and returns the most recent earlier occurrence of the longest run that ends the
    /// sequence.
    pub fn find(&mut self, tokens: &[u32], hasher: &RandomState) -> Option<Occurrence> {
        for end in self.len + 1..=tokens.len() {
            self.found = None;
            for (run, table) in (SHORTEST..=LONGEST).zip(&mut self.tables).filter(|(run, _)| *run <= end) {
                let occurrence = table.replace(tokens, run, end, hasher).map(|end| Occurrence { run, end });
                self.found = occurrence.or(self.found);
            }
        }
        self.len = tokens.len();
        self.found
    }
}

impl Drafter for LookupDrafter {
    fn prospect(&mut self, sequence: u64, tokens: &[u32]) -> Option<Evidence> {
        let found = self.indexes.entry(sequence).or_default().find(tokens, &self.hasher)?;
        Some(found.run - SHORTEST)
    }

    fn is_free(&self) -> bool {
        true
    }

    fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>> {
        let draft = |wanted: &Wanted<'_>| {
            let index = self.indexes.entry(wanted.sequence).or_default();
            let found = index.find(wanted.tokens, &self.hasher);
            found.map_or(Vec::new(), |found| follow(wanted.tokens, found.end, wanted.most))
        };
        wanted.iter().map(draft).collect()
    }

    fn forget(&mut self, sequence: u64) {
        self.indexes.remove(&sequence);
    }
}

/// The `n` tokens from `start` on. What they reach beyond the sequence is what they say follows it, so that a short
/// period is repeated as often as wanted.
pub(super) fn follow(tokens: &[u32], start: usize, n: usize) -> Vec<u32> {
    let mut draft = Vec::with_capacity(n);
    for position in start..start + n {
        draft.push(if position < tokens.len() { tokens[position] } else { draft[position - tokens.len()] });
    }
    draft
}

/// Positions by the run of tokens that ends there: open addressing, at most half full. The runs themselves are compared
/// in the sequence.
#[derive(Debug, Default)]
struct Table {
    /// `EMPTY`, or the position behind a run; their number is a power of two.
    slots: Vec<u32>,
    used: usize,
}

const EMPTY: u32 = u32::MAX;
const FIRST_SLOTS: usize = 64;

impl Table {
    /// The run that ends at `end` occurred there last. Returns where it occurred before.
    fn replace(&mut self, tokens: &[u32], run: usize, end: usize, hasher: &RandomState) -> Option<usize> {
        if self.used * 2 >= self.slots.len() {
            self.grow(tokens, run, hasher);
        }
        let slot = self.slot(tokens, run, end, hasher);
        let previous = std::mem::replace(&mut self.slots[slot], end as u32);
        if previous == EMPTY {
            self.used += 1;
            return None;
        }
        Some(previous as usize)
    }

    /// The slot of the run that ends at `end`, or the empty one where it belongs.
    fn slot(&self, tokens: &[u32], run: usize, end: usize, hasher: &RandomState) -> usize {
        let key = &tokens[end - run..end];
        let mask = self.slots.len() - 1;
        let mut slot = hasher.hash_one(key) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return slot,
                other if &tokens[other as usize - run..other as usize] == key => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn grow(&mut self, tokens: &[u32], run: usize, hasher: &RandomState) {
        let larger = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; larger]);
        for end in old.into_iter().filter(|&end| end != EMPTY) {
            let slot = self.slot(tokens, run, end as usize, hasher);
            self.slots[slot] = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition.
    fn search(tokens: &[u32]) -> Option<Occurrence> {
        let len = tokens.len();
        (SHORTEST..=LONGEST.min(len)).rev().find_map(|run| {
            let suffix = &tokens[len - run..];
            (run..len).rev().find(|&end| &tokens[end - run..end] == suffix).map(|end| Occurrence { run, end })
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_search_finds(
            n_ids in 1u32..40,
            values in prop::collection::vec(any::<u32>(), 1..400),
            steps in prop::collection::vec(0usize..9, 1..200),
        ) {
            let tokens: Vec<u32> = values.into_iter().map(|value| value % n_ids).collect();
            let (mut index, hasher) = (LookupIndex::default(), RandomState::new());
            let mut len = 0;
            for step in steps {
                len = (len + step).min(tokens.len());
                prop_assert_eq!(index.find(&tokens[..len], &hasher), search(&tokens[..len]));
            }
            for table in &index.tables {
                prop_assert!(table.used <= len && table.slots.len() <= (4 * len).max(FIRST_SLOTS));
            }
        }
    }

    #[track_caller]
    fn check(tokens: &[u32], most: usize, expected: &[u32]) {
        let mut drafter = LookupDrafter::default();
        let evidence = drafter.prospect(7, tokens);
        assert_eq!(evidence.is_some(), !expected.is_empty());
        let drafts = drafter.propose(&[Wanted { sequence: 7, tokens, block_table: &[], most }]);
        assert_eq!(drafts, [expected]);
    }

    #[test]
    fn a_draft_is_what_followed() {
        check(&[1, 2, 3, 4, 1, 2], 3, &[3, 4, 1]);
        check(&[1, 2, 3, 1, 2, 4, 1, 2], 2, &[4, 1]);
        // The longer run decides, though the shorter one occurred since.
        check(&[9, 1, 2, 3, 8, 1, 2, 5, 9, 1, 2], 1, &[3]);
        check(&[1, 2, 3, 4, 2, 1], 4, &[]);
        check(&[5], 4, &[]);
    }

    #[test]
    fn a_period_is_repeated() {
        check(&[6, 6, 6, 6, 6], 4, &[6, 6, 6, 6]);
        check(&[0, 1, 2, 1, 2, 1, 2], 5, &[1, 2, 1, 2, 1]);
    }
}
