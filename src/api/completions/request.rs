//! The body of a completion request -> checked jobs, one per prompt.

use serde_json::Value;

use crate::api::{
    AnswerGuard,
    body::{Fields, as_token_ids, wrong},
    chat::check_prompt_logprobs,
    error::ApiError,
    fields,
    form::take_content_form,
    generation::{Job, OutputFormat},
    guard::{RequestGuard, Terms},
    params::{GenerationParams, MAX_CHOICES, MAX_LOGPROBS, ResponseOptions, Truncation, take_labels, take_model},
    state::ServedModel,
};
use crate::prompt::{AnswerForm, Codec, SpecialTokens};

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
    /// Reads a body.
    pub(super) fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::COMPLETIONS)?;
        let model_name = take_model(&mut fields, model)?;
        let mut params = GenerationParams::take(&mut fields, &model.defaults, &model.codec)?;
        params.logprobs = fields.count("logprobs", 0..=MAX_LOGPROBS)?;
        params.scheduling.deadline = Some(terms.deadline);
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
        let prompts = take_prompts(&mut fields, model, &params, &terms.guard)?;
        for prompt in &prompts {
            prompt.guard.check_raw(&params, options.return_token_ids)?;
        }
        take_labels(&mut fields)?;
        fields.finish()?;
        let logprobs = params.logprobs;
        let n = params.n;
        let constraint = model.constraint(&form, &[])?;
        let job = |Prompt { ids, guard }| Job {
            prompt_ids: ids,
            params: params.clone(),
            format: OutputFormat::Text,
            constraint: constraint.clone(),
            guard: guard.of_form(form.content.as_ref(), ""),
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
    guard: &RequestGuard,
) -> Result<Vec<Prompt>, ApiError> {
    let add_bos = fields.flag("add_special_tokens")?.unwrap_or(true);
    let truncation = Truncation::take(fields)?;
    let suffix = fields.string("suffix")?;
    let Some(prompt) = fields.take("prompt") else { return Err(wrong("prompt", EXPECTED_PROMPT, &Value::Null)) };
    let mut prompts = match suffix {
        Some(suffix) => match prompt.as_str() {
            Some(prompt) => vec![Prompt::of_gap(prompt, &suffix, model, guard)?],
            None => return Err(wrong("prompt", "one text, as there is a `suffix`", &prompt)),
        },
        None => encode(&prompt, guard, model, add_bos)?,
    };
    if prompts.is_empty() || prompts.len() * params.n > MAX_CHOICES {
        let message = format!("`prompt` must be 1 to {} prompts, got {}.", MAX_CHOICES / params.n, prompts.len());
        return Err(ApiError::invalid("prompt", message));
    }
    for Prompt { ids, .. } in &mut prompts {
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

/// Tokens, and what the answer to them passes.
struct Prompt {
    ids: Vec<u32>,
    guard: AnswerGuard,
}

impl Prompt {
    fn of_text(text: &str, guard: &RequestGuard, encode: impl Fn(&str) -> Vec<u32>) -> Result<Self, ApiError> {
        let (checked, guard) = guard.texts(&[text])?;
        let text = checked.first().map_or(text, AsRef::as_ref);
        Ok(Self { ids: encode(text), guard: guard.behind(text, "") })
    }

    fn of_gap(prompt: &str, suffix: &str, model: &ServedModel, guard: &RequestGuard) -> Result<Self, ApiError> {
        let (checked, guard) = guard.texts(&[prompt, suffix])?;
        let text = |index: usize, sent: &str| checked.get(index).map_or(sent.to_owned(), |text| text.to_string());
        let ids = model.codec.encode_fim(&text(0, prompt), Some(&text(1, suffix))).map_err(no_suffix)?;
        Ok(Self { ids, guard: guard.behind(&text(0, prompt), "") })
    }

    fn of_ids(ids: &[Value], path: &str, guard: &RequestGuard, codec: &Codec) -> Result<Self, ApiError> {
        guard.check_ids(path)?;
        let (_, guard) = guard.texts(&[])?; // the answer is checked all the same
        let ids = as_token_ids(ids, path, codec.vocab_size())?;
        let is_checked = guard.checks_output();
        let guard = if is_checked { guard.behind(&codec.decode(&ids, SpecialTokens::Skip), "") } else { guard };
        Ok(Self { ids, guard })
    }
}

fn encode(prompt: &Value, guard: &RequestGuard, model: &ServedModel, add_bos: bool) -> Result<Vec<Prompt>, ApiError> {
    let of_text = |text: &str| Prompt::of_text(text, guard, |text| model.codec.encode_text(text, add_bos));
    let items = match prompt {
        Value::String(text) => return Ok(vec![of_text(text)?]),
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(wrong("prompt", EXPECTED_PROMPT, prompt));
        }
    };
    if items.first().is_some_and(Value::is_number) {
        return Ok(vec![Prompt::of_ids(items, "prompt", guard, &model.codec)?]);
    }
    if items.len() > MAX_CHOICES {
        return Err(ApiError::invalid(
            "prompt",
            format!("`prompt` may be {MAX_CHOICES} prompts, got {}.", items.len()),
        ));
    }
    let one = |(index, item): (usize, &Value)| match item {
        Value::String(text) => of_text(text),
        Value::Array(ids) => Prompt::of_ids(ids, &format!("prompt[{index}]"), guard, &model.codec),
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
