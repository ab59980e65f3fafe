//! What a client expects its answer to be, as tokens: guesses are taken from it while the answer follows it, and where
//! the answer comes back to it. The main type is [`Prediction`].
//!
//! Invariant: it is read and indexed once, whatever becomes of the answer. A prediction that the answer follows from its
//! beginning is never indexed at all.

use std::hash::RandomState;

use super::{
    Evidence,
    lookup::{LONGEST, LookupIndex, Occurrence, SHORTEST, follow},
};

/// A prediction and the output so far.
#[derive(Debug)]
pub(super) struct Prediction {
    /// The prediction, and behind it the output.
    tokens: Vec<u32>,
    /// Of the prediction.
    len: usize,
    /// How much of it the output has been, as long as it has been nothing else.
    followed: Option<usize>,
    index: LookupIndex,
    hasher: RandomState,
    /// Where in `tokens` the output is expected to go on.
    next: Option<usize>,
}

impl Prediction {
    pub(super) fn new(tokens: Vec<u32>) -> Self {
        let (index, hasher) = (LookupIndex::default(), RandomState::new());
        Self { len: tokens.len(), tokens, followed: Some(0), index, hasher, next: None }
    }

    /// Whether the output, which has only ever grown, is expected to go on in some way, and for how good a reason.
    pub(super) fn prospect(&mut self, output: &[u32]) -> Option<Evidence> {
        let n_known = self.tokens.len() - self.len;
        for &id in output.get(n_known..).unwrap_or_default() {
            let goes_on = |&at: &usize| at < self.len && self.tokens[at] == id;
            self.followed = self.followed.filter(goes_on).map(|at| at + 1);
            self.tokens.push(id);
        }
        let found = match self.followed {
            Some(at) => (at < self.len).then_some(Occurrence { run: LONGEST, end: at }),
            // What follows the prediction's end is the output's beginning, which says nothing.
            None => self.index.find(&self.tokens, &self.hasher).filter(|found| found.end != self.len),
        };
        self.next = found.map(|found| found.end);
        found.map(|found| found.run - SHORTEST)
    }

    /// At most so many tokens of how the output is expected to go on.
    pub(super) fn draft(&self, most: usize) -> Vec<u32> {
        match self.next {
            None => Vec::new(),
            Some(at) if at < self.len => self.tokens[at..self.len.min(at + most)].to_vec(),
            Some(at) => follow(&self.tokens, at, most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &[u32], most: usize, expected: &[u32]) {
        let mut prediction = Prediction::new(vec![1, 2, 3, 4, 5, 6, 7, 8]);
        // As it grows.
        for len in 0..output.len() {
            prediction.prospect(&output[..len]);
        }
        let evidence = prediction.prospect(output);
        assert_eq!(evidence.is_some(), !expected.is_empty());
        assert_eq!(prediction.draft(most), expected);
        let mut at_once = Prediction::new(vec![1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((at_once.prospect(output), at_once.draft(most)), (evidence, expected.to_vec()));
    }

    #[test]
    fn it_is_expected_from_its_beginning_to_its_end() {
        check(&[], 3, &[1, 2, 3]);
        check(&[1], 3, &[2, 3, 4]);
        check(&[1, 2, 3, 4, 5, 6], 3, &[7, 8]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], 3, &[]);
    }

    #[test]
    fn an_answer_that_comes_back_to_it_is_followed_again() {
        check(&[9], 3, &[]);
        check(&[1, 2, 9], 3, &[]);
        check(&[1, 2, 9, 5, 6], 4, &[7, 8]);
        check(&[1, 2, 9, 7, 8], 4, &[]);
    }

    #[test]
    fn an_answer_that_repeats_itself_instead_is_followed_too() {
        check(&[20, 21, 22, 20, 21], 2, &[22, 20]);
    }
}
