//! Prometheus metrics under vLLM's names, types and buckets, so that its dashboards and the Kubernetes
//! inference gateway work unchanged.
//!
//! [`EngineMetrics`] owns its registry: two engines in one process do not meet, and there is no global
//! state. It knows numbers only; what they mean is said by whoever calls it. Metric set and buckets follow
//! vLLM's `vllm/v1/metrics/loggers.py`.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

const TIME_TO_FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const INTER_TOKEN_LATENCY_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_LATENCY_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const ITERATION_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const STEP_HOST_S: &[f64] = &[1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2];
const PARAMS_N: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// What the engine and the HTTP layer report. Every method is cheap and safe to call from the engine thread.
#[derive(Debug)]
pub struct EngineMetrics {
    registry: Registry,
    load: Load,
    tokens: Tokens,
    drafts: Drafts,
    requests: Requests,
    latency: Latency,
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

#[derive(Debug)]
struct Load {
    running: Gauge,
    waiting: Gauge,
    waiting_by_reason: GaugeVec,
    kv_usage: Gauge,
    /// The old name of `kv_usage`.
    gpu_cache_usage: Gauge,
    cache_config: GaugeVec,
    preemptions: IntCounter,
}

#[derive(Debug)]
struct Tokens {
    prompt: IntCounter,
    prompt_cached: IntCounter,
    prompt_by_source: IntCounterVec,
    generation: IntCounter,
    prefix_cache_queries: IntCounter,
    prefix_cache_hits: IntCounter,
    per_iteration: Histogram,
}

#[derive(Debug)]
struct Drafts {
    made: IntCounter,
    tokens: IntCounter,
    accepted: IntCounter,
}

#[derive(Debug)]
struct Requests {
    success: IntCounterVec,
    prompt_tokens: Histogram,
    prefill_computed_tokens: Histogram,
    generation_tokens: Histogram,
    max_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

#[derive(Debug)]
struct Latency {
    time_to_first_token: Histogram,
    inter_token: Histogram,
    /// The old name of `inter_token`.
    time_per_output_token: Histogram,
    per_output_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    step_host: Histogram,
}

impl Default for EngineMetrics {
    /// Metrics of an unnamed model with short sequences: for tests and for runs that nobody scrapes.
    fn default() -> Self {
        Self::new("", 4096)
    }
}

impl EngineMetrics {
    /// Metrics labelled `model_name` and `engine="0"`; token histograms reach up to `max_model_len`.
    pub fn new(model_name: &str, max_model_len: usize) -> Self {
        let register = Register { registry: Registry::new(), model_name, tokens: one_two_five(max_model_len) };
        Self {
            load: Load::new(&register),
            tokens: Tokens::new(&register),
            drafts: Drafts::new(&register),
            requests: Requests::new(&register),
            latency: Latency::new(&register),
            registry: register.registry,
        }
    }

    /// The KV cache as configured: tokens per block, and blocks.
    pub fn set_cache_config(&self, block_size: usize, num_blocks: usize) {
        let labels = [block_size.to_string(), num_blocks.to_string()];
        self.load.cache_config.with_label_values(&labels).set(1.0);
    }

    /// Gauges after a step: sequences running and waiting, share of KV blocks in use (0 to 1).
    pub fn set_load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.load.running.set(running as f64);
        self.load.waiting.set(waiting as f64);
        self.load.waiting_by_reason.with_label_values(&["capacity"]).set(waiting as f64);
        self.load.kv_usage.set(kv_usage);
        self.load.gpu_cache_usage.set(kv_usage);
    }

    /// A step computed this many query tokens.
    pub fn step(&self, batched_tokens: usize) {
        self.tokens.per_iteration.observe(batched_tokens as f64);
    }

    /// A step that was started ahead kept the engine's thread busy for so long, taking results left out.
    pub fn step_host(&self, seconds: f64) {
        self.latency.step_host.observe(seconds);
    }

    /// A request was admitted: its prompt's tokens, and how many of them came from the prefix cache.
    pub fn admitted(&self, prompt_tokens: usize, cached_tokens: usize) {
        let computed = prompt_tokens.saturating_sub(cached_tokens);
        self.tokens.prompt.inc_by(prompt_tokens as u64);
        self.tokens.prompt_cached.inc_by(cached_tokens as u64);
        self.tokens.prompt_by_source.with_label_values(&["local_compute"]).inc_by(computed as u64);
        self.tokens.prompt_by_source.with_label_values(&["local_cache_hit"]).inc_by(cached_tokens as u64);
        self.tokens.prefix_cache_queries.inc_by(prompt_tokens as u64);
        self.tokens.prefix_cache_hits.inc_by(cached_tokens as u64);
        self.requests.prompt_tokens.observe(prompt_tokens as f64);
        self.requests.prefill_computed_tokens.observe(computed as f64);
    }

