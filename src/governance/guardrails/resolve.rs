//! What is done about findings that overlap. [`Resolver`] takes them as they are found and gives back steps, in order.
//!
//! Invariants: a step is given when nothing that is found later can change it, so it does not depend on when it is asked
//! for; steps that replace do not overlap, and together cover all that is to be redacted. It sees places, never text.

use std::{cmp::Reverse, collections::VecDeque, ops::Range, sync::Arc};

use super::{
    config::Mode,
    finding::{Action, BlockCause},
};

/// From here on, in bytes, a chain of findings that overlap is cut, so that it cannot be held back for ever.
const LONGEST_CHAIN: usize = 1024;

/// Something found, before others are considered. Ranges are bytes from the beginning of the whole text.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub range: Range<usize>,
    pub score: f32,
    pub detector: Arc<str>,
    /// As in placeholders.
    pub kind: &'static str,
    pub guardrail: Arc<str>,
    pub action: Action,
    pub mode: Mode,
    pub cause: BlockCause,
    /// It is about more than its range, so it is reported even where that is replaced.
    pub is_reported_always: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Raw {
    Hit(Hit),
    /// A placeholder, by its number in the vault.
    Placeholder(Range<usize>, usize),
}

/// What to do with a text, in the order of places.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Replace(Hit),
    Restore(Range<usize>, usize),
    Flag(Hit),
    /// The text ends before `from`, though the finding may begin later.
    Block {
        from: usize,
        hit: Hit,
    },
}

#[derive(Clone, Default)]
pub(super) struct Resolver {
    pending: VecDeque<Raw>,
    /// What is found up to here is nobody's concern.
    ignored: usize,
}

impl Resolver {
    /// Leaves out what ends by `end`.
    pub(super) fn ignore_up_to(&mut self, end: usize) {
        self.ignored = end;
    }

    /// Does anybody want to know what is found here?
    pub(super) fn heeds(&self, range: &Range<usize>) -> bool {
        range.end > self.ignored
    }

    pub(super) fn add(&mut self, raw: Raw) {
        if self.heeds(raw.range()) {
            self.pending.push_back(raw);
        }
    }

    /// The steps that are certain once everything that begins before `horizon` is known. A block is the last.
    pub(super) fn take_steps(&mut self, horizon: usize) -> Vec<Step> {
        self.pending.make_contiguous().sort_by_key(Raw::order);
        let mut steps = Vec::new();
        while let Some((from, chain)) = self.take_chain(horizon) {
            resolve(chain, from, &mut steps);
            if matches!(steps.last(), Some(Step::Block { .. })) {
                break;
            }
        }
        steps
    }

    /// Where the first finding that is not decided begins.
    pub(super) fn undecided_from(&self) -> Option<usize> {
        self.pending.iter().map(|raw| raw.range().start).min()
    }

    /// The first findings that overlap with each other and not with others, and where they begin.
    fn take_chain(&mut self, horizon: usize) -> Option<(usize, Vec<Raw>)> {
        let Range { start, mut end } = self.pending.front()?.range().clone();
        let joins = |raw: &Raw| raw.range().start - start < LONGEST_CHAIN || raw.rank() == Some(Action::Block);
        let mut count = 0;
        for raw in &self.pending {
            if raw.range().start >= end && count > 0 {
                break;
            }
            count += 1;
            if joins(raw) {
                end = end.max(raw.range().end);
            }
        }
        if end > horizon {
            return None;
        }
        let (chain, mut cut): (Vec<Raw>, Vec<Raw>) = self.pending.drain(..count).partition(joins);
        cut.retain_mut(|raw| raw.begin_at(end));
        cut.sort_by_key(Raw::order);
        cut.into_iter().rev().for_each(|raw| self.pending.push_front(raw));
        Some((start, chain))
    }
}

impl Raw {
    fn range(&self) -> &Range<usize> {
        match self {
            Raw::Hit(hit) => &hit.range,
            Raw::Placeholder(range, _) => range,
        }
    }

