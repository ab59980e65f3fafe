//! The load that the arguments of `tramontane bench serve` describe.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Map, Value};

use super::{share, time, times_per_s};
use crate::{
    bench::{
        Calibration, Lengths, Load, Plan, Profile, Prompts, RateTimes, Source, Sweep, Trace, Until,
        report::LoadDescription,
    },
    cli::error::UsageError,
};

/// Requests of a run, where neither --requests nor --duration is given.
const DEFAULT_REQUESTS: u64 = 100;
/// Requests at a time before a run in an open loop.
const DEFAULT_WARMUP: u32 = 8;
const DEFAULT_FULL: u32 = 64;
const DEFAULT_POINTS: u32 = 5;
const DEFAULT_IN_FLIGHT: u32 = 512;
/// Numbers of requests that no run reaches: those of the warm-up.
const WARMUP_INDEX: u64 = 1 << 48;

/// Which requests, and when.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    #[command(flatten)]
    arrivals: ArrivalArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// Requests of each run [default: 100, or those of the trace, unless --duration is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    requests: Option<u64>,
    /// No request of a run is due later than this; those that were due are waited for
    #[arg(long, value_parser = time, value_name = "TIME")]
    duration: Option<Duration>,
    /// Requests before the first run that do not count [default: as many as at a time, in an open loop 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    warmup: Option<u64>,
    /// For texts, lengths and times: the same seed makes the same load, which a prefix cache that has seen it answers
    /// [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// When requests are made.
#[derive(Debug, clap::Args)]
struct ArrivalArgs {
    /// How requests follow each other
    #[arg(long, value_enum, default_value_t = ProfileArg::Synchronous)]
    profile: ProfileArg,
    /// Requests at a time: of the profile concurrent, and of the sweep's full server [default there: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: Option<u32>,
    /// Requests per second of the profiles constant and poisson
    #[arg(long, value_parser = times_per_s)]
    rate: Option<f64>,
    /// How much faster than recorded a trace is replayed [default: 1]
    #[arg(long, value_parser = times_per_s)]
    speed: Option<f64>,
    /// Rates of a sweep between an idle and a full server [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    points: Option<u32>,
    /// How the requests of a sweep's rates are spread [default: poisson]
    #[arg(long, value_enum)]
    sweep_times: Option<SweepTimes>,
    /// Most requests under way where a rate or a trace sets the pace; those beyond wait, and their waiting counts
    /// [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_in_flight: Option<u32>,
}

/// What requests ask.
#[derive(Debug, clap::Args)]
struct TextArgs {
    /// Tokens of prompts: 128, 64..256, normal:MEAN:SD, lognormal:MEAN:SD or exponential:MEAN
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace", default_value = "128")]
    input_tokens: Lengths,
    /// Tokens of answers, likewise
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace", default_value = "64")]
    output_tokens: Lengths,
    /// Share of each prompt, from 0 to 1, that is the same in all of them
    #[arg(long, conflicts_with = "trace", default_value_t = 0.0, value_parser = share, value_name = "RATIO")]
    shared_prefix: f64,
    /// Lengths, and for the profile replay times, from a file of JSON lines with timestamp (ms), input_length,
    /// output_length, hash_ids, as the Mooncake traces, or with prompt
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    /// One request after the other
    Synchronous,
    /// So many at a time: --concurrency
    Concurrent,
    /// So many per second at equal distances: --rate
    Constant,
    /// So many per second at random times: --rate
    Poisson,
    /// At the times of a trace: --trace
    Replay,
    /// Idle, full, and rates between them and a little beyond
    Sweep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SweepTimes {
    Constant,
    Poisson,
}

/// What the arguments amount to, before the server has said how it counts.
#[derive(Clone, Debug)]
pub(super) struct LoadPlan {
    pub(super) shape: Shape,
    source: Source,
    requests: Option<u64>,
    seed: u64,
}

/// One run or several.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    One(Profile),
    Sweep(Sweep),
}

impl LoadArgs {
    /// The load, once it is clear that the profile has what it needs and that nothing is given which it would not use.
    pub(super) fn plan(&self) -> Result<LoadPlan> {
        let read = |path: &PathBuf| Trace::read(path).with_context(|| path.display().to_string());
        let trace = self.texts.trace.as_ref().map(read).transpose();
        let trace = trace.map_err(|error| UsageError(format!("{error:#}")))?;
        let shape = self.arrivals.shape(trace.as_ref())?;
        let rows = trace.as_ref().map(|trace| trace.rows.len() as u64);
        if let (Shape::One(Profile::Replay(_)), Some(rows), Some(requests)) = (&shape, rows, self.requests)
            && requests > rows
        {
            return Err(UsageError(format!("--requests {requests}: the trace that is replayed has {rows}")).into());
        }
        let requests = match (self.requests, self.duration, rows) {
            (Some(requests), _, _) => Some(requests),
            (None, Some(_), _) => None,
            (None, None, rows) => Some(rows.unwrap_or(DEFAULT_REQUESTS)),
        };
        let TextArgs { input_tokens, output_tokens, .. } = &self.texts;
        let source = match trace {
            Some(trace) => Source::Recorded(trace),
            None => Source::Drawn { input: input_tokens.clone(), output: output_tokens.clone() },
        };
        Ok(LoadPlan { shape, source, requests, seed: self.seed.unwrap_or_else(rand::random) })
    }

