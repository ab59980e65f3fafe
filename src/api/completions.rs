//! `POST /v1/completions`: texts or token ids in, their continuations out.

mod request;
mod response;
mod stream;

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};

use self::{request::CompletionCall, stream::CompletionChoices};
use super::{
    answer::{Head, UsageCounter, collect},
    body::JsonText,
    chunks::{Chunks, produce},
    dialect::Dialect,
    error::ApiError,
    form::parsing_cost,
    generation::{self, Generation},
    request::{Work, off_thread, set_request_id},
    sse,
    state::ServedModel,
};

/// Answers a completion request, at once or as a stream.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let Work { state, model, in_flight, request_id, dialect, terms, share, caller: _ } = work;
    let mut call = {
        let model = Arc::clone(&model);
        off_thread(&state, parsing_cost(&text), move || CompletionCall::parse(&text, &model, &terms)).await?
    };
    call.jobs.iter_mut().for_each(|job| share.apply(&mut job.params.scheduling));
    let request_id = call.options.request_id.clone().unwrap_or(request_id);
    let head = Head::new(format!("cmpl-{request_id}"), call.model_name.clone(), &model);
    let generations = start(&model, &call)?;
    let mut response = match call.options.stream {
        Some(options) => {
            // Of several prompts each choice has its own.
            let prompt_ids = None;
            let (n, usage, metrics) = (call.n, counter(&call), Arc::clone(&model.metrics));
            let chunks = Chunks { head, options, n, usage, prompt_ids, metrics };
            let choices = CompletionChoices::new(call, &model);
            let dialect = dialect.unwrap_or(Dialect::OpenAi);
            let produced = |sender| produce(chunks, choices, generations, sender);
            sse::respond(dialect, state.limits(), in_flight, produced)
        }
        None => complete(head, &call, &model, generations).await?,
    };
    set_request_id(&mut response, &request_id);
    Ok(response)
}

/// Choices of the first prompt, then of the second, and so on.
fn start(model: &ServedModel, call: &CompletionCall) -> Result<Vec<Generation>, ApiError> {
    if call.jobs.len() > 1 {
        generation::check_places(model, call.jobs.len() * call.n, "prompt")?;
    }
    let generations = generation::start(model, &call.jobs)?;
    generation::observe_params(model, &call.jobs);
    Ok(generations)
}

async fn complete(
    head: Head,
    call: &CompletionCall,
    model: &ServedModel,
    generations: Vec<Generation>,
) -> Result<Response, ApiError> {
    let mut usage = counter(call);
    let mut answers = Vec::new();
    for (index, generation) in generations.into_iter().enumerate() {
        let answer = collect(generation).await?;
        usage.add(&answer, index.is_multiple_of(call.n));
        answers.push(answer);
    }
    let longest = answers.iter().map(|answer| answer.finished.counts.completion).max();
    model.metrics.longest_choice(longest.unwrap_or(0));
    Ok(Json(response::body(head, call, model, answers, &usage)).into_response())
}

fn counter(call: &CompletionCall) -> UsageCounter {
    UsageCounter { prompt_tokens: call.prompt_tokens(), ..UsageCounter::default() }
}