    /// A sequence lost its blocks and will be recomputed.
    pub fn preempted(&self) {
        self.load.preemptions.inc();
    }

    /// Tokens of a sequence were guessed ahead, and so many of them came.
    pub fn drafted(&self, n_tokens: usize, n_accepted: usize) {
        self.drafts.made.inc();
        self.drafts.tokens.inc_by(n_tokens as u64);
        self.drafts.accepted.inc_by(n_accepted as u64);
    }

    /// The first token of a request, seconds after its arrival.
    pub fn first_token(&self, time_to_first_token_s: f64) {
        self.tokens.generation.inc();
        self.latency.time_to_first_token.observe(time_to_first_token_s);
    }

    /// A later token, seconds after the one before.
    pub fn next_token(&self, inter_token_latency_s: f64) {
        self.tokens.generation.inc();
        self.latency.inter_token.observe(inter_token_latency_s);
        self.latency.time_per_output_token.observe(inter_token_latency_s);
    }

    /// A request ended. `finished_reason` is vLLM's label: stop, length, abort or error.
    pub fn finished(&self, finished_reason: &'static str, completion_tokens: usize, timings: RequestTimings) {
        self.requests.success.with_label_values(&[finished_reason]).inc();
        self.requests.generation_tokens.observe(completion_tokens as f64);
        self.latency.end_to_end.observe(timings.end_to_end_s);
        self.latency.queue.observe(timings.queue_s);
        self.latency.prefill.observe(timings.prefill_s);
        self.latency.decode.observe(timings.decode_s);
        self.latency.inference.observe(timings.prefill_s + timings.decode_s);
        if completion_tokens > 1 {
            self.latency.per_output_token.observe(timings.decode_s / (completion_tokens - 1) as f64);
        }
    }

    /// A client's request was accepted: choices asked for, and the most tokens each may have.
    pub fn request_params(&self, n: usize, max_tokens: usize) {
        self.requests.params_n.observe(n as f64);
        self.requests.params_max_tokens.observe(max_tokens as f64);
    }

