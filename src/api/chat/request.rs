//! The body of a chat request -> a checked job.

use std::time::Instant;

use serde_json::Value;

use crate::api::{
    body::{Fields, as_bool, wrong},
    error::ApiError,
    fields,
    generation::{Job, OutputFormat},
    params::{GenerationParams, MAX_LOGPROBS, ResponseOptions, Truncation, take_labels, take_model},
    state::ServedModel,
};
use crate::prompt::{ChatPrompt, ChatRequest, PromptError, ToolsOffered, json};

/// Fields that `ChatRequest::from_json` reads.
const PROMPT_FIELDS: &[&str] = &["messages", "tools", "reasoning_effort"];

/// Keys of a message that change the prompt, are checked by the prompt layer, or are nothing but a label.
const MESSAGE_KEYS: &[&str] =
    &["role", "content", "name", "tool_calls", "tool_call_id", "prefix", "reasoning", "reasoning_content"];

const FUNCTION_KEYS: &[&str] = &["name", "description", "parameters", "strict"];

/// A chat request, checked.
#[derive(Debug)]
pub(super) struct ChatCall {
    pub(super) model_name: String,
    pub(super) job: Job,
    pub(super) options: ResponseOptions,
    pub(super) include_reasoning: bool,
}

impl ChatCall {
    /// Reads a body; the answer must be there by `deadline`.
    pub(super) fn parse(text: &str, model: &ServedModel, deadline: Instant) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::CHAT)?;
        let model_name = take_model(&mut fields, model)?;
        check_messages(fields.peek("messages"))?;
        check_tools(fields.peek("tools"))?;
        let tools_allowed = take_tool_choice(&mut fields)?;
        let mut params = GenerationParams::take(&mut fields, model)?;
        params.logprobs = take_logprobs(&mut fields)?;
        params.scheduling.deadline = Some(deadline);
        check_max_tokens(&params)?;
        check_generation_prompt(&mut fields)?;
        let options = ResponseOptions::take(&mut fields)?;
        check_prompt_logprobs(&params, &options)?;
        let include_reasoning = fields.flag("include_reasoning")?.unwrap_or(true);
        let truncation = Truncation::take(&mut fields)?;
        take_labels(&mut fields)?;
        fields.forget(PROMPT_FIELDS);
        fields.finish()?;

        let chat = chat_request(text, &model_name, tools_allowed)?;
        let tools = if chat.tools.is_empty() { ToolsOffered::No } else { ToolsOffered::Yes };
        let ChatPrompt { mut ids, n_continued } = model.codec.encode_chat_prompt(&chat)?;
        if let Some(truncation) = truncation {
            truncation.apply(&mut ids, model, params.stopping.max_tokens);
        }
        let job = Job { prompt_ids: ids, params, format: OutputFormat::Message { tools, n_continued } };
        Ok(Self { model_name, job, options, include_reasoning })
    }
}

/// Reads the conversation with every key and number as it was spelled, which the prompt depends on.
pub(in crate::api) fn chat_request(text: &str, model_name: &str, tools_allowed: bool) -> Result<ChatRequest, ApiError> {
    let body = json::Value::parse(text).map_err(PromptError::from)?;
    let json::Value::Object(mut body) = body else {
        return Err(ApiError::invalid("messages", "The body is no object."));
    };
    body.insert("model", model_name); // may be absent, which the prompt layer would not accept
    let mut chat = ChatRequest::from_json(&json::Value::Object(body))?;
    if !tools_allowed {
        chat.tools.clear();
    }
    Ok(chat)
}

/// `max_tokens` 0 makes sense only where a prompt can be echoed.
fn check_max_tokens(params: &GenerationParams) -> Result<(), ApiError> {
    match params.stopping.max_tokens {
        Some(0) => Err(wrong("max_tokens", "an integer of at least 1", &0.into())),
        Some(_) | None => Ok(()),
    }
}

pub(in crate::api) fn check_prompt_logprobs(
    params: &GenerationParams,
    options: &ResponseOptions,
) -> Result<(), ApiError> {
    if params.prompt_logprobs.is_some() && options.stream.is_some() {
        return Err(ApiError::invalid("prompt_logprobs", "`prompt_logprobs` is not available with `stream`."));
    }
    Ok(())
}

/// False if the tools are to be left out of the prompt.
fn take_tool_choice(fields: &mut Fields) -> Result<bool, ApiError> {
    match fields.take("tool_choice") {
        None => Ok(true),
        Some(Value::String(choice)) if choice == "auto" => Ok(true),
        Some(Value::String(choice)) if choice == "none" => Ok(false),
        Some(other) => Err(wrong("tool_choice", "auto or none (a call cannot be forced yet)", &other)),
    }
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")),
    }
}

/// A prompt that ends where the answer begins is the only kind that Mistral's templates write.
fn check_generation_prompt(fields: &mut Fields) -> Result<(), ApiError> {
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    match (fields.flag("add_generation_prompt")?, continues) {
        (Some(false), false) => {
            let message = "`add_generation_prompt` false needs `continue_final_message` to be true.";
            Err(ApiError::invalid("add_generation_prompt", message))
        }
        (Some(true), true) => {
            let message = "`continue_final_message` and `add_generation_prompt` exclude each other.";
            Err(ApiError::invalid("add_generation_prompt", message))
        }
        (Some(true) | None, false) | (Some(false) | None, true) => Ok(()),
    }
}

/// Refuses keys that nothing reads, unless they are empty: clients send answers back as they got them.
fn check_messages(messages: Option<&Value>) -> Result<(), ApiError> {
    let messages = messages.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, message) in messages.iter().enumerate() {
        check_keys(message, &format!("messages[{index}]"), MESSAGE_KEYS)?;
    }
    Ok(())
}

fn check_tools(tools: Option<&Value>) -> Result<(), ApiError> {
    let tools = tools.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        check_keys(tool, &path, &["type", "function"])?;
        let Some(function) = tool.get("function") else { continue };
        check_keys(function, &format!("{path}.function"), FUNCTION_KEYS)?;
        let strict = function.get("strict").filter(|strict| !strict.is_null());
        let path = format!("{path}.function.strict");
        if strict.map(|strict| as_bool(strict, &path)).transpose()? == Some(true) {
            return Err(ApiError::invalid(&path, format!("`{path}`: arguments cannot be held to a schema yet.")));
        }
    }
    Ok(())
}

fn check_keys(object: &Value, path: &str, known: &[&str]) -> Result<(), ApiError> {
    let Some(object) = object.as_object() else { return Ok(()) }; // the prompt layer says what is wrong
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => false,
    };
    match object.iter().find(|(key, value)| !known.contains(&key.as_str()) && !is_empty(value)) {
        None => Ok(()),
        Some((key, _)) => {
            let path = format!("{path}.{}", key.chars().take(64).collect::<String>());
            Err(ApiError::Invalid {
                message: format!("`{path}` is not supported."),
                param: Some(path),
                code: Some("unknown_parameter"),
            })
        }
    }
}
