//! What is asked of whole texts, put through the engine: the one place where requests without generated tokens are
//! submitted. Embeddings, classes, similarities and judgements all come through [`compute`].
//!
//! Invariant: a client's request has few of its texts in the engine at once, however many it has, so that others find
//! places; it gives up its own when the client leaves.

use std::{sync::Arc, time::Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    answer::UsageCounter, audit::Inference, error::ApiError, params::Scheduling, quota::Wanted, state::ServedModel,
    updates::next_update,
};
use crate::engine::{FinishReason, Request, RequestStream, SubmitError, Task, Update};

/// Texts of one client's request in the engine at once.
const AT_ONCE: usize = 16;

/// One text, as tokens, and what is asked of it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The beginning that it has in common with other questions, and which is therefore there once.
    shared_ids: Arc<[u32]>,
    /// The rest.
    own_ids: Vec<u32>,
    task: Task,
}

/// What was asked, in the order of the questions, and what it took.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) values: Vec<Vec<f32>>,
    pub(super) usage: UsageCounter,
}

impl Question {
    /// What is this text pooled to?
    pub(super) fn pool(prompt_ids: Vec<u32>) -> Self {
        Self::of([].into(), prompt_ids, Task::Pool)
    }

    /// A question whose prompt is in two parts.
    pub(super) fn of(shared_ids: Arc<[u32]>, own_ids: Vec<u32>, task: Task) -> Self {
        Self { shared_ids, own_ids, task }
    }

    /// Tokens of the prompt.
    pub(super) fn len(&self) -> usize {
        self.shared_ids.len() + self.own_ids.len()
    }
}

/// Has the engine answer all questions, or fails with the first that fails.
pub(super) async fn compute(
    model: &ServedModel,
    scheduling: &Scheduling,
    questions: &[Question],
) -> Result<Answers, ApiError> {
    let recording = scheduling.audit.begin(inference(model, questions))?.expecting();
    let answered = answer(model, scheduling, questions).await;
    // What it may have cost is to be known, and nothing of it leaves before.
    recording.on_disk().await?;
    match &answered {
        Ok(answers) => recording.computed(answers.usage.cached_tokens),
        Err(error) => recording.failed(error),
    }
    answered
}

fn inference<'a>(model: &'a ServedModel, questions: &'a [Question]) -> Inference<'a> {
    let task = match questions.first().map(|question| &question.task) {
        Some(Task::Weigh(_)) => "weigh",
        Some(Task::Pool | Task::Generate) | None => "pool",
    };
    let parts = |question: &'a Question| [&question.shared_ids[..], &question.own_ids[..]];
    Inference { model, task, prompts: questions.iter().map(parts).collect(), parameters: None }
}

async fn answer(model: &ServedModel, scheduling: &Scheduling, questions: &[Question]) -> Result<Answers, ApiError> {
    let mut answers = Answers { values: vec![Vec::new(); questions.len()], usage: UsageCounter::default() };
    answers.usage.prompt_tokens = questions.iter().map(Question::len).sum();
    let wanted = Wanted { prompt: answers.usage.prompt_tokens, answers: 0, max_tokens: None, room: 0 };
    let reservation = scheduling.metering.reserve(&[wanted])?;
    if let Some(reservation) = &reservation {
        reservation.begin(answers.usage.prompt_tokens as u64);
    }
    let mut waiting = questions.iter().enumerate().peekable();
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(&(index, question)) = waiting.peek()
        {
            match model.engine.submit(request(question, scheduling)) {
                Ok(stream) => under_way.push(read(index, stream, scheduling.deadline)),
                // One of our own makes room when it ends.
                Err(SubmitError::QueueFull { .. }) if !under_way.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
            waiting.next();
        }
        match under_way.next().await {
            None => return Ok(answers),
            Some(read) => {
                let (index, values, cached_tokens) = read?;
                answers.values[index] = values;
                answers.usage.cached_tokens += cached_tokens;
            }
        }
    }
}

fn request(question: &Question, scheduling: &Scheduling) -> Request {
    let Scheduling { precedence, priority, share, deadline, cache_salt, metering: _, audit: _ } = scheduling.clone();
    Request {
        prompt_ids: [&question.shared_ids[..], &question.own_ids].concat(),
        task: question.task.clone(),
        precedence,
        priority,
        share,
        deadline,
        cache_salt,
        ..Request::default()
    }
}

/// The question's number, its values, and how many of its tokens were cached.
async fn read(
    index: usize,
    mut stream: RequestStream,
    deadline: Option<Instant>,
) -> Result<(usize, Vec<f32>, usize), ApiError> {
    let (mut values, mut cached) = (None, 0);
    loop {
        match next_update(&mut stream, deadline).await? {
            Update::Started { cached_tokens } => cached = cached_tokens,
            Update::Values(found) => values = Some(found),
            Update::PromptLogprobs(_) | Update::Token { .. } => {} // of requests that generate
            Update::Finished(reason) => {
                let values = match (reason, values) {
                    (FinishReason::Computed, Some(values)) => values,
                    (reason, _) => return Err(failed(reason)),
                };
                return Ok((index, values, cached));
            }
        }
    }
}

fn failed(reason: FinishReason) -> ApiError {
    match reason {
        FinishReason::Cancelled => ApiError::Unavailable { reason: "the request was withdrawn" },
        FinishReason::DeadlineExceeded => ApiError::DeadlineExceeded,
        FinishReason::Failed(message) | FinishReason::NoAnswer(message) => ApiError::Internal { message },
        FinishReason::EndOfSequence | FinishReason::StopToken(_) | FinishReason::Length | FinishReason::Computed => {
            ApiError::Internal { message: "The text was computed without a result.".to_owned() }
        }
    }
}
