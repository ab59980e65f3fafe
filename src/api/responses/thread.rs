//! Items -> messages of a chat.
//!
//! Main type: [`Thread`]. What the model wrote in one turn, its thoughts, its text and its calls, are several items and
//! one message. Invariant: every message knows which item it came from, so that what is wrong with it is told of that.

use serde_json::{Map, Value, json};

use crate::api::turn::FieldNames;

/// The messages of a chat, as far as they are written.
#[derive(Debug)]
pub(super) struct Thread {
    messages: Vec<Map<String, Value>>,
    names: FieldNames,
    /// May the last message, which is the assistant's, go on?
    is_open: bool,
}

/// Where an item stands in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this path.
    Item(String),
    /// Somewhere behind the field of this name.
    Behind(&'static str),
}

impl Thread {
    /// A thread without messages, whose other fields have these names.
    pub(super) fn new(mut names: FieldNames) -> Self {
        names.add_whole("messages", "input");
        names.add_whole("prompt", "input");
        Self { messages: Vec::new(), names, is_open: false }
    }

    /// Begins with instructions.
    pub(super) fn instruct(&mut self, instructions: &str) {
        self.begin("system", &Place::Behind("instructions"));
        self.set("content", instructions.into());
    }

    /// Adds a normalized item.
    pub(super) fn push(&mut self, item: &Value, place: &Place) {
        let text = |key: &str| item.get(key).cloned().unwrap_or(Value::Null);
        match (item["type"].as_str(), item["role"].as_str()) {
            (Some("message"), Some("assistant")) => {
                let content = content(&item["content"]);
                let says_nothing = content.as_str().is_some_and(|text| text.trim().is_empty());
                if says_nothing && self.is_open && self.has("tool_calls") {
                    return; // such as the end of the line behind calls
                }
                // Text behind calls belongs to their message, as a chat has it.
                self.go_on(place, |message| !message.contains_key("content"));
                self.set("content", content);
                self.name(".content", place, ".content");
            }
            (Some("message"), role) => {
                self.begin(role.unwrap_or("user"), place);
                self.set("content", content(&item["content"]));
            }
            (Some("reasoning"), _) => {
                let Value::String(thought) = joined(&item["content"]) else { return };
                if thought.is_empty() {
                    return;
                }
                self.go_on(place, |_| false);
                self.set("reasoning_content", thought.into());
                self.name(".reasoning_content", place, ".content");
            }
            // Nobody will run a call that was cut off.
            (Some("function_call"), _) if item["status"] == "incomplete" => {}
            (Some("function_call"), _) => {
                self.go_on(place, |_| true);
                let call = json!({
                    "id": text("call_id"), "type": "function",
                    "function": { "name": text("name"), "arguments": text("arguments") },
                });
                let Some(message) = self.messages.last_mut() else { return };
                let calls = message.entry("tool_calls").or_insert_with(|| json!([]));
                let Some(calls) = calls.as_array_mut() else { return };
                calls.push(call);
                let call = format!(".tool_calls[{}]", calls.len() - 1);
                self.name(&call, place, "");
                self.name(&format!("{call}.id"), place, ".call_id");
                self.name(&format!("{call}.function"), place, "");
            }
            (Some("function_call_output"), _) => {
                self.begin("tool", place);
                self.set("tool_call_id", text("call_id"));
                self.set("content", content(&item["output"]));
                self.name(".content", place, ".output");
                self.name(".tool_call_id", place, ".call_id");
                self.name(".role", place, "");
            }
            (Some(_) | None, _) => {} // is not stored
        }
    }

    /// The messages, and what their fields are called.
    pub(super) fn finish(self) -> (Value, FieldNames) {
        (self.messages.into_iter().map(Value::Object).collect(), self.names)
    }

    /// The assistant's message: the last one if it may go on and `fits`, or a new one.
    fn go_on(&mut self, place: &Place, fits: impl Fn(&Map<String, Value>) -> bool) {
        if !self.is_open || !self.messages.last().is_some_and(fits) {
            self.begin("assistant", place);
            self.is_open = true;
        }
    }

