//! Prometheus metrics under vLLM's names, types and buckets, so that its dashboards and the Kubernetes
//! inference gateway work unchanged.

/// What the engine reports. Every method is cheap and safe to call from the engine thread.
#[derive(Debug, Default)]
pub struct EngineMetrics {
    _private: (),
}

/// How long the parts of one finished request took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestTimings {
    /// From arrival to the first scheduled step.
    pub queue_s: f64,
    /// From the first scheduled step to the first token.
    pub prefill_s: f64,
    /// From the first token to the last.
    pub decode_s: f64,
    /// From arrival to the last token.
    pub end_to_end_s: f64,
}

impl EngineMetrics {
    /// Gauges after a step: sequences running and waiting, share of KV blocks in use (0 to 1).
    pub fn set_load(&self, _running: usize, _waiting: usize, _kv_usage: f64) {}
    /// A step computed this many query tokens.
    pub fn step(&self, _batched_tokens: usize) {}
    /// A request was admitted: its prompt's tokens, and how many of them came from the prefix cache.
    pub fn admitted(&self, _prompt_tokens: usize, _cached_tokens: usize) {}
    /// A sequence lost its blocks and will be recomputed.
    pub fn preempted(&self) {}
    /// The first token of a request, seconds after its arrival.
    pub fn first_token(&self, _time_to_first_token_s: f64) {}
    /// A later token, seconds after the one before.
    pub fn next_token(&self, _inter_token_latency_s: f64) {}
    /// A request ended. `finished_reason` is vLLM's label: stop, length, abort or error.
    pub fn finished(&self, _finished_reason: &'static str, _completion_tokens: usize, _timings: RequestTimings) {}
}
