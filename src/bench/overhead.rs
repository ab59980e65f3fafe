//! What the load generator itself costs. Main function: [`measure_overhead`], against a [`super::NullServer`]
//! of a known pace.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    arrivals::Profile,
    calibration::Calibration,
    client::Target,
    lengths::Lengths,
    plan::{Plan, Source},
    prompts::Prompts,
    run::{Load, Until, Watcher},
    summary::{Percentiles, Summary},
};

/// A load of a null server.
#[derive(Clone, Copy, Debug)]
pub struct OverheadConfig {
    /// Answers at a time.
    pub streams: u32,
    /// Time between two tokens of an answer, as the server keeps it.
    pub pace: Duration,
    /// About how long it goes on.
    pub duration: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Overhead {
    /// Tokens per second that the server's pace amounts to.
    pub asked_tokens_per_s: f64,
    /// Tokens per second that arrived and were timed.
    pub tokens_per_s: f64,
    /// The second by the first.
    pub reached: f64,
    /// Pieces of text that were timed one by one.
    pub timed_pieces: usize,
    /// Tokens that the server says it sent.
    pub sent_tokens: u64,
    /// Requests that failed.
    pub failed: usize,
    /// Time between pieces, less the server's pace: what client, server and timer add, either way.
    pub itl_error_ms: Percentiles,
    /// Processor seconds of this process per second; the server is another process.
    pub client_cores: Option<f64>,
}

/// `processor_seconds` reads how much processor time this process has used.
pub async fn measure_overhead(
    target: &Target,
    config: OverheadConfig,
    processor_seconds: impl Fn() -> Option<f64>,
    watcher: impl FnOnce(&Load) -> Arc<dyn Watcher>,
) -> Overhead {
    let tokens = (config.duration.as_secs_f64() / config.pace.as_secs_f64()).round().max(2.0) as u32;
    let source = Source::Drawn { input: Lengths::fixed(16), output: Lengths::fixed(tokens) };
    let load = Load {
        plan: Plan::new(0, source, Prompts::new(0, 0.0, Calibration::ASSUMED)),
        profile: Profile::Concurrent(config.streams),
        until: Until::requests(u64::from(config.streams)),
        first_index: 0,
        max_in_flight: config.streams,
        seed: 0,
        stop: Arc::default(),
    };
    let before = processor_seconds();
    let run = load.run(target, watcher(&load)).await;
    let used = processor_seconds().zip(before).map(|(after, before)| after - before);
    let summary = Summary::new(&run, None);
    let gaps: Vec<f64> = run.answered().flat_map(|sample| &sample.gaps_s).map(|gap| f64::from(*gap)).collect();
    let pace = config.pace.as_secs_f64();
    Overhead {
        asked_tokens_per_s: f64::from(config.streams) / pace,
        tokens_per_s: summary.rates.output_tokens_per_s,
        reached: summary.rates.output_tokens_per_s * pace / f64::from(config.streams),
        timed_pieces: gaps.len() + run.samples.iter().filter(|sample| sample.ttft_s.is_some()).count(),
        sent_tokens: summary.tokens.output,
        failed: summary.failed_requests(),
        itl_error_ms: Percentiles::of_seconds(gaps.into_iter().map(|gap| (gap - pace).abs())),
        client_cores: used.map(|seconds| seconds / run.duration_s),
    }
}
