//! Keeps control tokens that a request spells out from being recognized in a rendered prompt.
//!
//! Main type: [`Guard`]. Before rendering, a marker goes behind the first character of every control
//! token's name in the request's strings, also where names overlap, and into any part of a name at
//! the edge of a string, which the template's own text could complete; after rendering, the names
//! are searched, and then the markers are taken out of the text between them. The marker is one of
//! the 32 code points U+FDD0 to U+FDEF, which Unicode reserves as "not a character"; one that
//! neither the request nor a name contains.
//!
//! Invariant: every name has two characters at least, or there would be no place for a marker.

use std::collections::BTreeSet;

use crate::prompt::json::{Object, Value};

/// What may serve as marker.
const MARKERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// The names to guard.
#[derive(Debug)]
pub(super) struct Guard {
    names: Vec<String>,
}

impl Guard {
    /// Guards these names, each of two characters or more.
    pub(super) fn new(names: Vec<String>) -> Guard {
        debug_assert!(names.iter().all(|name| name.chars().nth(1).is_some()), "a marker needs a place in each name");
        Guard { names }
    }

    /// A marker that occurs neither in the values nor in a name.
    pub(super) fn marker_for(&self, values: &[&Value]) -> Option<char> {
        let is_used = |marker: char| {
            values.iter().any(|value| contains(value, marker)) || self.names.iter().any(|name| name.contains(marker))
        };
        MARKERS.into_iter().find(|marker| !is_used(*marker))
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
        let mut places = BTreeSet::new();
        for name in &self.names {
            mark_occurrences(text, name, &mut places);
            mark_edges(text, name, &mut places);
            // Templates trim.
            let trimmed = text.trim();
            let offset = text.len() - text.trim_start().len();
            let mut trimmed_places = BTreeSet::new();
            if trimmed.len() < text.len() {
                mark_edges(trimmed, name, &mut trimmed_places);
            }
            places.extend(trimmed_places.into_iter().map(|place| offset + place));
        }
        let mut marked = String::with_capacity(text.len() + places.len() * marker.len_utf8());
        let mut at = 0;
        for place in places {
            marked.push_str(&text[at..place]);
            marked.push(marker);
            at = place;
        }
        marked.push_str(&text[at..]);
        marked
    }
}

/// A place inside each occurrence of the name, those that overlap included.
fn mark_occurrences(text: &str, name: &str, places: &mut BTreeSet<usize>) {
    let first = first_len(name);
    let mut at = 0;
    while let Some(found) = text[at..].find(name) {
        at += found + first;
        places.insert(at);
    }
}

/// A place in what the template could complete to the name: a beginning of it at the end of the text, an end of
/// it at the beginning.
fn mark_edges(text: &str, name: &str, places: &mut BTreeSet<usize>) {
    let (first, last) = (first_len(name), name.chars().next_back().map_or(0, char::len_utf8));
    for (cut, _) in name.char_indices().skip(1) {
        let (beginning, end) = name.split_at(cut);
        if text.ends_with(beginning) {
            places.insert(text.len() - beginning.len() + first);
        }
        if text.starts_with(end) {
            places.insert(end.len() - last);
        }
    }
}

fn first_len(name: &str) -> usize {
    name.chars().next().map_or(0, char::len_utf8)
}

fn contains(value: &Value, character: char) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains(character),
        Value::Array(items) => items.iter().any(|item| contains(item, character)),
        Value::Object(object) => object.iter().any(|(key, item)| key.contains(character) || contains(item, character)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(names: &[&str], text: &str, expected: &str) {
        let guard = Guard::new(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(guard.mark_text(text, '\u{FDD0}').replace('\u{FDD0}', "|"), expected);
    }

    #[test]
    fn marks() {
        check(&["<s>"], "a<s>b", "a<|s>b");
        check(&["aa"], "xaaax", "xa|a|ax");
        check(&["abab"], "xababab", "xa|ba|ba|b");
        check(&["ab", "bc"], "xabcx", "xa|b|cx");
        check(&["<s>"], "x <", "x <|");
        check(&["<s>"], " s> <s ", " s|> <|s ");
        check(&["éé"], "xéééx", "xé|é|éx");
        check(&["<s>"], "> s <", "|> s <|");
        check(&["<s>"], "nothing", "nothing");
    }

    proptest! {
        /// Letters are few, so that names overlap with themselves, with each other and with what stands around.
        #[test]
        fn no_name_survives(
            names in prop::collection::vec("[ab<é]{2,4}", 1..4),
            text in "[ab<é ]{0,12}",
            (before, after) in ("[ab<é]{0,3}", "[ab<é]{0,3}"),
        ) {
            let marker = '\u{FDD0}';
            let marked = Guard::new(names.clone()).mark_text(&text, marker);
            prop_assert_eq!(marked.replace(marker, ""), &*text);
            for (inner, is_whole) in [(marked.as_str(), true), (marked.trim(), text.trim() != text)] {
                let around = format!("{before}{inner}{after}");
                for name in &names {
                    for (start, _) in around.match_indices(name.as_str()) {
                        let (inner_start, inner_end) = (before.len(), before.len() + inner.len());
                        let outside = start + name.len() <= inner_start || start >= inner_end;
                        // Of a name whose both ends the template writes, the text is a middle.
                        let around_text = start < inner_start && start + name.len() > inner_end;
                        prop_assert!(outside || around_text, "{name} in {around} (whole: {is_whole})");
                    }
                }
            }
        }
    }
}
