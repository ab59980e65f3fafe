//! Keeps control tokens that a request spells out from being recognized in a rendered prompt.
//!
//! Main type: [`Guard`]. Before rendering, a marker goes behind the first character of every control
//! token's name in the request's strings; after rendering, the names are searched, and then the
//! markers are taken out of the text between them. The marker is one of the 32 code points U+FDD0 to
//! U+FDEF, which Unicode reserves as "not a character"; one that the request does not contain.

use crate::prompt::json::{Object, Value};

/// What may serve as marker.
const MARKERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// The names to guard.
#[derive(Debug)]
pub(super) struct Guard {
    names: Vec<String>,
}

/// A marker that occurs in none of the values.
pub(super) fn marker_for(values: &[&Value]) -> Option<char> {
    MARKERS.into_iter().find(|marker| !values.iter().any(|value| contains(value, *marker)))
}

impl Guard {
    pub(super) fn new(names: Vec<String>) -> Guard {
        Guard { names }
    }

    /// A copy with all strings marked, keys included.
    pub(super) fn mark(&self, value: &Value, marker: char) -> Value {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) => Value::String(self.mark_text(text, marker)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.mark(item, marker)).collect()),
            Value::Object(object) => {
                let mut marked = Object::new();
                for (key, item) in object.iter() {
                    marked.push_unique(self.mark_text(key, marker), self.mark(item, marker));
                }
                Value::Object(marked)
            }
        }
    }

    fn mark_text(&self, text: &str, marker: char) -> String {
        let mut marked = text.to_owned();
        for name in &self.names {
            if marked.contains(name.as_str()) {
                let first = name.chars().next().map_or(0, char::len_utf8);
                let broken = format!("{}{marker}{}", &name[..first], &name[first..]);
                marked = marked.replace(name.as_str(), &broken);
            }
        }
        marked
    }
}

fn contains(value: &Value, character: char) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains(character),
        Value::Array(items) => items.iter().any(|item| contains(item, character)),
        Value::Object(object) => object.iter().any(|(key, item)| key.contains(character) || contains(item, character)),
    }
}
