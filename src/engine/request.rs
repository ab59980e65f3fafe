//! What the engine is asked and what it answers: token ids in, token ids out. Text, stop strings and
//! tool calls belong to the layers above.

use std::{sync::Arc, time::Instant};

use super::{SubmitError, sequence::Precedence};
use crate::types::{Constraint, Outputs, SamplingParams, TokenLogprobs};

/// What is asked of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// The tokens after it.
    #[default]
    Generate,
    /// What its last token is pooled to.
    Pool,
    /// The natural-log probability of each of these ids as the token after it, before any sampling stage.
    Weigh(Vec<u32>),
}

/// One sequence to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Prompt tokens, at least one.
    pub prompt_ids: Vec<u32>,
    /// What is asked of the prompt. What follows concerns tokens after it, where nothing else is said.
    pub task: Task,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// When generation ends.
    pub stop: StopRules,
    /// Log-probabilities of the chosen token and of this many most likely ones, per generated token.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens; turns prefix-cache reuse off for this request.
    pub prompt_logprobs: Option<usize>,
    /// Whether it gives way to others.
    pub precedence: Precedence,
    /// Lower values are scheduled earlier; equal ones in order of arrival.
    pub priority: i32,
    /// Whose it is, such as a tenant's. What the engine has is shared evenly among these, and `priority` counts within one.
    pub share: Arc<str>,
    /// Past this moment the request ends, waiting or running, with [`FinishReason::DeadlineExceeded`].
    pub deadline: Option<Instant>,
    /// Requests share cached prefixes only within the same salt.
    pub cache_salt: Option<String>,
    /// The form of the answer. It knows which of `eos_token_ids` may come when.
    pub constraint: Option<Box<dyn Constraint>>,
    /// What the output is expected to be: guesses are taken from it where the model has any. It decides when tokens come,
    /// never which.
    pub prediction: Vec<u32>,
}

/// When a sequence ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Most tokens to generate. 0 only computes the prompt, for its log-probabilities.
    pub max_tokens: usize,
    /// End-of-sequence and stop ids cannot be sampled before this many tokens.
    pub min_tokens: usize,
    /// The model's end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
    /// Further ids that end the sequence.
    pub stop_token_ids: Vec<u32>,
    /// Do not end at `eos_token_ids`.
    pub ignore_eos: bool,
}

/// What arrives on a [`super::RequestStream`], in this order: `Started`, maybe `PromptLogprobs`, any
/// number of `Token`s or the `Values`, one `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The request left the waiting queue.
    Started {
        /// Prompt tokens whose keys and values came from the prefix cache.
        cached_tokens: usize,
    },
    /// One entry per prompt token; the first is `None`.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// The next generated token. A token that ends the sequence (end-of-sequence or stop id) is included.
    Token {
        /// Vocabulary id.
        id: u32,
        /// Present if the request asked for them.
        logprobs: Option<TokenLogprobs>,
    },
    /// What was asked of the prompt other than tokens: [`Task::Pool`] or [`Task::Weigh`].
    Values(Vec<f32>),
    /// The last message.
    Finished(FinishReason),
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it with one of `eos_token_ids`.
    EndOfSequence,
    /// One of `stop_token_ids`.
    StopToken(u32),
    /// `max_tokens` or the model's longest sequence.
    Length,
    /// What was asked of the prompt other than tokens has been computed.
    Computed,
    /// The client went away or the request was withdrawn.
    Cancelled,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// No token may come next: what the request allows leaves none, or the form of its answer cannot be followed further.
    NoAnswer(String),
    /// The forward pass or the sampler failed for this request.
    Failed(String),
}

impl StopRules {
    /// The end-of-sequence and stop ids.
    fn ends_at(&self, id: u32) -> bool {
        self.eos_token_ids.contains(&id) || self.stop_token_ids.contains(&id)
    }
}

impl Request {
    /// Refuses what could not be computed: everything the engine thread relies on is checked here.
    pub(super) fn check(
        &self,
        outputs: Outputs,
        vocab_size: usize,
        max_sequence_len: usize,
    ) -> Result<(), SubmitError> {
        match &self.task {
            Task::Generate | Task::Weigh(_) if !outputs.logits => return Err(SubmitError::NoText),
            Task::Pool if outputs.pooled_width.is_none() => return Err(SubmitError::NotPooled),
            Task::Weigh(ids) => check_ids("task", ids.iter().copied(), vocab_size)?,
            Task::Generate | Task::Pool => {}
        }
        if self.prompt_ids.is_empty() {
            return Err(invalid("prompt_ids", "must hold at least one token".to_owned()));
        }
        if self.prompt_ids.len() >= max_sequence_len {
            let prompt_tokens = self.prompt_ids.len();
            return Err(SubmitError::PromptTooLong { prompt_tokens, max_model_len: max_sequence_len });
        }
        let sampling = &self.sampling;
        sampling
            .validate()
            .map_err(|error| invalid(error.field, format!("must be {}, got {}", error.expected, error.value)))?;
        let allowed = sampling.allowed_token_ids.as_deref();
        if allowed.is_some_and(<[u32]>::is_empty) {
            return Err(invalid("allowed_token_ids", "must hold at least one token".to_owned()));
        }
        check_ids("prompt_ids", self.prompt_ids.iter().copied(), vocab_size)?;
        check_ids("prediction", self.prediction.iter().copied(), vocab_size)?;
        check_ids("allowed_token_ids", allowed.unwrap_or_default().iter().copied(), vocab_size)?;
        check_ids("logit_bias", sampling.logit_bias.iter().map(|&(id, _)| id), vocab_size)?;
        let StopRules { min_tokens, max_tokens, .. } = self.stop;
        if min_tokens > max_tokens {
            return Err(invalid("min_tokens", format!("must be at most max_tokens ({max_tokens}), got {min_tokens}")));
        }
        if min_tokens > 0 && allowed.is_some_and(|ids| ids.iter().all(|id| self.stop.ends_at(*id))) {
            let reason = format!("holds only ids that end the sequence, which min_tokens ({min_tokens}) forbids");
            return Err(invalid("allowed_token_ids", reason));
        }
        Ok(())
    }

    /// Most messages the request can lead to: so large a channel never makes the engine wait.
    pub(super) fn max_updates(&self, max_sequence_len: usize) -> usize {
        const STARTED_PROMPT_FINISHED: usize = 3;
        if self.task != Task::Generate {
            return STARTED_PROMPT_FINISHED + 1;
        }
        self.stop.max_tokens.min(max_sequence_len - self.prompt_ids.len()) + STARTED_PROMPT_FINISHED
    }
}

fn check_ids(field: &'static str, mut ids: impl Iterator<Item = u32>, vocab_size: usize) -> Result<(), SubmitError> {
    match ids.find(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(invalid(field, format!("token {id} is not in the vocabulary of {vocab_size}"))),
    }
}

fn invalid(field: &'static str, reason: String) -> SubmitError {
    SubmitError::Invalid { field, reason }
}
