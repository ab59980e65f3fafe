//! The choices of a streamed answer: a message in pieces.
//!
//! In OpenAI's dialect the arguments of a tool call arrive piece by piece. Mistral's has no form for a piece: there a call
//! is sent once it is complete, and thinking is a part of the content.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{
    mistral::{Beginning, MessageContent},
    request::ChatCall,
    response::stop_reason,
};
use crate::{
    api::{
        answer::tool_call_id,
        chunks::WriteChoices,
        dialect::Dialect,
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
    dialect: Dialect,
    beginning: Beginning,
    choices: Vec<ChoiceState>,
}

#[derive(Debug, Default)]
struct ChoiceState {
    begun: bool,
    /// The call that is being written, if it is to be sent whole.
    call: Option<ToolCallDelta>,
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
    content: Option<MessageContent>,
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
            dialect: call.dialect,
            beginning: call.beginning.clone(),
            choices: std::iter::repeat_with(ChoiceState::default).take(call.job.params.n).collect(),
        }
    }

    /// The first piece of a choice names the role, and has what the answer repeats of the request.
    fn begin(&mut self, index: usize) -> Option<ChunkChoice> {
        if std::mem::replace(&mut self.choices[index].begun, true) {
            return None;
        }
        let Beginning { reasoning, content } = self.beginning.clone();
        let reasoning = if self.show.reasoning { reasoning } else { String::new() };
        let content = MessageContent::with_thinking(reasoning, Some(content));
        Some(choice(index, ChunkDelta { role: Some("assistant"), content, ..ChunkDelta::default() }))
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Vec<ChunkChoice> {
        let shows_reasoning = self.show.reasoning;
        let visible = |event: &OutputEvent| shows_reasoning || !matches!(event, OutputEvent::Reasoning(_));
        let events = delta.events.into_iter().filter(visible);
        let mut deltas: Vec<ChunkDelta> = match self.dialect {
            Dialect::OpenAi => events.map(chunk_delta).collect(),
            Dialect::Mistral => {
                let state = &mut self.choices[index];
                events.flat_map(|event| state.mistral_deltas(event)).collect()
            }
        };
        let as_token_ids = self.show.tokens_as_token_ids;
        let names = TokenNames { codec: &self.model.codec, as_token_ids, dialect: self.dialect };
        let logprobs = names.chat(&delta.logprobs);
        let logprobs = (self.show.logprobs && !logprobs.is_empty()).then_some(ChatLogprobs { content: logprobs });
        let token_ids = (self.show.token_ids && !delta.token_ids.is_empty()).then_some(delta.token_ids);
        if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            deltas.push(text_delta(String::new()));
        }
        let mut choices: Vec<ChunkChoice> = deltas.into_iter().map(|delta| choice(index, delta)).collect();
        if let Some(first) = choices.first_mut() {
            (first.logprobs, first.token_ids) = (logprobs, token_ids);
        }
        choices
    }
}

impl ChoiceState {
    /// What Mistral's stream says of an event, the call before it included: it is complete as soon as anything follows.
    fn mistral_deltas(&mut self, event: OutputEvent) -> Vec<ChunkDelta> {
        let mut deltas = Vec::new();
        match event {
            OutputEvent::ToolCallArguments { fragment, .. } => {
                if let Some(call) = &mut self.call {
                    call.function.arguments.push_str(&fragment);
                }
            }
            OutputEvent::ToolCallBegin { index, id, name } => {
                deltas.extend(self.whole_call());
                self.call = Some(begun_call(index, id, name));
            }
            OutputEvent::Content(text) => {
                deltas.extend(self.whole_call());
                deltas.push(text_delta(text));
            }
            OutputEvent::Reasoning(text) => {
                deltas.extend(self.whole_call());
                let content = MessageContent::with_thinking(text, None);
                deltas.push(ChunkDelta { content, ..ChunkDelta::default() });
            }
        }
        deltas
    }

    fn whole_call(&mut self) -> Option<ChunkDelta> {
        let call = self.call.take()?;
        Some(ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() })
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
            Event::Finished(finished) => {
                let call = self.choices[index].whole_call().map(|delta| choice(index, delta));
                call.into_iter().chain([last(index, finished)]).collect()
            }
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

fn text_delta(text: String) -> ChunkDelta {
    ChunkDelta { content: Some(MessageContent::Text(text)), ..ChunkDelta::default() }
}

fn chunk_delta(event: OutputEvent) -> ChunkDelta {
    match event {
        OutputEvent::Content(text) => text_delta(text),
        OutputEvent::Reasoning(text) => ChunkDelta { reasoning: Some(text), ..ChunkDelta::default() },
        OutputEvent::ToolCallBegin { index, id, name } => {
            ChunkDelta { tool_calls: Some([begun_call(index, id, name)]), ..ChunkDelta::default() }
        }
        OutputEvent::ToolCallArguments { index, fragment } => {
            let function = FunctionDelta { name: None, arguments: fragment };
            let call = ToolCallDelta { index, id: None, r#type: None, function };
            ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() }
        }
    }
}

fn begun_call(index: usize, id: Option<String>, name: String) -> ToolCallDelta {
    let function = FunctionDelta { name: Some(name), arguments: String::new() };
    ToolCallDelta { index, id: Some(tool_call_id(id)), r#type: Some("function"), function }
}
