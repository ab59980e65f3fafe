//! Requests to tokens: one owner thread runs `step()` over a paged KV cache; everyone else holds an
//! [`EngineHandle`] and sends events. Knows tokens, blocks and batches, not text and not HTTP.

mod request;

use std::sync::Arc;

pub use request::{FinishReason, Request, StopRules, TokenLogprobs, Update};

use crate::{model::ForwardPass, telemetry::EngineMetrics};

/// Limits of an engine. Counts are tokens or sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Sequences computed at once.
    pub max_running: usize,
    /// Requests that may wait; one more is refused.
    pub max_waiting: usize,
    /// Query tokens per step, prefill chunks and decodes together.
    pub max_batched_tokens: usize,
    /// Longest sequence, prompt and output.
    pub max_model_len: usize,
    /// Reuse the keys and values of equal prefixes.
    pub prefix_caching: bool,
}

/// Sends work to the engine thread. Cheap to clone. When the last handle is gone the engine stops.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    inner: Arc<()>,
}

/// One request's updates. Dropping it cancels the request and frees its blocks.
#[derive(Debug)]
pub struct RequestStream {
    _private: (),
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The waiting queue is full: try again later.
    #[error("the queue is full ({waiting} requests are waiting)")]
    QueueFull {
        /// Requests waiting now.
        waiting: usize,
    },
    /// The engine drains or has stopped.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The prompt leaves no room for a token.
    #[error("the prompt has {prompt_tokens} tokens; the longest sequence is {max_model_len}")]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// The limit.
        max_model_len: usize,
    },
    /// A field that the layer above should have refused.
    #[error("{field}: {reason}")]
    Invalid {
        /// Field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Is the engine able to answer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Steps complete.
    Ready,
    /// Takes no new work, finishes what runs.
    Draining,
    /// A step has been running for too long, or the thread is gone.
    Wedged,
}

impl EngineHandle {
    /// Starts the owner thread.
    pub fn spawn(model: Box<dyn ForwardPass>, config: EngineConfig, metrics: Arc<EngineMetrics>) -> EngineHandle {
        drop((model, config, metrics));
        Self { inner: Arc::new(()) }
    }

    /// Hands a request over; its updates arrive on the stream.
    pub fn submit(&self, request: Request) -> Result<RequestStream, SubmitError> {
        drop(request);
        let _ = &self.inner;
        Err(SubmitError::ShuttingDown)
    }

    /// Health as of now, without asking the engine thread.
    pub fn health(&self) -> Health {
        Health::Wedged
    }

    /// Refuses new work from now on and resolves when every running request has ended.
    pub async fn drain(&self) {}
}

impl RequestStream {
    /// The next update; `None` after `Finished`, or if the engine died.
    pub async fn next(&mut self) -> Option<Update> {
        None
    }
}
