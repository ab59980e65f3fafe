//! Patterns as one automaton that is walked from a place in a text: which of them match there, and how far.
//!
//! [`Automaton`] runs many regular expressions, or many words, at once. Invariant: what it finds at a place depends only
//! on the characters from there on, and it says when it would need to see more of them. It does not know what its rules
//! mean.

mod expressions;
mod words;

use regex_syntax::hir::Hir;

pub(super) use self::expressions::parse_expression;
use self::{
    expressions::{Expressions, PooledCache},
    words::Words,
};
use super::detectors::is_word;

/// Number of a rule among all of a configuration.
pub(super) type RuleId = usize;

/// Where matches may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// Anywhere.
    None,
    /// Not within a word.
    Word,
    /// Not within a run of characters of which addresses and tokens are made.
    Token,
}

/// Many patterns, each of which belongs to a rule.
pub(super) struct Automaton {
    machine: Machine,
    rules: Vec<RuleId>,
    boundary: Boundary,
    max_chars: usize,
    /// Can a match begin with this byte?
    starts: [bool; 256],
}

enum Machine {
    Expressions(Expressions),
    Words(Words),
}

/// An automaton in use by one thread.
pub(super) struct Walker<'a> {
    automaton: &'a Automaton,
    machine: Running<'a>,
}

enum Running<'a> {
    Expressions(&'a Expressions, PooledCache<'a>),
    Words(&'a Words),
}

/// Where a walk begins, and how far it may go.
#[derive(Clone, Copy)]
pub(super) struct Span<'t> {
    text: &'t str,
    start: usize,
    max_chars: usize,
    /// Nothing follows the text.
    is_whole: bool,
}

/// Has a walk seen all that it needs?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// What follows cannot change what matches here. How many bytes were read.
    Decided(usize),
    /// It can.
    Unfinished(usize),
}

/// Why an expression cannot be used.
pub(super) enum ExpressionError {
    Syntax(String),
    TooLarge,
}

impl Boundary {
    fn allows(self, before: Option<char>, first: char) -> bool {
        let Some(before) = before else { return true };
        match self {
            Boundary::None => true,
            Boundary::Word => !is_word(before) || !is_word(first),
            Boundary::Token => !is_word(before) && !".%+'-".contains(before),
        }
    }
}

/// May a match end between these?
pub(super) fn ends_a_word(last: Option<char>, after: Option<char>) -> bool {
    !last.is_some_and(is_word) || !after.is_some_and(is_word)
}

impl Automaton {
    /// Of expressions, which have no assertions.
    pub(super) fn expressions(
        patterns: &[(RuleId, Hir)],
        boundary: Boundary,
        max_chars: usize,
    ) -> Result<Self, ExpressionError> {
        let expressions: Vec<&Hir> = patterns.iter().map(|(_, hir)| hir).collect();
        let expressions = Expressions::new(&expressions)?;
        let starts = expressions.starts();
        let rules = patterns.iter().map(|(rule, _)| *rule).collect();
        Ok(Self { machine: Machine::Expressions(expressions), rules, boundary, max_chars, starts })
    }

    /// Of words and phrases. White space in them stands for any.
    pub(super) fn words(
        words: &[(RuleId, &str)],
        boundary: Boundary,
        max_chars: usize,
        folds_case: bool,
    ) -> Result<Self, ExpressionError> {
        let (rules, words): (Vec<RuleId>, Vec<&str>) = words.iter().copied().unzip();
        let words = Words::new(&words, folds_case)?;
        let starts = words.starts();
        Ok(Self { machine: Machine::Words(words), rules, boundary, max_chars, starts })
    }

    /// Can a match begin with this byte?
    pub(super) fn can_start_with(&self, byte: u8) -> bool {
        self.starts[usize::from(byte)]
    }

    /// Is one of its rules among these?
    pub(super) fn has_rule(&self, wanted: impl Fn(RuleId) -> bool) -> bool {
        self.rules.iter().any(|&rule| wanted(rule))
    }

    pub(super) fn walker(&self) -> Walker<'_> {
        let machine = match &self.machine {
            Machine::Expressions(expressions) => Running::Expressions(expressions, expressions.cache()),
            Machine::Words(words) => Running::Words(words),
        };
        Walker { automaton: self, machine }
    }
}

impl Walker<'_> {
    /// May a match begin between these?
    pub(super) fn may_start(&self, before: Option<char>, first: char) -> bool {
        self.automaton.boundary.allows(before, first)
    }

    /// Adds where the matches that begin at `start` end, in bytes. `is_whole` says that nothing follows the text.
    pub(super) fn walk(&mut self, text: &str, start: usize, is_whole: bool, ends: &mut Vec<(RuleId, usize)>) -> Walk {
        let Self { automaton, machine } = self;
        let span = Span { text, start, max_chars: automaton.max_chars, is_whole };
        let mut found = |pattern: usize, end: usize| ends.push((automaton.rules[pattern], end));
        match machine {
            Running::Expressions(expressions, cache) => expressions.walk(cache, span, &mut found),
            Running::Words(words) => words.walk(span, &mut found),
        }
    }
}
