//! Tool calls as v2 to v7 write them: one JSON list after `[TOOL_CALLS]`.
//!
//! Main type: [`CallList`]. A call is handed out when its object is complete: the id, which a client
//! must get first, is the object's last key, so arguments cannot be handed out any earlier.

use super::json_scanner::JsonScanner;
use crate::prompt::json::Value;

/// A call that is complete.
#[derive(Debug, PartialEq)]
pub(super) struct ListedCall {
    pub(super) id: Option<String>,
    pub(super) name: String,
    /// JSON text as the model wrote it, apart from white space.
    pub(super) arguments: String,
}

/// The list so far.
#[derive(Debug, Clone, Default)]
pub(super) struct CallList {
    scanner: JsonScanner,
    /// What is not handed out yet: the object being written and what stands before it.
    text: String,
    /// Where the object being written starts in `text`.
    object_start: Option<usize>,
    has_begun: bool,
}

/// What a character brought.
#[derive(Debug, PartialEq)]
pub(super) enum ListStep {
    More,
    Call(ListedCall),
    /// The list is closed.
    End,
    /// This is no list of calls; the text that was held back is ordinary text.
    Broken(String),
}

impl CallList {
    pub(super) fn step(&mut self, character: char) -> ListStep {
        self.text.push(character);
        if !self.has_begun {
            return match character {
                '[' => {
                    self.has_begun = true;
                    self.scanner.step(character);
                    ListStep::More
                }
                space if space.is_whitespace() => ListStep::More,
                _ => ListStep::Broken(self.rest()),
            };
        }
        match self.scanner.step(character) {
            0 => self.end(),
            1 if self.object_start.is_some() => self.end_of_object(),
            1 if character.is_whitespace() || character == ',' => ListStep::More,
            1 => ListStep::Broken(self.rest()),
            _ => {
                self.object_start.get_or_insert(self.text.len() - character.len_utf8());
                ListStep::More
            }
        }
    }

    /// What was held back, if the model stops here.
    pub(super) fn rest(&mut self) -> String {
        self.object_start = None;
        std::mem::take(&mut self.text)
    }

    fn end(&mut self) -> ListStep {
        if self.text.ends_with(']') && self.object_start.is_none() {
            self.text.clear();
            return ListStep::End;
        }
        ListStep::Broken(self.rest())
    }

    fn end_of_object(&mut self) -> ListStep {
        let start = self.object_start.unwrap_or(0);
        match Value::parse(&self.text[start..]).ok().as_ref().and_then(listed_call) {
            Some(call) => {
                self.rest();
                ListStep::Call(call)
            }
            None => ListStep::Broken(self.rest()),
        }
    }
}

fn listed_call(value: &Value) -> Option<ListedCall> {
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match value.get("arguments") {
        None => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(arguments) => arguments.to_json(),
    };
    let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
    Some(ListedCall { id, name, arguments })
}
