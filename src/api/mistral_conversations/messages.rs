//! Entries -> the messages of a chat, with the names that their places have in the request.
//!
//! What a model said and did in one answer becomes one message again: a text, calls. A handoff is a call of the function
//! that handed over, answered at once; where a user's message follows it is left out, as templates have no place for a
//! user's message behind a result.

use serde_json::{Value, json};

use super::entry::{Entry, Recorded, Role};
use crate::{
    api::{agents::handoff::function_name, turn::FieldNames},
    prompt::Codec,
};

/// A message of the model's that is being put together.
#[derive(Default)]
struct Answer {
    content: Option<Value>,
    calls: Vec<Value>,
    /// The result of the call that handed over, which is the last one.
    handed_over: Option<Value>,
    path: Option<String>,
    call_paths: Vec<(usize, String)>,
}

/// Can a message have a text beside its calls? Not every tokenizer has a place for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextBesideCalls {
    Kept,
    LeftOut,
}

impl TextBesideCalls {
    pub(super) fn of(codec: &Codec) -> Self {
        let has_no_place = codec.version().is_some_and(|version| !version.allows_text_with_calls());
        if has_no_place && !codec.uses_jinja() { Self::LeftOut } else { Self::Kept }
    }
}

/// Puts messages together.
pub(super) struct Messages {
    messages: Vec<Value>,
    /// So many messages stand before them.
    offset: usize,
    names: FieldNames,
    text_beside_calls: TextBesideCalls,
    answer: Option<Answer>,
}

impl Messages {
    /// Behind `offset` other messages, whose names are known.
    pub(super) fn behind(offset: usize, names: FieldNames, text_beside_calls: TextBesideCalls) -> Self {
        Self { messages: Vec::new(), offset, names, text_beside_calls, answer: None }
    }

