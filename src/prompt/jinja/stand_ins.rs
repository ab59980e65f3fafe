//! What stands for control tokens while a template renders.
//!
//! Main types: [`Names`], those of a vocabulary's control tokens, and [`StandIns`], a character for each of them that
//! neither the template nor the request contains. Names are looked for once, in the template's own text, and become
//! stand-ins there; what is rendered is only looked through for stand-ins.
//!
//! Invariant: a stand-in is one character, so no part of it can come from anywhere but the template, however that
//! cuts, joins and changes what it was given. (It would have to make a character of a request's number, with `%c`.)
//! A name that the template has not in one piece is text.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use regex::{Captures, Regex};

use crate::prompt::error::PromptError;
use crate::prompt::json::Value;
use crate::prompt::tokenizer::Tokenizer;

/// Where stand-ins come from: the second half of the last area for private use, as some fonts have icons in the
/// first.
const PLACES: std::ops::RangeInclusive<char> = '\u{108000}'..='\u{10FFFD}';

/// The control tokens that a template may write.
#[derive(Debug)]
pub(super) struct Names {
    tokens: Arc<[(String, u32)]>,
    index: HashMap<String, u32>,
    /// Any of the names; `None` if there are none.
    pattern: Option<Regex>,
}

/// A character for each of the names, in their order.
#[derive(Debug)]
pub(super) struct StandIns {
    first: u32,
    tokens: Arc<[(String, u32)]>,
}

impl Names {
    /// The names of a vocabulary.
    pub(super) fn of(tokenizer: &Tokenizer) -> Result<Names, PromptError> {
        let mut tokens = tokenizer.control_tokens();
        // Of two names where one begins with the other, the longer one is meant.
        tokens.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        // A name of one character would take that character from all of the template's text.
        let (tokens, letters): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|(name, _)| name.chars().nth(1).is_some());
        if letters.iter().any(|(name, _)| !name.is_empty()) {
            tracing::warn!(?letters, "control tokens of one character are text where a chat template writes them");
        }
        let alternatives: Vec<String> = tokens.iter().map(|(name, _)| regex::escape(name)).collect();
        let pattern = match alternatives.is_empty() {
            true => None,
            false => Some(Regex::new(&alternatives.join("|")).map_err(|error| PromptError::ChatTemplate {
                reason: format!("cannot look for {} control tokens: {error}", tokens.len()),
            })?),
        };
        let index = (0..).zip(&tokens).map(|(index, (name, _))| ((*name).to_owned(), index)).collect();
        let tokens = tokens.into_iter().map(|(name, id)| (name.to_owned(), id)).collect();
        Ok(Names { tokens, index, pattern })
    }

    /// Stand-ins that are none of the characters in `taken`. `None` if that leaves too few.
    pub(super) fn stand_ins(&self, taken: &BTreeSet<char>) -> Option<StandIns> {
        let end = u32::from(*PLACES.end()) + 1;
        let mut first = u32::from(*PLACES.start());
        for taken in taken.iter().map(|taken| u32::from(*taken)).chain([end]) {
            if (taken - first) as usize >= self.tokens.len() {
                return Some(StandIns { first, tokens: Arc::clone(&self.tokens) });
            }
            first = taken + 1;
        }
        None
    }

    /// The text with stand-ins in place of names.
    pub(super) fn replaced(&self, text: &str, stand_ins: &StandIns) -> String {
        let Some(pattern) = &self.pattern else { return text.to_owned() };
        let replaced = pattern.replace_all(text, |found: &Captures| match self.index.get(&found[0]) {
            Some(index) => stand_ins.at(*index).to_string(),
            None => found[0].to_owned(),
        });
        replaced.into_owned()
    }

    /// The names that a text contains.
    pub(super) fn found_in<'t>(&self, text: &'t str) -> BTreeSet<&'t str> {
        self.pattern.iter().flat_map(|pattern| pattern.find_iter(text)).map(|found| found.as_str()).collect()
    }
}

impl StandIns {
    /// The control token that a character stands for.
    pub(super) fn id(&self, character: char) -> Option<u32> {
        self.token(character).map(|(_, id)| *id)
    }

    /// What stands for a control token.
    pub(super) fn of(&self, id: u32) -> Option<char> {
        let index = self.tokens.iter().position(|(_, of)| *of == id)?;
        char::from_u32(self.first + u32::try_from(index).ok()?)
    }

    /// The text with names in place of stand-ins: for people.
    pub(super) fn spelled(&self, text: &str) -> String {
        let mut spelled = String::with_capacity(text.len());
        for character in text.chars() {
            match self.token(character) {
                Some((name, _)) => spelled.push_str(name),
                None => spelled.push(character),
            }
        }
        spelled
    }

    fn token(&self, character: char) -> Option<&(String, u32)> {
        self.tokens.get(u32::from(character).checked_sub(self.first)? as usize)
    }

    fn at(&self, index: u32) -> char {
        char::from_u32(self.first + index).expect("private use has no gaps")
    }
}

/// Adds the characters of a text that could be stand-ins.
pub(super) fn add_private_use(text: &str, taken: &mut BTreeSet<char>) {
    taken.extend(text.chars().filter(|character| PLACES.contains(character)));
}

/// The same for all texts of a value, keys included.
pub(super) fn add_private_use_of(value: &Value, taken: &mut BTreeSet<char>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => add_private_use(text, taken),
        Value::Array(items) => items.iter().for_each(|item| add_private_use_of(item, taken)),
        Value::Object(object) => {
            for (key, item) in object.iter() {
                add_private_use(key, taken);
                add_private_use_of(item, taken);
            }
        }
    }
}
