//! Prompt tokens -> answer, piece by piece: the one place where engine updates become text.
//!
//! [`start`] hands a [`Job`] to the engine and gives one [`Generation`] per choice. Dropping a `Generation`
//! cancels it. Shared by all resources and by the command line; knows nothing of HTTP but the error it reports.

use std::{collections::VecDeque, sync::Arc, time::Instant};

pub use super::assembler::{Delta, ScoredToken, TokenCounts};
use super::{
    answer_guard::{AnswerGuard, Blocked, GuardedAnswer},
    assembler::{Assembler, EndRules, TextSource},
    audit::{ChoiceRecord, Inference, Parameters},
    error::ApiError,
    params::GenerationParams,
    quota::Wanted,
    state::ServedModel,
    updates::next_update,
};
use crate::{
    engine::{FinishReason, Request, RequestStream, StopRules, Task, TokenLogprobs, Update},
    governance::quota::Reservation,
    prompt::{SpecialTokens, ToolsOffered},
    types::Constraint,
};

/// So many tokens before a continuation decide how its text begins: a first space, a broken character.
const CONTEXT_TOKENS: usize = 16;
/// Seeds that are chosen have 53 bits: every reader of JSON can take them.
const SEED_UNUSED_BITS: u32 = 11;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Job {
    /// Prompt tokens, at least one.
    pub prompt_ids: Vec<u32>,
    /// How to continue it.
    pub params: GenerationParams,
    /// How to read the answer.
    pub format: OutputFormat,
    /// The form of each choice's answer.
    pub constraint: Option<Box<dyn Constraint>>,
    /// What the answer passes before it leaves.
    pub guard: AnswerGuard,
}

impl Job {
    /// Prompt tokens that the answer's text continues: they decide whether its first space counts.
    fn context_ids(&self) -> &[u32] {
        match self.format {
            OutputFormat::Text => &self.prompt_ids[self.prompt_ids.len().saturating_sub(CONTEXT_TOKENS)..],
            OutputFormat::Message { n_continued, .. } => {
                &self.prompt_ids[self.prompt_ids.len().saturating_sub(n_continued)..]
            }
        }
    }
}

/// How the answer's tokens are read.
#[derive(Clone, Copy, Debug)]
pub enum OutputFormat {
    /// As text.
    Text,
    /// As a chat message: text, reasoning and tool calls.
    Message {
        /// Are calls recognized?
        tools: ToolsOffered,
        /// Prompt tokens at the end that belong to a message which the answer continues.
        n_continued: usize,
    },
}

/// What happens while an answer is generated, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Computation began.
    Started {
        /// Prompt tokens whose keys and values were in the cache.
        cached_tokens: usize,
    },
    /// One entry per prompt token; the first is `None`.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// More of the answer.
    Delta(Delta),
    /// The end.
    Finished(Finished),
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: Finish,
    /// What exactly, if it was not the model's own end of sequence.
    pub stop_reason: Option<StopReason>,
    /// Tokens generated.
    pub counts: TokenCounts,
}

/// OpenAI's `finish_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model, a stop string or a stop id ended it.
    Stop,
    /// `max_tokens`, or the longest sequence.
    Length,
    /// The model ended it after calling a tool.
    ToolCalls,
    /// A guardrail ended it.
    ContentFilter,
}

impl Finish {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// vLLM's `stop_reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// One of `stop_token_ids`.
    Token(u32),
}

/// One choice being generated.
pub struct Generation {
    updates: Option<RequestStream>,
    assembler: Assembler,
    guard: Option<GuardedAnswer>,
    queue: VecDeque<Event>,
    record: Option<ChoiceRecord>,
    deadline: Option<Instant>,
    reservation: Option<Arc<Reservation>>,
}

/// Hands the jobs of one call to the engine: one generation per choice, those of the first job first. All of them are taken,
/// or none, and they count for quotas together.
pub fn start(model: &ServedModel, jobs: &[Job]) -> Result<Vec<Generation>, ApiError> {
    let (mut wanted, mut longest) = (Vec::new(), Vec::new());
    for job in jobs {
        longest.push(max_tokens(model, job)?);
        check_places(model, job.params.n, "n")?;
        let prompt = job.prompt_ids.len();
        let room = model.max_model_len.saturating_sub(prompt);
        wanted.push(Wanted { prompt, answers: job.params.n, max_tokens: job.params.stopping.max_tokens, room });
    }
    let metering = jobs.first().map(|job| &job.params.scheduling.metering);
    let reservation = metering.map(|metering| metering.reserve(&wanted)).transpose()?.flatten();
    let mut generations = Vec::new();
    for (job, max_tokens) in jobs.iter().zip(longest) {
        generations.extend(start_job(model, job, max_tokens, reservation.as_ref())?);
    }
    // Until here nothing counts: a call that is refused may come again.
    if let Some(reservation) = &reservation {
        reservation.begin(wanted.iter().map(|wanted| wanted.prompt as u64).sum());
    }
    Ok(generations)
}

