//! What placeholders stand for. A [`Vault`] is made with a request and gone with its answer.
//!
//! Invariants: one text of a kind has one placeholder; no placeholder occurs in what the caller sent; what the vault
//! holds is never printed.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

/// The longest name of a kind and number between the brackets of a placeholder, in bytes.
const LONGEST_NAME: usize = 40;

/// The placeholders of a request and what they stand for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vault {
    entries: Vec<Entry>,
    numbers: HashMap<&'static str, usize>,
    by_value: HashMap<(&'static str, String), usize>,
    by_placeholder: HashMap<String, usize>,
    taken: HashSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    placeholder: String,
    value: String,
}

/// What is at an opening bracket.
pub(super) enum Bracket {
    /// No placeholder.
    Nothing,
    /// A placeholder of so many bytes, and its number.
    Placeholder(usize, usize),
    /// More of the text would tell.
    Unfinished,
}

impl Vault {
    /// A vault for requests of these texts.
    pub(super) fn new(texts: &[&str]) -> Self {
        let mut taken = HashSet::new();
        for text in texts {
            for (at, _) in text.match_indices('[') {
                if let Some(length) = bracket_length(&text[at..]) {
                    taken.insert(text[at..at + length].to_owned());
                }
            }
        }
        Self { taken, ..Self::default() }
    }

    /// Is there nothing to restore?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many placeholders there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// A text with what its placeholders stand for. Of an answer in pieces, [`OutputGuard`](super::OutputGuard) does it.
    pub fn restore(&self, text: &str) -> String {
        let mut restored = String::with_capacity(text.len());
        let mut copied = 0;
        for (at, _) in text.match_indices('[') {
            if let Bracket::Placeholder(length, index) = self.bracket(&text[at..], true) {
                restored.push_str(&text[copied..at]);
                restored.push_str(self.value(index));
                copied = at + length;
            }
        }
        restored.push_str(&text[copied..]);
        restored
    }

    /// The placeholder for a value of a kind.
    pub(super) fn placeholder(&mut self, kind: &'static str, value: &str) -> &str {
        let key = (kind, value.to_owned());
        let index = match self.by_value.get(&key) {
            Some(&index) => index,
            None => {
                let placeholder = self.unused(kind);
                let index = self.entries.len();
                self.by_placeholder.insert(placeholder.clone(), index);
                self.by_value.insert(key, index);
                self.entries.push(Entry { placeholder, value: value.to_owned() });
                index
            }
        };
        &self.entries[index].placeholder
    }

    /// What a placeholder stands for.
    pub(super) fn value(&self, index: usize) -> &str {
        &self.entries[index].value
    }

    /// What is at the beginning of a text, which is an opening bracket.
    pub(super) fn bracket(&self, text: &str, is_whole: bool) -> Bracket {
        match bracket_length(text) {
            Some(length) => match self.by_placeholder.get(&text[..length]) {
                Some(&index) => Bracket::Placeholder(length, index),
                None => Bracket::Nothing,
            },
            None if !is_whole && text.len() <= 1 + LONGEST_NAME && text[1..].bytes().all(is_name) => {
                Bracket::Unfinished
            }
            None => Bracket::Nothing,
        }
    }

    fn unused(&mut self, kind: &'static str) -> String {
        let number = self.numbers.entry(kind).or_default();
        loop {
            *number += 1;
            let placeholder = format!("[{kind}_{number}]");
            if !self.taken.contains(&placeholder) {
                return placeholder;
            }
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vault").field("placeholders", &self.entries.len()).finish_non_exhaustive()
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'
}

/// How long what looks like a placeholder is, its brackets included.
fn bracket_length(text: &str) -> Option<usize> {
    let name = text[1..].bytes().take(LONGEST_NAME).take_while(|&byte| is_name(byte)).count();
    (name > 0 && text.as_bytes().get(1 + name) == Some(&b']')).then_some(name + 2)
}
