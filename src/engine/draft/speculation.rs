//! Drafts within a step: who gets how long a one, and what is learnt from what became of them. The main type is
//! [`Speculation`]. Knows nothing of how tokens are drafted or chosen.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Drafter, Evidence, Wanted,
    estimates::{Acceptance, StepTimes, mix},
    payoff::{DraftCosts, Prospect, draft_lengths},
    prediction::Prediction,
};
use crate::{
    engine::{
        SpeculationMode,
        forward::panic_message,
        scheduler::{Scheduled, Scheduler},
        sequence::{Sequence, SequenceKey},
    },
    telemetry::EngineMetrics,
};

/// Steps with drafts that may fail in a row; after that no more are made.
const MOST_FAILURES: usize = 3;
/// Most tokens of a draft.
const LONGEST_DRAFT: usize = 8;
/// Most drafted tokens of a step; bounds the memory of their logits.
const MOST_DRAFTED: usize = 64;
/// Share of a token in the acceptance of its sequence, and in what new sequences begin with.
const SEQUENCE_SHARE: f64 = 0.15;
const COMMON_SHARE: f64 = 0.02;

/// The drafter and what has been learnt about its worth.
pub(in crate::engine) struct Speculation {
    mode: SpeculationMode,
    drafter: Box<dyn Drafter>,
    step_times: StepTimes,
    /// What drafting a token takes, in seconds.
    draft_token_s: f64,
    /// Of all sequences together.
    acceptance: Acceptance,
    sequences: HashMap<u64, Drafted>,
    /// What requests say that their answers will be.
    predictions: HashMap<u64, Prediction>,
    metrics: Arc<EngineMetrics>,
    /// Steps with drafts that failed, since one that did not.
    failures: usize,
}

/// What is known of a sequence.
#[derive(Debug)]
struct Drafted {
    acceptance: Acceptance,
    evidence: Evidence,
    /// What was drafted for the step that runs.
    tokens: Vec<u32>,
    /// It was drafted only to see whether it comes.
    unused: bool,
}

/// How many drafted tokens a sequence can use at most.
type Useful<'a> = &'a dyn Fn(SequenceKey, &Sequence) -> usize;

/// A share of the step after which a token is chosen, and which could have a draft.
struct Candidate {
    item: Scheduled,
    evidence: Evidence,
    /// The guess is the prediction's, not the drafter's.
    is_predicted: bool,
    prospect: Prospect,
}

impl Speculation {
    pub(in crate::engine) fn new(
        mode: SpeculationMode,
        drafter: Box<dyn Drafter>,
        metrics: Arc<EngineMetrics>,
    ) -> Self {
        Self {
            mode,
            drafter,
            step_times: StepTimes::default(),
            draft_token_s: 0.0,
            acceptance: Acceptance::default(),
            sequences: HashMap::new(),
            predictions: HashMap::new(),
            metrics,
            failures: 0,
        }
    }

    /// Gives the shares of a plan after which a token is chosen their drafts, out of what it leaves of the step's
    /// budget and of the pool. Returns how many tokens there are in all. A panic of the drafter leaves drafts out.
    pub(in crate::engine) fn draft(
        &mut self,
        items: &[Scheduled],
        scheduler: &mut Scheduler,
        useful: Useful<'_>,
    ) -> usize {
        if self.failures >= MOST_FAILURES {
            return 0;
        }
        let drafted = catch_unwind(AssertUnwindSafe(|| self.try_draft(items, scheduler, useful)));
        drafted.unwrap_or_else(|panic| {
            tracing::error!(failure = panic_message(&*panic), "drafting panicked");
            self.count_failure();
            self.take_back(items, scheduler);
            0
        })
    }

    /// A step failed: takes its drafts back. It counts against them if it had any.
    pub(in crate::engine) fn clear(&mut self, items: &[Scheduled], scheduler: &mut Scheduler) {
        let is_drafted = |item: &Scheduled| scheduler.sequence(item.key).is_some_and(|it| !it.draft().is_empty());
        if items.iter().any(is_drafted) {
            self.count_failure();
        }
        self.take_back(items, scheduler);
    }

