//! Pieces of an answer -> items, and the typed events that tell of them.
//!
//! Main type: [`Output`], a pure state machine that is its own record: besides its items it knows where each piece began,
//! so any event can be written at any time, and what is remembered of a stream is no more than the answer itself.
//! Invariants: the items that it ends with are what its events add up to, an item ends before the next one begins, and
//! an event never changes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    api::{error::ApiError, logprobs::ChatToken, turn::TurnEvent},
    store::new_id,
};

/// An event without its number: its type and its members.
pub(super) type TypedEvent = (&'static str, Map<String, Value>);

/// The items of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    items: Vec<Item>,
    /// How many calls have begun.
    calls: usize,
}

/// An item, of which only the last one may grow.
#[derive(Debug)]
struct Item {
    id: String,
    text: String,
    kind: Kind,
    status: ItemStatus,
    /// Where each piece ends.
    ends: Vec<PieceEnd>,
    /// How many events there were before it.
    events_before: usize,
}

#[derive(Debug)]
enum Kind {
    Reasoning,
    Message { logprobs: Vec<ChatToken> },
    Call { call_id: String, name: String },
}

#[derive(Clone, Copy, Debug, Default)]
struct PieceEnd {
    text_bytes: usize,
    /// With log-probabilities.
    tokens: usize,
}

/// What is to be kept of an item beside itself, so that its events can be told again: how long its pieces were.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pieces {
    text_bytes: Vec<usize>,
    /// Empty if there are no log-probabilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<usize>,
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
    /// Takes a piece.
    pub(super) fn push(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Started | TurnEvent::Finished { .. } => {}
            TurnEvent::Reasoning(text) => {
                if !matches!(self.open(), Some(Item { kind: Kind::Reasoning, .. })) {
                    self.begin("rs_", Kind::Reasoning);
                }
                self.add(&text, Vec::new());
            }
            TurnEvent::Content { text, logprobs } => {
                if !matches!(self.open(), Some(Item { kind: Kind::Message { .. }, .. })) {
                    self.begin("msg_", Kind::Message { logprobs: Vec::new() });
                }
                self.add(&text, logprobs);
            }
            TurnEvent::CallBegin { index, id, name } => {
                debug_assert_eq!(index, self.calls, "calls come one after the other");
                self.calls += 1;
                self.begin("fc_", Kind::Call { call_id: id, name });
            }
            TurnEvent::CallArguments { index, fragment } => {
                debug_assert_eq!(index + 1, self.calls, "a call has ended when the next one begins");
                self.add(&fragment, Vec::new());
            }
        }
    }

    /// Ends the last item.
    pub(super) fn finish(&mut self, status: ItemStatus) {
        if let Some(open) = self.open() {
            open.status = status;
        }
    }

    /// The items that have ended.
    pub(super) fn items(&self) -> Vec<Value> {
        self.items.iter().filter(|item| !item.is_open()).map(|item| item.shown(item.status)).collect()
    }

    /// How many events tell of all this.
    pub(super) fn events_len(&self) -> usize {
        self.items.last().map_or(0, |last| last.events_before + last.events_len())
    }

    /// The event of that number, counted from 0; `None` if it is still to come.
    pub(super) fn event(&self, number: usize) -> Option<TypedEvent> {
        let later = self.items.partition_point(|item| item.events_before <= number);
        let index = later.checked_sub(1)?;
        let item = self.items.get(index)?;
        item.event(index, number - item.events_before)
    }

    /// What is to be kept beside the items that have ended.
    pub(super) fn pieces(&self) -> Vec<Pieces> {
        self.items.iter().filter(|item| !item.is_open()).map(Item::pieces).collect()
    }

    /// What items and their pieces were made of: it has the same events.
    pub(super) fn kept(items: &[Value], pieces: &[Pieces]) -> Result<Self, ApiError> {
        if items.len() != pieces.len() {
            return Err(unreadable("it has other items than its stream"));
        }
        let mut output = Self::default();
        for (item, pieces) in items.iter().zip(pieces) {
            output.items.push(Item::kept(item, pieces, output.events_len())?);
        }
        Ok(output)
    }

    fn open(&mut self) -> Option<&mut Item> {
        self.items.last_mut().filter(|item| item.is_open())
    }

    fn begin(&mut self, prefix: &str, kind: Kind) {
        self.finish(ItemStatus::Completed);
        self.items.push(Item {
            id: new_id(prefix),
            text: String::new(),
            kind,
            status: ItemStatus::InProgress,
            ends: Vec::new(),
            events_before: self.events_len(),
        });
    }

    fn add(&mut self, text: &str, tokens: Vec<ChatToken>) {
        let Some(open) = self.open() else { return };
        open.text.push_str(text);
        let mut end = PieceEnd { text_bytes: open.text.len(), tokens: 0 };
        if let Kind::Message { logprobs } = &mut open.kind {
            logprobs.extend(tokens);
            end.tokens = logprobs.len();
        }
        open.ends.push(end);
    }
}

