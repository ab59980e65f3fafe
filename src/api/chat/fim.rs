//! `POST /v1/fim/completions`: the text between two others. It is Mistral's route, and its answer has a chat's form.
//!
//! The body becomes a [`ChatCall`], whose job reads the answer as plain text: there are no roles, tools or thoughts.

use std::sync::Arc;

use axum::response::Response;
use serde_json::Value;

use super::{
    check_prompt_logprobs,
    mistral::Beginning,
    request::{ChatCall, check_max_tokens, take_logprobs},
    respond,
};
use crate::{
    api::{
        body::{Fields, JsonText, wrong},
        dialect::{Dialect, Refusal},
        error::ApiError,
        fields,
        form::{parsing_cost, take_content_form},
        generation::{Job, OutputFormat},
        guard::Terms,
        params::{GenerationParams, ResponseOptions, Truncation, take_labels, take_model},
        request::{Work, off_thread},
        state::ServedModel,
    },
    prompt::{AnswerForm, PromptError},
};

/// Fills a gap, at once or as a stream.
pub(in crate::api) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let (cost, model, terms) = (parsing_cost(&text), Arc::clone(&work.model), work.terms.clone());
    let parsed = move || parse(&text, &model, &terms).map_err(|error| Dialect::Mistral.refuse(error));
    let mut call = off_thread(&work.state, cost, parsed).await?;
    work.share.apply(&mut call.job.params.scheduling);
    respond(work, call).await
}

fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<ChatCall, ApiError> {
    let mut fields = Fields::parse(text, &fields::FIM)?;
    let model_name = take_model(&mut fields, model)?;
    let mut params = GenerationParams::take(&mut fields, &model.defaults, &model.codec)?;
    params.logprobs = take_logprobs(&mut fields)?;
    params.scheduling.deadline = Some(terms.deadline);
    check_max_tokens(&params)?;
    let options = ResponseOptions::take(&mut fields)?.in_dialect(Dialect::Mistral);
    check_prompt_logprobs(&params, &options)?;
    let truncation = Truncation::take(&mut fields)?;
    let form = AnswerForm { content: take_content_form(&mut fields, text)?, calls: None };
    let suffix = fields.string("suffix")?;
    let Some(prompt) = fields.string("prompt")? else { return Err(wrong("prompt", "a text", &Value::Null)) };
    take_labels(&mut fields)?;
    fields.finish()?;

    let sent: Vec<&str> = std::iter::once(&*prompt).chain(suffix.as_deref()).collect();
    let (checked, guard) = terms.guard.texts(&sent)?;
    guard.check_raw(&params, options.return_token_ids)?;
    let prompt = checked.first().map_or(&*prompt, AsRef::as_ref);
    let guard = guard.behind(prompt, "").of_form(form.content.as_ref(), "");
    let mut prompt_ids = model.codec.encode_fim(prompt, checked.get(1).map(AsRef::as_ref)).map_err(no_gap)?;
    if let Some(truncation) = truncation {
        truncation.apply(&mut prompt_ids, model, params.stopping.max_tokens);
    }
    let constraint = model.constraint(&form, &[])?;
    let job = Job { prompt_ids, params, format: OutputFormat::Text, constraint, guard };
    let (dialect, beginning) = (Dialect::Mistral, Beginning::default());
    Ok(ChatCall { model_name, job, options, include_reasoning: true, dialect, beginning })
}

/// Whatever the prompt layer dislikes, it is this route that asks for it.
fn no_gap(error: PromptError) -> ApiError {
    ApiError::invalid("prompt", error.to_string())
}