    fn order(&self) -> (usize, Reverse<Option<Action>>, Reverse<usize>) {
        (self.range().start, Reverse(self.rank()), Reverse(self.range().end))
    }

    fn rank(&self) -> Option<Action> {
        match self {
            Raw::Hit(hit) => Some(hit.action),
            Raw::Placeholder(..) => None,
        }
    }

    /// Leaves off what is before `start`. False if nothing is left, or only a part of what has no parts.
    fn begin_at(&mut self, start: usize) -> bool {
        match self {
            Raw::Hit(hit) => {
                hit.range.start = hit.range.start.max(start);
                !hit.range.is_empty()
            }
            Raw::Placeholder(range, _) => range.start >= start,
        }
    }
}

fn resolve(chain: Vec<Raw>, from: usize, steps: &mut Vec<Step>) {
    let (mut hits, mut placeholders) = (Vec::new(), Vec::new());
    for raw in chain {
        match raw {
            Raw::Hit(hit) => hits.push(hit),
            Raw::Placeholder(range, index) => placeholders.push((range, index)),
        }
    }
    // The strongest first, then the longest, then the surest; of equals the first.
    hits.sort_by(|one, other| {
        let key = |hit: &Hit| (Reverse(hit.action), Reverse(hit.range.len()));
        let equal = |hit: &Hit| (hit.range.start, Arc::clone(&hit.detector));
        key(one).cmp(&key(other)).then(other.score.total_cmp(&one.score)).then_with(|| equal(one).cmp(&equal(other)))
    });
    if let Some(hit) = hits.first().filter(|hit| hit.action == Action::Block) {
        return steps.push(Step::Block { from, hit: hit.clone() });
    }
    let mut replaced: Vec<Hit> = Vec::new();
    let mut flagged: Vec<Hit> = Vec::new();
    for hit in hits {
        match hit.action {
            Action::Redact => replace(hit, &mut replaced),
            Action::Flag | Action::Block => {
                let free = !replaced.iter().chain(&flagged).any(|other| overlap(&other.range, &hit.range));
                if free || hit.is_reported_always {
                    flagged.push(hit);
                }
            }
        }
    }
    placeholders.retain(|(range, _)| !replaced.iter().any(|hit| overlap(&hit.range, range)));
    let start = steps.len();
    steps.extend(replaced.into_iter().map(Step::Replace));
    steps.extend(placeholders.into_iter().map(|(range, index)| Step::Restore(range, index)));
    steps.extend(flagged.into_iter().map(Step::Flag));
    steps[start..].sort_by_key(|step| step.start());
}

/// Adds a finding to those that do not overlap: it becomes part of the longest of those that it overlaps with, so that
/// no part of any is left.
fn replace(mut hit: Hit, replaced: &mut Vec<Hit>) {
    while let Some(index) = replaced.iter().position(|other| overlap(&other.range, &hit.range)) {
        let other = replaced.remove(index);
        let union = other.range.start.min(hit.range.start)..other.range.end.max(hit.range.end);
        hit = Hit { range: union, ..if hit.range.len() > other.range.len() { hit } else { other } };
    }
    replaced.push(hit);
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Step {
    /// What is left of it where the text up to `released` has left already: nothing if all of it has, or if it has no parts.
    pub(super) fn behind(self, released: usize) -> Option<Self> {
        let begins_behind = |hit: Hit| Hit { range: hit.range.start.max(released)..hit.range.end, ..hit };
        match self {
            Step::Replace(hit) => (hit.range.end > released).then(|| Step::Replace(begins_behind(hit))),
            Step::Restore(range, index) => (range.start >= released).then_some(Step::Restore(range, index)),
            Step::Flag(hit) => (hit.range.end > released).then_some(Step::Flag(hit)),
            Step::Block { from, hit } => Some(Step::Block { from: from.max(released), hit }),
        }
    }

    fn start(&self) -> usize {
        match self {
            Step::Replace(hit) | Step::Flag(hit) => hit.range.start,
            Step::Restore(range, _) => range.start,
            Step::Block { from, .. } => *from,
        }
    }
}