    fn count_failure(&mut self) {
        self.failures += 1;
        if self.failures == MOST_FAILURES {
            tracing::error!("{MOST_FAILURES} steps with guesses failed: no more are made");
        }
    }

    fn take_back(&mut self, items: &[Scheduled], scheduler: &mut Scheduler) {
        for item in items {
            scheduler.set_draft(item.key, &[]);
            if let Some(drafted) = self.sequences.get_mut(&item.key.arrival) {
                drafted.tokens.clear();
            }
        }
    }

    /// These tokens were chosen for a sequence: what has come of its draft?
    pub(in crate::engine) fn learn(&mut self, sequence: u64, chosen: &[u32]) {
        let Some(drafted) = self.sequences.get_mut(&sequence) else { return };
        let tokens = std::mem::take(&mut drafted.tokens);
        if tokens.is_empty() || chosen.is_empty() {
            return;
        }
        self.failures = 0;
        let n_accepted = tokens.iter().zip(chosen).take_while(|(drafted, chosen)| drafted == chosen).count();
        // An end within the draft says nothing about what comes after it.
        let n_tried = tokens.len().min(chosen.len());
        for (acceptance, share) in [(&mut drafted.acceptance, SEQUENCE_SHARE), (&mut self.acceptance, COMMON_SHARE)] {
            acceptance.observe(drafted.evidence, n_accepted, n_tried, share);
        }
        if !drafted.unused {
            self.metrics.drafted(tokens.len(), n_accepted);
        }
    }

    /// A step of so many tokens took so long, drafting left out.
    pub(in crate::engine) fn observe_step(&mut self, rows: usize, took: Duration) {
        self.step_times.observe(rows, took.as_secs_f64());
    }

    /// The client says that these tokens will be the sequence's output.
    pub(in crate::engine) fn expect(&mut self, sequence: u64, prediction: Vec<u32>) {
        if !prediction.is_empty() {
            self.predictions.insert(sequence, Prediction::new(prediction));
        }
    }

    /// The sequence has ended.
    pub(in crate::engine) fn end(&mut self, sequence: u64) {
        self.predictions.remove(&sequence);
    }

    /// The sequence has ended, or has lost its blocks.
    pub(in crate::engine) fn forget(&mut self, sequence: u64) {
        self.drafter.forget(sequence);
        self.sequences.remove(&sequence);
    }

    fn try_draft(&mut self, items: &[Scheduled], scheduler: &mut Scheduler, useful: Useful<'_>) -> usize {
        let spare = scheduler.spare_tokens(items).min(MOST_DRAFTED);
        if spare == 0 {
            return 0;
        }
        let candidates = self.candidates(items, scheduler, useful);
        let leads_on = |item: &&Scheduled| scheduler.sequence(item.key).is_some_and(|s| item.end() == s.num_tokens());
        let work = (items.iter().map(|item| item.query_len).sum(), items.iter().filter(leads_on).count());
        let lengths = self.lengths(&candidates, work, spare);
        let mut asked = Vec::new();
        for (candidate, length) in candidates.iter().zip(lengths) {
            match scheduler.reserve_draft(candidate.item, length) {
                0 if candidate.is_predicted || self.drafter.is_free() => asked.push((candidate, 1, true)),
                0 => self.rest(candidate),
                length => asked.push((candidate, length, false)),
            }
        }
        self.propose(&asked, scheduler)
    }

    fn candidates(&mut self, items: &[Scheduled], scheduler: &Scheduler, useful: Useful<'_>) -> Vec<Candidate> {
        let candidate = |item: &Scheduled| {
            let sequence = scheduler.sequence(item.key)?;
            if item.end() != sequence.num_tokens() {
                return None;
            }
            let most = useful(item.key, sequence).min(LONGEST_DRAFT);
            if most == 0 {
                return None;
            }
            let arrival = item.key.arrival;
            let predicted = self.predictions.get_mut(&arrival).and_then(|it| it.prospect(sequence.output()));
            let drafted = self.drafter.prospect(arrival, sequence.tokens());
            let (evidence, is_predicted) = (predicted.max(drafted)?, predicted >= drafted);
            let common = self.acceptance;
            let drafted = self.sequences.entry(arrival).or_insert_with(|| Drafted {
                acceptance: common,
                evidence,
                tokens: Vec::new(),
                unused: false,
            });
            let prospect = Prospect { acceptance: drafted.acceptance.of(evidence), most };
            Some(Candidate { item: *item, evidence, is_predicted, prospect })
        };
        items.iter().filter_map(candidate).collect()
    }

