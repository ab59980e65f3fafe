//! Checks what a caller sends, all texts of a request at once.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use super::{
    apply::{Applied, Replaced, apply},
    config::Mode,
    finding::{Blocked, Finding},
    plan::Plan,
    resolve::{Hit, Resolver},
    scan::{Scanner, Sight, ask},
    vault::Vault,
};

/// What became of a request's texts.
#[derive(Default)]
pub struct InputOutcome<'t> {
    /// What was found, by text and place. Where a text is blocked, up to that.
    pub findings: Vec<Finding>,
    /// The texts as they go on, as many as there were; none if the request is blocked.
    pub texts: Vec<Cow<'t, str>>,
    /// What was replaced to make them, by text and place.
    pub replacements: Vec<Replacement>,
    /// What their placeholders stand for, for the answer's [`OutputGuard`](super::OutputGuard).
    pub vault: Vault,
    /// Why the request is refused.
    pub blocked: Option<Blocked>,
    /// Bytes that were read to check the texts, many of them more than once: what checking cost.
    pub work_bytes: usize,
}

/// A part of a text that another stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct Replacement {
    /// Which of the texts.
    pub text: usize,
    /// Bytes of it as it was sent.
    pub range: Range<usize>,
    /// What stands there now.
    pub with: String,
    /// Name of the guardrail.
    pub guardrail: Arc<str>,
    /// Name of the detector.
    pub detector: Arc<str>,
}

/// Texts are not shown: they may hold what was found.
impl fmt::Debug for InputOutcome<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InputOutcome")
            .field("findings", &self.findings)
            .field("texts", &self.texts.len())
            .field("vault", &self.vault)
            .field("blocked", &self.blocked)
            .field("work_bytes", &self.work_bytes)
            .finish()
    }
}

pub(super) fn check<'t>(plan: &Plan, texts: &[&'t str]) -> InputOutcome<'t> {
    if plan.is_empty() {
        let texts = texts.iter().map(|&text| Cow::Borrowed(text)).collect();
        return InputOutcome { texts, ..InputOutcome::default() };
    }
    let mut outcome = InputOutcome { vault: Vault::new(texts), ..InputOutcome::default() };
    for (index, &text) in texts.iter().enumerate() {
        let sight = Sight { text, base: 0, is_whole: true };
        let mut found = Resolver::default();
        let mut scanner = Scanner::new(plan, false);
        scanner.scan(plan, None, sight, &mut found);
        outcome.work_bytes += scanner.work_bytes();
        if !text.is_empty() {
            ask(plan, text, 0..text.len(), &mut found);
        }
        let steps = found.take_steps(text.len());
        let InputOutcome { vault, replacements, .. } = &mut outcome;
        let write = |replaced: &Replaced<'_>, value: &str| {
            let (hit, with) = match replaced {
                Replaced::Hit(hit) => match hit.mode {
                    Mode::Reversible => (hit, vault.placeholder(hit.kind, value).to_owned()),
                    Mode::Irreversible => (hit, irreversible(hit)),
                },
                Replaced::Placeholder(_) => return value.to_owned(), // no vault was given to the scanner
            };
            replacements.push(Replacement::of(hit, index, with.clone()));
            with
        };
        let Applied { text, findings, blocked } = apply(steps, sight, 0..text.len(), index, write);
        outcome.findings.extend(findings);
        if blocked.is_some() {
            outcome.texts.clear();
            outcome.replacements.clear();
            return InputOutcome { blocked, vault: Vault::default(), ..outcome };
        }
        outcome.texts.push(text);
    }
    outcome
}

impl Replacement {
    fn of(hit: &Hit, text: usize, with: String) -> Self {
        let (guardrail, detector) = (Arc::clone(&hit.guardrail), Arc::clone(&hit.detector));
        Self { text, range: hit.range.clone(), with, guardrail, detector }
    }
}

/// Where it is, and nothing of the text.
impl fmt::Debug for Replacement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Replacement")
            .field("text", &self.text)
            .field("range", &self.range)
            .field("detector", &self.detector)
            .finish_non_exhaustive()
    }
}

/// What stands for something that nobody restores.
pub(super) fn irreversible(hit: &Hit) -> String {
    format!("[{}]", hit.kind)
}