    /// A client's request has been answered: tokens of its longest choice.
    pub fn longest_choice(&self, completion_tokens: usize) {
        self.requests.max_generation_tokens.observe(completion_tokens as f64);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        render(&self.registry)
    }
}

impl Load {
    fn new(register: &Register) -> Self {
        let waiting_by_reason = register.gauge_vec(
            "num_requests_waiting_by_reason",
            "Requests waiting to be scheduled: for capacity, or deferred (which this engine never does).",
            &["reason"],
        );
        for reason in ["capacity", "deferred"] {
            waiting_by_reason.with_label_values(&[reason]);
        }
        Self {
            waiting_by_reason,
            running: register.gauge("num_requests_running", "Requests in the running batch."),
            waiting: register.gauge("num_requests_waiting", "Requests waiting to be scheduled."),
            kv_usage: register.gauge("kv_cache_usage_perc", "Share of KV cache blocks in use, 0 to 1."),
            gpu_cache_usage: register.gauge("gpu_cache_usage_perc", "The old name of kv_cache_usage_perc."),
            cache_config: register.gauge_vec(
                "cache_config_info",
                "The KV cache as configured.",
                &["block_size", "num_gpu_blocks"],
            ),
            preemptions: register.counter("num_preemptions_total", "Sequences preempted."),
        }
    }
}

impl Tokens {
    fn new(register: &Register) -> Self {
        let prompt_by_source = register.counter_vec(
            "prompt_tokens_by_source_total",
            "Prompt tokens by where their keys and values came from.",
            "source",
        );
        for source in ["local_compute", "local_cache_hit", "external_kv_transfer"] {
            prompt_by_source.with_label_values(&[source]);
        }
        Self {
            prompt: register.counter("prompt_tokens_total", "Prompt tokens processed."),
            prompt_cached: register.counter("prompt_tokens_cached_total", "Prompt tokens found in the prefix cache."),
            prompt_by_source,
            generation: register.counter("generation_tokens_total", "Tokens generated."),
            prefix_cache_queries: register
                .counter("prefix_cache_queries_total", "Tokens looked up in the prefix cache."),
            prefix_cache_hits: register.counter("prefix_cache_hits_total", "Tokens found in the prefix cache."),
            per_iteration: register.histogram("iteration_tokens_total", "Query tokens per step.", ITERATION_TOKENS),
        }
    }
}

impl Drafts {
    fn new(register: &Register) -> Self {
        Self {
            made: register.counter("spec_decode_num_drafts_total", "Drafts of tokens guessed ahead."),
            tokens: register.counter("spec_decode_num_draft_tokens_total", "Tokens guessed ahead."),
            accepted: register
                .counter("spec_decode_num_accepted_tokens_total", "Tokens guessed ahead that were the ones chosen."),
        }
    }
}

impl Requests {
    fn new(register: &Register) -> Self {
        let tokens = &register.tokens;
        let success = register.counter_vec("request_success_total", "Requests ended, by reason.", "finished_reason");
        for reason in ["stop", "length", "abort", "error"] {
            success.with_label_values(&[reason]);
        }
        Self {
            success,
            prompt_tokens: register.histogram("request_prompt_tokens", "Prompt tokens of a request.", tokens),
            prefill_computed_tokens: register.histogram(
                "request_prefill_kv_computed_tokens",
                "Prompt tokens of a request whose keys and values had to be computed.",
                tokens,
            ),
            generation_tokens: register.histogram(
                "request_generation_tokens",
                "Generated tokens of a request.",
                tokens,
            ),
            max_generation_tokens: register.histogram(
                "request_max_num_generation_tokens",
                "Generated tokens of a request's longest choice.",
                tokens,
            ),
            params_n: register.histogram("request_params_n", "The n parameter of a request.", PARAMS_N),
            params_max_tokens: register.histogram(
                "request_params_max_tokens",
                "The max_tokens parameter of a request.",
                tokens,
            ),
        }
    }
}

impl Latency {
    fn new(register: &Register) -> Self {
        let request = |name, help| register.histogram(name, help, REQUEST_LATENCY_S);
        Self {
            time_to_first_token: register.histogram(
                "time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                TIME_TO_FIRST_TOKEN_S,
            ),
            inter_token: register.histogram(
                "inter_token_latency_seconds",
                "From one token of a request to the next.",
                INTER_TOKEN_LATENCY_S,
            ),
            time_per_output_token: register.histogram(
                "time_per_output_token_seconds",
                "The old name of inter_token_latency_seconds.",
                INTER_TOKEN_LATENCY_S,
            ),
            per_output_token: register.histogram(
                "request_time_per_output_token_seconds",
                "A request's mean time per output token after the first.",
                INTER_TOKEN_LATENCY_S,
            ),
            end_to_end: request("e2e_request_latency_seconds", "From a request's arrival to its last token."),
            queue: request("request_queue_time_seconds", "From a request's arrival to its first step."),
            inference: request("request_inference_time_seconds", "From a request's first step to its last token."),
            prefill: request("request_prefill_time_seconds", "From a request's first step to its first token."),
            decode: request("request_decode_time_seconds", "From a request's first token to its last."),
            step_host: register.own_histogram(
                "step_host_seconds",
                "Time that a step started ahead keeps the engine's thread busy, beside taking results.",
                STEP_HOST_S,
            ),
        }
    }
}

/// Makes metrics and registers them. Names are constants of this file, so that it cannot fail.
struct Register<'a> {
    registry: Registry,
    model_name: &'a str,
    tokens: Vec<f64>,
}

impl Register<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        self.labelled(format!("vllm:{name}"), help)
    }

    fn labelled(&self, name: String, help: &str) -> Opts {
        Opts::new(name, help).const_label("model_name", self.model_name).const_label("engine", "0")
    }

    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("metric names and labels are valid");
        self.registry.register(Box::new(collector.clone())).expect("metric names are unique");
        collector
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(self.opts(name, help)))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(self.opts(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(self.opts(name, help)))
    }

    fn counter_vec(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(self.opts(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.add(Histogram::with_opts(opts))
    }

    /// One that vLLM does not have.
    fn own_histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let common_opts = self.labelled(format!("tramontane:{name}"), help);
        self.add(Histogram::with_opts(HistogramOpts { common_opts, buckets: buckets.to_vec() }))
    }
}

