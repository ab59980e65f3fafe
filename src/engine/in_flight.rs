//! One accepted request as the engine thread keeps it beside the scheduler's sequence: how its tokens are
//! chosen, when it ends, whom to tell. Knows nothing of blocks and batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    FinishReason, StopRules, TakenPlace, Task, TokenLogprobs, Update,
    constrained::{Constrained, MaskWorkers},
    event::Submission,
    sampler::{self, Delegate, Draw, History, SampleError},
    sequence::{Sequence, SequenceKey},
};
use crate::{
    telemetry::{EngineMetrics, RequestTimings},
    types::{ConstraintError, SamplingParams, TokenChoice},
};

#[derive(Debug)]
pub(super) struct InFlight {
    updates: mpsc::Sender<Update>,
    stopped: Arc<AtomicBool>,
    place: TakenPlace,
    sampling: SamplingParams,
    seed: u64,
    stop: StopRules,
    task: Task,
    /// End-of-sequence and stop ids: cannot be chosen before `min_tokens`.
    ending_ids: Vec<u32>,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    /// One entry per prompt token, as far as computed.
    prompt_entries: Vec<Option<TokenLogprobs>>,
    deadline: Option<Instant>,
    constrained: Option<Constrained>,
    timeline: Timeline,
}

/// A sampled token.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) id: u32,
    pub(super) logprobs: Option<TokenLogprobs>,
}

/// Why no token can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChooseError {
    /// The sampler found none.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// What may come is not known.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

