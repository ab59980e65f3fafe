//! Pieces of an answer -> items, and the typed events that tell of them.
//!
//! Main type: [`Output`], a pure state machine. Invariants: the items that it ends with are what its events add up to,
//! and an item ends before the next one begins.

use serde_json::{Map, Value, json};

use crate::{
    api::{logprobs::ChatToken, turn::TurnEvent},
    store::new_id,
};

/// An event without its number: its type and its members.
pub(super) type TypedEvent = (&'static str, Map<String, Value>);

/// The items of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    done: Vec<Value>,
    open: Option<Open>,
    /// How many calls have begun.
    calls: usize,
}

/// An item that may grow.
#[derive(Debug)]
struct Open {
    id: String,
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Reasoning,
    Message { logprobs: Vec<ChatToken> },
    Call { call_id: String, name: String },
}

/// What an item's `status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

impl ItemStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Output {
    /// Takes a piece; gives the events that tell of it.
    pub(super) fn push(&mut self, event: TurnEvent) -> Vec<TypedEvent> {
        let mut events = Vec::new();
        match event {
            TurnEvent::Started | TurnEvent::Finished { .. } => {}
            TurnEvent::Reasoning(text) => {
                if !matches!(self.open, Some(Open { kind: Kind::Reasoning, .. })) {
                    self.begin("rs_", Kind::Reasoning, &mut events);
                }
                self.add("response.reasoning_text.delta", &text, &[], &mut events);
            }
            TurnEvent::Content { text, logprobs } => {
                if !matches!(self.open, Some(Open { kind: Kind::Message { .. }, .. })) {
                    self.begin("msg_", Kind::Message { logprobs: Vec::new() }, &mut events);
                }
                self.add("response.output_text.delta", &text, &logprobs, &mut events);
                if let Some(Open { kind: Kind::Message { logprobs: all }, .. }) = &mut self.open {
                    all.extend(logprobs);
                }
            }
            TurnEvent::CallBegin { index, id, name } => {
                debug_assert_eq!(index, self.calls, "calls come one after the other");
                self.calls += 1;
                self.begin("fc_", Kind::Call { call_id: id, name }, &mut events);
            }
            TurnEvent::CallArguments { index, fragment } => {
                debug_assert_eq!(index + 1, self.calls, "a call has ended when the next one begins");
                self.add("response.function_call_arguments.delta", &fragment, &[], &mut events);
            }
        }
        events
    }

    /// Ends the last item.
    pub(super) fn finish(&mut self, status: ItemStatus) -> Vec<TypedEvent> {
        let mut events = Vec::new();
        self.close(status, &mut events);
        events
    }

    /// The items that have ended.
    pub(super) fn items(&self) -> &[Value] {
        &self.done
    }

    fn begin(&mut self, prefix: &str, kind: Kind, events: &mut Vec<TypedEvent>) {
        self.close(ItemStatus::Completed, events);
        let open = Open { id: new_id(prefix), text: String::new(), kind };
        let item = open.begun();
        events.push(("response.output_item.added", members(json!({ "output_index": self.index(), "item": item }))));
        if let Some(part) = open.part() {
            events.push(("response.content_part.added", self.of_part(&open, json!({ "part": part }))));
        }
        self.open = Some(open);
    }

    fn add(&mut self, kind: &'static str, text: &str, logprobs: &[ChatToken], events: &mut Vec<TypedEvent>) {
        let index = self.index();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut event = Map::new();
        event.insert("item_id".to_owned(), open.id.as_str().into());
        event.insert("output_index".to_owned(), index.into());
        if !matches!(open.kind, Kind::Call { .. }) {
            event.insert("content_index".to_owned(), 0.into());
        }
        event.insert("delta".to_owned(), text.into());
        if matches!(open.kind, Kind::Message { .. }) {
            event.insert("logprobs".to_owned(), json!(logprobs));
        }
        events.push((kind, event));
    }

    fn close(&mut self, status: ItemStatus, events: &mut Vec<TypedEvent>) {
        let Some(open) = self.open.take() else { return };
        let done = match &open.kind {
            Kind::Reasoning => ("response.reasoning_text.done", json!({ "text": open.text })),
            Kind::Message { logprobs } => {
                ("response.output_text.done", json!({ "text": open.text, "logprobs": logprobs }))
            }
            Kind::Call { name, .. } => (
                "response.function_call_arguments.done",
                json!({ "item_id": open.id, "output_index": self.index(), "name": name, "arguments": open.text }),
            ),
        };
        match open.part() {
            None => events.push((done.0, members(done.1))),
            Some(part) => {
                events.push((done.0, self.of_part(&open, done.1)));
                events.push(("response.content_part.done", self.of_part(&open, json!({ "part": part }))));
            }
        }
        let item = open.item(status);
        events.push(("response.output_item.done", members(json!({ "output_index": self.index(), "item": item }))));
        self.done.push(item);
    }

    /// Of the item that is open.
    fn index(&self) -> usize {
        self.done.len()
    }

    fn of_part(&self, open: &Open, more: Value) -> Map<String, Value> {
        let mut event = members(json!({ "item_id": open.id, "output_index": self.index(), "content_index": 0 }));
        event.extend(members(more));
        event
    }
}

impl Open {
    /// The item as it begins, without parts.
    fn begun(&self) -> Value {
        let mut item = self.item(ItemStatus::InProgress);
        if !matches!(self.kind, Kind::Call { .. }) {
            item["content"] = json!([]);
        }
        item
    }

    fn item(&self, status: ItemStatus) -> Value {
        let (id, status, parts) = (&self.id, status.as_str(), [self.part()]);
        match &self.kind {
            Kind::Reasoning => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": parts })
            }
            Kind::Message { .. } => {
                json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": parts })
            }
            Kind::Call { call_id, name } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": self.text,
            }),
        }
    }

    /// The one part of the content.
    fn part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": self.text })),
            Kind::Message { logprobs } => Some(json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs,
            })),
            Kind::Call { .. } => None,
        }
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
