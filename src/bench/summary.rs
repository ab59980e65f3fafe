//! Figures of a run. Main type: [`Summary`]. Latencies are those of answered requests; failed ones are
//! counted, by what went wrong. Terms and formulas are those of vLLM's serving benchmark: TTFT is the time to
//! the first text, ITL the time between pieces of text, TPOT `(end - TTFT) / (tokens - 1)` per request, goodput
//! the rate of requests that meet every bound of an SLO (Zhong et al. 2024, DistServe).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{run::Run, sample::Sample};

/// Figures of a run; times in milliseconds, rates per second.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How requests followed each other.
    pub profile: String,
    /// Requests per second that a profile of a rate asked for.
    pub target_requests_per_s: Option<f64>,
    /// Answered requests.
    pub completed: usize,
    /// Failed requests, by kind.
    pub failures: BTreeMap<&'static str, FailureCount>,
    /// Seconds from the beginning of the run to the last answer.
    pub duration_s: f64,
    /// Tokens of all answered requests, as the server counts them.
    pub tokens: TokenCounts,
    /// What was done per second.
    #[serde(flatten)]
    pub rates: Rates,
    /// Requests under way.
    pub in_flight: InFlight,
    /// How long it took.
    #[serde(flatten)]
    pub latencies: Latencies,
    /// Requests that meet the SLO, where there is one.
    pub goodput: Option<Goodput>,
}

/// Failed requests of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureCount {
    /// How many.
    pub count: usize,
    /// What the first of them said.
    pub example: String,
}

/// What was done per second, over the whole run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Answered requests.
    pub requests_per_s: f64,
    /// Tokens of their prompts.
    pub input_tokens_per_s: f64,
    /// Tokens of their answers.
    pub output_tokens_per_s: f64,
}

/// Distributions of times.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latencies {
    /// From when a request was due to the first text.
    pub ttft_ms: Percentiles,
    /// Between pieces of text.
    pub itl_ms: Percentiles,
    /// Per token after the first, one figure per request.
    pub tpot_ms: Percentiles,
    /// From when a request was due to the end of its answer.
    pub e2e_ms: Percentiles,
    /// From when a request was due to when it was sent: the client's part of the others.
    pub send_lag_ms: Percentiles,
}

/// Sums of tokens.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenCounts {
    /// Of prompts.
    pub input: u64,
    /// Of prompts, found in a prefix cache.
    pub cached: u64,
    /// Of answers.
    pub output: u64,
    /// Of prompts, as the plan wanted them.
    pub asked_input: u64,
    /// Of answers, as the plan wanted them.
    pub asked_output: u64,
    /// Answers whose tokens the server did not count, so that pieces of text were counted.
    pub uncounted_answers: usize,
    /// Answers without any text, which have no time to the first one.
    pub empty_answers: usize,
}

/// Requests under way at a time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InFlight {
    /// In the mean, by Little's law.
    pub mean: f64,
    /// At most.
    pub peak: u32,
}

/// Bounds that a request has to meet, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Slo {
    /// Time to the first text.
    pub ttft_ms: Option<f64>,
    /// Time per further token.
    pub tpot_ms: Option<f64>,
    /// Time to the end.
    pub e2e_ms: Option<f64>,
}

/// Requests that meet an SLO. A failed request does not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// The bounds.
    pub slo: Slo,
    /// Per second.
    pub requests_per_s: f64,
    /// Of all requests, from 0 to 1.
    pub share: f64,
}