    /// Beside `rows` of a step after which `decodes` tokens are chosen.
    fn lengths(&self, candidates: &[Candidate], (rows, decodes): (usize, usize), spare: usize) -> Vec<usize> {
        let prospects: Vec<Prospect> = candidates.iter().map(|candidate| candidate.prospect).collect();
        match self.mode {
            SpeculationMode::Off => vec![0; prospects.len()],
            SpeculationMode::Always(length) => {
                let mut left = spare;
                let length_of = |prospect: &Prospect| {
                    let length = length.min(prospect.most).min(left);
                    left -= length;
                    length
                };
                prospects.iter().map(length_of).collect()
            }
            // What a step takes without drafts must have been seen, or any number would look cheap beside a guess.
            SpeculationMode::Auto if !self.step_times.knows(decodes) => vec![0; prospects.len()],
            SpeculationMode::Auto => {
                let costs = DraftCosts {
                    rows,
                    decodes,
                    draft_token_s: self.draft_token_s,
                    step_s: &|rows| self.step_times.seconds(rows),
                };
                draft_lengths(&prospects, &costs, spare)
            }
        }
    }

    /// `asked` are candidates, the lengths of their drafts, and whether these are only to be looked at.
    fn propose(&mut self, asked: &[(&Candidate, usize, bool)], scheduler: &mut Scheduler) -> usize {
        let drafters = asked.iter().filter(|(candidate, ..)| !candidate.is_predicted);
        let wanted = drafters.map(|&(candidate, most, _)| {
            let sequence = scheduler.sequence(candidate.item.key).expect("candidates are planned");
            let (tokens, block_table) = (sequence.tokens(), sequence.block_table());
            Wanted { sequence: candidate.item.key.arrival, tokens, block_table, most }
        });
        let wanted: Vec<Wanted<'_>> = wanted.collect();
        let began = Instant::now();
        let drafts = if wanted.is_empty() { Vec::new() } else { self.drafter.propose(&wanted) };
        let drafted: usize = drafts.iter().map(Vec::len).sum();
        if drafted > 0 && !self.drafter.is_free() {
            self.draft_token_s = mix(self.draft_token_s, began.elapsed().as_secs_f64() / drafted as f64);
        }
        let (mut drafts, mut in_use) = (drafts.into_iter(), 0);
        for &(candidate, most, unused) in asked {
            let mut tokens = match self.predictions.get(&candidate.item.key.arrival) {
                Some(prediction) if candidate.is_predicted => prediction.draft(most),
                Some(_) | None => drafts.next().unwrap_or_default(),
            };
            tokens.truncate(most);
            if !unused {
                scheduler.set_draft(candidate.item.key, &tokens);
                in_use += tokens.len();
            }
            if let Some(drafted) = self.sequences.get_mut(&candidate.item.key.arrival) {
                (drafted.evidence, drafted.tokens, drafted.unused) = (candidate.evidence, tokens, unused);
            }
        }
        in_use
    }

    /// Nothing was tried for this one: estimates that advise against it lose a little of their weight.
    fn rest(&mut self, candidate: &Candidate) {
        self.draft_token_s *= 1.0 - 1.0 / 256.0;
        self.acceptance.rest(candidate.evidence);
        if let Some(drafted) = self.sequences.get_mut(&candidate.item.key.arrival) {
            drafted.acceptance.rest(candidate.evidence);
        }
    }
}

