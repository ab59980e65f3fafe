//! Guardrails of an answer: nothing of it leaves before it is judged.
//!
//! Main types: [`AnswerGuard`], which a request leaves for its answer, and [`GuardedAnswer`], through which the events of
//! one choice pass. Text and reasoning pass piece by piece, less what could become part of a finding; a call's arguments
//! pass whole, as only then they can be read as JSON. A passage ends where another kind begins, so nothing is found across.
//! Knows nothing of the engine or of HTTP.

use std::{fmt, mem, sync::Arc};

use super::{assembler::Delta, error::ApiError, guard::Guardrails, guarded_json, params::GenerationParams};
use crate::{
    governance::guardrails::{OutputGuard, Released, Stage, Vault},
    prompt::{OutputEvent, json},
};

/// What the answer to a request passes. The default is nothing.
#[derive(Clone, Default)]
pub struct AnswerGuard {
    checks: Option<Arc<Checks>>,
}

struct Checks {
    guardrails: Guardrails,
    vault: Arc<Vault>,
}

/// The answer of one choice on its way.
pub(super) struct GuardedAnswer {
    checks: Arc<Checks>,
    passage: Passage,
}

/// What is being written.
enum Passage {
    Nothing,
    Text(Kind, Box<OutputGuard>),
    Arguments { index: usize, text: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Content,
    Reasoning,
}

/// The answer ends here.
pub(super) struct Blocked;

impl AnswerGuard {
    pub(super) fn new(guardrails: Guardrails, vault: Vault) -> Self {
        let is_needed = guardrails.active.checks_output() || !vault.is_empty();
        Self { checks: is_needed.then(|| Arc::new(Checks { guardrails, vault: Arc::new(vault) })) }
    }

    /// For one choice, if there is anything to do.
    pub(super) fn of_choice(&self) -> Option<GuardedAnswer> {
        let checks = Arc::clone(self.checks.as_ref()?);
        Some(GuardedAnswer { checks, passage: Passage::Nothing })
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

impl GuardedAnswer {
    /// Leaves in a delta what may leave now.
    pub(super) fn pass(&mut self, delta: &mut Delta) -> Result<(), Blocked> {
        let events = mem::take(&mut delta.events);
        for event in events {
            match event {
                OutputEvent::Content(text) => self.text(Kind::Content, &text, delta)?,
                OutputEvent::Reasoning(text) => self.text(Kind::Reasoning, &text, delta)?,
                OutputEvent::ToolCallBegin { index, id, name } => {
                    self.finish(delta)?;
                    let name = self.whole(&name)?;
                    delta.events.push(OutputEvent::ToolCallBegin { index, id, name });
                }
                OutputEvent::ToolCallArguments { index, fragment } => self.arguments(index, fragment, delta)?,
            }
        }
        Ok(())
    }

    /// The same for the last of it.
    pub(super) fn pass_last(&mut self, delta: &mut Delta) -> Result<(), Blocked> {
        self.pass(delta)?;
        self.finish(delta)
    }

    fn text(&mut self, kind: Kind, text: &str, delta: &mut Delta) -> Result<(), Blocked> {
        if !matches!(&self.passage, Passage::Text(now, _) if *now == kind) {
            self.finish(delta)?;
            self.passage = Passage::Text(kind, Box::new(self.guard()));
        }
        match &mut self.passage {
            Passage::Text(_, guard) => {
                let released = guard.push(text);
                self.release(kind, released, delta)
            }
            Passage::Nothing | Passage::Arguments { .. } => Ok(()),
        }
    }

    fn arguments(&mut self, index: usize, fragment: String, delta: &mut Delta) -> Result<(), Blocked> {
        if let Passage::Arguments { index: now, text } = &mut self.passage
            && *now == index
        {
            text.push_str(&fragment);
            return Ok(());
        }
        self.finish(delta)?;
        self.passage = Passage::Arguments { index, text: fragment };
        Ok(())
    }

    /// Ends the passage.
    fn finish(&mut self, delta: &mut Delta) -> Result<(), Blocked> {
        match mem::replace(&mut self.passage, Passage::Nothing) {
            Passage::Nothing => Ok(()),
            Passage::Text(kind, guard) => {
                let released = guard.finish();
                self.release(kind, released, delta)
            }
            Passage::Arguments { index, text } => {
                let fragment = self.checked_arguments(text)?;
                delta.events.push(OutputEvent::ToolCallArguments { index, fragment });
                Ok(())
            }
        }
    }

    fn release(&self, kind: Kind, released: Released, delta: &mut Delta) -> Result<(), Blocked> {
        let Released { text, findings, blocked } = released;
        self.checks.guardrails.count(&findings, Stage::Output);
        if !text.is_empty() {
            delta.events.push(match kind {
                Kind::Content => OutputEvent::Content(text),
                Kind::Reasoning => OutputEvent::Reasoning(text),
            });
        }
        if blocked.is_some() { Err(Blocked) } else { Ok(()) }
    }

    /// Arguments are judged as what they say. What is no JSON is judged as it is.
    fn checked_arguments(&self, text: String) -> Result<String, Blocked> {
        let Ok(value) = json::Value::parse(&text) else { return self.whole(&text) };
        let mut texts = Vec::new();
        guarded_json::texts(&value, &mut texts);
        let checked = texts.into_iter().map(|text| self.whole(text)).collect::<Result<Vec<_>, _>>()?;
        // Written anew, so that nothing leaves that was not read: a member that comes twice.
        Ok(guarded_json::replace(&value, &mut checked.into_iter()).to_json())
    }

    fn whole(&self, text: &str) -> Result<String, Blocked> {
        let mut guard = self.guard();
        let mut whole = String::new();
        for released in [guard.push(text), guard.finish()] {
            self.checks.guardrails.count(&released.findings, Stage::Output);
            if released.blocked.is_some() {
                return Err(Blocked);
            }
            whole.push_str(&released.text);
        }
        Ok(whole)
    }

    fn guard(&self) -> OutputGuard {
        self.checks.guardrails.active.output(Arc::clone(&self.checks.vault))
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
