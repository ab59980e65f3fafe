//! An answer as a stream of chunks.

use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::{Head, request::ChatCall, response::stop_reason};
use crate::{
    api::{
        answer::{Usage, UsageCounter, merge, tool_call_id},
        generation::{Delta, Event, Finished, Generation},
        logprobs::{ChatLogprobs, TokenNames},
        params::StreamOptions,
        sse::{Broken, Sender},
        state::ServedModel,
    },
    prompt::OutputEvent,
};

/// Turns events into chunks. Knows which choices have begun, and what has been counted.
pub(super) struct ChatStream {
    head: Head,
    model: Arc<ServedModel>,
    options: StreamOptions,
    show: Show,
    usage: UsageCounter,
    prompt_ids: Option<Vec<u32>>,
    choices: Vec<ChoiceState>,
}

/// What the client wants to see.
#[derive(Clone, Copy, Debug)]
struct Show {
    logprobs: bool,
    token_ids: bool,
    tokens_as_token_ids: bool,
    reasoning: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ChoiceState {
    begun: bool,
    completion_tokens: usize,
}

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<ChunkChoice>,
    /// Absent unless asked for; null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
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

/// Sends every chunk of the answer.
pub(super) async fn produce(
    mut chunks: ChatStream,
    generations: Vec<Generation>,
    sender: Sender,
) -> Result<(), Broken> {
    let mut events = merge(generations);
    while let Some((index, event)) = events.next().await {
        match event? {
            Event::Started { cached_tokens } if index == 0 => chunks.usage.cached_tokens = cached_tokens,
            // Refused together with `stream`.
            Event::Started { .. } | Event::PromptLogprobs(_) => {}
            Event::Delta(delta) => chunks.delta(index, delta, &sender).await?,
            Event::Finished(finished) => chunks.finished(index, finished, &sender).await?,
        }
    }
    chunks.end(&sender).await
}

impl ChatStream {
    pub(super) fn new(head: Head, call: &ChatCall, options: StreamOptions, model: &Arc<ServedModel>) -> Self {
        Self {
            head,
            model: Arc::clone(model),
            options,
            show: Show {
                logprobs: call.job.params.logprobs.is_some(),
                token_ids: call.options.return_token_ids,
                tokens_as_token_ids: call.options.tokens_as_token_ids,
                reasoning: call.include_reasoning,
            },
            usage: UsageCounter { prompt_tokens: call.job.prompt_ids.len(), ..UsageCounter::default() },
            prompt_ids: call.options.return_token_ids.then(|| call.job.prompt_ids.clone()),
            choices: vec![ChoiceState::default(); call.job.params.n],
        }
    }

    async fn delta(&mut self, index: usize, delta: Delta, sender: &Sender) -> Result<(), Broken> {
        self.usage.completion_tokens += delta.token_ids.len();
        self.choices[index].completion_tokens += delta.token_ids.len();
        self.begin(index, sender).await?;
        let show_reasoning = self.show.reasoning;
        let visible = |event: &OutputEvent| show_reasoning || !matches!(event, OutputEvent::Reasoning(_));
        let mut deltas: Vec<ChunkDelta> = delta.events.into_iter().filter(visible).map(chunk_delta).collect();
        let names = TokenNames { codec: &self.model.codec, as_token_ids: self.show.tokens_as_token_ids };
        let logprobs = names.chat(&delta.logprobs);
        let logprobs = (self.show.logprobs && !logprobs.is_empty()).then_some(ChatLogprobs { content: logprobs });
        let token_ids = (self.show.token_ids && !delta.token_ids.is_empty()).then_some(delta.token_ids);
        if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            deltas.push(ChunkDelta { content: Some(String::new()), ..ChunkDelta::default() });
        }
        let (mut logprobs, mut token_ids) = (logprobs, token_ids); // of the first chunk
        for delta in deltas {
            let choice = ChunkChoice { logprobs: logprobs.take(), token_ids: token_ids.take(), ..choice(index, delta) };
            self.send(choice, sender).await?;
        }
        Ok(())
    }

    async fn finished(&mut self, index: usize, finished: Finished, sender: &Sender) -> Result<(), Broken> {
        self.begin(index, sender).await?;
        self.usage.reasoning_tokens += finished.counts.reasoning;
        let last = ChunkChoice {
            finish_reason: Some(finished.reason.as_str()),
            stop_reason: stop_reason(finished.stop_reason),
            ..choice(index, ChunkDelta::default())
        };
        self.send(last, sender).await
    }

    /// The first chunk of a choice names the role.
    async fn begin(&mut self, index: usize, sender: &Sender) -> Result<(), Broken> {
        if std::mem::replace(&mut self.choices[index].begun, true) {
            return Ok(());
        }
        let role = ChunkDelta { role: Some("assistant"), content: Some(String::new()), ..ChunkDelta::default() };
        self.send(choice(index, role), sender).await
    }

    async fn send(&mut self, choice: ChunkChoice, sender: &Sender) -> Result<(), Broken> {
        let so_far = self.options.continuous_usage_stats.then(|| self.usage.usage());
        let usage = (self.options.include_usage || so_far.is_some()).then_some(so_far);
        let prompt_token_ids = self.prompt_ids.take();
        sender.send(&self.chunk(vec![choice], usage, prompt_token_ids)).await
    }

    async fn end(self, sender: &Sender) -> Result<(), Broken> {
        let longest = self.choices.iter().map(|choice| choice.completion_tokens).max();
        self.model.metrics.longest_choice(longest.unwrap_or(0));
        if self.options.include_usage {
            sender.send(&self.chunk(Vec::new(), Some(Some(self.usage.usage())), None)).await?;
        }
        Ok(())
    }

    fn chunk(
        &self,
        choices: Vec<ChunkChoice>,
        usage: Option<Option<Usage>>,
        prompt_token_ids: Option<Vec<u32>>,
    ) -> Chunk<'_> {
        Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.system_fingerprint,
            choices,
            usage,
            prompt_token_ids,
        }
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
