//! From the messages a client sent to the messages a template writes.
//!
//! Main type: [`Conversation`]. Neighbours of one role become one message, chunks become one text
//! wherever only text is left, JSON arguments are rewritten in Python's spelling, and system
//! messages move where the tokenizer version wants them. Every turn remembers the index of the
//! first message it came from, for error messages. Follows mistral-common's request normalizers.

use std::collections::HashMap;

use super::error::PromptError;
use super::json::{JsonFault, Value};
use super::request::{ChatRequest, Chunk, Content, Message, ToolCall};
use super::version::{SystemLayout, TokenizerVersion};

/// What joins the texts of neighbouring messages.
pub(super) const MESSAGE_SEPARATOR: &str = "\n\n";

/// A conversation ready to be written.
#[derive(Debug)]
pub(super) struct Conversation {
    /// All system messages joined, where the version writes them inside a user message.
    pub(super) system_prompt: Option<String>,
    pub(super) turns: Vec<Turn>,
}

/// One message to write, made from one or several neighbours of the request.
#[derive(Debug)]
pub(super) struct Turn {
    /// Index of the first request message it came from.
    pub(super) first_message: usize,
    pub(super) kind: TurnKind,
}

#[derive(Debug)]
pub(super) enum TurnKind {
    System(Vec<Part>),
    User(String),
    Assistant { content: AssistantContent, calls: Vec<Call>, prefix: bool },
    Result(ToolResult),
}

/// A piece of a message that is tokenized on its own.
#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    Thinking { text: String, closed: bool },
}

#[derive(Debug)]
pub(super) enum AssistantContent {
    /// Only text: its trailing spaces may be cut.
    Text(String),
    /// Text and thinking: written as they are.
    Parts(Vec<Part>),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: Option<String>,
    pub(super) name: String,
    /// The parsed arguments, or the text itself if it is not JSON.
    pub(super) arguments: Value,
}

#[derive(Debug)]
pub(super) struct ToolResult {
    pub(super) call_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) content: String,
}

/// Normalizes a request that `validate::check` has passed.
pub(super) fn conversation(request: &ChatRequest, version: TokenizerVersion) -> Result<Conversation, PromptError> {
    let normalizer = Normalizer { version };
    let is_inside_user = version.system() != SystemLayout::OwnBlock;
    let mut turns = normalizer.turns(&request.messages)?;
    let starts_with_user = matches!(turns.first(), Some(Turn { kind: TurnKind::User(_), .. }));
    if turns.is_empty() || (is_inside_user && !starts_with_user) {
        turns.insert(0, Turn { first_message: 0, kind: TurnKind::User(String::new()) });
    }
    let system_prompt = if is_inside_user { normalizer.system_prompt(&request.messages) } else { None };
    Ok(Conversation { system_prompt, turns })
}

/// Parses arguments or results as Python's `json.loads` would: text that is not JSON stays text.
///
/// What Python would choke on (too deep, an endless integer, half a surrogate pair) is refused.
pub(super) fn parse_or_keep(text: &str, field: &str) -> Result<Value, PromptError> {
    if text.is_empty() {
        return Ok(Value::Object(super::json::Object::new()));
    }
    match Value::parse(text) {
        Ok(value) => Ok(value),
        Err(error) => match error.fault {
            JsonFault::Syntax(_) => Ok(Value::String(text.to_owned())),
            JsonFault::TooDeep | JsonFault::IntegerTooLong | JsonFault::LoneSurrogate => {
                Err(PromptError::rule(field, format!("JSON text with a problem ({error})"), "JSON that can be written"))
            }
        },
    }
}

struct Normalizer {
    version: TokenizerVersion,
}

impl Normalizer {
    fn turns(&self, messages: &[Message]) -> Result<Vec<Turn>, PromptError> {
        let mut turns = Vec::new();
        // Where each call of the assistant messages since the last result stands in their order;
        // of two calls with one id the later one counts.
        let mut call_order: HashMap<String, usize> = HashMap::new();
        let mut n_calls = 0;
        let mut start = 0;
        for group in messages.chunk_by(|left, right| left.role() == right.role()) {
            match group[0] {
                Message::System { .. } => self.system_turns(group, start, &mut turns),
                Message::User { .. } => {
                    let kind = TurnKind::User(text_of(self.join(group)));
                    turns.push(Turn { first_message: start, kind });
                }
                Message::Assistant { .. } => {
                    let kind = self.assistant(group, start)?;
                    if let TurnKind::Assistant { calls, .. } = &kind {
                        for call in calls {
                            call_order.insert(call.id.clone().unwrap_or_default(), n_calls);
                            n_calls += 1;
                        }
                    }
                    turns.push(Turn { first_message: start, kind });
                }
                Message::Tool { .. } => {
                    turns.extend(self.results(group, start, &call_order));
                    call_order.clear();
                }
            }
            start += group.len();
        }
        Ok(turns)
    }

