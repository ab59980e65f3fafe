//! Guardrails of an answer: nothing of it leaves before it is judged.
//!
//! Main types: [`AnswerGuard`], which a request leaves for its answer, and [`GuardedAnswer`], through which the events of
//! one choice pass. Knows nothing of the engine or of HTTP.

mod choice;
mod escape;
mod json_text;

use std::{fmt, sync::Arc};

pub(super) use self::choice::GuardedAnswer;
use self::json_text::JsonText;
use super::{error::ApiError, guard::Guardrails, params::GenerationParams};
use crate::{
    governance::guardrails::{Finding, OutputGuard, Stage, Vault},
    prompt::{ContentForm, ContentKind},
};

/// What the answer to a request passes. The default is nothing.
#[derive(Clone, Default)]
pub struct AnswerGuard {
    checks: Option<Arc<Checks>>,
    content: Written,
    begun: Begun,
}

/// Guards that have seen what the answer goes on from, if it goes on from anything.
#[derive(Clone, Default)]
struct Begun {
    content: Option<Arc<OutputGuard>>,
    reasoning: Option<Arc<OutputGuard>>,
}

/// How the content of an answer is written.
#[derive(Clone, Default)]
enum Written {
    #[default]
    AsText,
    /// As JSON, whose beginning was read already if there is one.
    AsJson(Arc<JsonText>),
}

struct Checks {
    guardrails: Guardrails,
    vault: Arc<Vault>,
}

/// The answer ends here.
pub(super) struct Blocked;

impl AnswerGuard {
    pub(super) fn new(guardrails: Guardrails, vault: Vault) -> Self {
        let is_needed = guardrails.active.checks_output() || !vault.is_empty();
        let checks = is_needed.then(|| Arc::new(Checks { guardrails, vault: Arc::new(vault) }));
        Self { checks, content: Written::AsText, begun: Begun::default() }
    }

    /// For an answer that goes on from texts of the request: what begins there and ends in the answer is found.
    pub(super) fn behind(self, content: &str, reasoning: &str) -> Self {
        let Some(checks) = self.output_checks() else { return self };
        let behind = |text: &str| (!text.is_empty()).then(|| Arc::new(checks.guard().behind(text)));
        let begun = Begun { content: behind(content), reasoning: behind(reasoning) };
        Self { begun, ..self }
    }

    /// Is what is answered checked?
    pub(super) fn checks_output(&self) -> bool {
        self.output_checks().is_some()
    }

    fn output_checks(&self) -> Option<&Arc<Checks>> {
        self.checks.as_ref().filter(|checks| checks.guardrails.active.checks_output())
    }

    /// For an answer of a form, which `beginning` has begun already.
    pub(super) fn of_form(self, form: Option<&ContentForm>, beginning: &str) -> Self {
        let Some(checks) = &self.checks else { return self };
        match form.map(|form| &form.kind) {
            Some(ContentKind::Json { .. }) => {
                let begun = JsonText::behind(beginning, Arc::clone(checks));
                Self { content: Written::AsJson(Arc::new(begun)), ..self }
            }
            // What these write has no escapes that we knew of.
            Some(ContentKind::Regex(_) | ContentKind::Choice(_) | ContentKind::Lark(_) | ContentKind::Tags(_))
            | None => self,
        }
    }

    /// For one choice, if there is anything to do.
    pub(super) fn of_choice(&self) -> Option<GuardedAnswer> {
        let checks = Arc::clone(self.checks.as_ref()?);
        Some(GuardedAnswer::new(checks, &self.content, &self.begun))
    }

    /// Refuses what would tell the tokens of an answer, which are not what its client is to see.
    pub(super) fn check_raw(&self, params: &GenerationParams, token_ids: bool) -> Result<(), ApiError> {
        let asked = [
            ("logprobs", params.logprobs.is_some()),
            ("prompt_logprobs", params.prompt_logprobs.is_some()),
            ("return_token_ids", token_ids),
        ];
        let Some((param, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked && self.checks.is_some()) else {
            return Ok(());
        };
        let message = format!("`{param}` cannot be had where guardrails may change the answer: it tells the tokens.");
        Err(ApiError::invalid(param, message))
    }

    /// What the client has sent, from what it became.
    pub(super) fn restore(&self, text: String) -> String {
        match &self.checks {
            Some(checks) if !checks.vault.is_empty() => checks.vault.restore(&text),
            Some(_) | None => text,
        }
    }
}

impl fmt::Debug for AnswerGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AnswerGuard").field("is_active", &self.checks.is_some()).finish()
    }
}

impl Checks {
    pub(super) fn count(&self, findings: &[Finding]) {
        self.guardrails.count(findings, Stage::Output);
    }

    /// A guard for one text.
    pub(super) fn guard(&self) -> OutputGuard {
        self.guardrails.active.output(Arc::clone(&self.vault))
    }

    /// The same, for one that may go on from another.
    fn guard_behind(&self, begun: Option<&Arc<OutputGuard>>) -> OutputGuard {
        begun.map_or_else(|| self.guard(), |begun| begun.as_ref().clone())
    }

    /// Judges a text that is there already.
    pub(super) fn whole(&self, text: &str) -> Result<String, Blocked> {
        let mut guard = self.guard();
        let mut whole = String::new();
        for released in [guard.push(text), guard.finish()] {
            self.count(&released.findings);
            if released.blocked.is_some() {
                return Err(Blocked);
            }
            whole.push_str(&released.text);
        }
        Ok(whole)
    }
}

/// The name of a stage that was checked.
pub(super) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Input => "input",
        Stage::Output => "output",
        Stage::Both => "both",
    }
}
