//! Everything that a configuration looks for, compiled once: rules, and the automata that find their candidates.
//!
//! [`Rules`] is shared by all guardrails of a configuration and knows none of them: which rules count, and for whom, is
//! a [`Plan`](super::plan::Plan)'s business.

use std::{collections::BTreeMap, sync::Arc};

use regex_syntax::hir::Hir;

use super::{
    automaton::{Automaton, Boundary, ExpressionError, RuleId, ends_a_word, parse_expression},
    detectors::{Candidate, Detector, Group, Judgement},
};

/// The longest match of an operator's word or expression, in characters.
pub(super) const LONGEST_MATCH_CHARS: usize = 256;
/// The largest automaton of one expression, in bytes, before its states are made.
const EXPRESSION_BYTES: usize = 1 << 20;

/// Something to look for.
pub(super) struct Rule {
    /// As in findings.
    pub name: Arc<str>,
    /// As in placeholders.
    pub kind: &'static str,
    /// Is only the longest candidate at a place judged?
    pub only_longest: bool,
    judge: Judge,
}

enum Judge {
    BuiltIn(&'static Detector),
    /// Of an operator; whole words only, or any.
    Operator {
        whole_words: bool,
    },
}

/// Rules, and what finds them.
pub(super) struct Rules {
    pub rules: Vec<Rule>,
    pub automata: Vec<Automaton>,
}

/// Rules as they are gathered.
#[derive(Default)]
pub(super) struct Collection {
    rules: Vec<Rule>,
    built_in: BTreeMap<(Group, &'static str), RuleId>,
    detectors: Vec<(RuleId, &'static Detector)>,
    expressions: [Vec<(RuleId, Hir)>; 2],
    words: [Vec<(RuleId, String)>; 4],
}

impl Rule {
    /// Is the candidate what is looked for? Its range is of bytes of the candidate.
    pub(super) fn judge(&self, candidate: &Candidate<'_>) -> Option<Judgement> {
        match &self.judge {
            Judge::BuiltIn(detector) => (detector.judge)(candidate),
            Judge::Operator { whole_words } => {
                let ends = !whole_words || ends_a_word(candidate.text.chars().next_back(), candidate.after);
                ends.then_some(Judgement { score: 1.0, range: 0..candidate.text.len() })
            }
        }
    }
}

impl Collection {
    /// The rule of a detector.
    pub(super) fn detector(&mut self, detector: &'static Detector) -> RuleId {
        let next = self.rules.len();
        let rule = *self.built_in.entry((detector.group, detector.pattern)).or_insert(next);
        if rule == next {
            self.detectors.push((rule, detector));
            let Detector { name, kind, only_longest, .. } = *detector;
            self.rules.push(Rule { name: name.into(), kind, only_longest, judge: Judge::BuiltIn(detector) });
        }
        rule
    }

    /// A rule for an expression.
    pub(super) fn expression(
        &mut self,
        name: &str,
        pattern: &str,
        whole_words: bool,
    ) -> Result<RuleId, ExpressionError> {
        let hir = parse_expression(pattern, EXPRESSION_BYTES)?;
        let rule = self.operator_rule(name, "PATTERN", whole_words);
        self.expressions[usize::from(whole_words)].push((rule, hir));
        Ok(rule)
    }

    /// One rule for all of these words.
    pub(super) fn words(&mut self, words: &[String], whole_words: bool, case_sensitive: bool) -> RuleId {
        let rule = self.operator_rule("words", "WORD", whole_words);
        let list = &mut self.words[usize::from(whole_words) + 2 * usize::from(case_sensitive)];
        list.extend(words.iter().map(|word| (rule, word.trim().to_owned())));
        rule
    }

    /// Makes the automata.
    pub(super) fn compile(self) -> Result<Rules, ExpressionError> {
        let mut automata = Vec::new();
        for group in Group::ALL {
            let of_group = self.detectors.iter().filter(|(_, detector)| detector.group == group);
            let patterns: Vec<(RuleId, Hir)> = of_group
                .map(|(rule, detector)| Ok((*rule, parse_expression(detector.pattern, usize::MAX)?)))
                .collect::<Result<_, _>>()?;
            let boundary = match group {
                Group::Words => Boundary::Word,
                Group::Addresses | Group::Tokens => Boundary::Token,
                Group::Armour => Boundary::None,
            };
            if !patterns.is_empty() {
                automata.push(Automaton::expressions(&patterns, boundary, group.max_chars())?);
            }
        }
        let boundaries = [Boundary::None, Boundary::Word];
        for (patterns, boundary) in self.expressions.iter().zip(boundaries).filter(|(list, _)| !list.is_empty()) {
            automata.push(Automaton::expressions(patterns, boundary, LONGEST_MATCH_CHARS)?);
        }
        for (index, list) in self.words.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let words: Vec<(RuleId, &str)> = list.iter().map(|(rule, word)| (*rule, word.as_str())).collect();
            automata.push(Automaton::words(&words, boundaries[index % 2], LONGEST_MATCH_CHARS, index < 2)?);
        }
        Ok(Rules { rules: self.rules, automata })
    }

    fn operator_rule(&mut self, name: &str, kind: &'static str, whole_words: bool) -> RuleId {
        self.rules.push(Rule { name: name.into(), kind, only_longest: false, judge: Judge::Operator { whole_words } });
        self.rules.len() - 1
    }
}
