//! A streamed answer, chunk by chunk: what chat and completions have in common.
//!
//! Main type: [`Chunks`], which counts tokens and puts head and usage around what a resource says of its choices.
//! [`produce`] drives it. Invariants: every event is counted before it is written, and the usage of a chunk is
//! that of the moment. Knows nothing of what a choice looks like; that is each resource's [`WriteChoices`].

use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;

use super::{
    answer::{Head, Usage, UsageCounter, merge},
    generation::{Event, Generation},
    params::StreamOptions,
    sse::{Broken, Sender},
};
use crate::telemetry::EngineMetrics;

/// How a resource writes its choices.
pub(super) trait WriteChoices {
    /// The `object` of its chunks.
    const OBJECT: &'static str;
    /// An entry of `choices`.
    type Choice: Serialize;

    /// The choices that tell of an event of the generation with that index, each to be sent in a chunk of its own.
    fn write(&mut self, index: usize, event: Event) -> Vec<Self::Choice>;
}

/// The chunks of one answer.
pub(super) struct Chunks {
    pub(super) head: Head,
    pub(super) options: StreamOptions,
    /// Choices per prompt.
    pub(super) n: usize,
    /// Counts from the tokens of all prompts on.
    pub(super) usage: UsageCounter,
    /// For the first chunk.
    pub(super) prompt_ids: Option<Vec<u32>>,
    pub(super) metrics: Arc<EngineMetrics>,
}

#[derive(Debug, Serialize)]
struct Chunk<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<C>,
    /// Absent unless asked for; null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// Sends every chunk of the answer.
pub(super) async fn produce<W: WriteChoices>(
    mut chunks: Chunks,
    mut writer: W,
    generations: Vec<Generation>,
    sender: Sender,
) -> Result<(), Broken> {
    let mut completion_tokens = vec![0; generations.len()];
    let mut unfinished = generations.len();
    let mut events = merge(generations);
    while let Some((index, event)) = events.next().await {
        let event = event?;
        completion_tokens[index] += chunks.count(index, &event);
        unfinished -= usize::from(matches!(event, Event::Finished(_)));
        let mut choices = writer.write(index, event).into_iter().peekable();
        while let Some(choice) = choices.next() {
            let is_last = unfinished == 0 && choices.peek().is_none();
            let usage = chunks.usage_with(is_last);
            let prompt_ids = chunks.prompt_ids.take();
            sender.send(&chunks.chunk::<W>(vec![choice], usage, prompt_ids)).await?;
        }
    }
    chunks.metrics.longest_choice(completion_tokens.into_iter().max().unwrap_or(0));
    if chunks.options.include_usage {
        let usage = Some(Some(chunks.usage.usage()));
        sender.send(&chunks.chunk::<W>(Vec::new(), usage, None)).await?;
    }
    Ok(())
}

impl Chunks {
    /// Counts what an event tells, and returns how many tokens it brought.
    fn count(&mut self, index: usize, event: &Event) -> usize {
        match event {
            // Of each prompt once.
            Event::Started { cached_tokens } if index.is_multiple_of(self.n) => {
                self.usage.cached_tokens += cached_tokens;
            }
            Event::Started { .. } | Event::PromptLogprobs(_) => {}
            Event::Finished(finished) => self.usage.reasoning_tokens += finished.counts.reasoning,
            Event::Delta(delta) => {
                self.usage.completion_tokens += delta.token_ids.len();
                return delta.token_ids.len();
            }
        }
        0
    }

    /// The usage of a chunk that may be the last one with choices.
    fn usage_with(&self, is_last: bool) -> Option<Option<Usage>> {
        if is_last && self.options.usage_at_the_end && !self.options.include_usage {
            return Some(Some(self.usage.usage()));
        }
        let so_far = self.options.continuous_usage_stats.then(|| self.usage.usage());
        (self.options.include_usage || so_far.is_some()).then_some(so_far)
    }

    fn chunk<W: WriteChoices>(
        &self,
        choices: Vec<W::Choice>,
        usage: Option<Option<Usage>>,
        prompt_token_ids: Option<Vec<u32>>,
    ) -> Chunk<'_, W::Choice> {
        Chunk {
            id: &self.head.id,
            object: W::OBJECT,
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.system_fingerprint,
            choices,
            usage,
            prompt_token_ids,
        }
    }
}
