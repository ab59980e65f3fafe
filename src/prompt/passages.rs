//! Which texts of a conversation the model reads as one.
//!
//! Main type: [`Passage`], a text in the parts that a client sent it in. Invariant: the parts of a passage, each behind what
//! is written in front of it, are a text that `normalize` makes of the same messages, so whoever judges passages judges what
//! the model reads. Jinja templates are programs: of them it is assumed that they write chunks behind each other. Knows
//! nothing of what passages are judged for.

use std::mem;

use super::normalize::MESSAGE_SEPARATOR;
use super::request::{Chunk, Content, Message};
use super::version::{CallIdRule, ResultLayout, SystemLayout, TokenizerVersion};

/// Something that the model reads as a whole.
#[derive(Debug)]
pub enum Passage<'c> {
    /// A text.
    Text(Vec<Part<'c>>),
    /// A text that is read as JSON, where it is JSON.
    Json(Vec<Part<'c>>),
    /// The name of a function, or the id of a call.
    Name(&'c str),
}

/// A part of a passage, which is not empty.
#[derive(Debug)]
pub struct Part<'c> {
    /// What is written between the part before and this one.
    pub before: &'static str,
    /// What it says.
    pub text: &'c mut String,
}

/// How a template joins texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining {
    chunk_separator: &'static str,
    system: SystemLayout,
    results_are_json: bool,
    writes_ids: bool,
}

impl Joining {
    /// That of a version's own template.
    pub(super) fn of(version: TokenizerVersion) -> Joining {
        Joining {
            chunk_separator: version.chunk_separator(),
            system: version.system(),
            results_are_json: match version.results() {
                ResultLayout::NamedList | ResultLayout::Object => true,
                ResultLayout::None | ResultLayout::IdAndText | ResultLayout::Text => false,
            },
            writes_ids: match version.call_ids() {
                CallIdRule::NineAlphanumeric => true,
                CallIdRule::Any | CallIdRule::NotEmpty => false,
            },
        }
    }

    /// That of a Jinja template, for a tokenizer whose version may be known. It may write whatever ids there are.
    pub(super) fn of_jinja(version: Option<TokenizerVersion>) -> Joining {
        let of_version = version.map_or(
            Joining { chunk_separator: "", system: SystemLayout::OwnBlock, results_are_json: false, writes_ids: true },
            Joining::of,
        );
        Joining { chunk_separator: "", writes_ids: true, ..of_version }
    }

    /// The passages of a conversation, in the order of its messages, but for system messages that are written elsewhere.
    pub(super) fn passages<'c>(&self, messages: &'c mut [Message]) -> Vec<Passage<'c>> {
        let mut passages = Passages { joining: *self, done: Vec::new(), lifted: Vec::new(), users: Vec::new() };
        let begins_with_user = messages.iter().find(|message| !matches!(message, Message::System { .. }));
        let begins_with_user = matches!(begins_with_user, Some(Message::User { .. }));
        for group in messages.chunk_by_mut(|left, right| left.role() == right.role()) {
            passages.group(group);
        }
        let target = match self.system {
            SystemLayout::InFirstUser if begins_with_user => passages.users.first(),
            SystemLayout::InLastUser => passages.users.last(),
            // An empty user message is put in front.
            SystemLayout::InFirstUser | SystemLayout::OwnBlock => None,
        };
        let (target, lifted) = (target.copied(), mem::take(&mut passages.lifted));
        match target.and_then(|index| passages.done.get_mut(index)) {
            Some(Passage::Text(parts)) => {
                if let Some(first) = parts.first_mut().filter(|_| !lifted.is_empty()) {
                    first.before = MESSAGE_SEPARATOR;
                }
                parts.splice(0..0, lifted);
            }
            Some(Passage::Json(_) | Passage::Name(_)) | None => passages.done.insert(0, Passage::Text(lifted)),
        }
        passages.done
    }
}

struct Passages<'c> {
    joining: Joining,
    done: Vec<Passage<'c>>,
    /// System messages that are written inside of a user message.
    lifted: Vec<Part<'c>>,
    /// Which passages are those of users.
    users: Vec<usize>,
}