impl Item {
    fn is_open(&self) -> bool {
        self.status == ItemStatus::InProgress
    }

    /// Events before the first piece: of the item, and of its part if it has one.
    fn first_piece(&self) -> usize {
        if matches!(self.kind, Kind::Call { .. }) { 1 } else { 2 }
    }

    fn events_len(&self) -> usize {
        // The end of the text is told as well.
        let at_end = if self.is_open() { 0 } else { self.first_piece() + 1 };
        self.first_piece() + self.ends.len() + at_end
    }

    fn event(&self, index: usize, number: usize) -> Option<TypedEvent> {
        if number >= self.events_len() {
            return None;
        }
        let first_piece = self.first_piece();
        let event = match (number, number.checked_sub(first_piece + self.ends.len())) {
            (0, _) => ("response.output_item.added", Self::of_item(index, &self.begun())),
            (_, None) if number < first_piece => {
                ("response.content_part.added", self.of_part(index, json!({ "part": self.empty_part() })))
            }
            (_, None) => self.delta(index, number - first_piece),
            (_, Some(0)) => self.text_done(index),
            (_, Some(done)) if done < first_piece => {
                ("response.content_part.done", self.of_part(index, json!({ "part": self.part() })))
            }
            (_, Some(_)) => ("response.output_item.done", Self::of_item(index, &self.shown(self.status))),
        };
        Some(event)
    }

    fn delta(&self, index: usize, piece: usize) -> TypedEvent {
        let begin = piece.checked_sub(1).map_or(PieceEnd::default(), |before| self.ends[before]);
        let end = self.ends[piece];
        let text = &self.text[begin.text_bytes..end.text_bytes];
        match &self.kind {
            Kind::Reasoning => ("response.reasoning_text.delta", self.of_part(index, json!({ "delta": text }))),
            Kind::Message { logprobs } => {
                let logprobs = &logprobs[begin.tokens..end.tokens];
                let more = json!({ "delta": text, "logprobs": logprobs });
                ("response.output_text.delta", self.of_part(index, more))
            }
            Kind::Call { .. } => (
                "response.function_call_arguments.delta",
                members(json!({ "item_id": self.id, "output_index": index, "delta": text })),
            ),
        }
    }

    fn text_done(&self, index: usize) -> TypedEvent {
        match &self.kind {
            Kind::Reasoning => ("response.reasoning_text.done", self.of_part(index, json!({ "text": self.text }))),
            Kind::Message { logprobs } => {
                let more = json!({ "text": self.text, "logprobs": logprobs });
                ("response.output_text.done", self.of_part(index, more))
            }
            Kind::Call { name, .. } => (
                "response.function_call_arguments.done",
                members(json!({ "item_id": self.id, "output_index": index, "name": name, "arguments": self.text })),
            ),
        }
    }

