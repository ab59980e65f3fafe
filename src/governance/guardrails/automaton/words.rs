//! Words and phrases as a trie, walked over the text as it would be in lower case and with single spaces.

use aho_corasick::{
    Anchored,
    automaton::Automaton as _,
    nfa::noncontiguous::{Builder, NFA},
};

use super::{ExpressionError, Span, Walk};

/// White space of up to so many characters counts as one space; more of it is no part of a phrase.
const LONGEST_SPACE_CHARS: usize = 32;

pub(super) struct Words {
    trie: NFA,
    folds_case: bool,
    starts: [bool; 256],
}

impl Words {
    pub(super) fn new(words: &[&str], folds_case: bool) -> Result<Self, ExpressionError> {
        let folded: Vec<String> = words.iter().map(|word| Folded::new(word, folds_case).collect()).collect();
        let mut starts = [false; 256];
        for byte in folded.iter().filter_map(|word| word.bytes().next()) {
            starts[usize::from(byte)] = true;
            starts[usize::from(byte.to_ascii_uppercase())] |= folds_case;
        }
        if folds_case {
            starts[0x80..].fill(true); // other characters may become these in lower case, even ASCII ones: the Kelvin sign
        }
        let trie = Builder::new().prefilter(false).build(&folded).map_err(|_| ExpressionError::TooLarge)?;
        Ok(Self { trie, folds_case, starts })
    }

    /// For each byte, can a match begin with it?
    pub(super) fn starts(&self) -> [bool; 256] {
        self.starts
    }

    /// Tells `found` which words are at the span's start, and up to where.
    pub(super) fn walk(&self, span: Span<'_>, found: &mut impl FnMut(usize, usize)) -> Walk {
        let Self { trie, folds_case, .. } = self;
        let mut state = trie.start_state(Anchored::Yes).expect("a trie can be walked from its root");
        let mut buffer = [0; 4];
        let (mut end, mut bytes) = (span.start, 0);
        let mut folded = Folded::new(&span.text[span.start..], *folds_case);
        for _ in 0..span.max_chars {
            let Some(c) = folded.next() else { break };
            for &byte in c.encode_utf8(&mut buffer).as_bytes() {
                state = trie.next_state(Anchored::Yes, state, byte);
                bytes += 1;
            }
            if trie.is_dead(state) {
                return Walk::Decided(bytes);
            }
            end = span.text.len() - folded.rest.as_str().len();
            if trie.is_match(state) {
                let matched = (0..trie.match_len(state)).map(|index| trie.match_pattern(state, index));
                // The others are words that the matched one ends with.
                let from_start = matched.filter(|&pattern| trie.pattern_len(pattern) == bytes);
                from_start.for_each(|pattern| found(pattern.as_usize(), end));
            }
        }
        if end == span.text.len() && !span.is_whole { Walk::Unfinished(bytes) } else { Walk::Decided(bytes) }
    }
}

/// A text's characters, in lower case if asked for, with one space for white space of any length.
struct Folded<'t> {
    rest: std::str::Chars<'t>,
    folds_case: bool,
}

impl<'t> Folded<'t> {
    fn new(text: &'t str, folds_case: bool) -> Self {
        Self { rest: text.chars(), folds_case }
    }
}

impl Iterator for Folded<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c.is_whitespace() {
            let rest = self.rest.as_str();
            let space = rest.chars().take(LONGEST_SPACE_CHARS - 1).take_while(|c| c.is_whitespace());
            self.rest = rest[space.map(char::len_utf8).sum()..].chars();
            return Some(' ');
        }
        let mut lower = c.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(one), None) if self.folds_case => Some(one),
            _ => Some(c),
        }
    }
}