/// 1, 2, 5, 10, 20, ... up to `max`, as vLLM's `build_1_2_5_buckets`.
fn one_two_five(max: usize) -> Vec<f64> {
    let decades = (0..).map(|exponent| 10_f64.powi(exponent));
    let series = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
    series.take_while(|&bucket| bucket <= max.max(1) as f64).collect()
}

pub(super) fn render(registry: &Registry) -> String {
    let mut text = Vec::new();
    // Fails only on an empty family or a failing writer, and a Vec does not fail.
    TextEncoder::new().encode(&registry.gather(), &mut text).expect("a Vec takes everything");
    String::from_utf8(text).expect("labels and help are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn token_buckets_follow_the_1_2_5_series() {
        assert_eq!(one_two_five(60), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(one_two_five(1), [1.0]);
        assert_eq!(one_two_five(0), [1.0]);
    }

    #[test]
    fn a_request_is_counted_once_everywhere() {
        let metrics = EngineMetrics::new("tiny", 100);
        metrics.set_cache_config(16, 64);
        metrics.set_load(2, 3, 0.25);
        metrics.admitted(10, 4);
        metrics.step(6);
        metrics.drafted(5, 3);
        metrics.drafted(2, 0);
        metrics.step_host(2e-5);
        metrics.first_token(0.02);
        metrics.next_token(0.01);
        metrics.next_token(0.01);
        let timings = RequestTimings { queue_s: 0.5, prefill_s: 0.25, decode_s: 0.5, end_to_end_s: 1.25 };
        metrics.finished("stop", 3, timings);

        let text = metrics.render();
        let labels = r#"engine="0",model_name="tiny""#;
        for expected in [
            format!("vllm:num_requests_running{{{labels}}} 2"),
            format!("vllm:num_requests_waiting{{{labels}}} 3"),
            format!("vllm:kv_cache_usage_perc{{{labels}}} 0.25"),
            format!("vllm:gpu_cache_usage_perc{{{labels}}} 0.25"),
            format!(r#"vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} 3"#),
            format!(r#"vllm:num_requests_waiting_by_reason{{{labels},reason="deferred"}} 0"#),
            format!(r#"vllm:prompt_tokens_by_source_total{{{labels},source="local_compute"}} 6"#),
            format!(r#"vllm:prompt_tokens_by_source_total{{{labels},source="external_kv_transfer"}} 0"#),
            format!("vllm:inter_token_latency_seconds_count{{{labels}}} 2"),
            format!("tramontane:step_host_seconds_count{{{labels}}} 1"),
            format!("vllm:time_per_output_token_seconds_count{{{labels}}} 2"),
            format!(r#"vllm:cache_config_info{{block_size="16",{},num_gpu_blocks="64"}} 1"#, labels),
            format!("vllm:prompt_tokens_total{{{labels}}} 10"),
            format!("vllm:spec_decode_num_drafts_total{{{labels}}} 2"),
            format!("vllm:spec_decode_num_draft_tokens_total{{{labels}}} 7"),
            format!("vllm:spec_decode_num_accepted_tokens_total{{{labels}}} 3"),
            format!("vllm:generation_tokens_total{{{labels}}} 3"),
            format!("vllm:prefix_cache_queries_total{{{labels}}} 10"),
            format!("vllm:prefix_cache_hits_total{{{labels}}} 4"),
            format!("vllm:request_inference_time_seconds_sum{{{labels}}} 0.75"),
            format!("vllm:request_time_per_output_token_seconds_sum{{{labels}}} 0.25"),
            r#"vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 1"#.to_owned(),
            r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"} 0"#.to_owned(),
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn histograms_have_the_documented_buckets() {
        let text = EngineMetrics::new("tiny", 50).render();
        let buckets = |name: &str| lines(&text, &format!("vllm:{name}_bucket")).len() - 1; // without +Inf
        assert_eq!(buckets("time_to_first_token_seconds"), 22);
        assert_eq!(buckets("inter_token_latency_seconds"), 19);
        assert_eq!(buckets("e2e_request_latency_seconds"), 21);
        assert_eq!(buckets("request_prompt_tokens"), 6);
    }

    #[test]
    fn a_hostile_model_name_stays_inside_its_label() {
        let text = EngineMetrics::new("a\"b\nc", 10).render();
        assert!(text.contains(r#"vllm:num_requests_running{engine="0",model_name="a\"b\nc"} 0"#), "{text}");
    }
}
