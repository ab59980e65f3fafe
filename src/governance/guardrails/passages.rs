//! Cuts an answer into passages that a classifier can judge while the rest is still being written.
//!
//! Invariant: where a passage ends depends on its characters alone.

use std::ops::Range;

/// A passage ends with a sentence or a line once it has so many characters,
const SHORTEST_CHARS: usize = 80;
/// and anywhere with so many.
const LONGEST_CHARS: usize = 1000;

/// The passage that is being read.
#[derive(Clone, Default)]
pub(super) struct Passages {
    start: usize,
    chars: usize,
}

impl Passages {
    /// Where the passage begins, in bytes.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Takes the next character, which ends at byte `end`; the passage, if it ends there too.
    pub(super) fn passage_ending_with(&mut self, before: Option<char>, c: char, end: usize) -> Option<Range<usize>> {
        self.chars += 1;
        let sentence_ends = c == '\n' || (c.is_whitespace() && before.is_some_and(|c| ".!?…:;。".contains(c)));
        let ends = self.chars == LONGEST_CHARS || (self.chars >= SHORTEST_CHARS && sentence_ends);
        ends.then(|| self.rest(end)).flatten()
    }

    /// What is left at the end of the text.
    pub(super) fn rest(&mut self, end: usize) -> Option<Range<usize>> {
        let passage = self.start..end;
        *self = Self { start: end, chars: 0 };
        (!passage.is_empty()).then_some(passage)
    }
}