    /// The first run.
    pub(super) fn load(&self, plan: &LoadPlan, calibration: Calibration) -> Load {
        let prompts = Prompts::new(plan.seed, self.texts.shared_prefix, calibration);
        Load {
            plan: Plan::new(plan.seed, plan.source.clone(), prompts),
            profile: match &plan.shape {
                Shape::One(profile) => profile.clone(),
                Shape::Sweep(_) => Profile::Synchronous,
            },
            until: Until { requests: plan.requests, duration: self.duration },
            first_index: 0,
            max_in_flight: self.arrivals.max_in_flight.unwrap_or(DEFAULT_IN_FLIGHT),
            seed: plan.seed,
            stop: Arc::default(),
        }
    }

    /// Requests before the first run.
    fn warm_up_requests(&self, shape: &Shape) -> u64 {
        self.warmup.unwrap_or(u64::from(at_a_time(shape)))
    }

    /// What is done before `load`, if anything.
    pub(super) fn warm_up(&self, load: &Load, shape: &Shape) -> Option<Load> {
        let (at_a_time, requests) = (at_a_time(shape), self.warm_up_requests(shape));
        (requests > 0).then(|| Load {
            plan: load.plan.clone().warm_up(),
            profile: Profile::Concurrent(at_a_time.min(u32::try_from(requests).unwrap_or(u32::MAX))),
            until: Until::requests(requests),
            first_index: WARMUP_INDEX,
            ..load.clone()
        })
    }

    /// For the report. Each request has so much time, and these fields besides those of the load.
    pub(super) fn describe(
        &self,
        plan: &LoadPlan,
        load: &Load,
        (timeout, extra_body): (Duration, Map<String, Value>),
    ) -> LoadDescription {
        let trace = self.texts.trace.as_ref().map(|path| format!("trace {}", path.display()));
        let lengths = |lengths: &Lengths| trace.clone().unwrap_or_else(|| lengths.to_string());
        LoadDescription {
            profile: match &plan.shape {
                Shape::One(profile) => profile.to_string(),
                Shape::Sweep(Sweep { points, full, .. }) => format!("sweep of {points} rates, full at {full}"),
            },
            input: lengths(&self.texts.input_tokens),
            output: lengths(&self.texts.output_tokens),
            shared_prefix: self.texts.shared_prefix,
            requests: plan.requests,
            duration_s: self.duration.map(|duration| duration.as_secs_f64()),
            warmup: self.warm_up_requests(&plan.shape),
            max_in_flight: load.max_in_flight,
            seed: plan.seed,
            timeout_s: timeout.as_secs_f64(),
            extra_body,
        }
    }
}

impl ArrivalArgs {
    fn shape(&self, trace: Option<&Trace>) -> Result<Shape, UsageError> {
        self.refuse_unused()?;
        let needs = |option: &str| UsageError(format!("--profile {} needs --{option}", self.profile_name()));
        Ok(Shape::One(match self.profile {
            ProfileArg::Synchronous => Profile::Synchronous,
            ProfileArg::Concurrent => Profile::Concurrent(self.concurrency.ok_or_else(|| needs("concurrency"))?),
            ProfileArg::Constant => Profile::Constant(self.rate.ok_or_else(|| needs("rate"))?),
            ProfileArg::Poisson => Profile::Poisson(self.rate.ok_or_else(|| needs("rate"))?),
            ProfileArg::Replay => {
                let times = trace.ok_or_else(|| needs("trace"))?.times(self.speed.unwrap_or(1.0));
                Profile::Replay(times.ok_or_else(|| needs("trace with a timestamp in each line"))?)
            }
            ProfileArg::Sweep => {
                let times = match self.sweep_times {
                    Some(SweepTimes::Constant) => RateTimes::Constant,
                    Some(SweepTimes::Poisson) | None => RateTimes::Poisson,
                };
                let (points, full) = (self.points.unwrap_or(DEFAULT_POINTS), self.concurrency.unwrap_or(DEFAULT_FULL));
                return Ok(Shape::Sweep(Sweep { points, full, times }));
            }
        }))
    }

    fn refuse_unused(&self) -> Result<(), UsageError> {
        let used: &[&str] = match self.profile {
            ProfileArg::Synchronous => &[],
            ProfileArg::Concurrent => &["concurrency"],
            ProfileArg::Constant | ProfileArg::Poisson => &["rate", "max-in-flight"],
            ProfileArg::Replay => &["speed", "max-in-flight"],
            ProfileArg::Sweep => &["concurrency", "points", "sweep-times", "max-in-flight"],
        };
        let given = [
            ("concurrency", self.concurrency.is_some()),
            ("rate", self.rate.is_some()),
            ("speed", self.speed.is_some()),
            ("points", self.points.is_some()),
            ("sweep-times", self.sweep_times.is_some()),
            ("max-in-flight", self.max_in_flight.is_some()),
        ];
        match given.iter().find(|(option, given)| *given && !used.contains(option)) {
            Some((option, _)) => Err(UsageError(format!("--profile {} does not use --{option}", self.profile_name()))),
            None => Ok(()),
        }
    }

    fn profile_name(&self) -> String {
        self.profile.to_possible_value().expect("no profile is skipped").get_name().to_owned()
    }
}

/// Requests under way at a time, or as many as warm an open loop up.
fn at_a_time(shape: &Shape) -> u32 {
    match shape {
        Shape::One(profile) => profile.closed_loop().unwrap_or(DEFAULT_WARMUP),
        Shape::Sweep(sweep) => sweep.full,
    }
}
