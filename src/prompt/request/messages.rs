//! `messages`: roles, content chunks, tool calls.

use super::fields::{at_index, at_key, check_function_type, optional_array, optional_bool, optional_string};
use super::fields::{present, required_object, required_string};
use crate::prompt::error::PromptError;
use crate::prompt::json::Value;

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Instructions; the OpenAI role `developer` is the same.
    System {
        /// What it says.
        content: Content,
    },
    /// What the user said.
    User {
        /// What it says.
        content: Content,
    },
    /// What the model said.
    Assistant {
        /// The answer; empty if there are only calls.
        content: Content,
        /// The functions it called.
        tool_calls: Vec<ToolCall>,
        /// The model is to continue this message instead of answering it.
        prefix: bool,
    },
    /// What a called function returned.
    Tool {
        /// The result.
        content: Content,
        /// Which call it answers.
        tool_call_id: Option<String>,
        /// The function's name.
        name: Option<String>,
    },
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A string; empty also stands for a missing or null content of an assistant.
    Text(String),
    /// A list of parts.
    Chunks(Vec<Chunk>),
}

/// One part of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Chunk {
    /// Plain text.
    Text(String),
    /// The model's reasoning.
    Thinking {
        /// The reasoning.
        text: String,
        /// False if the model had not finished thinking.
        closed: bool,
    },
    /// A picture: no text tokenizer can write it yet.
    Image,
    /// A recording: no text tokenizer can write it yet.
    Audio,
}

/// A call of a function by the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Links the call to its result; `None` if the request has no `id`.
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// The arguments: JSON text, or whatever the model wrote instead.
    pub arguments: String,
}

impl Message {
    /// The role's name on the wire.
    pub fn role(&self) -> &'static str {
        match self {
            Message::System { .. } => "system",
            Message::User { .. } => "user",
            Message::Assistant { .. } => "assistant",
            Message::Tool { .. } => "tool",
        }
    }
}

impl Content {
    /// No text at all: the empty string or the empty list (a list of one empty text is something).
    pub fn is_empty(&self) -> bool {
        match self {
            Content::Text(text) => text.is_empty(),
            Content::Chunks(chunks) => chunks.is_empty(),
        }
    }

    /// The chunks, if the content is a list.
    pub fn chunks(&self) -> &[Chunk] {
        match self {
            Content::Text(_) => &[],
            Content::Chunks(chunks) => chunks,
        }
    }
}

impl Chunk {
    /// The chunk's `type` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Chunk::Text(_) => "text",
            Chunk::Thinking { .. } => "thinking",
            Chunk::Image => "image_url",
            Chunk::Audio => "input_audio",
        }
    }
}

pub(super) fn from_body(body: &Value) -> Result<Vec<Message>, PromptError> {
    let value = body.get("messages");
    let Some(items) = value.and_then(Value::as_array) else {
        return Err(PromptError::invalid_value("messages", value, "an array of messages"));
    };
    let mut messages = items
        .iter()
        .enumerate()
        .map(|(index, item)| from_item(item, &at_index("messages", index)))
        .collect::<Result<Vec<Message>, PromptError>>()?;
    if optional_bool(body, "", "continue_final_message")? == Some(true) {
        continue_final(&mut messages)?;
    }
    Ok(messages)
}

/// `continue_final_message: true` is `prefix: true` on the last message.
fn continue_final(messages: &mut [Message]) -> Result<(), PromptError> {
    match messages.last_mut() {
        Some(Message::Assistant { prefix, .. }) => {
            *prefix = true;
            Ok(())
        }
        Some(Message::System { .. } | Message::User { .. } | Message::Tool { .. }) | None => {
            let expected = "false, or an assistant message at the end to continue";
            Err(PromptError::rule("continue_final_message", "true", expected))
        }
    }
}

fn from_item(item: &Value, path: &str) -> Result<Message, PromptError> {
    if item.as_object().is_none() {
        return Err(PromptError::invalid_value(path, Some(item), "an object with `role` and `content`"));
    }
    let role = item.get("role").map(Value::as_str);
    if role != Some(Some("assistant")) && optional_bool(item, path, "prefix")? == Some(true) {
        return Err(PromptError::rule(at_key(path, "prefix"), "true", "true only on an assistant message"));
    }
    match role {
        Some(Some("system" | "developer")) => Ok(Message::System { content: required_content(item, path)? }),
        Some(Some("user")) => Ok(Message::User { content: required_content(item, path)? }),
        Some(Some("assistant")) => assistant(item, path),
        Some(Some("tool")) => Ok(Message::Tool {
            content: required_content(item, path)?,
            tool_call_id: optional_string(item, path, "tool_call_id")?.map(str::to_owned),
            name: optional_string(item, path, "name")?.map(str::to_owned),
        }),
        Some(Some(_) | None) | None => Err(PromptError::invalid_value(
            at_key(path, "role"),
            item.get("role"),
            "one of system, developer, user, assistant, tool",
        )),
    }
}