#[derive(Debug)]
struct Timeline {
    arrived: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl InFlight {
    pub(super) fn new(submission: Submission, workers: &mut MaskWorkers) -> Self {
        let Submission { request, updates, stopped, arrived, place } = submission;
        let ending_ids = [&request.stop.eos_token_ids[..], &request.stop.stop_token_ids].concat();
        Self {
            updates,
            stopped,
            place,
            seed: request.sampling.seed.unwrap_or_else(rand::random),
            sampling: request.sampling,
            stop: request.stop,
            task: request.task,
            ending_ids,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            prompt_entries: Vec::new(),
            deadline: request.deadline,
            constrained: request.constraint.map(|constraint| Constrained::new(constraint, workers)),
            timeline: Timeline { arrived, scheduled: None, first_token: None, last_token: None },
        }
    }

    /// Why the request must end before its next token, if it must.
    pub(super) fn interrupted(&self, now: Instant) -> Option<FinishReason> {
        if self.updates.is_closed() {
            Some(FinishReason::Cancelled)
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Some(FinishReason::DeadlineExceeded)
        } else {
            None
        }
    }

    /// The sequence left the waiting queue; tells about the first time. True if this was it.
    pub(super) fn start(&mut self, cached_tokens: usize) -> bool {
        let first = self.timeline.scheduled.is_none();
        if first {
            self.timeline.scheduled = Some(Instant::now());
            self.send(Update::Started { cached_tokens });
        }
        first
    }

    /// True if the request wants tokens, not only something of its prompt.
    pub(super) fn wants_tokens(&self) -> bool {
        self.task == Task::Generate && self.stop.max_tokens > 0
    }

    /// What is asked of the prompt.
    pub(super) fn task(&self) -> &Task {
        &self.task
    }

    /// Tells what was asked of the prompt instead of tokens, which ends the request.
    pub(super) fn answer(&self, values: Vec<f32>) -> FinishReason {
        self.send(Update::Values(values));
        FinishReason::Computed
    }

    /// How a model that chooses tokens itself is to choose the one after the sequence; `None` if only the engine's own
    /// sampler can, as where the answer has a form.
    pub(super) fn choice<'a>(&'a self, key: SequenceKey, sequence: &'a Sequence) -> Option<TokenChoice<'a>> {
        if self.constrained.is_some() {
            return None;
        }
        let index = sequence.num_tokens() - sequence.prompt().len();
        let forbidden_ids = if index < self.stop.min_tokens { &self.ending_ids[..] } else { &[] };
        let history =
            History { prompt_ids: sequence.prompt(), output_ids: sequence.output(), forbidden_ids, allowed: None };
        let delegate = Delegate { sequence: key.arrival, num_unread: sequence.num_unread(), logprobs: self.logprobs };
        sampler::delegate(&self.sampling, &history, Draw { seed: self.seed, index }, delegate)
    }

    /// True if a choice depends on the tokens before in a way that the host must know them.
    pub(super) fn needs_every_token(&self) -> bool {
        !self.sampling.bad_words.is_empty()
    }

    /// How many tokens behind the next one can be of use, and have positions. What may come after a draft is not known
    /// where the answer has a form.
    pub(super) fn useful_draft(&self, sequence: &Sequence, max_sequence_len: usize) -> usize {
        if self.constrained.is_some() || !self.wants_tokens() {
            return 0;
        }
        let output = self.stop.max_tokens.saturating_sub(sequence.output().len());
        output.min(max_sequence_len.saturating_sub(sequence.num_tokens())).saturating_sub(1)
    }

    /// Waits until it is known which tokens may come next.
    pub(super) fn wait_for_form(&mut self) {
        if let Some(constrained) = &mut self.constrained {
            constrained.wait();
        }
    }

    /// Begins to work out which tokens may come after these.
    pub(super) fn advance_form(&mut self, ids: &[u32], workers: &mut MaskWorkers) {
        if let Some(constrained) = self.constrained.as_mut().filter(|_| !ids.is_empty()) {
            constrained.advance(ids.to_vec(), workers);
        }
    }

    /// Samples the token after the sequence and `n_accepted` drafted tokens from the logits of the position before.
    pub(super) fn choose(&self, sequence: &Sequence, n_accepted: usize, logits: &[f32]) -> Result<Chosen, ChooseError> {
        let output_ids = sequence.output_if(n_accepted);
        let index = output_ids.len();
        let allowed = self.constrained.as_ref().map(Constrained::allowed).transpose()?;
        // An answer whose form is complete ends, however short it is.
        let is_complete = allowed.is_some_and(|allowed| allowed.is_within(&self.ending_ids));
        let forbidden_ids = if index < self.stop.min_tokens && !is_complete { &self.ending_ids[..] } else { &[] };
        let history = History { prompt_ids: sequence.prompt(), output_ids, forbidden_ids, allowed };
        let id = sampler::sample(logits, &self.sampling, &history, Draw { seed: self.seed, index })?;
        let logprobs = self.logprobs.map(|n_top| sampler::token_logprobs(logits, id, n_top));
        Ok(Chosen { id, logprobs })
    }

    /// Log-probabilities of a prompt token from the logits of the position before it.
    pub(super) fn prompt_entry(&self, token: u32, logits: &[f32]) -> TokenLogprobs {
        sampler::token_logprobs(logits, token, self.prompt_logprobs.unwrap_or_default())
    }

    /// Collects prompt log-probabilities in the order of their positions.
    pub(super) fn add_prompt_entries(&mut self, entries: Vec<TokenLogprobs>) {
        self.prompt_entries.extend(entries.into_iter().map(Some));
    }

    /// The prompt has been computed: sends its log-probabilities, once.
    pub(super) fn end_prompt(&mut self) {
        if self.prompt_logprobs.take().is_some() {
            let mut entries = std::mem::take(&mut self.prompt_entries);
            entries.insert(0, None);
            self.send(Update::PromptLogprobs(entries));
        }
    }

    pub(super) fn emit(&mut self, chosen: Chosen, metrics: &EngineMetrics) {
        let now = Instant::now();
        match self.timeline.last_token.replace(now) {
            None => {
                self.timeline.first_token = Some(now);
                metrics.first_token((now - self.timeline.arrived).as_secs_f64());
            }
            Some(previous) => metrics.next_token((now - previous).as_secs_f64()),
        }
        self.send(Update::Token { id: chosen.id, logprobs: chosen.logprobs });
    }

    /// Does generation end with this token, the last of `n_output` in a sequence of `len`?
    pub(super) fn ends_with(&self, token: u32, n_output: usize, is_longest: bool) -> Option<FinishReason> {
        self.stopped_by(token).or(self.is_last(n_output, is_longest).then_some(FinishReason::Length))
    }

    /// True if generation ends with this token, wherever it is.
    pub(super) fn ends_at(&self, token: u32) -> bool {
        self.stopped_by(token).is_some()
    }

    fn stopped_by(&self, token: u32) -> Option<FinishReason> {
        let stop = &self.stop;
        if !stop.ignore_eos && stop.eos_token_ids.contains(&token) {
            Some(FinishReason::EndOfSequence)
        } else if stop.stop_token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else {
            None
        }
    }

    /// True if no token can follow the last of `n_output`, whichever it is.
    pub(super) fn is_last(&self, n_output: usize, is_longest: bool) -> bool {
        n_output >= self.stop.max_tokens || is_longest
    }

    /// The last message and the last entry in the metrics.
    pub(super) fn finish(self, reason: FinishReason, completion_tokens: usize, metrics: &EngineMetrics) {
        let label = match reason {
            FinishReason::EndOfSequence | FinishReason::StopToken(_) | FinishReason::Computed => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled if self.stopped.load(Relaxed) => "stop",
            FinishReason::Cancelled | FinishReason::DeadlineExceeded => "abort",
            FinishReason::Failed(_) | FinishReason::NoAnswer(_) => "error",
        };
        metrics.finished(label, completion_tokens, self.timeline.timings());
        let Self { updates, place, .. } = self;
        // Before the last message, so that whoever has read it finds room for the next request.
        drop(place);
        // As in `send`.
        let _ = updates.try_send(Update::Finished(reason));
    }

    /// The channel holds every update the request can lead to, so the only error is a reader that left.
    fn send(&self, update: Update) {
        let _ = self.updates.try_send(update);
    }
}

impl ChooseError {
    /// Why the sequence ends.
    pub(super) fn finish(self) -> FinishReason {
        match self {
            Self::Sample(SampleError::NotFinite) => FinishReason::Failed(self.to_string()),
            Self::Sample(SampleError::NothingAllowed) | Self::Constraint(_) => FinishReason::NoAnswer(self.to_string()),
        }
    }
}

impl Timeline {
    fn timings(&self) -> RequestTimings {
        let now = Instant::now();
        let scheduled = self.scheduled.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now).max(scheduled);
        let last_token = self.last_token.unwrap_or(now);
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
        RequestTimings {
            queue_s: seconds(self.arrived, scheduled),
            prefill_s: seconds(scheduled, first_token),
            decode_s: seconds(first_token, last_token),
            end_to_end_s: seconds(self.arrived, last_token),
        }
    }
}