    fn of_item(index: usize, item: &Value) -> Map<String, Value> {
        members(json!({ "output_index": index, "item": item }))
    }

    fn of_part(&self, index: usize, more: Value) -> Map<String, Value> {
        let mut event = members(json!({ "item_id": self.id, "output_index": index, "content_index": 0 }));
        event.extend(members(more));
        event
    }

    /// The item as it begins, without parts and arguments.
    fn begun(&self) -> Value {
        self.written(ItemStatus::InProgress, Vec::new(), "")
    }

    fn shown(&self, status: ItemStatus) -> Value {
        self.written(status, self.part().into_iter().collect(), &self.text)
    }

    fn written(&self, status: ItemStatus, parts: Vec<Value>, arguments: &str) -> Value {
        let (id, status) = (&self.id, status.as_str());
        match &self.kind {
            Kind::Reasoning => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": parts })
            }
            Kind::Message { .. } => {
                json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": parts })
            }
            Kind::Call { call_id, name } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": arguments,
            }),
        }
    }

    /// The one part of the content.
    fn part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Reasoning => Some(reasoning_part(&self.text)),
            Kind::Message { logprobs } => Some(text_part(&self.text, logprobs)),
            Kind::Call { .. } => None,
        }
    }

    /// The same as it begins.
    fn empty_part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Reasoning => Some(reasoning_part("")),
            Kind::Message { .. } => Some(text_part("", &[])),
            Kind::Call { .. } => None,
        }
    }

    fn pieces(&self) -> Pieces {
        let mut pieces = Pieces::default();
        let mut before = PieceEnd::default();
        for end in &self.ends {
            pieces.text_bytes.push(end.text_bytes - before.text_bytes);
            pieces.tokens.push(end.tokens - before.tokens);
            before = *end;
        }
        if before.tokens == 0 {
            pieces.tokens.clear();
        }
        pieces
    }

    fn kept(item: &Value, pieces: &Pieces, events_before: usize) -> Result<Self, ApiError> {
        let text_of = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| unreadable("a text is missing"));
        let part = &item["content"][0];
        let (text, kind) = match item["type"].as_str() {
            Some("reasoning") => (text_of(&part["text"])?, Kind::Reasoning),
            Some("message") => {
                let logprobs = Vec::deserialize(&part["logprobs"]).map_err(|error| unreadable(&error.to_string()))?;
                (text_of(&part["text"])?, Kind::Message { logprobs })
            }
            Some("function_call") => {
                let (call_id, name) = (text_of(&item["call_id"])?, text_of(&item["name"])?);
                (text_of(&item["arguments"])?, Kind::Call { call_id, name })
            }
            Some(_) | None => return Err(unreadable("no model writes such an item")),
        };
        let status = if item["status"] == "completed" { ItemStatus::Completed } else { ItemStatus::Incomplete };
        let (mut ends, mut end) = (Vec::new(), PieceEnd::default());
        for (index, bytes) in pieces.text_bytes.iter().enumerate() {
            end.text_bytes = end.text_bytes.saturating_add(*bytes);
            end.tokens = end.tokens.saturating_add(pieces.tokens.get(index).copied().unwrap_or_default());
            if !text.is_char_boundary(end.text_bytes) {
                return Err(unreadable("its stream has other texts"));
            }
            ends.push(end);
        }
        let tokens = if let Kind::Message { logprobs } = &kind { logprobs.len() } else { 0 };
        if (end.text_bytes, end.tokens) != (text.len(), tokens) {
            return Err(unreadable("its stream has other texts"));
        }
        Ok(Self { id: text_of(&item["id"])?, text, kind, status, ends, events_before })
    }
}

fn reasoning_part(text: &str) -> Value {
    json!({ "type": "reasoning_text", "text": text })
}

fn text_part(text: &str, logprobs: &[ChatToken]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

fn unreadable(reason: &str) -> ApiError {
    ApiError::Internal { message: format!("A stored response cannot be read: {reason}.") }
}