impl<'c> Passages<'c> {
    /// Adds neighbours of one role.
    fn group(&mut self, messages: &'c mut [Message]) {
        let mut joined = Vec::new();
        let mut is_of_users = false;
        let mut calls = Vec::new();
        for message in messages {
            match message {
                Message::System { content } => match self.joining.system {
                    SystemLayout::InFirstUser | SystemLayout::InLastUser => {
                        let mut lifted = mem::take(&mut self.lifted);
                        self.content(content, &mut lifted);
                        self.lifted = lifted;
                    }
                    SystemLayout::OwnBlock => {
                        let mut parts = Vec::new();
                        self.content(content, &mut parts);
                        self.done.push(Passage::Text(parts));
                    }
                },
                Message::User { content } => {
                    is_of_users = true;
                    self.content(content, &mut joined);
                }
                Message::Assistant { content, tool_calls, .. } => {
                    self.content(content, &mut joined);
                    calls.extend(tool_calls);
                }
                Message::Tool { content, name, tool_call_id } => {
                    self.done.extend(name.as_deref().map(Passage::Name));
                    self.call_id(tool_call_id.as_deref());
                    let mut parts = Vec::new();
                    self.content(content, &mut parts);
                    let is_json = self.joining.results_are_json;
                    self.done.push(if is_json { Passage::Json(parts) } else { Passage::Text(parts) });
                }
            }
        }
        if is_of_users {
            self.users.push(self.done.len());
            self.done.push(Passage::Text(joined));
        } else if !joined.is_empty() {
            self.done.push(Passage::Text(joined));
        }
        for call in calls {
            self.done.push(Passage::Name(&call.name));
            self.call_id(call.id.as_deref());
            let arguments = Part { before: "", text: &mut call.arguments };
            self.done.push(Passage::Json(vec![arguments]));
        }
    }

    fn call_id(&mut self, id: Option<&'c str>) {
        self.done.extend(id.filter(|_| self.joining.writes_ids).map(Passage::Name));
    }

    /// Adds a message's content to texts that it touches. Thinking stands by itself, and ends what is before it.
    fn content(&mut self, content: &'c mut Content, parts: &mut Vec<Part<'c>>) {
        let mut separator = MESSAGE_SEPARATOR;
        match content {
            Content::Text(text) => push(parts, separator, text),
            Content::Chunks(chunks) => {
                for chunk in chunks {
                    match chunk {
                        Chunk::Text(text) if text.is_empty() => {}
                        Chunk::Text(text) => {
                            push(parts, separator, text);
                            separator = self.joining.chunk_separator;
                        }
                        Chunk::Thinking { text, .. } => {
                            self.done.push(Passage::Text(mem::take(parts)));
                            let thinking = Part { before: "", text };
                            self.done.push(Passage::Text(vec![thinking]));
                        }
                        Chunk::Image | Chunk::Audio => {} // are refused
                    }
                }
            }
        }
    }
}

fn push<'c>(parts: &mut Vec<Part<'c>>, separator: &'static str, text: &'c mut String) {
    if !text.is_empty() {
        let before = if parts.is_empty() { "" } else { separator };
        parts.push(Part { before, text });
    }
}

#[cfg(test)]
mod tests {
    use super::super::normalize::{self, AssistantContent, TurnKind};
    use super::super::request::ChatRequest;
    use super::*;
    use crate::prompt::json::Value;