fn start_job(
    model: &ServedModel,
    job: &Job,
    max_tokens: usize,
    reservation: Option<&Arc<Reservation>>,
) -> Result<Vec<Generation>, ApiError> {
    // Chosen here, so that it is known with what the answer can be had again.
    let seed = job.params.sampling.seed.unwrap_or_else(|| rand::random::<u64>() >> SEED_UNUSED_BITS);
    let recording = job.params.scheduling.audit.begin(inference(model, job, seed, max_tokens))?;
    let generations = (0..job.params.n).map(|choice| {
        let mut request = request(&model.defaults.eos_token_ids, job, max_tokens);
        request.sampling.seed = Some(seed.wrapping_add(choice as u64));
        Ok(Generation {
            updates: Some(model.engine.submit(request)?),
            assembler: assembler(model, job),
            guard: job.guard.of_choice(),
            queue: VecDeque::new(),
            record: recording.choice(choice),
            deadline: job.params.scheduling.deadline,
            reservation: reservation.cloned(),
        })
    });
    generations.collect()
}

fn inference<'a>(model: &'a ServedModel, job: &'a Job, seed: u64, max_tokens: usize) -> Inference<'a> {
    let constraint = job.constraint.as_deref();
    let parameters = Parameters { params: &job.params, seed, max_tokens, constraint };
    Inference { model, task: "generate", prompts: vec![[&job.prompt_ids[..], &[]]], parameters: Some(parameters) }
}

/// Refuses more choices than are ever taken together: the client would try again for ever.
pub(super) fn check_places(model: &ServedModel, choices: usize, param: &str) -> Result<(), ApiError> {
    let most = model.engine.max_in_flight();
    if choices <= most {
        return Ok(());
    }
    let message = format!("`{param}`: this server takes at most {most} choices at once, and these are {choices}.");
    Err(ApiError::invalid(param, message))
}

/// Counts the parameters of a client's request, which may have several jobs, once.
pub(super) fn observe_params(model: &ServedModel, jobs: &[Job]) {
    let longest = jobs.iter().filter_map(|job| max_tokens(model, job).ok()).max();
    if let (Some(job), Some(longest)) = (jobs.first(), longest) {
        model.metrics.request_params(job.params.n, longest);
    }
}

impl Generation {
    /// The next event; `None` after the end.
    pub async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(Ok(event));
            }
            let updates = self.updates.as_mut()?;
            if let Some(record) = &mut self.record
                && let Err(error) = record.on_disk().await
            {
                return self.fail(error);
            }
            match next_update(updates, self.deadline).await {
                Ok(Update::Started { cached_tokens }) => {
                    if let Some(record) = &self.record {
                        record.started(cached_tokens);
                    }
                    self.queue.push_back(Event::Started { cached_tokens });
                }
                Ok(Update::PromptLogprobs(logprobs)) => self.queue.push_back(Event::PromptLogprobs(logprobs)),
                Ok(Update::Values(_)) => {} // of requests that generate nothing
                Ok(Update::Token { id, logprobs }) => self.token(id, logprobs),
                Ok(Update::Finished(reason)) => {
                    if let Err(error) = self.finish(reason) {
                        return self.fail(error);
                    }
                }
                Err(error) => return self.fail(error),
            }
        }
    }

    fn token(&mut self, id: u32, logprobs: Option<TokenLogprobs>) {
        if let Some(record) = &mut self.record {
            record.token(id);
        }
        if let Some(reservation) = &self.reservation {
            reservation.count(1);
        }
        let mut delta = Delta::default();
        let stop = self.assembler.push(id, logprobs, &mut delta);
        let passed = self.guard.as_mut().map_or(Ok(()), |guard| match stop {
            Some(_) => guard.pass_last(&mut delta),
            None => guard.pass(&mut delta),
        });
        self.queue.push_back(Event::Delta(delta));
        if passed.is_ok() && stop.is_none() {
            return;
        }
        if let Some(updates) = self.updates.take() {
            updates.stop(); // counted as a stop, not as an abort
        }
        match passed {
            Ok(()) => self.end(Finish::Stop, stop.map(StopReason::Text)),
            Err(Blocked) => self.end(Finish::ContentFilter, None),
        }
    }

    fn finish(&mut self, reason: FinishReason) -> Result<(), ApiError> {
        let (finish, stop_reason) = match reason {
            FinishReason::EndOfSequence => (Finish::Stop, None),
            FinishReason::StopToken(id) => (Finish::Stop, Some(StopReason::Token(id))),
            FinishReason::Length | FinishReason::Computed => (Finish::Length, None),
            FinishReason::Cancelled => return Err(ApiError::Unavailable { reason: "the request was withdrawn" }),
            FinishReason::DeadlineExceeded => return Err(ApiError::DeadlineExceeded),
            FinishReason::NoAnswer(reason) => {
                let message = format!("The answer cannot go on as the request wants it: {reason}.");
                return Err(ApiError::Invalid { message, param: None, code: Some("no_answer") });
            }
            FinishReason::Failed(message) => return Err(ApiError::Internal { message }),
        };
        let mut delta = Delta::default();
        let stop = self.assembler.finish(finish == Finish::Stop, &mut delta);
        let passed = self.guard.as_mut().map_or(Ok(()), |guard| guard.pass_last(&mut delta));
        self.queue.push_back(Event::Delta(delta));
        match stop {
            _ if passed.is_err() => self.end(Finish::ContentFilter, None),
            Some(stop) => self.end(Finish::Stop, Some(StopReason::Text(stop))),
            None if finish == Finish::Stop && self.assembler.called_tools() => self.end(Finish::ToolCalls, stop_reason),
            None => self.end(finish, stop_reason),
        }
        Ok(())
    }

    /// Queues the end and lets go of the engine's request.
    fn end(&mut self, reason: Finish, stop_reason: Option<StopReason>) {
        if let Some(record) = &mut self.record {
            record.finished(reason.as_str());
        }
        let counts = self.assembler.counts();
        self.queue.push_back(Event::Finished(Finished { reason, stop_reason, counts }));
        self.updates = None;
    }

    fn fail(&mut self, error: ApiError) -> Option<Result<Event, ApiError>> {
        if let Some(record) = &mut self.record {
            record.failed(&error);
        }
        self.updates = None;
        Some(Err(error))
    }
}

