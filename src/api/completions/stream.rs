//! The choices of a streamed answer: a text in pieces.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::request::CompletionCall;
use crate::{
    api::{
        chat::stop_reason,
        chunks::WriteChoices,
        dialect::Dialect,
        generation::{Delta, Event, Finished},
        logprobs::{CompletionLogprobs, TokenNames},
        state::ServedModel,
    },
    engine::TokenLogprobs,
    prompt::OutputEvent,
};

/// Turns events into pieces of texts. Knows how far each choice is.
pub(super) struct CompletionChoices {
    model: Arc<ServedModel>,
    call: CompletionCall,
    choices: Vec<ChoiceState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ChoiceState {
    begun: bool,
    /// Characters of the echoed prompt.
    echoed_chars: usize,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ChunkChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

impl CompletionChoices {
    pub(super) fn new(call: CompletionCall, model: &Arc<ServedModel>) -> Self {
        let choices = vec![ChoiceState::default(); call.jobs.len() * call.n];
        Self { model: Arc::clone(model), call, choices }
    }

    /// The echoed prompt.
    fn prompt(&mut self, index: usize, logprobs: Option<&[Option<TokenLogprobs>]>) -> ChunkChoice {
        let job = &self.call.jobs[index / self.call.n];
        let (text, entries) = self.names().echo(&job.prompt_ids, job.params.special_tokens, logprobs);
        let text = job.guard.restore(text);
        self.choices[index].echoed_chars = text.chars().count();
        ChunkChoice { index, text, logprobs: logprobs.map(|_| entries), ..ChunkChoice::default() }
    }

    fn delta(&self, index: usize, delta: Delta) -> Option<ChunkChoice> {
        let text: String = delta.events.into_iter().filter_map(content).collect();
        let mut logprobs = CompletionLogprobs::default();
        self.names().extend_completion(&mut logprobs, &delta.logprobs, self.choices[index].echoed_chars);
        let logprobs = (!logprobs.tokens.is_empty()).then_some(logprobs);
        let show_ids = self.call.options.return_token_ids && !delta.token_ids.is_empty();
        let token_ids = show_ids.then_some(delta.token_ids);
        let is_nothing = text.is_empty() && logprobs.is_none() && token_ids.is_none();
        (!is_nothing).then(|| ChunkChoice { index, text, logprobs, token_ids, ..ChunkChoice::default() })
    }

    fn names(&self) -> TokenNames<'_> {
        let as_token_ids = self.call.options.tokens_as_token_ids;
        TokenNames { codec: &self.model.codec, as_token_ids, dialect: Dialect::OpenAi }
    }
}

impl WriteChoices for CompletionChoices {
    const OBJECT: &'static str = "text_completion";
    type Choice = ChunkChoice;

    fn write(&mut self, index: usize, event: Event) -> Vec<ChunkChoice> {
        // With log-probabilities the echo waits for those of the prompt.
        let echoes_at_once = self.call.echo && self.call.logprobs.is_none();
        let mut choice = match event {
            Event::Started { .. } => echoes_at_once.then(|| self.prompt(index, None)),
            Event::PromptLogprobs(logprobs) => Some(self.prompt(index, Some(&logprobs))),
            Event::Delta(delta) => self.delta(index, delta),
            Event::Finished(finished) => Some(last(index, finished)),
        };
        if let Some(choice) = &mut choice
            && !std::mem::replace(&mut self.choices[index].begun, true)
            && self.call.options.return_token_ids
        {
            choice.prompt_token_ids = Some(self.call.jobs[index / self.call.n].prompt_ids.clone());
        }
        choice.into_iter().collect()
    }
}

fn last(index: usize, finished: Finished) -> ChunkChoice {
    ChunkChoice {
        index,
        finish_reason: Some(finished.reason.as_str()),
        stop_reason: stop_reason(finished.stop_reason),
        ..ChunkChoice::default()
    }
}

/// Completions are read as plain text, so that there is nothing else.
fn content(event: OutputEvent) -> Option<String> {
    match event {
        OutputEvent::Content(text) => Some(text),
        OutputEvent::Reasoning(_) | OutputEvent::ToolCallBegin { .. } | OutputEvent::ToolCallArguments { .. } => None,
    }
}