    fn joined(parts: &[Part<'_>]) -> String {
        parts.iter().flat_map(|part| [part.before, part.text]).collect()
    }

    /// All texts of a normalized conversation, but for names and arguments.
    fn normalized(request: &ChatRequest, version: TokenizerVersion) -> Vec<String> {
        let conversation = normalize::conversation(request, version).expect("it is right");
        let mut texts = Vec::new();
        let part = |part: &normalize::Part| match part {
            normalize::Part::Text(text) | normalize::Part::Thinking { text, .. } => text.clone(),
        };
        let users = conversation.turns.iter().enumerate().filter(|(_, turn)| matches!(turn.kind, TurnKind::User(_)));
        let place = match version.system() {
            SystemLayout::InFirstUser => users.map(|(index, _)| index).min(),
            SystemLayout::InLastUser => users.map(|(index, _)| index).max(),
            SystemLayout::OwnBlock => None,
        };
        for (index, turn) in conversation.turns.iter().enumerate() {
            match &turn.kind {
                TurnKind::System(parts) => texts.extend(parts.iter().map(part)),
                TurnKind::User(text) => {
                    let system = conversation.system_prompt.as_ref().filter(|_| place == Some(index));
                    let system = system.filter(|system| !system.is_empty());
                    // As the templates of these versions write it.
                    texts.push(system.map_or(text.clone(), |system| {
                        if text.is_empty() { system.clone() } else { format!("{system}\n\n{text}") }
                    }));
                }
                TurnKind::Assistant { content: AssistantContent::Text(text), .. } => texts.push(text.clone()),
                TurnKind::Assistant { content: AssistantContent::Parts(parts), .. } => {
                    texts.extend(parts.iter().map(part));
                }
                TurnKind::Result(result) => texts.push(result.content.clone()),
            }
        }
        texts.retain(|text| !text.is_empty());
        texts.sort();
        texts
    }

    #[test]
    fn passages_are_the_texts_that_templates_write() {
        let chunks = |texts: &[&str]| {
            let chunks: Vec<String> =
                texts.iter().map(|text| format!(r#"{{"type": "text", "text": "{text}"}}"#)).collect();
            format!("[{}]", chunks.join(","))
        };
        let (two, gap) = (chunks(&["a", "b"]), chunks(&["", "c", "", "d"]));
        let thinks =
            r#"[{"type": "text", "text": "k"}, {"type": "thinking", "thinking": "l"}, {"type": "text", "text": "m"}]"#;
        let message = |role: &str, content: &str| format!(r#"{{"role": "{role}", "content": {content}}}"#);
        let conversations = [
            vec![message("user", &two), message("user", &gap), message("user", r#""e""#)],
            vec![message("system", &two), message("system", r#""f""#), message("user", &gap)],
            vec![message("user", r#""g""#), message("system", &two), message("user", r#""h""#)],
            vec![message("system", r#""i""#), message("assistant", &two), message("user", r#""j""#)],
            vec![message("user", r#""q""#), message("assistant", thinks), message("assistant", &two)],
            vec![message("user", r#""q""#), message("assistant", r#""r""#), message("tool", &two)],
            vec![message("user", r#""""#), message("system", &gap), message("assistant", r#""n""#)],
        ];
        for (index, messages) in conversations.iter().enumerate() {
            let body = format!(r#"{{"model": "m", "messages": [{}]}}"#, messages.join(","));
            let body = Value::parse(&body).expect("JSON");
            for version in TokenizerVersion::ALL {
                let mut request = ChatRequest::from_json(&body).expect("a request");
                let expected = normalized(&request, version);
                let passages = Joining::of(version).passages(&mut request.messages);
                let texts = passages.iter().filter_map(|passage| match passage {
                    Passage::Text(parts) | Passage::Json(parts) => Some(joined(parts)),
                    Passage::Name(_) => None,
                });
                let mut texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
                texts.sort();
                assert_eq!(texts, expected, "conversation {index}, {version}");
            }
        }
    }

    #[test]
    fn ids_of_calls_are_passages_where_they_are_written() {
        let body = r#"{"model": "m", "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "callnumber", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "callnumber", "name": "f", "content": "r"}]}"#;
        let mut request = ChatRequest::from_json(&Value::parse(body).expect("JSON")).expect("a request");
        let mut names = |joining: Joining| {
            let passages = joining.passages(&mut request.messages);
            passages.iter().filter(|passage| matches!(passage, Passage::Name("callnumber"))).count()
        };
        for version in TokenizerVersion::ALL {
            let expected = if version.call_ids() == CallIdRule::NineAlphanumeric { 2 } else { 0 };
            assert_eq!(names(Joining::of(version)), expected, "{version}");
            assert_eq!(names(Joining::of_jinja(Some(version))), 2, "{version}");
        }
        assert_eq!(names(Joining::of_jinja(None)), 2);
    }

    #[test]
    fn jinja_templates_are_taken_to_write_chunks_without_anything_between() {
        let body = r#"{"model": "m", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#;
        let mut request = ChatRequest::from_json(&Value::parse(body).expect("JSON")).expect("a request");
        for version in [None, Some(TokenizerVersion::V3), Some(TokenizerVersion::V13)] {
            let passages = Joining::of_jinja(version).passages(&mut request.messages);
            let texts: Vec<String> = passages
                .iter()
                .filter_map(|passage| match passage {
                    Passage::Text(parts) if !parts.is_empty() => Some(joined(parts)),
                    Passage::Text(_) | Passage::Json(_) | Passage::Name(_) => None,
                })
                .collect();
            assert_eq!(texts, ["ab"]);
        }
    }
}
