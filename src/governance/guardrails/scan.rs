//! Walks over a text once, from left to right, and finds what a plan looks for.
//!
//! [`Scanner`] keeps its place between calls, so that a text may come in pieces. Invariant: a place is decided with what
//! follows it in sight, or not at all, so that what is found does not depend on the pieces. It does not resolve what
//! overlaps.

use std::ops::Range;

use super::{
    automaton::{RuleId, Walk, Walker},
    detectors::Candidate,
    finding::{Action, BlockCause},
    passages::Passages,
    plan::Plan,
    resolve::{Hit, Raw, Resolver},
    rules::Rule,
    vault::{Bracket, Vault},
};

/// What is in sight of a text.
#[derive(Clone, Copy)]
pub(super) struct Sight<'t> {
    pub text: &'t str,
    /// Where it begins in the whole text, in bytes. What is before is decided, but for what judges may look back at.
    pub base: usize,
    /// Does it reach to the whole text's end?
    pub is_whole: bool,
}

/// A place in a text.
#[derive(Clone)]
pub(super) struct Scanner {
    /// The first byte that is not decided. Like all places here, of the whole text.
    cursor: usize,
    /// Characters before it.
    chars: usize,
    /// How many of them are before the text whose length counts.
    uncounted: usize,
    /// For each rule, where its last finding ends: the next may not begin before.
    free_from: Vec<usize>,
    /// Passages for a classifier, if the text is judged in passages.
    passages: Option<Passages>,
    ends: Vec<(RuleId, usize)>,
    work_bytes: usize,
}

impl Scanner {
    /// At the beginning of a text. A text that comes in pieces is put to a classifier in passages.
    pub(super) fn new(plan: &Plan, in_passages: bool) -> Self {
        let asks = in_passages && !plan.questions.is_empty();
        Self {
            cursor: 0,
            chars: 0,
            uncounted: 0,
            free_from: vec![0; plan.uses.len()],
            passages: asks.then(Passages::default),
            ends: Vec::new(),
            work_bytes: 0,
        }
    }

    /// The text whose length counts begins behind so many characters.
    pub(super) fn count_from(&mut self, chars: usize) {
        self.uncounted = chars;
    }

    /// Bytes that automata and judges have read, some of them often.
    pub(super) fn work_bytes(&self) -> usize {
        self.work_bytes
    }

    /// Everything that begins before this is found.
    pub(super) fn horizon(&self) -> usize {
        self.passages.as_ref().map_or(self.cursor, |passages| passages.start().min(self.cursor))
    }

    /// Goes on as far as what is in sight decides.
    pub(super) fn scan(&mut self, plan: &Plan, vault: Option<&Vault>, sight: Sight<'_>, found: &mut Resolver) {
        let Sight { text, base, is_whole } = sight;
        let mut walkers: Vec<Walker<'_>> =
            plan.automata.iter().map(|&index| plan.rules.automata[index].walker()).collect();
        self.ends.clear();
        let start = self.cursor - base;
        let mut before = text[..start].chars().next_back();
        let mut at = start;
        for c in text[start..].chars() {
            let starting = plan.starts[usize::from(text.as_bytes()[at])];
            if starting != 0 && !self.walk_from(at, (before, c), starting, &mut walkers, sight) {
                break;
            }
            if c == '['
                && let Some(vault) = vault
            {
                match vault.bracket(&text[at..], is_whole) {
                    Bracket::Unfinished => break,
                    Bracket::Placeholder(length, index) => {
                        found.add(Raw::Placeholder(base + at..base + at + length, index));
                    }
                    Bracket::Nothing => {}
                }
            }
            self.judge(plan, at, sight, found);
            self.check_lengths(plan, base + at..base + at + c.len_utf8(), found);
            at += c.len_utf8();
            self.chars += 1;
            if let Some(passages) = &mut self.passages
                && let Some(passage) = passages.passage_ending_with(before, c, base + at)
            {
                ask(plan, &text[passage.start - base..at], passage, found);
            }
            before = Some(c);
        }
        self.cursor = base + at;
        if is_whole
            && let Some(passages) = &mut self.passages
            && let Some(passage) = passages.rest(self.cursor)
        {
            ask(plan, &text[passage.start - base..], passage, found);
        }
    }

    /// Collects candidates that begin here. False if more of the text has to be seen.
    fn walk_from(
        &mut self,
        at: usize,
        (before, first): (Option<char>, char),
        starting: u16,
        walkers: &mut [Walker<'_>],
        sight: Sight<'_>,
    ) -> bool {
        self.ends.clear();
        for (bit, walker) in walkers.iter_mut().enumerate() {
            if starting >> bit & 1 == 0 || !walker.may_start(before, first) {
                continue;
            }
            match walker.walk(sight.text, at, sight.is_whole, &mut self.ends) {
                Walk::Decided(read) => self.work_bytes += read,
                Walk::Unfinished(read) => {
                    self.work_bytes += read;
                    return false;
                }
            }
        }
        true
    }

    /// Adds the longest candidate of each rule that is what the rule looks for.
    fn judge(&mut self, plan: &Plan, at: usize, sight: Sight<'_>, found: &mut Resolver) {
        if self.ends.is_empty() {
            return;
        }
        let Sight { text, base, .. } = sight;
        self.ends.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
        self.ends.dedup();
        for ends in self.ends.chunk_by(|one, other| one.0 == other.0) {
            let rule = ends[0].0;
            if plan.uses[rule].is_empty() || base + at < self.free_from[rule] {
                continue;
            }
            let judged = if plan.rules.rules[rule].only_longest { &ends[..1] } else { ends };
            for &(_, end) in judged {
                let after = text[end..].chars().next();
                let candidate = Candidate { text: &text[at..end], before: &text[..at], after };
                self.work_bytes += end - at;
                let Some(judgement) = plan.rules.rules[rule].judge(&candidate) else { continue };
                let Some(heeding) = plan.heeding(rule, judgement.score) else { continue };
                let range = base + at + judgement.range.start..base + at + judgement.range.end;
                let Rule { name, kind, .. } = &plan.rules.rules[rule];
                found.add(Raw::Hit(heeding.hit(name, kind, range, judgement.score)));
                self.free_from[rule] = base + end;
                break;
            }
        }
        self.ends.clear();
    }

    /// The first character that is too many is the finding.
    fn check_lengths(&self, plan: &Plan, character: Range<usize>, found: &mut Resolver) {
        let Some(chars) = self.chars.checked_sub(self.uncounted) else { return };
        for length in plan.lengths.iter().filter(|length| length.max_chars == chars) {
            let hit = length.of.hit(&plan.length_name, "LENGTH", character.clone(), 1.0);
            found.add(Raw::Hit(Hit { is_reported_always: true, ..hit }));
        }
    }
}

/// Has a classifier judge a passage, or a whole text, unless nobody wants to know.
pub(super) fn ask(plan: &Plan, text: &str, range: Range<usize>, found: &mut Resolver) {
    if !found.heeds(&range) {
        return;
    }
    for question in &plan.questions {
        let answer = plan.classifier.as_ref().map(|classifier| classifier.score(&question.label, text));
        let hit = |score| question.of.hit(&question.label, "TEXT", range.clone(), score);
        match answer {
            Some(Ok(score)) if score >= question.of.threshold => found.add(Raw::Hit(hit(score))),
            Some(Ok(score)) if !score.is_nan() => {}
            // What cannot be judged does not pass.
            Some(Ok(_) | Err(_)) | None => {
                found.add(Raw::Hit(Hit { action: Action::Block, cause: BlockCause::ClassifierFailed, ..hit(0.0) }));
            }
        }
    }
}
