//! llguidance's matcher as a [`Constraint`].

use std::{fmt, sync::Arc};

use llguidance::Matcher;

use crate::types::{Constraint, ConstraintError, TokenSet, WrittenForm};

/// The form of one answer. `Matcher` knows one id that ends it; any of `end_ids` does.
///
/// Nobody shares the lexer of an answer: what one makes of it, states, limits that are reached, is nobody else's business.
pub(super) struct AnswerMatcher {
    matcher: Matcher,
    eos: u32,
    end_ids: Vec<u32>,
    /// What the matcher was made of.
    grammar: Arc<str>,
    continued: Vec<u32>,
}

impl fmt::Debug for AnswerMatcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AnswerMatcher").field("is_stopped", &self.matcher.is_stopped()).finish_non_exhaustive()
    }
}

impl AnswerMatcher {
    pub(super) fn new(matcher: Matcher, grammar: Arc<str>, eos: u32, end_ids: &[u32]) -> Self {
        Self { matcher, eos, end_ids: end_ids.to_vec(), grammar, continued: Vec::new() }
    }

    /// Goes past tokens that are there already.
    pub(super) fn advance_past(&mut self, ids: &[u32]) -> Result<(), ConstraintError> {
        self.continued.extend_from_slice(ids);
        match self.matcher.try_consume_tokens(ids) {
            Ok(count) if count == ids.len() => Ok(()),
            Ok(count) => Err(ConstraintError(format!("it does not fit from token {count} on"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl Constraint for AnswerMatcher {
    fn allowed(&mut self) -> Result<TokenSet, ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| failed(&error))?;
        let mut allowed = TokenSet::from_words(mask.as_slice().to_vec());
        if allowed.contains(self.eos) {
            self.end_ids.iter().for_each(|&id| allowed.insert(id));
        }
        Ok(allowed)
    }

    fn advance(&mut self, id: u32) -> Result<(), ConstraintError> {
        // Whoever goes on after the end may do so with ends alone.
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(());
        }
        let id = if self.end_ids.contains(&id) { self.eos } else { id };
        self.matcher.consume_token(id).map_err(|error| failed(&error))
    }

    fn fork(&self) -> Box<dyn Constraint> {
        let matcher = self.matcher.deep_clone();
        let Self { matcher: _, eos, end_ids, grammar, continued } = self;
        let (end_ids, continued) = (end_ids.clone(), continued.clone());
        Box::new(Self { matcher, eos: *eos, end_ids, grammar: Arc::clone(grammar), continued })
    }

    fn written(&self) -> Option<WrittenForm> {
        Some(WrittenForm { grammar: self.grammar.to_string(), continued: self.continued.clone() })
    }
}

fn failed(error: &impl fmt::Display) -> ConstraintError {
    ConstraintError(super::first_line(&error.to_string()))
}