/// A distribution; all zero where `count` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub sd: f64,
    /// The smallest.
    pub min: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Of ten, nine are at most this.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// The figures of `run`.
    pub fn new(run: &Run, slo: Option<Slo>) -> Self {
        let answered: Vec<&Sample> = run.answered().collect();
        let per_s = |count: f64| if run.duration_s > 0.0 { count / run.duration_s } else { 0.0 };
        let tokens = TokenCounts::of(&answered);
        let busy_s: f64 = run.samples.iter().map(|sample| sample.end_s - sample.send_lag_s).sum();
        Self {
            profile: run.profile.to_string(),
            target_requests_per_s: run.profile.rate(),
            completed: answered.len(),
            failures: failures(run),
            duration_s: run.duration_s,
            tokens,
            rates: Rates {
                requests_per_s: per_s(answered.len() as f64),
                input_tokens_per_s: per_s(tokens.input as f64),
                output_tokens_per_s: per_s(tokens.output as f64),
            },
            in_flight: InFlight { mean: per_s(busy_s), peak: run.peak_in_flight },
            latencies: Latencies::of(run, &answered),
            goodput: slo.map(|slo| {
                let good = answered.iter().filter(|sample| slo.is_met(sample)).count() as f64;
                Goodput { slo, requests_per_s: per_s(good), share: good / (run.samples.len().max(1) as f64) }
            }),
        }
    }

    /// Failed requests of all kinds.
    pub fn failed_requests(&self) -> usize {
        self.failures.values().map(|failure| failure.count).sum()
    }
}

fn failures(run: &Run) -> BTreeMap<&'static str, FailureCount> {
    let mut failures = BTreeMap::new();
    for failure in run.samples.iter().filter_map(|sample| sample.failure.as_ref()) {
        let first = || FailureCount { count: 0, example: failure.message.clone() };
        failures.entry(failure.kind.name()).or_insert_with(first).count += 1;
    }
    failures
}

impl Latencies {
    fn of(run: &Run, answered: &[&Sample]) -> Self {
        let times = |of: fn(&Sample) -> Option<f64>| Percentiles::of_seconds(answered.iter().filter_map(|s| of(s)));
        Self {
            ttft_ms: times(|sample| sample.ttft_s),
            itl_ms: Percentiles::of_seconds(answered.iter().flat_map(|s| &s.gaps_s).map(|gap| f64::from(*gap))),
            tpot_ms: times(Sample::tpot_s),
            e2e_ms: times(|sample| Some(sample.end_s)),
            send_lag_ms: Percentiles::of_seconds(run.samples.iter().map(|sample| sample.send_lag_s)),
        }
    }
}

impl Slo {
    fn is_met(&self, sample: &Sample) -> bool {
        let holds = |bound_ms: Option<f64>, seconds: Option<f64>| {
            bound_ms.is_none_or(|bound| seconds.is_some_and(|seconds| seconds * 1e3 <= bound))
        };
        let tpot = sample.tpot_s().or(sample.ttft_s.map(|_| 0.0)); // an answer of one token has no further ones
        holds(self.ttft_ms, sample.ttft_s) && holds(self.tpot_ms, tpot) && holds(self.e2e_ms, Some(sample.end_s))
    }
}

impl TokenCounts {
    fn of(answered: &[&Sample]) -> Self {
        let sum = |of: fn(&Sample) -> u32| answered.iter().map(|sample| u64::from(of(sample))).sum();
        Self {
            input: sum(|sample| sample.counted.input),
            cached: sum(|sample| sample.counted.cached),
            output: sum(|sample| sample.counted.output),
            asked_input: sum(|sample| sample.asked.input),
            asked_output: sum(|sample| sample.asked.output),
            uncounted_answers: answered.iter().filter(|sample| !sample.has_usage).count(),
            empty_answers: answered.iter().filter(|sample| sample.ttft_s.is_none()).count(),
        }
    }
}

impl Percentiles {
    /// Of times in seconds, as milliseconds.
    pub fn of_seconds(values: impl Iterator<Item = f64>) -> Self {
        Self::of(values.map(|seconds| seconds * 1e3).collect())
    }

    /// Of any values. A percentile is the value at rank `ceil(share * count)`: one that really occurred.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else { return Self::default() };
        let count = values.len();
        let rank = |share: f64| values[((share * count as f64).ceil() as usize).clamp(1, count) - 1];
        let mean = values.iter().sum::<f64>() / count as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64;
        Self {
            count,
            mean,
            sd: variance.sqrt(),
            min: *min,
            p50: rank(0.5),
            p90: rank(0.9),
            p95: rank(0.95),
            p99: rank(0.99),
            p999: rank(0.999),
            max: *max,
        }
    }
}
