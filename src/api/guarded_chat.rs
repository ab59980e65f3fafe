//! The places of a chat that have text: what of it is judged as a whole, and where what is redacted goes.
//!
//! Main type: [`Slots`]. Invariants: all that the model reads of a request is in a slot; a text that stands in several parts
//! is judged as the model reads it, and each part keeps what is left of it. Knows nothing of guardrails but what they
//! replaced.

use std::{collections::VecDeque, ops::Range};

use super::guarded_json::{self, Fate};
use crate::{
    governance::guardrails::Replacement,
    prompt::{ChatRequest, Codec, Part, Passage, ResponseFormat, json},
};

/// All that a chat says.
pub(super) struct Slots<'c> {
    slots: Vec<Slot<'c>>,
}

enum Slot<'c> {
    /// A text in its parts, and the whole of it.
    Text(Vec<Part<'c>>, String),
    /// JSON that is written in a text: what it says is judged, not how that is escaped.
    Written(Vec<Part<'c>>, json::Value),
    Description(&'c mut String),
    Schema(&'c mut json::Value),
    Name(&'c str),
}

impl<'c> Slots<'c> {
    /// Those of a chat, as the codec's template writes it.
    pub(super) fn of(chat: &'c mut ChatRequest, codec: &Codec) -> Self {
        let mut slots: Vec<Slot<'c>> = codec.passages(&mut chat.messages).into_iter().map(Slot::of).collect();
        for tool in &mut chat.tools {
            slots.push(Slot::Name(&tool.name));
            slots.push(Slot::Description(&mut tool.description));
            slots.push(Slot::Schema(&mut tool.parameters));
        }
        // Some templates write it.
        if let ResponseFormat::JsonSchema(schema) = &mut chat.response_format {
            slots.push(Slot::Schema(schema));
        }
        Self { slots }
    }

    /// What is to be judged.
    pub(super) fn texts(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        for slot in &self.slots {
            match slot {
                Slot::Text(_, whole) => texts.push(whole.as_str()),
                Slot::Written(_, value) => guarded_json::texts(value, &mut texts),
                Slot::Description(text) => texts.push(text),
                Slot::Schema(value) => guarded_json::texts(value, &mut texts),
                Slot::Name(name) => texts.push(name),
            }
        }
        texts
    }

    /// What may be done with each of them.
    pub(super) fn fates(&self) -> Vec<Fate> {
        let mut fates = Vec::new();
        for slot in &self.slots {
            match slot {
                Slot::Text(..) | Slot::Description(_) => fates.push(Fate::Replaceable),
                Slot::Written(_, value) => {
                    let mut texts = Vec::new();
                    guarded_json::texts(value, &mut texts);
                    fates.extend(texts.iter().map(|_| Fate::Replaceable));
                }
                Slot::Schema(value) => guarded_json::fates_of_schema(value, &mut fates),
                Slot::Name(_) => fates.push(Fate::Fixed),
            }
        }
        fates
    }

    /// Writes what became of the texts to where they stood.
    pub(super) fn fill(self, checked: Vec<String>, replacements: &[Replacement]) {
        let mut checked: VecDeque<String> = checked.into();
        let total = checked.len();
        for slot in self.slots {
            let number = total - checked.len();
            let mut next = std::iter::from_fn(|| checked.pop_front());
            match slot {
                Slot::Text(parts, _) => {
                    next.next();
                    let first = replacements.partition_point(|replacement| replacement.text < number);
                    let of_text = replacements[first..].iter().take_while(|replacement| replacement.text == number);
                    fill_parts(parts, &of_text.collect::<Vec<_>>());
                }
                // Written anew, so that nothing stays that was not read: a member that comes twice.
                Slot::Written(parts, value) => {
                    let mut text = guarded_json::replace(&value, &mut next).to_json();
                    for part in parts {
                        *part.text = std::mem::take(&mut text); // the first has all of it
                    }
                }
                Slot::Description(text) => {
                    if let Some(new) = next.next() {
                        *text = new;
                    }
                }
                Slot::Schema(value) => *value = guarded_json::replace(value, &mut next),
                Slot::Name(_) => {
                    next.next();
                }
            }
        }
    }
}

impl<'c> Slot<'c> {
    /// What is to be read as JSON and is none is a text like others.
    fn of(passage: Passage<'c>) -> Self {
        match passage {
            Passage::Name(name) => Self::Name(name),
            Passage::Text(parts) => {
                let whole = joined(&parts);
                Self::Text(parts, whole)
            }
            Passage::Json(parts) => {
                let whole = joined(&parts);
                match json::Value::parse(&whole) {
                    Ok(value) => Self::Written(parts, value),
                    Err(_) => Self::Text(parts, whole),
                }
            }
        }
    }
}

fn joined(parts: &[Part<'_>]) -> String {
    parts.iter().flat_map(|part| [part.before, part.text.as_str()]).collect()
}

/// What stands for something is in the first part that it reaches into; the others lose what was theirs.
fn fill_parts(parts: Vec<Part<'_>>, replacements: &[&Replacement]) {
    let mut start = 0;
    // The first that is not over, and the last that is written.
    let (mut first, mut written): (usize, Option<usize>) = (0, None);
    for part in parts {
        start += part.before.len();
        let place = start..start + part.text.len();
        start = place.end;
        let mut text = String::new();
        let mut copied = place.start;
        for (index, replacement) in replacements.iter().enumerate().skip(first) {
            if replacement.range.start >= place.end {
                break;
            }
            first = if replacement.range.end <= place.end { index + 1 } else { index };
            let Some(Range { start, end }) = overlap(&replacement.range, &place) else { continue };
            text.push_str(&part.text[copied - place.start..start - place.start]);
            if written.is_none_or(|last| last < index) {
                text.push_str(&replacement.with);
                written = Some(index);
            }
            copied = end;
        }
        if copied > place.start || !text.is_empty() {
            text.push_str(&part.text[copied - place.start..]);
            *part.text = text;
        }
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> Option<Range<usize>> {
    let (start, end) = (one.start.max(other.start), one.end.min(other.end));
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&str], separator: &'static str, replaced: &[(Range<usize>, &str)], expected: &[&str]) {
        let mut texts: Vec<String> = parts.iter().map(|&text| text.to_owned()).collect();
        let parts = texts.iter_mut().enumerate();
        let part = |(index, text)| Part { before: if index == 0 { "" } else { separator }, text };
        let parts: Vec<Part<'_>> = parts.map(part).collect();
        let replacements: Vec<Replacement> = replaced
            .iter()
            .map(|(range, with)| Replacement {
                text: 0,
                range: range.clone(),
                with: (*with).to_owned(),
                guardrail: "g".into(),
                detector: "d".into(),
            })
            .collect();
        fill_parts(parts, &replacements.iter().collect::<Vec<_>>());
        assert_eq!(texts, expected);
    }

    #[test]
    fn parts_keep_what_is_left_of_them() {
        check(&["abc", "def"], "", &[], &["abc", "def"]);
        check(&["abc", "def"], "", &[(1..2, "X")], &["aXc", "def"]);
        check(&["abc", "def"], "", &[(2..4, "X")], &["abX", "ef"]);
        check(&["abc", "def", "ghi"], "", &[(2..7, "X"), (8..9, "Y")], &["abX", "", "hY"]);
        check(&["abc", "def"], "\n\n", &[(1..7, "X")], &["aX", "f"]);
        check(&["abc", "def"], "\n\n", &[(3..7, "X"), (7..8, "Y")], &["abc", "XY"]);
        check(&["€uro", "s€"], "-", &[(3..8, "")], &["€", "€"]);
    }
}