/// As many as were asked for, or as fit.
fn max_tokens(model: &ServedModel, job: &Job) -> Result<usize, ApiError> {
    let room = model.max_model_len.saturating_sub(job.prompt_ids.len());
    let stopping = &job.params.stopping;
    let (wanted, param) = match stopping.max_tokens {
        Some(max_tokens) => (max_tokens, "max_tokens"),
        None if stopping.min_tokens > 1 => (stopping.min_tokens, "min_tokens"),
        None => (1, "prompt"),
    };
    if wanted <= room {
        return Ok(stopping.max_tokens.unwrap_or(room));
    }
    // What applications look for, and LangChain and LiteLLM: no client hands them the code.
    let message = format!(
        "This model's maximum context length is {} tokens and the prompt is too long for it: it has {}, and the request \
         needs room for {wanted} more.",
        model.max_model_len,
        job.prompt_ids.len(),
    );
    let param = if room == 0 { "prompt" } else { param };
    Err(ApiError::Invalid { message, param: Some(param.to_owned()), code: Some("context_length_exceeded") })
}

fn request(eos_token_ids: &[u32], job: &Job, max_tokens: usize) -> Request {
    let GenerationParams { sampling, stopping, logprobs, prompt_logprobs, scheduling, prediction, .. } = &job.params;
    Request {
        task: Task::Generate,
        prompt_ids: job.prompt_ids.clone(),
        sampling: sampling.clone(),
        stop: StopRules {
            max_tokens,
            min_tokens: stopping.min_tokens,
            eos_token_ids: eos_token_ids.to_vec(),
            stop_token_ids: stopping.token_ids.clone(),
            ignore_eos: stopping.ignore_eos,
        },
        logprobs: *logprobs,
        prompt_logprobs: *prompt_logprobs,
        precedence: scheduling.precedence,
        priority: scheduling.priority,
        deadline: scheduling.deadline,
        cache_salt: scheduling.cache_salt.clone(),
        share: Arc::clone(&scheduling.share),
        constraint: job.constraint.clone(),
        prediction: prediction.clone(),
    }
}

fn assembler(model: &ServedModel, job: &Job) -> Assembler {
    let stopping = &job.params.stopping;
    let mut terminators = stopping.token_ids.clone();
    if !stopping.ignore_eos {
        terminators.extend_from_slice(&model.defaults.eos_token_ids);
    }
    let source = match job.format {
        OutputFormat::Message { tools, .. } if job.params.special_tokens == SpecialTokens::Skip => {
            TextSource::Parsed(Box::new(model.codec.output_parser_after(tools, job.context_ids())))
        }
        OutputFormat::Message { .. } | OutputFormat::Text => {
            TextSource::Plain(model.codec.detokenizer(job.params.special_tokens, job.context_ids()))
        }
    };
    let rules = EndRules {
        stop_strings: stopping.strings.clone(),
        include_in_output: stopping.include_in_output,
        min_tokens: stopping.min_tokens,
        terminators,
    };
    Assembler::new(source, rules)
}