impl std::fmt::Debug for Speculation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speculation").field("mode", &self.mode).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, Precedence, draft::LookupDrafter, sequence::Outlook};

    /// A sequence becomes `text`, of which `n_prompt` tokens are its prompt, in steps that take so long by their rows.
    /// Returns how many tokens were drafted at which length of the sequence.
    fn run(text: &[u32], n_prompt: usize, seconds: impl Fn(usize) -> f64) -> Vec<(usize, usize)> {
        let mut scheduler = Scheduler::new(&EngineConfig::default());
        let mut speculation =
            Speculation::new(SpeculationMode::Auto, Box::new(LookupDrafter::default()), Arc::default());
        let key = SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival: 0 };
        scheduler
            .add(key, Sequence::new(text[..n_prompt].to_vec(), &crate::engine::sequence::SequenceOptions::default()));
        let mut drafted = Vec::new();
        let mut len = n_prompt;
        while len < text.len() {
            let plan = scheduler.schedule();
            let left = text.len() - len - 1;
            let n_drafted = speculation.draft(&plan.items, &mut scheduler, &|_, _| left);
            let rows = plan.items[0].query_len + n_drafted;
            let draft = scheduler.sequence(key).unwrap().draft();
            let n_accepted = draft.iter().zip(&text[len..]).take_while(|(drafted, comes)| drafted == comes).count();
            let chosen = &text[len..=len + n_accepted];
            drafted.push((len, n_drafted));
            scheduler.start(plan.items[0], Outlook::Token(0));
            scheduler.commit(plan.items[0], chosen);
            scheduler.check_integrity().unwrap();
            speculation.learn(0, chosen);
            speculation.observe_step(rows, Duration::from_secs_f64(seconds(rows)));
            len += chosen.len();
        }
        drafted
    }

    fn total(drafted: &[(usize, usize)], lengths: std::ops::Range<usize>) -> usize {
        drafted.iter().filter(|(len, _)| lengths.contains(len)).map(|(_, n_drafted)| n_drafted).sum()
    }

    #[test]
    fn a_repetition_is_drafted_where_rows_are_cheap_and_not_where_they_are_dear() {
        let text: Vec<u32> = (0..600).map(|i| i % 30).collect();
        let cheap = run(&text, 60, |rows| 0.1 + 0.001 * rows as f64);
        assert!(cheap.len() < 100 && cheap[20].1 == 8, "{cheap:?}");
        let dear = run(&text, 60, |rows| 0.1 * rows as f64);
        // Once in a while it is tried whether that has changed.
        assert!(total(&dear, 60..600) <= 8, "{dear:?}");
        // The prompt alone suggests that rows cost less than a step of few rows shows.
        let dear_at_first = run(&text, 60, |rows| 0.1 * (rows as f64).min(10.0));
        assert!(total(&dear_at_first, 60..120) > 0 && total(&dear_at_first, 200..500) <= 16, "{dear_at_first:?}");
    }

    #[test]
    fn failed_steps_end_drafts_only_if_they_had_some() {
        let mut scheduler = Scheduler::new(&EngineConfig::default());
        let mut speculation =
            Speculation::new(SpeculationMode::Auto, Box::new(LookupDrafter::default()), Arc::default());
        let key = SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival: 0 };
        let text = (0..60).map(|i| i % 10).collect();
        scheduler.add(key, Sequence::new(text, &crate::engine::sequence::SequenceOptions::default()));
        let items = scheduler.schedule().items;
        (1..10).for_each(|rows| speculation.observe_step(rows, Duration::from_millis(100)));
        for _ in 0..2 * MOST_FAILURES {
            speculation.clear(&items, &mut scheduler);
        }
        for _ in 0..MOST_FAILURES {
            assert!(speculation.draft(&items, &mut scheduler, &|_, _| 8) > 0);
            speculation.clear(&items, &mut scheduler);
        }
        assert_eq!(speculation.draft(&items, &mut scheduler, &|_, _| 8), 0);
    }

    #[test]
    fn drafts_end_with_what_comes_true_and_return_with_it() {
        // Pairs that are followed by something new each time, then a repetition.
        let mut text: Vec<u32> = (0..200).flat_map(|i| [1, 2, 100 + i]).collect();
        text.extend((0..300).map(|i| 10 + i % 20));
        let drafted = run(&text, 9, |rows| 0.1 + 0.01 * rows as f64);
        assert!(total(&drafted, 9..100) > 0, "{drafted:?}");
        assert_eq!(total(&drafted, 400..600), 0, "{drafted:?}");
        assert!(total(&drafted, 640..900) > 150, "{drafted:?}");
    }
}
