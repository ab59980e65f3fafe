//! Whether a conversation makes sense for a tokenizer version, before anything is rendered.
//!
//! Main function: [`check`]. The rules are those of mistral-common's serving mode: the order of
//! roles, what the last message may be, calls and results that pair up, ids and names, and which
//! kinds of content each role may have. A request that passes can still be refused by the renderer
//! when joining neighbours leaves nothing to write.

use std::collections::HashSet;

use super::error::PromptError;
use super::request::{ChatRequest, Chunk, Content, Message, ToolCall};
use super::version::{CallIdRule, TokenizerVersion};

/// The longest function name.
const MAX_NAME_CHARACTERS: usize = 64;

/// The length of a tool call id where the length is fixed.
const CALL_ID_CHARACTERS: usize = 9;

/// Checks a request against the rules of `version`.
pub(super) fn check(request: &ChatRequest, version: TokenizerVersion) -> Result<(), PromptError> {
    let messages = &request.messages;
    check_ends(messages)?;
    check_order(messages)?;
    if version.pairs_results_by_id() {
        check_pairs_by_id(messages)?;
    } else {
        check_pairs_by_count(messages)?;
    }
    for (index, message) in messages.iter().enumerate() {
        let is_last = index + 1 == messages.len();
        check_message(message, &format!("messages[{index}]"), is_last, version)?;
    }
    for (index, tool) in request.tools.iter().enumerate() {
        check_name(&tool.name, &format!("tools[{index}].function.name"))?;
    }
    match request.reasoning_effort {
        Some(effort) if !version.writes_settings() => {
            let feature = format!("{:?}", effort.as_str());
            Err(PromptError::unsupported("reasoning_effort", feature, version))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks the stricter order that the templates beside Mistral's checkpoints on the Hugging Face hub demand: after one
/// system message at most, user and assistant take turns, and calls are followed by their results.
pub(super) fn check_turns(messages: &[Message]) -> Result<(), PromptError> {
    let mut before: Option<&Message> = None;
    for (index, message) in messages.iter().enumerate() {
        let (holds, expected) = match before {
            None => {
                (matches!(message, Message::System { .. } | Message::User { .. }), "system or user at the beginning")
            }
            Some(Message::System { .. }) => (matches!(message, Message::User { .. }), "user after the system message"),
            Some(Message::User { .. }) => {
                (matches!(message, Message::Assistant { .. }), "assistant after a user message")
            }
            Some(Message::Assistant { tool_calls, .. }) if tool_calls.is_empty() => {
                (matches!(message, Message::User { .. }), "user after an assistant message")
            }
            Some(Message::Assistant { .. }) => (matches!(message, Message::Tool { .. }), "tool after tool calls"),
            Some(Message::Tool { .. }) => (
                matches!(message, Message::Tool { .. } | Message::Assistant { .. }),
                "tool or assistant after a result",
            ),
        };
        if !holds {
            let expected = format!("{expected} (this server is strict about the order of messages)");
            return Err(misplaced(format!("messages[{index}].role"), message.role(), &expected));
        }
        before = Some(message);
    }
    Ok(())
}

/// The one place that decides whether a tool call id is acceptable.
pub(super) fn check_call_id(id: Option<&str>, path: &str, rule: CallIdRule) -> Result<(), PromptError> {
    let (holds, expected) = match rule {
        CallIdRule::Any => (true, ""),
        CallIdRule::NineAlphanumeric => (
            id.is_some_and(|id| id.len() == CALL_ID_CHARACTERS && id.bytes().all(|byte| byte.is_ascii_alphanumeric())),
            "exactly nine characters of a-z, A-Z, 0-9",
        ),
        CallIdRule::NotEmpty => {
            (id.is_some_and(|id| !id.is_empty() && id != "null"), "an id that is not empty and not \"null\"")
        }
    };
    match id {
        _ if holds => Ok(()),
        Some(id) => Err(PromptError::invalid(path, id, expected)),
        None => Err(PromptError::rule(path, "missing", expected)),
    }
}

fn misplaced(path: String, role: &str, expected: &str) -> PromptError {
    PromptError::order(path, format!("{role:?}"), expected)
}

fn check_ends(messages: &[Message]) -> Result<(), PromptError> {
    let last_path = format!("messages[{}].role", messages.len().saturating_sub(1));
    match messages {
        [] => Err(PromptError::rule("messages", "empty", "at least one message")),
        [Message::Assistant { .. } | Message::Tool { .. }] => {
            Err(misplaced(last_path, messages[0].role(), "\"user\" or \"system\" for a single message"))
        }
        [.., Message::Assistant { prefix: false, .. }] => Err(misplaced(
            last_path,
            "assistant",
            "\"user\" or \"tool\" at the end (or `prefix: true` to continue this message)",
        )),
        [.., Message::Assistant { .. } | Message::System { .. } | Message::User { .. } | Message::Tool { .. }] => {
            Ok(())
        }
    }
}

fn check_order(messages: &[Message]) -> Result<(), PromptError> {
    for (index, pair) in messages.windows(2).enumerate() {
        let (holds, expected) = match pair[0] {
            Message::System { .. } => {
                (!matches!(pair[1], Message::Tool { .. }), "user, assistant or system after a system message")
            }
            Message::User { .. } => {
                (!matches!(pair[1], Message::Tool { .. }), "assistant, system or user after a user message")
            }
            Message::Assistant { .. } => {
                (!matches!(pair[1], Message::System { .. }), "assistant, user or tool after an assistant message")
            }
            Message::Tool { .. } => {
                (!matches!(pair[1], Message::System { .. }), "assistant, tool or user after a tool message")
            }
        };
        if !holds {
            return Err(misplaced(format!("messages[{}].role", index + 1), pair[1].role(), expected));
        }
    }
    Ok(())
}

fn mispaired(index: usize, n_calls: usize, n_results: usize) -> PromptError {
    let found = format!("preceded by {n_calls} unanswered calls and {n_results} results");
    PromptError::order(format!("messages[{index}]"), found, "one tool message for each tool call")
}

/// Up to v7 only the numbers must agree. The first message's own calls are not counted, as in
/// mistral-common; a conversation cannot begin with them and pass anyway.
fn check_pairs_by_count(messages: &[Message]) -> Result<(), PromptError> {
    let (mut n_calls, mut n_results) = (0, 0);
    for (index, message) in messages.iter().enumerate().skip(1) {
        match message {
            Message::Tool { .. } => n_results += 1,
            Message::Assistant { tool_calls, .. } => {
                if n_calls != n_results {
                    return Err(mispaired(index, n_calls, n_results));
                }
                (n_calls, n_results) = (tool_calls.len(), 0);
            }
            Message::System { .. } | Message::User { .. } => {}
        }
    }
    if n_calls == n_results { Ok(()) } else { Err(mispaired(messages.len() - 1, n_calls, n_results)) }
}

/// From v11 on every result names a call of the assistant message before it, each call once.
fn check_pairs_by_id(messages: &[Message]) -> Result<(), PromptError> {
    let mut calls: HashSet<&str> = HashSet::new();
    let mut results: HashSet<&str> = HashSet::new();
    for (index, message) in messages.iter().enumerate().skip(1) {
        match message {
            Message::Tool { tool_call_id, .. } => {
                let id = tool_call_id.as_deref().unwrap_or_default();
                let path = format!("messages[{index}].tool_call_id");
                if !calls.contains(id) {
                    return Err(PromptError::invalid(path, id, "the id of a call in the assistant message before"));
                }
                if !results.insert(id) {
                    return Err(PromptError::invalid(path, id, "the id of a call that has no result yet"));
                }
            }
            Message::Assistant { tool_calls, .. } => {
                if calls.len() != results.len() {
                    return Err(mispaired(index, calls.len(), results.len()));
                }
                calls.clear();
                results.clear();
                for (call_index, call) in tool_calls.iter().enumerate() {
                    let id = call.id.as_deref().unwrap_or_default();
                    if !calls.insert(id) {
                        let path = format!("messages[{index}].tool_calls[{call_index}].id");
                        return Err(PromptError::invalid(path, id, "an id that no other call of the message has"));
                    }
                }
            }
            Message::System { .. } | Message::User { .. } => {}
        }
    }
    if calls.len() == results.len() { Ok(()) } else { Err(mispaired(messages.len() - 1, calls.len(), results.len())) }
}

fn check_message(message: &Message, path: &str, is_last: bool, version: TokenizerVersion) -> Result<(), PromptError> {
    match message {
        Message::System { content } => {
            check_chunks(content, path, "a system message", version.writes_thinking_in_system(), version)
        }
        Message::User { content } => {
            refuse_thinking(content, path, "a user message")?;
            check_chunks(content, path, "a user message", false, version)
        }
        Message::Assistant { content, tool_calls, prefix } => {
            check_assistant(content, tool_calls, path, version)?;
            if *prefix && !is_last {
                return Err(PromptError::rule(format!("{path}.prefix"), "true", "true only on the last message"));
            }
            Ok(())
        }
        Message::Tool { content, tool_call_id, name } => {
            refuse_thinking(content, path, "a tool message")?;
            check_chunks(content, path, "a tool message", false, version)?;
            if let Some(name) = name {
                check_name(name, &format!("{path}.name"))?;
            }
            check_call_id(tool_call_id.as_deref(), &format!("{path}.tool_call_id"), version.call_ids())
        }
    }
}

fn check_assistant(
    content: &Content,
    tool_calls: &[ToolCall],
    path: &str,
    version: TokenizerVersion,
) -> Result<(), PromptError> {
    check_chunks(content, path, "an assistant message", version.writes_thinking(), version)?;
    for chunk in content.chunks() {
        if matches!(chunk, Chunk::Image | Chunk::Audio) {
            let expected = "text and thinking chunks only in an assistant message";
            return Err(PromptError::invalid(format!("{path}.content"), chunk.kind(), expected));
        }
    }
    if !version.allows_text_with_calls() && content.is_empty() == tool_calls.is_empty() {
        let found = if content.is_empty() { "neither text nor tool calls" } else { "both text and tool calls" };
        let expected = format!("either text or tool calls (tokenizer version {version})");
        return Err(PromptError::rule(path, found, expected));
    }
    for (index, call) in tool_calls.iter().enumerate() {
        let path = format!("{path}.tool_calls[{index}]");
        check_call_id(call.id.as_deref(), &format!("{path}.id"), version.call_ids())?;
        check_name(&call.name, &format!("{path}.function.name"))?;
    }
    Ok(())
}

fn refuse_thinking(content: &Content, path: &str, place: &str) -> Result<(), PromptError> {
    let is_thinking = |chunk: &Chunk| matches!(chunk, Chunk::Thinking { .. });
    match content.chunks().iter().position(is_thinking) {
        None => Ok(()),
        Some(index) => Err(PromptError::invalid(
            format!("{path}.content[{index}].type"),
            "thinking",
            format!("no thinking chunk in {place}"),
        )),
    }
}

/// Refuses chunks that this tokenizer version cannot write in that place.
fn check_chunks(
    content: &Content,
    path: &str,
    place: &str,
    allows_thinking: bool,
    version: TokenizerVersion,
) -> Result<(), PromptError> {
    for (index, chunk) in content.chunks().iter().enumerate() {
        let is_allowed = match chunk {
            Chunk::Text(_) => true,
            Chunk::Thinking { .. } => allows_thinking,
            Chunk::Image | Chunk::Audio => false,
        };
        if !is_allowed {
            let feature = format!("a chunk of type {:?} in {place}", chunk.kind());
            return Err(PromptError::unsupported(format!("{path}.content[{index}].type"), feature, version));
        }
    }
    Ok(())
}

fn check_name(name: &str, path: &str) -> Result<(), PromptError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=MAX_NAME_CHARACTERS).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(PromptError::invalid(path, name, "1 to 64 characters of a-z, A-Z, 0-9, underscore or dash"))
}