    pub(super) fn add(&mut self, recorded: &Recorded) {
        let Recorded { id, entry, path, .. } = recorded;
        match entry {
            Entry::Input { role: Role::User, content } => {
                if let Some(answer) = &mut self.answer
                    && answer.handed_over.take().is_some()
                {
                    answer.calls.pop();
                }
                self.close();
                self.push(json!({ "role": "user", "content": content }), path.as_deref(), "content");
            }
            Entry::Input { role: Role::Assistant, content } | Entry::Output { content, .. } => {
                self.close();
                // No template has a form for an answer of nothing.
                let is_empty = content.as_str() == Some("") || content.as_array().is_some_and(Vec::is_empty);
                let content = Some(content.clone()).filter(|_| !is_empty);
                self.answer = Some(Answer { content, path: path.clone(), ..Answer::default() });
            }
            Entry::Call { tool_call_id, name, arguments, .. } => {
                let answer = self.open();
                let function = json!({ "name": name, "arguments": arguments });
                answer.call_paths.extend(path.iter().map(|path| (answer.calls.len(), path.clone())));
                answer.calls.push(json!({ "id": tool_call_id, "type": "function", "function": function }));
            }
            Entry::Handoff { next_agent_name, .. } => {
                let answer = self.open();
                let function = json!({ "name": function_name(next_agent_name, 1), "arguments": "{}" });
                answer.calls.push(json!({ "id": id, "type": "function", "function": function }));
                let content = json!({ "agent": next_agent_name }).to_string();
                answer.handed_over = Some(json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            Entry::Result { tool_call_id, result } => {
                self.close();
                let message = json!({ "role": "tool", "tool_call_id": tool_call_id, "content": result });
                self.push(message, path.as_deref(), "result");
            }
        }
    }

    /// All messages, and the names of all places.
    pub(super) fn finish(mut self) -> (Vec<Value>, FieldNames) {
        self.close();
        (self.messages, self.names)
    }

    /// The model's message that a call belongs to.
    fn open(&mut self) -> &mut Answer {
        if self.answer.as_ref().is_some_and(|answer| answer.handed_over.is_some()) {
            self.close();
        }
        self.answer.get_or_insert_default()
    }

    /// Ends the model's message that is being put together, if one is.
    fn close(&mut self) {
        let Some(Answer { content, calls, handed_over, path, call_paths }) = self.answer.take() else { return };
        if content.is_none() && calls.is_empty() {
            return;
        }
        let place = format!("messages[{}]", self.offset + self.messages.len());
        for (index, path) in call_paths {
            let call = format!("{place}.tool_calls[{index}]");
            self.names.add(format!("{call}.id"), format!("{path}.tool_call_id"));
            self.names.add(format!("{call}.function"), path.clone());
            self.names.add(call, path);
        }
        let is_left_out = self.text_beside_calls == TextBesideCalls::LeftOut && !calls.is_empty();
        let content = content.filter(|_| !is_left_out);
        let mut message = json!({ "role": "assistant", "content": content.unwrap_or_else(|| "".into()) });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        self.push(message, path.as_deref(), "content");
        self.messages.extend(handed_over);
    }

    /// Adds a message whose content is called `content` at `path`.
    fn push(&mut self, message: Value, path: Option<&str>, content: &str) {
        let place = format!("messages[{}]", self.offset + self.messages.len());
        match path {
            None => {}
            // A text alone has no parts.
            Some("inputs") => {
                self.names.add(format!("{place}.content"), "inputs");
                self.names.add(place, "inputs");
            }
            Some(path) => {
                self.names.add(format!("{place}.content"), format!("{path}.{content}"));
                self.names.add(place, path);
            }
        }
        self.messages.push(message);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(entries: &[Value], expected: Expect) {
        check_with(TextBesideCalls::Kept, entries, expected);
    }

    fn check_with(text_beside_calls: TextBesideCalls, entries: &[Value], expected: Expect) {
        let mut messages = Messages::behind(0, FieldNames::default(), text_beside_calls);
        for (index, entry) in entries.iter().enumerate() {
            let entry = serde_json::from_value(entry.clone()).expect("an entry");
            messages.add(&Recorded { id: format!("id{index}"), created_at: 0, entry, path: None });
        }
        let lines: Vec<String> = messages.finish().0.iter().map(|message| format!("{message}\n")).collect();
        expected.assert_eq(&lines.concat());
    }

    fn user(text: &str) -> Value {
        json!({ "type": "message.input", "role": "user", "content": text })
    }

    fn output(text: &str) -> Value {
        json!({ "type": "message.output", "content": text })
    }

    fn call(id: &str) -> Value {
        json!({ "type": "function.call", "tool_call_id": id, "name": "f", "arguments": "{}" })
    }

    fn handoff() -> Value {
        json!({ "type": "agent.handoff", "previous_agent_id": "a", "previous_agent_name": "A", "next_agent_id": "b",
            "next_agent_name": "B" })
    }

    #[test]
    fn what_was_one_answer_is_one_message() {
        let result = json!({ "type": "function.result", "tool_call_id": "c1", "result": "7" });
        check(
            &[user("Hi"), output("Wait."), call("c1"), call("c2"), result, output(""), user("So?")],
            expect![[r#"
                {"role":"user","content":"Hi"}
                {"role":"assistant","content":"Wait.","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"c2","type":"function","function":{"name":"f","arguments":"{}"}}]}
                {"role":"tool","tool_call_id":"c1","content":"7"}
                {"role":"user","content":"So?"}
            "#]],
        );
    }

    #[test]
    fn a_text_that_has_no_place_beside_calls_is_left_out() {
        check_with(
            TextBesideCalls::LeftOut,
            &[output("Wait."), call("c1"), output("Well.")],
            expect![[r#"
                {"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}
                {"role":"assistant","content":"Well."}
            "#]],
        );
    }

    #[test]
    fn a_handoff_is_a_call_with_its_result() {
        check(
            &[user("Hi"), output("B knows."), handoff(), output("Yes."), handoff()],
            expect![[r#"
                {"role":"user","content":"Hi"}
                {"role":"assistant","content":"B knows.","tool_calls":[{"id":"id2","type":"function","function":{"name":"transfer_to_B","arguments":"{}"}}]}
                {"role":"tool","tool_call_id":"id2","content":"{\"agent\":\"B\"}"}
                {"role":"assistant","content":"Yes.","tool_calls":[{"id":"id4","type":"function","function":{"name":"transfer_to_B","arguments":"{}"}}]}
                {"role":"tool","tool_call_id":"id4","content":"{\"agent\":\"B\"}"}
            "#]],
        );
    }

    #[test]
    fn a_handoff_before_a_users_message_leaves_no_trace() {
        check(
            &[user("Hi"), handoff(), user("Are you B?"), output("Yes."), handoff(), user("Still?")],
            expect![[r#"
                {"role":"user","content":"Hi"}
                {"role":"user","content":"Are you B?"}
                {"role":"assistant","content":"Yes."}
                {"role":"user","content":"Still?"}
            "#]],
        );
    }
}
