//! The choices of a streamed answer: a message in pieces.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{request::ChatCall, response::stop_reason};
use crate::{
    api::{
        answer::tool_call_id,
        chunks::WriteChoices,
        generation::{Delta, Event, Finished},
        logprobs::{ChatLogprobs, TokenNames},
        state::ServedModel,
    },
    prompt::OutputEvent,
};

/// Turns events into pieces of messages. Knows which choices have begun.
pub(super) struct ChatChoices {
    model: Arc<ServedModel>,
    show: Show,
    begun: Vec<bool>,
}

/// What the client wants to see.
#[derive(Clone, Copy, Debug)]
struct Show {
    logprobs: bool,
    token_ids: bool,
    tokens_as_token_ids: bool,
    reasoning: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ChunkChoice {
    index: usize,
    delta: ChunkDelta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Default, Serialize)]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCallDelta; 1]>,
}

#[derive(Debug, Serialize)]
struct ToolCallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Debug, Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl ChatChoices {
    pub(super) fn new(call: &ChatCall, model: &Arc<ServedModel>) -> Self {
        Self {
            model: Arc::clone(model),
            show: Show {
                logprobs: call.job.params.logprobs.is_some(),
                token_ids: call.options.return_token_ids,
                tokens_as_token_ids: call.options.tokens_as_token_ids,
                reasoning: call.include_reasoning,
            },
            begun: vec![false; call.job.params.n],
        }
    }

    /// The first piece of a choice names the role.
    fn begin(&mut self, index: usize) -> Option<ChunkChoice> {
        let role = || ChunkDelta { role: Some("assistant"), content: Some(String::new()), ..ChunkDelta::default() };
        let is_first = !std::mem::replace(&mut self.begun[index], true);
        is_first.then(|| choice(index, role()))
    }

    fn delta(&self, index: usize, delta: Delta) -> Vec<ChunkChoice> {
        let visible = |event: &OutputEvent| self.show.reasoning || !matches!(event, OutputEvent::Reasoning(_));
        let mut deltas: Vec<ChunkDelta> = delta.events.into_iter().filter(visible).map(chunk_delta).collect();
        let names = TokenNames { codec: &self.model.codec, as_token_ids: self.show.tokens_as_token_ids };
        let logprobs = names.chat(&delta.logprobs);
        let logprobs = (self.show.logprobs && !logprobs.is_empty()).then_some(ChatLogprobs { content: logprobs });
        let token_ids = (self.show.token_ids && !delta.token_ids.is_empty()).then_some(delta.token_ids);
        if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            deltas.push(ChunkDelta { content: Some(String::new()), ..ChunkDelta::default() });
        }
        let mut choices: Vec<ChunkChoice> = deltas.into_iter().map(|delta| choice(index, delta)).collect();
        if let Some(first) = choices.first_mut() {
            (first.logprobs, first.token_ids) = (logprobs, token_ids);
        }
        choices
    }
}

impl WriteChoices for ChatChoices {
    const OBJECT: &'static str = "chat.completion.chunk";
    type Choice = ChunkChoice;

    fn write(&mut self, index: usize, event: Event) -> Vec<ChunkChoice> {
        let pieces = match event {
            // `prompt_logprobs` is refused together with `stream`.
            Event::Started { .. } | Event::PromptLogprobs(_) => return Vec::new(),
            Event::Delta(delta) => self.delta(index, delta),
            Event::Finished(finished) => vec![last(index, finished)],
        };
        self.begin(index).into_iter().chain(pieces).collect()
    }
}

fn last(index: usize, finished: Finished) -> ChunkChoice {
    ChunkChoice {
        finish_reason: Some(finished.reason.as_str()),
        stop_reason: stop_reason(finished.stop_reason),
        ..choice(index, ChunkDelta::default())
    }
}

fn choice(index: usize, delta: ChunkDelta) -> ChunkChoice {
    ChunkChoice { index, delta, logprobs: None, finish_reason: None, stop_reason: None, token_ids: None }
}

fn chunk_delta(event: OutputEvent) -> ChunkDelta {
    match event {
        OutputEvent::Content(text) => ChunkDelta { content: Some(text), ..ChunkDelta::default() },
        OutputEvent::Reasoning(text) => ChunkDelta { reasoning: Some(text), ..ChunkDelta::default() },
        OutputEvent::ToolCallBegin { index, id, name } => {
            let function = FunctionDelta { name: Some(name), arguments: String::new() };
            let call = ToolCallDelta { index, id: Some(tool_call_id(id)), r#type: Some("function"), function };
            ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() }
        }
        OutputEvent::ToolCallArguments { index, fragment } => {
            let function = FunctionDelta { name: None, arguments: fragment };
            let call = ToolCallDelta { index, id: None, r#type: None, function };
            ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() }
        }
    }
}
