//! Limits of an engine.

/// Limits of an engine. Counts are tokens or sequences; a limit of zero counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Sequences computed at once.
    pub max_running: usize,
    /// Requests that are admitted beyond those: one more than both together is refused to a share that has its part of
    /// them ([`Places`](super::Places)). How many of the admitted ones wait depends on the pool, which may hold fewer
    /// sequences than `max_running`.
    pub max_waiting: usize,
    /// Query tokens per step, prefill chunks and decodes together.
    pub max_batched_tokens: usize,
    /// Longest sequence, prompt and output.
    pub max_model_len: usize,
    /// Reuse the keys and values of equal prefixes.
    pub prefix_caching: bool,
    /// Whether tokens are guessed ahead.
    pub speculation: SpeculationMode,
    /// A step that takes longer makes the engine [`Wedged`](super::Health::Wedged), in milliseconds.
    pub max_step_ms: u64,
    /// But a step of many tokens may take this much per token, in microseconds.
    pub max_step_us_per_token: u64,
}

/// Whether a step also computes tokens that are guessed ahead. Answers are the same whether it does or not. A model
/// that chooses tokens itself and runs ahead is never guessed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeculationMode {
    /// Never.
    Off,
    /// When it promises more tokens per second.
    Auto,
    /// Always, and so many tokens if they can be had: for tests and measurements.
    Always(usize),
}

impl Default for EngineConfig {
    /// A small server: 32,768 tokens of cache, no speculation.
    fn default() -> Self {
        Self {
            block_size: 16,
            num_blocks: 2048,
            max_running: 64,
            max_waiting: 256,
            max_batched_tokens: 2048,
            max_model_len: 32_768,
            prefix_caching: true,
            speculation: SpeculationMode::Off,
            max_step_ms: 60_000,
            max_step_us_per_token: 0,
        }
    }
}

impl EngineConfig {
    /// Longest sequence that both the model and the pool can hold, in tokens.
    pub fn max_sequence_len(&self) -> usize {
        self.max_model_len.min(self.block_size.max(1).saturating_mul(self.num_blocks.max(1)))
    }

    /// Background sequences computed at once. They give way to others, but each time are computed anew, and what others
    /// wait for is computed beside them: so there are few.
    pub fn max_background(&self) -> usize {
        (self.max_running / 4).max(1)
    }

    /// Requests that may be under way, waiting or running: the admission limit, which shares together may exceed as
    /// [`Places`](super::Places) says. Background requests have as many places
    /// of their own.
    pub fn max_in_flight(&self) -> usize {
        self.max_running.max(1).saturating_add(self.max_waiting.max(1))
    }
}