    fn begin(&mut self, role: &str, place: &Place) {
        let mut message = Map::new();
        message.insert("role".to_owned(), role.into());
        self.messages.push(message);
        self.is_open = false;
        self.name("", place, "");
    }

    fn has(&self, key: &str) -> bool {
        self.messages.last().is_some_and(|message| message.contains_key(key))
    }

    fn set(&mut self, key: &str, value: Value) {
        if let Some(message) = self.messages.last_mut() {
            message.insert(key.to_owned(), value);
        }
    }

    /// What is behind `chat` in the last message is behind `own` at `place`.
    fn name(&mut self, chat: &str, place: &Place, own: &str) {
        let chat = format!("messages[{}]{chat}", self.messages.len().saturating_sub(1));
        match place {
            Place::Item(path) => self.names.add(chat, format!("{path}{own}")),
            Place::Behind(field) => self.names.add_whole(chat, *field),
        }
    }
}

/// The parts of a content as a chat has them.
fn content(parts: &Value) -> Value {
    match parts.as_array().map(Vec::as_slice) {
        None => parts.clone(),
        Some([]) => "".into(),
        Some([part]) => part["text"].clone(),
        Some(parts) => parts.iter().map(|part| json!({ "type": "text", "text": part["text"] })).collect(),
    }
}

/// The texts of parts in one.
fn joined(parts: &Value) -> Value {
    let parts = parts.as_array().map_or(&[][..], Vec::as_slice);
    parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n").into()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(items: &Value, paths: &[&str], expected: Expect) {
        let mut thread = Thread::new(FieldNames::default());
        for (index, item) in items.as_array().expect("a list").iter().enumerate() {
            thread.push(item, &Place::Item(format!("input[{index}]")));
        }
        let (messages, names) = thread.finish();
        let mut text: String = messages.as_array().expect("a list").iter().map(|it| format!("{it}\n")).collect();
        for path in paths {
            text.push_str(&format!("{path} = {}\n", names.own(path)));
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn what_was_written_in_one_turn_is_one_message() {
        let call = |id: &str| json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{}" });
        check(
            &json!([
                { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
                { "type": "reasoning", "content": [{ "type": "reasoning_text", "text": "Hm." }] },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Wait." }] },
                call("a"),
                call("b"),
                { "type": "function_call_output", "call_id": "a", "output": "1" },
                { "type": "function_call_output", "call_id": "b", "output": [
                    { "type": "input_text", "text": "2" }, { "type": "input_text", "text": "3" },
                ] },
                { "type": "reasoning", "content": [] },
                { "type": "message", "role": "assistant", "content": [] },
                call("c"),
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "\r\n" }] },
                { "type": "function_call", "status": "incomplete", "call_id": "d", "name": "f", "arguments": "{" },
                { "type": "function_call_output", "call_id": "c", "output": "4" },
                call("e"),
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "So." }] },
            ]),
            &[
                "messages[0].content",
                "messages[1].reasoning_content",
                "messages[1].content",
                "messages[1].tool_calls[1].function.arguments",
                "messages[1].tool_calls[0].id",
                "messages[2].tool_call_id",
                "messages[3].content[1].text",
                "messages[4].content",
                "messages",
            ],
            expect![[r#"
                {"role":"user","content":"Hi"}
                {"role":"assistant","reasoning_content":"Hm.","content":"Wait.","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"f","arguments":"{}"}}]}
                {"role":"tool","tool_call_id":"a","content":"1"}
                {"role":"tool","tool_call_id":"b","content":[{"type":"text","text":"2"},{"type":"text","text":"3"}]}
                {"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}
                {"role":"tool","tool_call_id":"c","content":"4"}
                {"role":"assistant","tool_calls":[{"id":"e","type":"function","function":{"name":"f","arguments":"{}"}}],"content":"So."}
                messages[0].content = input[0].content
                messages[1].reasoning_content = input[1].content
                messages[1].content = input[2].content
                messages[1].tool_calls[1].function.arguments = input[4].arguments
                messages[1].tool_calls[0].id = input[3].call_id
                messages[2].tool_call_id = input[5].call_id
                messages[3].content[1].text = input[6].output[1].text
                messages[4].content = input[8].content
                messages = input
            "#]],
        );
    }
}
