//! The part of a chat request that shapes the prompt.
//!
//! Main types: [`ChatRequest`] and [`FimRequest`], made from a parsed body by `from_json`. Both the
//! OpenAI spelling (`developer` role, `reasoning_content`, arguments as a JSON string) and
//! Mistral's (`prefix`, thinking chunks, arguments as an object) are read. Every field that no
//! prompt depends on is left alone: the API layer checks those. What is checked here is the type of
//! each field; whether the conversation makes sense for a tokenizer version is `validate`'s.

mod fields;
mod messages;
mod tools;

use super::error::PromptError;
use super::json::Value;
use super::schema;
use fields::{at_key, optional_bool, required_string};

pub use messages::{Chunk, Content, Message, ToolCall};
pub use tools::Tool;

/// A chat request, as far as the prompt goes.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation, oldest message first.
    pub messages: Vec<Message>,
    /// The functions the model may call.
    pub tools: Vec<Tool>,
    /// How long the model may think; only tokenizer version v15 can say so in the prompt.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Whether the model's own instructions for reasoning stand in front.
    pub prompt_mode: Option<PromptMode>,
    /// The form of the answer; only some v15 tokenizers say so in the prompt.
    pub response_format: ResponseFormat,
}

/// `reasoning_effort`, the names that mistral-common knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningEffort {
    /// Answer at once.
    None,
    /// The shortest thinking.
    Minimal,
    /// Short thinking.
    Low,
    /// Between low and high.
    Medium,
    /// Long thinking.
    High,
    /// Longer than high.
    Xhigh,
    /// As long as the model can.
    Max,
}

/// `prompt_mode`, a field of Mistral's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptMode {
    /// The system prompt that the model was taught to reason with.
    Reasoning,
}

/// `response_format`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object or array.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
}

/// A fill-in-the-middle request, as far as the prompt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FimRequest {
    /// The text before the gap.
    pub prompt: String,
    /// The text after the gap.
    pub suffix: Option<String>,
}

impl ChatRequest {
    /// Reads the fields that shape the prompt from a request body.
    ///
    /// `tool_choice` and `parallel_tool_calls` are checked but not kept: no version writes them.
    pub fn from_json(body: &Value) -> Result<ChatRequest, PromptError> {
        if body.as_object().is_none() {
            return Err(PromptError::invalid_value("body", Some(body), "an object"));
        }
        required_string(body, "", "model")?;
        tools::check_tool_choice(body)?;
        optional_bool(body, "", "parallel_tool_calls")?;
        Ok(ChatRequest {
            messages: messages::from_body(body)?,
            tools: tools::from_body(body)?,
            reasoning_effort: reasoning_effort(body)?,
            prompt_mode: prompt_mode(body)?,
            response_format: ResponseFormat::from_json(body)?,
        })
    }
}

impl ReasoningEffort {
    const ALL: [ReasoningEffort; 7] = [
        ReasoningEffort::None,
        ReasoningEffort::Minimal,
        ReasoningEffort::Low,
        ReasoningEffort::Medium,
        ReasoningEffort::High,
        ReasoningEffort::Xhigh,
        ReasoningEffort::Max,
    ];

    /// The name on the wire and in the prompt.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasoningEffort::None => "none",
            ReasoningEffort::Minimal => "minimal",
            ReasoningEffort::Low => "low",
            ReasoningEffort::Medium => "medium",
            ReasoningEffort::High => "high",
            ReasoningEffort::Xhigh => "xhigh",
            ReasoningEffort::Max => "max",
        }
    }

    /// The effort of that name.
    pub fn from_name(name: &str) -> Option<ReasoningEffort> {
        ReasoningEffort::ALL.into_iter().find(|effort| effort.as_str() == name)
    }
}

impl ResponseFormat {
    /// Reads `response_format` from a request body.
    pub fn from_json(body: &Value) -> Result<ResponseFormat, PromptError> {
        let Some(format) = fields::present(body, "response_format") else {
            return Ok(ResponseFormat::Text);
        };
        if format.as_object().is_none() {
            return Err(PromptError::invalid_value("response_format", Some(format), "an object"));
        }
        match format.get("type").map(Value::as_str) {
            None | Some(Some("text")) => Ok(ResponseFormat::Text),
            Some(Some("json_object")) => Ok(ResponseFormat::JsonObject),
            Some(Some("json_schema")) => response_schema(format).map(ResponseFormat::JsonSchema),
            Some(Some(_) | None) => Err(PromptError::invalid_value(
                "response_format.type",
                format.get("type"),
                "text, json_object or json_schema",
            )),
        }
    }

    /// Checks that a value is a JSON schema; `path` is its place in the request.
    pub fn check_schema(value: &Value, path: &str) -> Result<(), PromptError> {
        schema::check(value, path)
    }
}

impl FimRequest {
    /// Reads `prompt` and `suffix` from a request body.
    pub fn from_json(body: &Value) -> Result<FimRequest, PromptError> {
        if body.as_object().is_none() {
            return Err(PromptError::invalid_value("body", Some(body), "an object"));
        }
        Ok(FimRequest {
            prompt: required_string(body, "", "prompt")?.to_owned(),
            suffix: fields::optional_string(body, "", "suffix")?.map(str::to_owned),
        })
    }
}

fn reasoning_effort(body: &Value) -> Result<Option<ReasoningEffort>, PromptError> {
    let Some(value) = fields::present(body, "reasoning_effort") else {
        return Ok(None);
    };
    match value.as_str().and_then(ReasoningEffort::from_name) {
        Some(effort) => Ok(Some(effort)),
        None => Err(PromptError::invalid_value(
            "reasoning_effort",
            Some(value),
            "one of none, minimal, low, medium, high, xhigh, max",
        )),
    }
}

fn prompt_mode(body: &Value) -> Result<Option<PromptMode>, PromptError> {
    match fields::present(body, "prompt_mode") {
        None => Ok(None),
        Some(value) if value.as_str() == Some("reasoning") => Ok(Some(PromptMode::Reasoning)),
        Some(value) => Err(PromptError::invalid_value("prompt_mode", Some(value), "\"reasoning\"")),
    }
}

fn response_schema(format: &Value) -> Result<Value, PromptError> {
    let path = "response_format.json_schema";
    let description = fields::required_object(format, "response_format", "json_schema")?;
    required_string(description, path, "name")?;
    fields::optional_string(description, path, "description")?;
    optional_bool(description, path, "strict")?;
    let value = fields::required_object(description, path, "schema")?;
    schema::check(value, &at_key(path, "schema"))?;
    Ok(value.clone())
}
