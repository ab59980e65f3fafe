//! Guardrails of a request: what a client sends as text is checked before it becomes tokens.
//!
//! Main types: [`Terms`], which every request is read on, and its [`RequestGuard`]. What a check leaves behind for the
//! answer is an [`AnswerGuard`]. Invariants: a text that is blocked is neither shown nor logged, and findings are counted
//! by the names of the operator's file alone. Knows nothing of how requests are read.

use std::{borrow::Cow, time::Instant};

use serde_json::Value;

use super::{
    answer_guard::{AnswerGuard, stage_name},
    audit::AuditScope,
    error::ApiError,
    guarded_chat::Slots,
    guarded_json::{self, Fate},
    guardrail_error::GuardrailError,
    state::AppState,
    tool_access::ToolAccess,
};
use crate::{
    governance::guardrails::{Action, ActiveGuardrails, Finding, InputOutcome, Replacement, Stage},
    prompt::{ChatRequest, Codec, json},
    telemetry::GuardrailMetrics,
};

/// On which terms a request is answered.
#[derive(Clone)]
pub(super) struct Terms {
    /// When the answer must be there.
    pub(super) deadline: Instant,
    /// What it may say.
    pub(super) guard: RequestGuard,
    /// What it may have called.
    pub(super) tools: ToolAccess,
}

/// The guardrails of a request. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct RequestGuard {
    active: Option<Guardrails>,
}

/// Those that apply, and where their findings are counted.
#[derive(Clone)]
pub(super) struct Guardrails {
    pub(super) active: ActiveGuardrails,
    pub(super) metrics: GuardrailMetrics,
    pub(super) audit: AuditScope,
}

impl Terms {
    /// For what is not asked of a model, but only checked.
    pub(super) fn unguarded(deadline: Instant) -> Self {
        Self { deadline, guard: RequestGuard::default(), tools: ToolAccess::default() }
    }
}

impl Guardrails {
    /// Fails if a text is blocked.
    fn check<'t>(&self, texts: &[&'t str]) -> Result<InputOutcome<'t>, GuardrailError> {
        let outcome = self.active.check_input(texts);
        self.count(&outcome.findings, Stage::Input);
        match outcome.blocked {
            Some(blocked) => {
                let (guardrail, detector) = (blocked.guardrail.to_string(), blocked.detector.to_string());
                Err(GuardrailError::Blocked { guardrail, detector })
            }
            None => Ok(outcome),
        }
    }

    pub(super) fn count(&self, findings: &[Finding], stage: Stage) {
        self.audit.found(findings, stage_name(stage));
        for finding in findings {
            let action = match finding.action {
                Action::Flag => "flag",
                Action::Redact => "redact",
                Action::Block => "block",
            };
            self.metrics.found(&finding.guardrail, &finding.detector, action, stage_name(stage));
        }
    }
}

impl RequestGuard {
    /// That of requests to a route of the router, for the tenant whose state it is. Where none is known, whatever applies
    /// anywhere does.
    pub(super) fn new(state: &AppState, model: &str, route: Option<&str>, audit: &AuditScope) -> Self {
        let active = state.governance().guardrails().select(state.tenant(), model, route);
        let metrics = || state.http_metrics().guardrails().clone();
        Self { active: active.map(|active| Guardrails { active, metrics: metrics(), audit: audit.clone() }) }
    }

    /// All texts of a request, as they go on, and what its answer passes.
    pub(super) fn texts<'t>(&self, texts: &[&'t str]) -> Result<(Vec<Cow<'t, str>>, AnswerGuard), ApiError> {
        let Some(guardrails) = &self.active else {
            return Ok((texts.iter().map(|&text| Cow::Borrowed(text)).collect(), AnswerGuard::default()));
        };
        let InputOutcome { texts, vault, .. } = guardrails.check(texts)?;
        Ok((texts, AnswerGuard::new(guardrails.clone(), vault)))
    }

    /// One text of a request that nothing is answered to.
    pub(super) fn text<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, ApiError> {
        let (checked, _) = self.texts(&[text])?;
        Ok(checked.into_iter().next().unwrap_or(Cow::Borrowed(text)))
    }

    /// Messages that are only judged, as JSON.
    pub(super) fn messages(&self, messages: &[Value]) -> Result<Vec<Value>, ApiError> {
        let messages: Vec<json::Value> = messages.iter().map(json::Value::from).collect();
        let mut texts = Vec::new();
        messages.iter().for_each(|message| guarded_json::texts(message, &mut texts));
        let (checked, _) = self.texts(&texts)?;
        let mut checked = checked.into_iter().map(Cow::into_owned);
        Ok(messages.iter().map(|message| Value::from(&guarded_json::replace(message, &mut checked))).collect())
    }

    /// Refuses token ids at `param` where texts are checked: nobody reads them.
    pub(super) fn check_ids(&self, param: &str) -> Result<(), ApiError> {
        match &self.active {
            Some(guardrails) if guardrails.active.checks_input() => {
                Err(GuardrailError::TokenIds { param: param.to_owned() }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks a conversation and its tools, as the model reads them, and replaces what is redacted.
    pub(super) fn chat(&self, chat: &mut ChatRequest, codec: &Codec) -> Result<AnswerGuard, ApiError> {
        let Some(guardrails) = &self.active else { return Ok(AnswerGuard::default()) };
        let slots = Slots::of(chat, codec);
        let texts = slots.texts();
        let InputOutcome { texts: checked, replacements, vault, .. } = guardrails.check(&texts)?;
        let fates = slots.fates();
        let is_fixed = |replacement: &&Replacement| fates.get(replacement.text) == Some(&Fate::Fixed);
        if let Some(replacement) = replacements.iter().find(is_fixed) {
            let (guardrail, detector) = (replacement.guardrail.to_string(), replacement.detector.to_string());
            return Err(GuardrailError::Irreplaceable { guardrail, detector }.into());
        }
        let checked = checked.into_iter().map(Cow::into_owned).collect();
        slots.fill(checked, &replacements);
        Ok(AnswerGuard::new(guardrails.clone(), vault))
    }
}
