//! An answer as a stream of chunks.

use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::{Head, request::CompletionCall};
use crate::{
    api::{
        answer::{Usage, UsageCounter, merge},
        chat::stop_reason,
        generation::{Delta, Event, Finished, Generation},
        logprobs::{CompletionLogprobs, TokenNames},
        params::StreamOptions,
        sse::{Broken, Sender},
        state::ServedModel,
    },
    engine::TokenLogprobs,
    prompt::OutputEvent,
};

/// Turns events into chunks. Knows how far each choice is.
pub(super) struct CompletionStream {
    head: Head,
    model: Arc<ServedModel>,
    call: CompletionCall,
    options: StreamOptions,
    usage: UsageCounter,
    choices: Vec<ChoiceState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ChoiceState {
    begun: bool,
    /// Characters of the echoed prompt.
    echoed_chars: usize,
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
}

#[derive(Debug, Default, Serialize)]
struct ChunkChoice {
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

/// Sends every chunk of the answer.
pub(super) async fn produce(
    mut chunks: CompletionStream,
    generations: Vec<Generation>,
    sender: Sender,
) -> Result<(), Broken> {
    let mut events = merge(generations);
    while let Some((index, event)) = events.next().await {
        match event? {
            Event::Started { cached_tokens } => chunks.started(index, cached_tokens, &sender).await?,
            Event::PromptLogprobs(logprobs) => chunks.prompt(index, Some(&logprobs), &sender).await?,
            Event::Delta(delta) => chunks.delta(index, delta, &sender).await?,
            Event::Finished(finished) => chunks.finished(index, finished, &sender).await?,
        }
    }
    chunks.end(&sender).await
}

impl CompletionStream {
    pub(super) fn new(head: Head, call: CompletionCall, options: StreamOptions, model: &Arc<ServedModel>) -> Self {
        let usage = UsageCounter { prompt_tokens: call.prompt_tokens(), ..UsageCounter::default() };
        let choices = vec![ChoiceState::default(); call.jobs.len() * call.n];
        Self { head, model: Arc::clone(model), call, options, usage, choices }
    }

    async fn started(&mut self, index: usize, cached_tokens: usize, sender: &Sender) -> Result<(), Broken> {
        if index.is_multiple_of(self.call.n) {
            self.usage.cached_tokens += cached_tokens;
        }
        // With log-probabilities the echo waits for those of the prompt.
        if self.call.echo && self.call.logprobs.is_none() { self.prompt(index, None, sender).await } else { Ok(()) }
    }

    /// The echoed prompt.
    async fn prompt(
        &mut self,
        index: usize,
        logprobs: Option<&[Option<TokenLogprobs>]>,
        sender: &Sender,
    ) -> Result<(), Broken> {
        let names = TokenNames { codec: &self.model.codec, as_token_ids: self.call.options.tokens_as_token_ids };
        let job = &self.call.jobs[index / self.call.n];
        let (text, entries) = names.echo(&job.prompt_ids, job.params.special_tokens, logprobs);
        self.choices[index].echoed_chars = text.chars().count();
        let logprobs = logprobs.map(|_| entries);
        self.send(ChunkChoice { index, text, logprobs, ..ChunkChoice::default() }, sender).await
    }

    async fn delta(&mut self, index: usize, delta: Delta, sender: &Sender) -> Result<(), Broken> {
        self.usage.completion_tokens += delta.token_ids.len();
        self.choices[index].completion_tokens += delta.token_ids.len();
        let text: String = delta.events.into_iter().filter_map(content).collect();
        let mut logprobs = CompletionLogprobs::default();
        let names = TokenNames { codec: &self.model.codec, as_token_ids: self.call.options.tokens_as_token_ids };
        names.extend_completion(&mut logprobs, &delta.logprobs, self.choices[index].echoed_chars);
        let logprobs = (!logprobs.tokens.is_empty()).then_some(logprobs);
        let show_ids = self.call.options.return_token_ids && !delta.token_ids.is_empty();
        let token_ids = show_ids.then_some(delta.token_ids);
        if text.is_empty() && logprobs.is_none() && token_ids.is_none() {
            return Ok(());
        }
        self.send(ChunkChoice { index, text, logprobs, token_ids, ..ChunkChoice::default() }, sender).await
    }

    async fn finished(&mut self, index: usize, finished: Finished, sender: &Sender) -> Result<(), Broken> {
        let stop_reason = stop_reason(finished.stop_reason);
        let finish_reason = Some(finished.reason.as_str());
        self.send(ChunkChoice { index, finish_reason, stop_reason, ..ChunkChoice::default() }, sender).await
    }

    async fn send(&mut self, mut choice: ChunkChoice, sender: &Sender) -> Result<(), Broken> {
        let is_first = !std::mem::replace(&mut self.choices[choice.index].begun, true);
        if is_first && self.call.options.return_token_ids {
            choice.prompt_token_ids = Some(self.call.jobs[choice.index / self.call.n].prompt_ids.clone());
        }
        let so_far = self.options.continuous_usage_stats.then(|| self.usage.usage());
        let usage = (self.options.include_usage || so_far.is_some()).then_some(so_far);
        sender.send(&self.chunk(vec![choice], usage)).await
    }

    async fn end(self, sender: &Sender) -> Result<(), Broken> {
        let longest = self.choices.iter().map(|choice| choice.completion_tokens).max();
        self.model.metrics.longest_choice(longest.unwrap_or(0));
        if self.options.include_usage {
            sender.send(&self.chunk(Vec::new(), Some(Some(self.usage.usage())))).await?;
        }
        Ok(())
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> Chunk<'_> {
        Chunk {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.system_fingerprint,
            choices,
            usage,
        }
    }
}

/// Completions are read as plain text, so that there is nothing else.
fn content(event: OutputEvent) -> Option<String> {
    match event {
        OutputEvent::Content(text) => Some(text),
        OutputEvent::Reasoning(_) | OutputEvent::ToolCallBegin { .. } | OutputEvent::ToolCallArguments { .. } => None,
    }
}
