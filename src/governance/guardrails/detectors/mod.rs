//! The detectors that are built in: a table, one row each.
//!
//! A [`Detector`] is a pattern that finds candidates and a judge that knows more than a pattern can: checksums, lengths,
//! ranges, words in front. Invariant: whether a candidate is a finding depends on the candidate, on [`CONTEXT_CHARS`]
//! characters before it and on one behind it, and on nothing else, so that a stream can be judged as it comes.

mod checksum;
mod injection;
mod national;
mod personal;
mod secrets;

use std::ops::Range;

/// Characters before a candidate that a judge may read.
pub(super) const CONTEXT_CHARS: usize = 64;

/// Detectors whose candidates are looked for at the same places, up to the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// From where a word or a sign begins.
    Words,
    /// From where a run of characters of addresses begins.
    Addresses,
    /// The same, for tokens that are thousands of characters long.
    Tokens,
    /// From anywhere, for armoured keys of thousands of characters.
    Armour,
}

impl Group {
    pub(super) const ALL: [Group; 4] = [Group::Words, Group::Addresses, Group::Tokens, Group::Armour];

    /// The longest candidate, in characters.
    pub(super) fn max_chars(self) -> usize {
        match self {
            Group::Words => 256,
            Group::Addresses => 254, // RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them brackets
            Group::Tokens => 8192,
            Group::Armour => 16384,
        }
    }
}

/// A set of detectors that can be asked for by one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    PersonalData,
    NationalId,
    Secret,
    Injection,
}

impl Class {
    /// Do the detectors of this class go by this name?
    fn is_called(self, name: &str) -> bool {
        match name {
            "all" => true,
            "personal_data" => matches!(self, Class::PersonalData | Class::NationalId),
            "national_id" => self == Class::NationalId,
            "secret" => self == Class::Secret,
            "injection" => self == Class::Injection,
            _ => false,
        }
    }
}

/// Says what a candidate is, if it is anything.
pub(super) type Judge = fn(&Candidate<'_>) -> Option<Judgement>;

/// A row of the table.
pub(super) struct Detector {
    /// As in configurations and findings.
    pub name: &'static str,
    /// As in placeholders.
    pub kind: &'static str,
    pub class: Class,
    pub group: Group,
    /// What finds candidates: no assertions, and short enough counts that its automaton stays small.
    pub pattern: &'static str,
    /// Is only the longest candidate at a place one? Otherwise shorter ones are judged when longer ones are nothing.
    pub only_longest: bool,
    pub judge: Judge,
}

/// What a pattern has found.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'t> {
    pub text: &'t str,
    /// What is before it: at least `CONTEXT_CHARS` characters, or all there are.
    pub before: &'t str,
    /// The character behind it; none at the end of the text.
    pub after: Option<char>,
}

/// What a candidate turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judgement {
    /// How sure, from 0 to 1.
    pub score: f32,
    /// Which bytes of the candidate are the finding.
    pub range: Range<usize>,
}

impl<'t> Candidate<'t> {
    /// All of the candidate, with this score.
    fn scored(&self, score: f32) -> Option<Judgement> {
        Some(Judgement { score, range: 0..self.text.len() })
    }

    /// The last `CONTEXT_CHARS` characters before.
    fn context(&self) -> &'t str {
        let from = self.before.char_indices().rev().take(CONTEXT_CHARS).last().map_or(self.before.len(), |(at, _)| at);
        &self.before[from..]
    }

    fn before_char(&self) -> Option<char> {
        self.before.chars().next_back()
    }

    /// Does neither side go on as a word, or as a part of a number or of a path?
    fn stands_alone(&self) -> bool {
        let mut before = self.before.chars().rev();
        let begins = match before.next() {
            Some('.' | ',') => !before.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => !is_word(c) && !"-/+#&".contains(c),
            None => true,
        };
        begins && !self.after.is_some_and(|c| is_word(c) || c == '-')
    }

    /// Is one of these words, in lower case, among the last `CONTEXT_CHARS` characters before?
    fn follows(&self, words: &[&str]) -> bool {
        let context = self.context().to_lowercase();
        words.iter().any(|word| {
            context.match_indices(word).any(|(at, _)| {
                !context[..at].chars().next_back().is_some_and(char::is_alphanumeric)
                    && !context[at + word.len()..].chars().next().is_some_and(char::is_alphabetic)
            })
        })
    }
}

/// Does this belong to a word?
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Detector> {
    [personal::DETECTORS, national::DETECTORS, secrets::DETECTORS, injection::DETECTORS].into_iter().flatten()
}

/// The detectors of a name: one, or those of a class; none if nothing is called so.
pub(super) fn named(name: &str) -> impl Iterator<Item = &'static Detector> {
    all().filter(move |detector| detector.name == name || detector.class.is_called(name))
}

/// All names that can be asked for.
pub(super) fn names() -> Vec<&'static str> {
    let mut names = vec!["all", "personal_data", "national_id", "secret", "injection"];
    for detector in all() {
        if !names.contains(&detector.name) {
            names.push(detector.name);
        }
    }
    names
}
