//! Guardrails of a request: what a client sends as text is checked before it becomes tokens.
//!
//! Main types: [`Terms`], which every request is read on, and its [`RequestGuard`]. What a check leaves behind for the
//! answer is an [`AnswerGuard`]. Invariants: a text that is blocked is neither shown nor logged, and findings are counted
//! by the names of the operator's file alone. Knows nothing of how requests are read.

use std::{borrow::Cow, time::Instant};

use serde_json::Value;

use super::{
    answer_guard::{AnswerGuard, stage_name},
    error::ApiError,
    guarded_json,
    guardrail_error::GuardrailError,
    state::AppState,
};
use crate::{
    governance::guardrails::{Action, ActiveGuardrails, Finding, Stage},
    prompt::{ChatRequest, Chunk, Content, Message, ResponseFormat, json},
    telemetry::GuardrailMetrics,
};

/// On which terms a request is answered.
#[derive(Clone)]
pub(super) struct Terms {
    /// When the answer must be there.
    pub(super) deadline: Instant,
    /// What it may say.
    pub(super) guard: RequestGuard,
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
}

impl Terms {
    /// For what is not asked of a model, but only checked.
    pub(super) fn unguarded(deadline: Instant) -> Self {
        Self { deadline, guard: RequestGuard::default() }
    }
}

impl Guardrails {
    pub(super) fn count(&self, findings: &[Finding], stage: Stage) {
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
    /// That of requests to a route of the router, for the tenant whose state it is.
    pub(super) fn new(state: &AppState, model: &str, route: &str) -> Self {
        let active = state.governance().guardrails().select(state.tenant(), model, route);
        let metrics = || state.http_metrics().guardrails().clone();
        Self { active: active.map(|active| Guardrails { active, metrics: metrics() }) }
    }

    /// All texts of a request, as they go on, and what its answer passes.
    pub(super) fn texts<'t>(&self, texts: &[&'t str]) -> Result<(Vec<Cow<'t, str>>, AnswerGuard), ApiError> {
        let Some(guardrails) = &self.active else {
            return Ok((texts.iter().map(|&text| Cow::Borrowed(text)).collect(), AnswerGuard::default()));
        };
        let outcome = guardrails.active.check_input(texts);
        guardrails.count(&outcome.findings, Stage::Input);
        match outcome.blocked {
            Some(blocked) => {
                let (guardrail, detector) = (blocked.guardrail.to_string(), blocked.detector.to_string());
                Err(GuardrailError::Blocked { guardrail, detector }.into())
            }
            None => Ok((outcome.texts, AnswerGuard::new(guardrails.clone(), outcome.vault))),
        }
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

    /// Checks a conversation and its tools, and replaces what is redacted.
    pub(super) fn chat(&self, chat: &mut ChatRequest) -> Result<AnswerGuard, ApiError> {
        if self.active.is_none() {
            return Ok(AnswerGuard::default());
        }
        let mut slots = Vec::new();
        for message in &mut chat.messages {
            slots_of_message(message, &mut slots);
        }
        for tool in &mut chat.tools {
            slots.push(Slot::Text(&mut tool.name));
            slots.push(Slot::Text(&mut tool.description));
            slots.push(Slot::Json(&mut tool.parameters));
        }
        // Some templates write it.
        if let ResponseFormat::JsonSchema(schema) = &mut chat.response_format {
            slots.push(Slot::Json(schema));
        }
        let mut texts = Vec::new();
        slots.iter().for_each(|slot| slot.texts(&mut texts));
        let (checked, answer) = self.texts(&texts)?;
        let checked: Vec<String> = checked.into_iter().map(Cow::into_owned).collect();
        let mut checked = checked.into_iter();
        slots.into_iter().for_each(|slot| slot.fill(&mut checked));
        Ok(answer)
    }
}

/// A place of a conversation that has text.
enum Slot<'c> {
    Text(&'c mut String),
    Json(&'c mut json::Value),
    /// JSON that is written in a text: what it says is judged, not how that is escaped.
    Arguments(&'c mut String, json::Value),
}

impl<'c> Slot<'c> {
    /// What is no JSON is a text like others.
    fn of_arguments(text: &'c mut String) -> Self {
        match json::Value::parse(text) {
            Ok(value) => Self::Arguments(text, value),
            Err(_) => Self::Text(text),
        }
    }

    fn texts<'s>(&'s self, texts: &mut Vec<&'s str>) {
        match self {
            Self::Text(text) => texts.push(text),
            Self::Json(value) => guarded_json::texts(value, texts),
            Self::Arguments(_, value) => guarded_json::texts(value, texts),
        }
    }

    /// Arguments are written anew, so that nothing stays that was not read: a member that comes twice.
    fn fill(self, with: &mut impl Iterator<Item = String>) {
        match self {
            Self::Text(text) => {
                if let Some(new) = with.next() {
                    *text = new;
                }
            }
            Self::Json(value) => *value = guarded_json::replace(value, with),
            Self::Arguments(text, value) => *text = guarded_json::replace(&value, with).to_json(),
        }
    }
}

fn slots_of_message<'c>(message: &'c mut Message, slots: &mut Vec<Slot<'c>>) {
    let (content, calls, name) = match message {
        Message::System { content } | Message::User { content } => (content, None, None),
        Message::Assistant { content, tool_calls, .. } => (content, Some(tool_calls), None),
        Message::Tool { content, name, .. } => (content, None, name.as_mut()),
    };
    slots.extend(name.map(Slot::Text));
    match content {
        Content::Text(text) => slots.push(Slot::Text(text)),
        Content::Chunks(chunks) => {
            for chunk in chunks {
                match chunk {
                    Chunk::Text(text) | Chunk::Thinking { text, .. } => slots.push(Slot::Text(text)),
                    Chunk::Image | Chunk::Audio => {} // are refused
                }
            }
        }
    }
    for call in calls.into_iter().flatten() {
        slots.push(Slot::Text(&mut call.name));
        slots.push(Slot::of_arguments(&mut call.arguments));
    }
}
