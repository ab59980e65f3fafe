//! What is left of a step's limits, in all and for each share.
//!
//! While a [`Budget`] is shared out, prompts of one share get no more than an even part of what was left then; once the
//! parts are lifted, what nobody has used goes to whoever still wants it. Invariant: what is taken never exceeds the limits
//! of the step. Knows nothing of blocks and plans.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::engine::sequence::Sequence;

/// What is left of a step's limits.
#[derive(Debug)]
pub(super) struct Budget {
    left: Limits,
    parts: Option<BTreeMap<Arc<str>, Limits>>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    tokens: usize,
    prompt_rows: usize,
}

impl Budget {
    pub(super) fn new(tokens: usize, prompt_rows: usize) -> Self {
        Self { left: Limits { tokens, prompt_rows }, parts: None }
    }

    /// Tokens that are left.
    pub(super) fn tokens(&self) -> usize {
        self.left.tokens
    }

    /// Takes the token of a decode, which no part counts.
    pub(super) fn take_decode(&mut self) {
        self.left.tokens -= 1;
    }

    /// Shares what is left evenly among these, if they are several: a part is rounded up, so that each has one.
    pub(super) fn share_out(&mut self, shares: BTreeSet<&Arc<str>>) {
        let n_shares = shares.len();
        if n_shares > 1 {
            let Limits { tokens, prompt_rows } = self.left;
            let part = Limits { tokens: tokens.div_ceil(n_shares), prompt_rows: prompt_rows.div_ceil(n_shares) };
            self.parts = Some(shares.into_iter().map(|share| (Arc::clone(share), part)).collect());
        }
    }

    /// Whoever wants what is left gets it from now on. False if that was so before.
    pub(super) fn lift_parts(&mut self) -> bool {
        self.parts.take().is_some()
    }

    /// Can a share still have tokens?
    pub(super) fn is_open_to(&self, share: &str) -> bool {
        let has_part = |parts: &BTreeMap<Arc<str>, Limits>| parts.get(share).is_none_or(|part| part.tokens > 0);
        self.left.tokens > 0 && self.parts.as_ref().is_none_or(has_part)
    }

    /// Takes up to so many tokens of a prompt. Returns how many there were.
    pub(super) fn take(&mut self, sequence: &Sequence, wanted: usize) -> usize {
        let part = self.parts.as_mut().and_then(|parts| parts.get_mut(sequence.share()));
        let limits = [Some(self.left), part.as_deref().copied()];
        let mut taken = limits.iter().flatten().fold(wanted, |taken, limits| taken.min(limits.tokens));
        if sequence.wants_prompt_rows() {
            taken = limits.iter().flatten().fold(taken, |taken, limits| taken.min(limits.prompt_rows));
        }
        for limits in [Some(&mut self.left), part].into_iter().flatten() {
            limits.tokens -= taken;
            limits.prompt_rows -= if sequence.wants_prompt_rows() { taken } else { 0 };
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sequence::SequenceOptions;

    #[test]
    fn a_part_is_a_limit_until_parts_are_lifted() {
        let [a, b] = ["a", "b"].map(Arc::<str>::from);
        let of = |share: &Arc<str>, prompt_rows| {
            let options = SequenceOptions { share: Arc::clone(share), prompt_rows, ..SequenceOptions::default() };
            Sequence::new(vec![1], &options)
        };
        let mut budget = Budget::new(11, 4);
        budget.take_decode();
        budget.share_out([&a].into());
        assert!(!budget.lift_parts(), "one share has all");
        budget.share_out([&a, &b].into());
        assert_eq!((budget.take(&of(&a, true), 9), budget.take(&of(&a, false), 9)), (2, 3), "its part of the rows");
        assert!(!budget.is_open_to("a") && budget.is_open_to("b"));
        assert_eq!((budget.take(&of(&b, false), 1), budget.tokens()), (1, 4));
        assert!(budget.lift_parts() && budget.is_open_to("a"));
        assert_eq!((budget.take(&of(&a, false), 9), budget.tokens()), (4, 0));
        assert!(!budget.is_open_to("b"));
    }
}
