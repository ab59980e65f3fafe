//! `messages` and `tools`: what is refused before the prompt layer reads them, and what it gets to read.
//!
//! The prompt layer checks the keys that prompts depend on; here every other key is refused by its path, so that
//! nothing in a conversation is ignored. Both `/v1/chat/completions` and `/tokenize` come through here.

use serde_json::Value;

use super::call_ids;
use crate::api::{
    body::{unknown_key, wrong},
    error::ApiError,
};
use crate::prompt::{ChatRequest, Codec, PromptError, TokenizerVersion, ToolsOffered, json};

/// Keys of any message that change the prompt, are checked by the prompt layer, or are nothing but a label.
const MESSAGE_KEYS: &[&str] = &["role", "content", "name", "prefix"];
const ASSISTANT_KEYS: &[&str] = &["tool_calls", "reasoning", "reasoning_content"];
const TOOL_RESULT_KEYS: &[&str] = &["tool_call_id"];
/// `index` is what streams number calls with: clients send it back.
const CALL_KEYS: &[&str] = &["id", "type", "function", "index"];
const FUNCTION_KEYS: &[&str] = &["name", "description", "parameters", "strict"];

/// Refuses keys that nothing reads, unless they are empty: clients send answers back as they got them.
pub(in crate::api) fn check_conversation(messages: Option<&Value>, tools: Option<&Value>) -> Result<(), ApiError> {
    for (index, message) in items(messages).iter().enumerate() {
        check_message(message, &format!("messages[{index}]"))?;
    }
    for (index, tool) in items(tools).iter().enumerate() {
        check_tool(tool, &format!("tools[{index}]"))?;
    }
    Ok(())
}

/// Reads the conversation with every key and number as it was spelled, which the prompt depends on.
pub(in crate::api) fn chat_request(
    text: &str,
    model_name: &str,
    tools: ToolsOffered,
    codec: &Codec,
) -> Result<ChatRequest, ApiError> {
    let body = json::Value::parse(text).map_err(PromptError::from)?;
    let json::Value::Object(mut body) = body else {
        return Err(ApiError::invalid("messages", "The body is no object."));
    };
    body.insert("model", model_name); // may be absent, which the prompt layer would not accept
    let mut chat = ChatRequest::from_json(&json::Value::Object(body))?;
    match tools {
        ToolsOffered::Yes => {}
        ToolsOffered::No => chat.tools.clear(),
    }
    // Mistral's own template of this version accepts tools and leaves them out.
    if !chat.tools.is_empty() && codec.version() == Some(TokenizerVersion::V1) && !codec.uses_jinja() {
        let message = "`tools` cannot be offered to this model: its tokenizer (version v1) has no form for them.";
        return Err(ApiError::invalid("tools", message));
    }
    if codec.version().is_some_and(call_ids::must_fit) {
        call_ids::fit(&mut chat.messages);
    }
    Ok(chat)
}

fn check_message(message: &Value, path: &str) -> Result<(), ApiError> {
    let more = match message.get("role").and_then(Value::as_str) {
        Some("assistant") => ASSISTANT_KEYS,
        Some("tool") => TOOL_RESULT_KEYS,
        Some(_) | None => &[],
    };
    check_keys(message, path, &[MESSAGE_KEYS, more])?;
    for (index, chunk) in items(message.get("content")).iter().enumerate() {
        check_chunk(chunk, &format!("{path}.content[{index}]"))?;
    }
    for (index, call) in items(message.get("tool_calls")).iter().enumerate() {
        let path = format!("{path}.tool_calls[{index}]");
        check_keys(call, &path, &[CALL_KEYS])?;
        if let Some(function) = call.get("function") {
            check_keys(function, &format!("{path}.function"), &[&["name", "arguments"]])?;
        }
    }
    Ok(())
}

/// Kinds that are not text are the prompt layer's to refuse.
fn check_chunk(chunk: &Value, path: &str) -> Result<(), ApiError> {
    match chunk.get("type").and_then(Value::as_str) {
        Some("text") => check_keys(chunk, path, &[&["type", "text"]]),
        Some("thinking") => {
            check_keys(chunk, path, &[&["type", "thinking", "closed"]])?;
            for (index, part) in items(chunk.get("thinking")).iter().enumerate() {
                let path = format!("{path}.thinking[{index}]");
                check_keys(part, &path, &[&["type", "text"]])?;
                if let Some(kind) = part.get("type").filter(|kind| kind.as_str() != Some("text")) {
                    return Err(wrong(&format!("{path}.type"), "text", kind));
                }
            }
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

fn check_tool(tool: &Value, path: &str) -> Result<(), ApiError> {
    check_keys(tool, path, &[&["type", "function"]])?;
    let Some(function) = tool.get("function") else { return Ok(()) };
    check_keys(function, &format!("{path}.function"), &[FUNCTION_KEYS])
}

/// The items of a list. What is no list, the prompt layer refuses or reads.
fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
}

fn check_keys(object: &Value, path: &str, known: &[&[&str]]) -> Result<(), ApiError> {
    let Some(object) = object.as_object() else { return Ok(()) }; // the prompt layer says what is wrong
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => false,
    };
    let is_known = |key: &str| known.iter().any(|keys| keys.contains(&key));
    match object.iter().find(|(key, value)| !is_known(key) && !is_empty(value)) {
        None => Ok(()),
        Some((key, _)) => Err(unknown_key(path, key)),
    }
}
