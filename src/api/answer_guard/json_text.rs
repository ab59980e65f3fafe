//! Content that is JSON, while it is written: judged as what it says, not as how that is escaped.
//!
//! Main type: [`JsonText`]. Each string is a text of its own, and what leaves of it is escaped anew, so that JSON stays JSON
//! whatever is redacted in it or restored; a number is judged when it is there, and one that is redacted becomes a string.
//! What turns out to be no JSON is judged as it stands, from there on. Invariant: what leaves does not depend on the pieces.

use std::sync::Arc;

use super::{
    Blocked, Checks,
    choice::released,
    escape::{Escape, Taken, escape_into},
};
use crate::{governance::guardrails::OutputGuard, prompt::json};

/// Longer numbers are judged in pieces.
const LONGEST_WORD: usize = 1024;

/// A JSON text that comes in pieces.
#[derive(Clone)]
pub(super) struct JsonText {
    checks: Arc<Checks>,
    state: State,
}

#[derive(Clone)]
enum State {
    /// Between strings, behind so much of a number or of a word.
    Between(String),
    /// In a string, behind so much of an escape.
    String(Box<OutputGuard>, Escape),
    /// This is no JSON.
    Text(Box<OutputGuard>),
    Blocked,
}

impl JsonText {
    /// One whose beginning is written already.
    pub(super) fn behind(beginning: &str, checks: Arc<Checks>) -> Self {
        // Is it in a string, which says so much already, and behind so much of an escape?
        let (mut string, mut said): (Option<Escape>, String) = (None, String::new());
        for c in beginning.chars() {
            string = match string {
                None => (c == '"').then(Escape::default),
                Some(escape) => escape.goes_on(c, &mut said),
            };
            if string.is_none() {
                said.clear();
            }
        }
        let state = match string {
            Some(escape) => State::String(Box::new(checks.guard().behind(&said)), escape),
            None => State::Between(String::new()),
        };
        Self { checks, state }
    }

    /// Takes the next piece, and adds what may leave.
    pub(super) fn push(&mut self, piece: &str, out: &mut String) -> Result<(), Blocked> {
        let mut rest = piece;
        let passed = loop {
            match self.step(rest, out) {
                Ok("") => break Ok(()),
                Ok(left) => rest = left,
                Err(Blocked) => break Err(Blocked),
            }
        };
        if passed.is_err() {
            self.state = State::Blocked;
        }
        passed
    }

    /// The text is complete, or will not be: adds what was held back.
    pub(super) fn finish(&mut self, out: &mut String) -> Result<(), Blocked> {
        match std::mem::replace(&mut self.state, State::Between(String::new())) {
            State::Between(word) => {
                self.word(&word, out)?;
                match std::mem::replace(&mut self.state, State::Between(String::new())) {
                    State::Text(guard) => released(guard.finish(), &self.checks, out),
                    State::Between(_) | State::String(..) | State::Blocked => Ok(()),
                }
            }
            State::String(guard, _) => {
                let mut said = String::new();
                let passed = released(guard.finish(), &self.checks, &mut said);
                escape_into(&said, out);
                passed
            }
            State::Text(guard) => released(guard.finish(), &self.checks, out),
            State::Blocked => {
                self.state = State::Blocked;
                Err(Blocked)
            }
        }
    }

    /// Is there anything that has not left?
    pub(super) fn holds(&self) -> bool {
        match &self.state {
            State::Between(word) => !word.is_empty(),
            State::String(guard, escape) => !escape.is_empty() || guard.held_bytes() > 0,
            State::Text(guard) => guard.held_bytes() > 0,
            State::Blocked => false,
        }
    }

    /// Takes the beginning of a text that is not empty, and gives back the rest.
    fn step<'t>(&mut self, text: &'t str, out: &mut String) -> Result<&'t str, Blocked> {
        match &mut self.state {
            State::Blocked => Err(Blocked),
            State::Text(guard) => {
                released(guard.push(text), &self.checks, out)?;
                Ok("")
            }
            State::Between(word) => {
                let is_between = |c: char| c.is_ascii_whitespace() || "{}[]:,\"".contains(c);
                let length = text.find(is_between).unwrap_or(text.len());
                word.push_str(&text[..length]);
                let rest = &text[length..];
                let Some(mark) = rest.chars().next() else {
                    // A text without end is none of a number.
                    return if word.len() > LONGEST_WORD { self.end_word(rest, out) } else { Ok(rest) };
                };
                if !word.is_empty() {
                    return self.end_word(rest, out);
                }
                out.push(mark);
                if mark == '"' {
                    self.state = State::String(Box::new(self.checks.guard()), Escape::default());
                }
                Ok(&rest[mark.len_utf8()..])
            }
            State::String(guard, escape) => {
                if let Some(c) = text.chars().next().filter(|_| !escape.is_empty()) {
                    let Taken { said, is_taken } = escape.take(c);
                    string_piece(guard, &said, &self.checks, out)?;
                    return Ok(if is_taken { &text[c.len_utf8()..] } else { text });
                }
                let length = text.find(['"', '\\']).unwrap_or(text.len());
                string_piece(guard, &text[..length], &self.checks, out)?;
                let rest = &text[length..];
                match rest.chars().next() {
                    Some('\\') => escape.begin(),
                    Some(_) => {
                        self.finish(out)?;
                        out.push('"');
                    }
                    None => return Ok(rest),
                }
                Ok(&rest[1..])
            }
        }
    }

    fn end_word<'t>(&mut self, rest: &'t str, out: &mut String) -> Result<&'t str, Blocked> {
        if let State::Between(word) = std::mem::replace(&mut self.state, State::Between(String::new())) {
            self.word(&word, out)?;
        }
        Ok(rest)
    }

    /// A number, `true`, `false`, `null`; nothing, or what JSON has not.
    fn word(&mut self, word: &str, out: &mut String) -> Result<(), Blocked> {
        match word {
            "" | "true" | "false" | "null" => {
                out.push_str(word);
                return Ok(());
            }
            _ if !matches!(json::Value::parse(word), Ok(json::Value::Number(_))) => {
                let mut guard = self.checks.guard();
                let passed = released(guard.push(word), &self.checks, out);
                self.state = State::Text(Box::new(guard));
                return passed;
            }
            _ => {}
        }
        let checked = self.checks.whole(word)?;
        if checked == word {
            out.push_str(word);
        } else {
            out.push('"');
            escape_into(&checked, out);
            out.push('"');
        }
        Ok(())
    }
}

fn string_piece(guard: &mut OutputGuard, said: &str, checks: &Checks, out: &mut String) -> Result<(), Blocked> {
    if said.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    let passed = released(guard.push(said), checks, &mut text);
    escape_into(&text, out);
    passed
}