    /// Versions with a block of their own keep system messages apart; the others lift them out.
    fn system_turns(&self, group: &[Message], start: usize, turns: &mut Vec<Turn>) {
        match self.version.system() {
            SystemLayout::InFirstUser | SystemLayout::InLastUser => {}
            SystemLayout::OwnBlock => {
                for (offset, message) in group.iter().enumerate() {
                    let kind = TurnKind::System(self.join(std::slice::from_ref(message)));
                    turns.push(Turn { first_message: start + offset, kind });
                }
            }
        }
    }

    fn system_prompt(&self, messages: &[Message]) -> Option<String> {
        let texts: Vec<String> = messages
            .iter()
            .filter(|message| matches!(message, Message::System { content } if !content.is_empty()))
            .map(|message| text_of(self.join(std::slice::from_ref(message))))
            .collect();
        if texts.is_empty() { None } else { Some(texts.join(MESSAGE_SEPARATOR)) }
    }

    fn assistant(&self, group: &[Message], start: usize) -> Result<TurnKind, PromptError> {
        let mut calls = Vec::new();
        let mut is_prefix = false;
        for (offset, message) in group.iter().enumerate() {
            if let Message::Assistant { tool_calls, prefix, .. } = message {
                is_prefix |= prefix;
                for (index, call) in tool_calls.iter().enumerate() {
                    let field = format!("messages[{}].tool_calls[{index}].function.arguments", start + offset);
                    calls.push(normalized_call(call, &field)?);
                }
            }
        }
        let parts = self.join(group);
        let content = if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            AssistantContent::Text(text_of(parts))
        } else {
            AssistantContent::Parts(parts)
        };
        Ok(TurnKind::Assistant { content, calls, prefix: is_prefix })
    }

    fn results(&self, group: &[Message], start: usize, call_order: &HashMap<String, usize>) -> Vec<Turn> {
        let mut turns: Vec<Turn> = group
            .iter()
            .enumerate()
            .map(|(offset, message)| Turn { first_message: start + offset, kind: self.result(message) })
            .collect();
        if self.version.pairs_results_by_id() {
            turns.sort_by_key(|turn| match &turn.kind {
                TurnKind::Result(result) => {
                    call_order.get(result.call_id.as_deref().unwrap_or_default()).copied().unwrap_or(usize::MAX)
                }
                TurnKind::System(_) | TurnKind::User(_) | TurnKind::Assistant { .. } => usize::MAX,
            });
        }
        turns
    }

    fn result(&self, message: &Message) -> TurnKind {
        let content = text_of(self.join(std::slice::from_ref(message)));
        let (call_id, name) = match message {
            Message::Tool { tool_call_id, name, .. } => (tool_call_id.clone(), name.clone()),
            Message::System { .. } | Message::User { .. } | Message::Assistant { .. } => (None, None),
        };
        TurnKind::Result(ToolResult { call_id, name, content })
    }

    /// Joins the contents of neighbours: empty texts vanish, texts that touch become one.
    fn join(&self, messages: &[Message]) -> Vec<Part> {
        let mut joiner = Joiner { parts: Vec::new(), text: String::new() };
        for message in messages {
            let mut separator = MESSAGE_SEPARATOR;
            match content_of(message) {
                Content::Text(text) => joiner.push_text(text, separator),
                Content::Chunks(chunks) => {
                    for chunk in chunks {
                        match chunk {
                            Chunk::Text(text) if text.is_empty() => {}
                            Chunk::Text(text) => {
                                joiner.push_text(text, separator);
                                separator = self.version.chunk_separator();
                            }
                            Chunk::Thinking { text, closed } => {
                                joiner.flush();
                                joiner.parts.push(Part::Thinking { text: text.clone(), closed: *closed });
                            }
                            // `validate` has refused these.
                            Chunk::Image | Chunk::Audio => {}
                        }
                    }
                }
            }
        }
        joiner.flush();
        joiner.parts
    }
}

struct Joiner {
    parts: Vec<Part>,
    /// Text that later text may still join.
    text: String,
}

impl Joiner {
    fn push_text(&mut self, text: &str, separator: &str) {
        if !self.text.is_empty() && !text.is_empty() {
            self.text.push_str(separator);
        }
        self.text.push_str(text);
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.parts.push(Part::Text(std::mem::take(&mut self.text)));
        }
    }
}

fn content_of(message: &Message) -> &Content {
    match message {
        Message::System { content }
        | Message::User { content }
        | Message::Assistant { content, .. }
        | Message::Tool { content, .. } => content,
    }
}

/// The text of parts that are all text: there is at most one.
fn text_of(parts: Vec<Part>) -> String {
    parts
        .into_iter()
        .map(|part| match part {
            Part::Text(text) => text,
            Part::Thinking { text, .. } => text,
        })
        .collect()
}

fn normalized_call(call: &ToolCall, field: &str) -> Result<Call, PromptError> {
    Ok(Call {
        id: call.id.clone().filter(|id| !id.is_empty() && id != "null"),
        name: call.name.clone(),
        arguments: parse_or_keep(&call.arguments, field)?,
    })
}