fn assistant(item: &Value, path: &str) -> Result<Message, PromptError> {
    let content = match present(item, "content") {
        None => None,
        Some(value) => Some(content(value, &at_key(path, "content"))?),
    };
    let content = match reasoning_field(item, path)? {
        None => content.unwrap_or(Content::Text(String::new())),
        Some(text) => Content::Chunks(with_reasoning(text, content, path)?),
    };
    let calls = optional_array(item, path, "tool_calls")?;
    let calls_path = at_key(path, "tool_calls");
    let tool_calls = calls
        .iter()
        .enumerate()
        .map(|(index, call)| tool_call(call, &at_index(&calls_path, index)))
        .collect::<Result<Vec<ToolCall>, PromptError>>()?;
    let prefix = optional_bool(item, path, "prefix")?.unwrap_or(false);
    Ok(Message::Assistant { content, tool_calls, prefix })
}

/// The OpenAI-style text field beside `content`: `reasoning_content`, or its other name.
fn reasoning_field<'a>(item: &'a Value, path: &str) -> Result<Option<&'a str>, PromptError> {
    let reasoning = optional_string(item, path, "reasoning")?;
    let reasoning_content = optional_string(item, path, "reasoning_content")?;
    if let (Some(one), Some(other)) = (reasoning, reasoning_content)
        && one != other
    {
        return Err(PromptError::invalid(at_key(path, "reasoning"), one, "the same text as `reasoning_content`"));
    }
    Ok(reasoning.or(reasoning_content))
}

fn with_reasoning(text: &str, content: Option<Content>, path: &str) -> Result<Vec<Chunk>, PromptError> {
    let mut chunks = vec![Chunk::Thinking { text: text.to_owned(), closed: true }];
    match content {
        None => {}
        Some(Content::Text(text)) => chunks.push(Chunk::Text(text)),
        Some(Content::Chunks(rest)) => {
            if rest.iter().any(|chunk| matches!(chunk, Chunk::Thinking { .. })) {
                let expected = "no thinking chunks, as the message also has `reasoning_content`";
                return Err(PromptError::rule(at_key(path, "content"), "a list with thinking chunks", expected));
            }
            chunks.extend(rest);
        }
    }
    Ok(chunks)
}

fn required_content(item: &Value, path: &str) -> Result<Content, PromptError> {
    let path = at_key(path, "content");
    match item.get("content") {
        Some(value) => content(value, &path),
        None => Err(PromptError::invalid_value(path, None, "a string or an array of chunks")),
    }
}

fn content(value: &Value, path: &str) -> Result<Content, PromptError> {
    match value {
        Value::String(text) => Ok(Content::Text(text.clone())),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| chunk(item, &at_index(path, index)))
            .collect::<Result<Vec<Chunk>, PromptError>>()
            .map(Content::Chunks),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(PromptError::invalid_value(path, Some(value), "a string or an array of chunks"))
        }
    }
}

fn chunk(item: &Value, path: &str) -> Result<Chunk, PromptError> {
    if item.as_object().is_none() {
        return Err(PromptError::invalid_value(path, Some(item), "an object such as {\"type\": \"text\", ..}"));
    }
    match item.get("type").map(Value::as_str) {
        Some(Some("text")) => Ok(Chunk::Text(required_string(item, path, "text")?.to_owned())),
        Some(Some("thinking")) => Ok(Chunk::Thinking {
            text: thinking_text(item, path)?,
            closed: optional_bool(item, path, "closed")?.unwrap_or(true),
        }),
        Some(Some("image" | "image_url")) => Ok(Chunk::Image),
        Some(Some("input_audio" | "audio_url")) => Ok(Chunk::Audio),
        Some(Some(_) | None) | None => Err(PromptError::invalid_value(
            at_key(path, "type"),
            item.get("type"),
            "one of text, thinking, image_url, input_audio",
        )),
    }
}

/// The reasoning of a thinking chunk: a string, or (Mistral's client) a list of text chunks.
fn thinking_text(item: &Value, path: &str) -> Result<String, PromptError> {
    let path = at_key(path, "thinking");
    match item.get("thinking") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => parts
            .iter()
            .enumerate()
            .map(|(index, part)| required_string(part, &at_index(&path, index), "text"))
            .collect(),
        value => Err(PromptError::invalid_value(path, value, "a string or an array of text chunks")),
    }
}

fn tool_call(item: &Value, path: &str) -> Result<ToolCall, PromptError> {
    if item.as_object().is_none() {
        return Err(PromptError::invalid_value(path, Some(item), "an object with `id` and `function`"));
    }
    check_function_type(item, path)?;
    let id = match item.get("id") {
        None => None,
        Some(_) => Some(required_string(item, path, "id")?.to_owned()),
    };
    let function = required_object(item, path, "function")?;
    let path = at_key(path, "function");
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => object.to_python_json(),
        Some(Value::Null) => "{}".to_owned(),
        value => {
            let expected = "an object, or a string of JSON text";
            return Err(PromptError::invalid_value(at_key(&path, "arguments"), value, expected));
        }
    };
    Ok(ToolCall { id, name: required_string(function, &path, "name")?.to_owned(), arguments })
}
