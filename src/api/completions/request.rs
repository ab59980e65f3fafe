//! The body of a completion request -> checked jobs, one per prompt.

use std::time::Instant;

use serde_json::Value;

use crate::api::{
    body::{Fields, as_token_ids, wrong},
    chat::check_prompt_logprobs,
    error::ApiError,
    fields,
    form::take_content_form,
    generation::{Job, OutputFormat},
    params::{GenerationParams, MAX_CHOICES, MAX_LOGPROBS, ResponseOptions, Truncation, take_labels, take_model},
    state::ServedModel,
};
use crate::prompt::AnswerForm;

/// A completion request, checked.
#[derive(Debug)]
pub(super) struct CompletionCall {
    pub(super) model_name: String,
    pub(super) jobs: Vec<Job>,
    /// Choices per prompt.
    pub(super) n: usize,
    pub(super) options: ResponseOptions,
    /// The answer begins with the prompt.
    pub(super) echo: bool,
    pub(super) logprobs: Option<usize>,
    /// The client wants `prompt_logprobs`, rather than `echo` needing them.
    pub(super) show_prompt_logprobs: bool,
}

impl CompletionCall {
    /// Reads a body; the answer must be there by `deadline`.
    pub(super) fn parse(text: &str, model: &ServedModel, deadline: Instant) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::COMPLETIONS)?;
        let model_name = take_model(&mut fields, model)?;
        let mut params = GenerationParams::take(&mut fields, &model.defaults, &model.codec)?;
        params.logprobs = fields.count("logprobs", 0..=MAX_LOGPROBS)?;
        params.scheduling.deadline = Some(deadline);
        check_best_of(&mut fields, params.n)?;
        let options = ResponseOptions::take(&mut fields)?;
        check_prompt_logprobs(&params, &options)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if params.stopping.max_tokens == Some(0) && !echo {
            return Err(wrong("max_tokens", "at least 1, or 0 with `echo`", &0.into()));
        }
        let show_prompt_logprobs = params.prompt_logprobs.is_some();
        if echo {
            params.prompt_logprobs = params.prompt_logprobs.max(params.logprobs);
        }
        let form = AnswerForm { content: take_content_form(&mut fields, text)?, calls: None };
        let prompts = take_prompts(&mut fields, model, &params)?;
        take_labels(&mut fields)?;
        fields.finish()?;
        let logprobs = params.logprobs;
        let n = params.n;
        let constraint = model.constraint(&form, &[])?;
        let job = |prompt_ids| Job {
            prompt_ids,
            params: params.clone(),
            format: OutputFormat::Text,
            constraint: constraint.clone(),
        };
        let jobs = prompts.into_iter().map(job).collect();
        Ok(Self { model_name, jobs, n, options, echo, logprobs, show_prompt_logprobs })
    }

    /// Tokens of all prompts.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.jobs.iter().map(|job| job.prompt_ids.len()).sum()
    }
}

fn check_best_of(fields: &mut Fields, n: usize) -> Result<(), ApiError> {
    match fields.count("best_of", 1..=MAX_CHOICES)? {
        Some(best_of) if best_of != n => Err(wrong("best_of", "the same as `n`", &best_of.into())),
        Some(_) | None => Ok(()),
    }
}

fn take_prompts(
    fields: &mut Fields,
    model: &ServedModel,
    params: &GenerationParams,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let add_bos = fields.flag("add_special_tokens")?.unwrap_or(true);
    let truncation = Truncation::take(fields)?;
    let suffix = fields.string("suffix")?;
    let Some(prompt) = fields.take("prompt") else { return Err(wrong("prompt", EXPECTED_PROMPT, &Value::Null)) };
    let mut prompts = match suffix {
        Some(suffix) => match prompt.as_str() {
            Some(prompt) => vec![model.codec.encode_fim(prompt, Some(&suffix)).map_err(no_suffix)?],
            None => return Err(wrong("prompt", "one text, as there is a `suffix`", &prompt)),
        },
        None => encode(&prompt, model, add_bos)?,
    };
    if prompts.is_empty() || prompts.len() * params.n > MAX_CHOICES {
        let message = format!("`prompt` must be 1 to {} prompts, got {}.", MAX_CHOICES / params.n, prompts.len());
        return Err(ApiError::invalid("prompt", message));
    }
    for ids in &mut prompts {
        if let Some(truncation) = truncation {
            truncation.apply(ids, model, params.stopping.max_tokens);
        }
        if ids.is_empty() {
            return Err(ApiError::invalid("prompt", "`prompt` must have at least one token."));
        }
    }
    Ok(prompts)
}

const EXPECTED_PROMPT: &str = "a text, a list of texts, a list of token ids, or a list of such lists";

fn encode(prompt: &Value, model: &ServedModel, add_bos: bool) -> Result<Vec<Vec<u32>>, ApiError> {
    let vocab_size = model.codec.vocab_size();
    let items = match prompt {
        Value::String(text) => return Ok(vec![model.codec.encode_text(text, add_bos)]),
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(wrong("prompt", EXPECTED_PROMPT, prompt));
        }
    };
    if items.first().is_some_and(Value::is_number) {
        return Ok(vec![as_token_ids(items, "prompt", vocab_size)?]);
    }
    if items.len() > MAX_CHOICES {
        return Err(ApiError::invalid(
            "prompt",
            format!("`prompt` may be {MAX_CHOICES} prompts, got {}.", items.len()),
        ));
    }
    let one = |(index, item): (usize, &Value)| match item {
        Value::String(text) => Ok(model.codec.encode_text(text, add_bos)),
        Value::Array(ids) => as_token_ids(ids, &format!("prompt[{index}]"), vocab_size),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(wrong(&format!("prompt[{index}]"), "a text or a list of token ids", item))
        }
    };
    items.iter().enumerate().map(one).collect()
}

/// Whatever the prompt layer dislikes, it is the suffix that asks for it.
fn no_suffix(error: crate::prompt::PromptError) -> ApiError {
    ApiError::invalid("suffix", error.to_string())
}
