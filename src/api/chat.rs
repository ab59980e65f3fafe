//! `POST /v1/chat/completions`: a conversation in, an assistant's message out.

mod call_ids;
mod conversation;
pub(super) mod fim;
mod mistral;
mod prediction;
mod request;
mod response;
mod stream;
mod tool_choice;

use std::{slice, sync::Arc, time::Instant};

use axum::{
    Json,
    response::{IntoResponse, Response},
};

use self::stream::ChatChoices;
pub(super) use self::{
    conversation::{chat_request, check_conversation},
    request::{ChatCall, check_prompt_logprobs},
    response::stop_reason,
};
use super::{
    answer::{Head, UsageCounter, collect},
    body::JsonText,
    chunks::{Chunks, produce},
    dialect::Refusal,
    error::ApiError,
    form::parsing_cost,
    generation,
    guard::Terms,
    request::{Work, off_thread, set_request_id},
    sse,
    state::ServedModel,
};

/// Answers a chat request, at once or as a stream.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let mut call = {
        let (model, head, terms) = (Arc::clone(&work.model), work.dialect, work.terms.clone());
        off_thread(&work.state, parsing_cost(&text), move || ChatCall::parse(&text, head, &model, &terms)).await?
    };
    work.share.apply(&mut call.job.params.scheduling);
    respond(work, call).await
}

/// Reads the body of a chat that the server has put together for a request in Mistral's dialect.
pub(super) fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<ChatCall, ApiError> {
    ChatCall::parse_mistral(text, model, terms)
}

/// Refuses what [`parse`] would refuse, and a `prompt` that leaves no room for an answer.
pub(super) fn check(text: &str, model: &ServedModel) -> Result<(), ApiError> {
    let call = parse(text, model, &Terms::unguarded(Instant::now()))?;
    let (tokens, most) = (call.job.prompt_ids.len(), model.max_model_len);
    if tokens < most {
        return Ok(());
    }
    let message = format!(
        "`prompt` is too long: with it even a short chat has {tokens} tokens, and this model's maximum context length \
         is {most} tokens."
    );
    Err(ApiError::Invalid { message, param: Some("prompt".to_owned()), code: Some("context_length_exceeded") })
}

/// Answers what [`parse`] has read.
pub(super) async fn answer(work: Work, mut call: ChatCall) -> Result<Response, Refusal> {
    work.share.apply(&mut call.job.params.scheduling);
    respond(work, call).await
}

/// Generates what a call asks for, and answers in its dialect.
async fn respond(work: Work, call: ChatCall) -> Result<Response, Refusal> {
    let dialect = call.dialect;
    generate(work, call).await.map_err(|error| dialect.refuse(error))
}

async fn generate(work: Work, call: ChatCall) -> Result<Response, ApiError> {
    let Work { state, model, in_flight, request_id, .. } = work;
    let request_id = call.options.request_id.clone().unwrap_or(request_id);
    let head = Head::new(format!("chatcmpl-{request_id}"), call.model_name.clone(), &model);
    let generations = generation::start(&model, slice::from_ref(&call.job))?;
    generation::observe_params(&model, std::slice::from_ref(&call.job));
    let mut response = match call.options.stream {
        Some(options) => {
            let prompt_ids = call.options.return_token_ids.then(|| call.job.prompt_ids.clone());
            let (n, usage, metrics) = (call.job.params.n, counter(&call), Arc::clone(&model.metrics));
            let chunks = Chunks { head, options, n, usage, prompt_ids, metrics };
            let choices = ChatChoices::new(&call, &model);
            let produced = |sender| produce(chunks, choices, generations, sender);
            sse::respond(call.dialect, state.limits(), in_flight, produced)
        }
        None => complete(head, &call, &model, generations).await?,
    };
    set_request_id(&mut response, &request_id);
    Ok(response)
}

async fn complete(
    head: Head,
    call: &ChatCall,
    model: &ServedModel,
    generations: Vec<generation::Generation>,
) -> Result<Response, ApiError> {
    let mut usage = counter(call);
    let mut answers = Vec::new();
    for generation in generations {
        let answer = collect(generation).await?;
        usage.add(&answer, answers.is_empty());
        answers.push(answer);
    }
    let longest = answers.iter().map(|answer| answer.finished.counts.completion).max();
    model.metrics.longest_choice(longest.unwrap_or(0));
    Ok(Json(response::body(head, call, model, answers, &usage)).into_response())
}

fn counter(call: &ChatCall) -> UsageCounter {
    UsageCounter { prompt_tokens: call.job.prompt_ids.len(), ..UsageCounter::default() }
}
