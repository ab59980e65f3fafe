//! One choice of an answer on its way to its client.
//!
//! Main type: [`GuardedAnswer`]. All content is judged as one text and all reasoning as another, as clients put them
//! together; a call passes whole, with its arguments, as only then these can be read as JSON. Invariants: what is held back
//! of the content is not overtaken by what the model wrote behind it; of a call that is blocked nothing leaves.

use std::{collections::VecDeque, mem, sync::Arc};

use super::{Begun, Blocked, Checks, Written, json_text::JsonText};
use crate::{
    api::{assembler::Delta, guarded_json},
    governance::guardrails::{OutputGuard, Released},
    prompt::{OutputEvent, json},
};

/// The answer of one choice.
pub(in crate::api) struct GuardedAnswer {
    checks: Arc<Checks>,
    content: Content,
    reasoning: OutputGuard,
    is_reasoning: bool,
    call: Option<Call>,
    /// What is judged, and waits for content that was written before it.
    waiting: VecDeque<OutputEvent>,
    /// The content has come to a finding that blocks it.
    is_content_over: bool,
}

enum Content {
    Text(Box<OutputGuard>),
    Json(Box<JsonText>),
}

/// A call that is being written.
struct Call {
    index: usize,
    id: Option<String>,
    name: String,
    arguments: String,
}

impl GuardedAnswer {
    pub(super) fn new(checks: Arc<Checks>, written: &Written, begun: &Begun) -> Self {
        let content = match written {
            Written::AsText => Content::Text(Box::new(checks.guard_behind(begun.content.as_ref()))),
            Written::AsJson(begun) => Content::Json(Box::new(begun.as_ref().clone())),
        };
        let reasoning = checks.guard_behind(begun.reasoning.as_ref());
        Self {
            checks,
            content,
            reasoning,
            is_reasoning: false,
            call: None,
            waiting: VecDeque::new(),
            is_content_over: false,
        }
    }

    /// Leaves in a delta what may leave now.
    pub(in crate::api) fn pass(&mut self, delta: &mut Delta) -> Result<(), Blocked> {
        let events = mem::take(&mut delta.events);
        let passed = events.into_iter().try_for_each(|event| self.event(event, &mut delta.events));
        self.settle(passed, &mut delta.events)
    }

    /// The same for the last of it.
    pub(in crate::api) fn pass_last(&mut self, delta: &mut Delta) -> Result<(), Blocked> {
        self.pass(delta)?;
        let passed = self.finish(&mut delta.events);
        self.settle(passed, &mut delta.events)
    }

    fn event(&mut self, event: OutputEvent, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        match event {
            OutputEvent::Content(text) => {
                self.end_call(out)?;
                self.end_reasoning(out)?;
                self.content(&text, out)
            }
            OutputEvent::Reasoning(text) => {
                self.end_call(out)?;
                self.is_reasoning = true;
                let released = self.reasoning.push(&text);
                self.reasoned(released, out)
            }
            OutputEvent::ToolCallBegin { index, id, name } => {
                self.end_call(out)?;
                self.end_reasoning(out)?;
                self.call = Some(Call { index, id, name, arguments: String::new() });
                Ok(())
            }
            OutputEvent::ToolCallArguments { fragment, .. } => {
                // They follow their call.
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&fragment);
                }
                Ok(())
            }
        }
    }

    fn content(&mut self, text: &str, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        let mut content = String::new();
        let passed = match &mut self.content {
            Content::Text(guard) => released(guard.push(text), &self.checks, &mut content),
            Content::Json(json) => json.push(text, &mut content),
        };
        self.said(content, passed, out)?;
        self.release_waiting(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        self.end_call(out)?;
        self.end_reasoning(out)?;
        self.finish_content(out)?;
        out.extend(self.waiting.drain(..));
        Ok(())
    }

    fn finish_content(&mut self, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        let mut content = String::new();
        let passed = match &mut self.content {
            Content::Text(guard) => {
                let guard = mem::replace(&mut **guard, self.checks.guard());
                released(guard.finish(), &self.checks, &mut content)
            }
            Content::Json(json) => json.finish(&mut content),
        };
        self.said(content, passed, out)
    }

    /// Where the answer ends early, what was written before that place still leaves if it may.
    fn settle(&mut self, passed: Result<(), Blocked>, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        if passed.is_err() && !self.is_content_over && self.finish_content(out).is_ok() {
            out.extend(self.waiting.drain(..));
        }
        passed
    }

    /// Reasoning does not hold back the content behind it.
    fn end_reasoning(&mut self, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        if !mem::replace(&mut self.is_reasoning, false) {
            return Ok(());
        }
        let released = self.reasoning.pause();
        self.reasoned(released, out)
    }

    fn reasoned(&mut self, released_now: Released, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        let mut reasoning = String::new();
        let passed = released(released_now, &self.checks, &mut reasoning);
        if !reasoning.is_empty() {
            self.emit(OutputEvent::Reasoning(reasoning), out);
        }
        passed
    }

    fn end_call(&mut self, out: &mut Vec<OutputEvent>) -> Result<(), Blocked> {
        let Some(Call { index, id, name, arguments }) = self.call.take() else { return Ok(()) };
        // No other name can stand for it.
        if self.checks.whole(&name)? != name {
            return Err(Blocked);
        }
        let fragment = self.checked_arguments(arguments)?;
        self.emit(OutputEvent::ToolCallBegin { index, id, name }, out);
        if !fragment.is_empty() {
            self.emit(OutputEvent::ToolCallArguments { index, fragment }, out);
        }
        Ok(())
    }

    /// Arguments are judged as what they say. What is no JSON is judged as it is.
    fn checked_arguments(&self, text: String) -> Result<String, Blocked> {
        let Ok(value) = json::Value::parse(&text) else { return self.checks.whole(&text) };
        let mut texts = Vec::new();
        guarded_json::texts(&value, &mut texts);
        let checked = texts.into_iter().map(|text| self.checks.whole(text)).collect::<Result<Vec<_>, _>>()?;
        // Written anew, so that nothing leaves that was not read: a member that comes twice.
        Ok(guarded_json::replace(&value, &mut checked.into_iter()).to_json())
    }

    fn said(
        &mut self,
        content: String,
        passed: Result<(), Blocked>,
        out: &mut Vec<OutputEvent>,
    ) -> Result<(), Blocked> {
        if !content.is_empty() {
            out.push(OutputEvent::Content(content));
        }
        self.is_content_over |= passed.is_err();
        passed
    }

    fn emit(&mut self, event: OutputEvent, out: &mut Vec<OutputEvent>) {
        if self.waiting.is_empty() && !self.holds_content() {
            out.push(event);
        } else {
            self.waiting.push_back(event);
        }
    }

    fn release_waiting(&mut self, out: &mut Vec<OutputEvent>) {
        // Of a text in pieces it is not known which of them was held: what waits follows all that was.
        if !self.holds_content() {
            out.extend(self.waiting.drain(..));
        }
    }

    fn holds_content(&self) -> bool {
        match &self.content {
            Content::Text(guard) => guard.held_bytes() > 0,
            Content::Json(json) => json.holds(),
        }
    }
}

/// Adds what has left to a text.
pub(super) fn released(released: Released, checks: &Checks, text: &mut String) -> Result<(), Blocked> {
    checks.count(&released.findings);
    text.push_str(&released.text);
    if released.blocked.is_some() { Err(Blocked) } else { Ok(()) }
}
