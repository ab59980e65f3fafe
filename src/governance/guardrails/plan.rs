//! What is looked for in one stage of one kind of request: which rules count, for which guardrails.
//!
//! [`Plan`] is made when guardrails are selected, and only read afterwards.

use std::sync::Arc;

use super::{
    automaton::RuleId,
    classify::Classifier,
    config::Mode,
    finding::{Action, BlockCause},
    resolve::Hit,
    rules::Rules,
};

/// What a guardrail does about what it looks for.
#[derive(Clone)]
pub(super) struct Use {
    pub guardrail: Arc<str>,
    pub action: Action,
    pub mode: Mode,
    pub threshold: f32,
}

/// The most characters of a text.
pub(super) struct Length {
    pub max_chars: usize,
    pub of: Use,
}

/// A label that a classifier is asked for.
pub(super) struct Question {
    pub label: Arc<str>,
    pub of: Use,
}

/// What is looked for in a stage.
pub(super) struct Plan {
    pub rules: Arc<Rules>,
    /// Indices of the automata that look for any of it; at most ten.
    pub automata: Vec<usize>,
    /// For each byte that a match may begin with, a bit for each of `automata`.
    pub starts: [u16; 256],
    /// For each rule, the guardrails that heed it, the strongest first.
    pub uses: Vec<Vec<Use>>,
    pub lengths: Vec<Length>,
    /// What lengths are called in findings.
    pub length_name: Arc<str>,
    pub questions: Vec<Question>,
    pub classifier: Option<Arc<dyn Classifier>>,
}

impl Plan {
    pub(super) fn new(rules: Arc<Rules>, classifier: Option<Arc<dyn Classifier>>) -> Self {
        let uses = rules.rules.iter().map(|_| Vec::new()).collect();
        Self {
            rules,
            automata: Vec::new(),
            starts: [0; 256],
            uses,
            lengths: Vec::new(),
            length_name: "max_chars".into(),
            questions: Vec::new(),
            classifier,
        }
    }

    /// Completes the plan once all uses are in it.
    pub(super) fn finish(&mut self) {
        // Stable: of equal actions the guardrail that comes first counts.
        self.uses.iter_mut().for_each(|uses| uses.sort_by_key(|one| std::cmp::Reverse(one.action)));
        self.lengths.sort_by_key(|length| length.max_chars);
        let is_used = |rule: RuleId| !self.uses[rule].is_empty();
        let automata = self.rules.automata.iter().enumerate();
        self.automata = automata.filter(|(_, one)| one.has_rule(is_used)).map(|(index, _)| index).collect();
        for (bit, &index) in self.automata.iter().enumerate() {
            for (byte, starts) in (0..=u8::MAX).zip(&mut self.starts) {
                *starts |= u16::from(self.rules.automata[index].can_start_with(byte)) << bit;
            }
        }
    }

    /// Is nothing looked for?
    pub(super) fn is_empty(&self) -> bool {
        self.automata.is_empty() && self.lengths.is_empty() && self.questions.is_empty()
    }

    /// What heeds a finding of a rule with this score.
    pub(super) fn heeding(&self, rule: RuleId, score: f32) -> Option<&Use> {
        self.uses[rule].iter().find(|one| one.threshold <= score)
    }
}

impl Use {
    pub(super) fn hit(
        &self,
        detector: &Arc<str>,
        kind: &'static str,
        range: std::ops::Range<usize>,
        score: f32,
    ) -> Hit {
        Hit {
            range,
            score,
            detector: Arc::clone(detector),
            kind,
            guardrail: Arc::clone(&self.guardrail),
            action: self.action,
            mode: self.mode,
            cause: BlockCause::Finding,
            is_reported_always: false,
        }
    }
}
