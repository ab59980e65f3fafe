//! A whole answer, collected from its events, and the token counts that clients are told.

use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use super::{
    error::ApiError,
    generation::{Delta, Event, Finished, Generation, ScoredToken},
    state::{ServedModel, unix_seconds},
};
use crate::{engine::TokenLogprobs, prompt::OutputEvent};

/// What all parts of one answer repeat.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64, // Unix seconds
    pub(super) model: String,
    pub(super) system_fingerprint: String,
}

impl Head {
    /// The head of an answer that begins now.
    pub(super) fn new(id: String, model_name: String, model: &ServedModel) -> Self {
        Self { id, created: unix_seconds(), model: model_name, system_fingerprint: model.fingerprint() }
    }
}

/// Letters and digits of the ids that Mistral's tokenizers accept for tool calls.
pub(super) const TOOL_CALL_ID_ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
pub(super) const TOOL_CALL_ID_LEN: usize = 9;

/// Everything one generation gave.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) content: String,
    pub(super) reasoning: String,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) logprobs: Vec<ScoredToken>,
    pub(super) token_ids: Vec<u32>,
    pub(super) prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    pub(super) cached_tokens: usize,
    pub(super) finished: Finished,
}

/// A call of a function, as the model wrote it.
#[derive(Debug, Default)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

/// OpenAI's `usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: usize,
}

/// Counts the tokens of one request: each prompt once, however many choices it has.
#[derive(Clone, Debug, Default)]
pub(super) struct UsageCounter {
    /// Tokens of all prompts.
    pub(super) prompt_tokens: usize,
    /// Prompt tokens from the cache, of each prompt's first choice.
    pub(super) cached_tokens: usize,
    /// Generated tokens of all choices.
    pub(super) completion_tokens: usize,
    /// Those of them that were reasoning.
    pub(super) reasoning_tokens: usize,
}

impl UsageCounter {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens: self.reasoning_tokens },
        }
    }

    /// Counts an answer; `first` if it is the first of its prompt.
    pub(super) fn add(&mut self, answer: &Answer, is_first: bool) {
        self.completion_tokens += answer.finished.counts.completion;
        self.reasoning_tokens += answer.finished.counts.reasoning;
        if is_first {
            self.cached_tokens += answer.cached_tokens;
        }
    }
}

/// Runs a generation to its end.
pub(super) async fn collect(mut generation: Generation) -> Result<Answer, ApiError> {
    let mut text = Delta::default();
    let mut prompt_logprobs = None;
    let mut cached = 0;
    while let Some(event) = generation.next().await {
        match event? {
            Event::Started { cached_tokens } => cached = cached_tokens,
            Event::PromptLogprobs(logprobs) => prompt_logprobs = Some(logprobs),
            Event::Delta(delta) => {
                text.events.extend(delta.events);
                text.logprobs.extend(delta.logprobs);
                text.token_ids.extend(delta.token_ids);
            }
            Event::Finished(finished) => return Ok(answer(text, prompt_logprobs, cached, finished)),
        }
    }
    Err(ApiError::Internal { message: "The answer has no end.".to_owned() })
}

/// The events of several generations as they come, each with its generation's index.
pub(super) fn merge(generations: Vec<Generation>) -> impl Stream<Item = (usize, Result<Event, ApiError>)> + Send {
    let events = |(index, generation)| {
        let next = move |mut generation: Generation| async move {
            generation.next().await.map(|event| ((index, event), generation))
        };
        Box::pin(stream::unfold(generation, next))
    };
    stream::select_all(generations.into_iter().enumerate().map(events)).fuse()
}

/// Is this an id that every tokenizer version accepts?
pub(super) fn is_tool_call_id(id: &str) -> bool {
    id.len() == TOOL_CALL_ID_LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The id of a tool call: the model's own if clients can send it back, or a new one.
pub(super) fn tool_call_id(given: Option<String>) -> String {
    given.filter(|id| is_tool_call_id(id)).unwrap_or_else(|| {
        let letter = |_| char::from(TOOL_CALL_ID_ALPHABET[rand::random_range(..TOOL_CALL_ID_ALPHABET.len())]);
        (0..TOOL_CALL_ID_LEN).map(letter).collect()
    })
}

fn answer(
    text: Delta,
    prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    cached_tokens: usize,
    finished: Finished,
) -> Answer {
    let Delta { events, logprobs, token_ids } = text;
    let (mut content, mut reasoning, mut tool_calls) = (String::new(), String::new(), Vec::<ToolCall>::new());
    for event in events {
        match event {
            OutputEvent::Content(piece) => content.push_str(&piece),
            OutputEvent::Reasoning(piece) => reasoning.push_str(&piece),
            OutputEvent::ToolCallBegin { id, name, .. } => {
                tool_calls.push(ToolCall { id: tool_call_id(id), name, arguments: String::new() });
            }
            OutputEvent::ToolCallArguments { index, fragment } => {
                if let Some(call) = tool_calls.get_mut(index) {
                    call.arguments.push_str(&fragment);
                }
            }
        }
    }
    Answer { content, reasoning, tool_calls, logprobs, token_ids, prompt_logprobs, cached_tokens, finished }
}
