//! `tramontane bench serve`: drives a server with a load and reports what it delivers. This and `pull` are what
//! opens connections, to the server that the user names.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::{positive, progress::LoadProgress, time};
use crate::{
    bench::{
        Calibration, Endpoint, Lengths, Load, Plan, Profile, Prompts, RateTimes, Run, Slo, Source, Sweep, Target,
        TargetConfig, Trace, Until, report, sweep,
    },
    cli::error::UsageError,
    telemetry::logs::LogStyle,
};

/// Requests of a run, where neither --requests nor --duration is given.
const DEFAULT_REQUESTS: u64 = 100;
/// Requests at a time before a run in an open loop.
const DEFAULT_WARMUP: u32 = 8;
const DEFAULT_FULL: u32 = 64;
/// Numbers of requests that no run reaches: those of the warm-up.
const WARMUP_INDEX: u64 = 1 << 48;

/// Drive any server with an OpenAI-compatible API and report latency and throughput
#[derive(Debug, clap::Args)]
pub(super) struct BenchServeArgs {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Which API: the prompt as it is, or as a user's message
    #[arg(long, value_enum, default_value_t = EndpointArg::Completions)]
    endpoint: EndpointArg,
    /// Model to ask for [default: the first one that the server lists]
    #[arg(long)]
    model: Option<String>,
    /// Sent as a bearer token
    #[arg(long, env = "TRAMONTANE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// A request that takes longer has failed
    #[arg(long, default_value = "10m", value_parser = time, value_name = "TIME")]
    timeout: Duration,
    /// Further fields of every request, as a JSON object such as '{"temperature": 0}'
    #[arg(long, value_parser = json_object, value_name = "JSON", default_value = "{}")]
    extra_body: Map<String, Value>,
    /// Let answers end where the model ends them; else `ignore_eos` asks for as many tokens as are wanted
    #[arg(long)]
    stop_at_eos: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Which requests, and when.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// How requests follow each other
    #[arg(long, value_enum, default_value_t = ProfileArg::Synchronous)]
    profile: ProfileArg,
    /// Requests at a time: of the profile concurrent, and of the sweep's full server [default there: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: Option<u32>,
    /// Requests per second of the profiles constant and poisson
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// How much faster than recorded a trace is replayed [default: 1]
    #[arg(long, value_parser = positive)]
    speed: Option<f64>,
    /// Rates of a sweep between an idle and a full server [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    points: Option<u32>,
    /// How the requests of a sweep's rates are spread [default: poisson]
    #[arg(long, value_enum)]
    sweep_times: Option<SweepTimes>,
    /// Tokens of prompts: 128, 64..256, normal:MEAN:SD, lognormal:MEAN:SD or exponential:MEAN [default: 128]
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace")]
    input_tokens: Option<Lengths>,
    /// Tokens of answers, likewise [default: 64]
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace")]
    output_tokens: Option<Lengths>,
    /// Lengths, and for the profile replay times, from a file of JSON lines with timestamp (ms), input_length,
    /// output_length, hash_ids, as the Mooncake traces, or with prompt
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Share of each prompt, from 0 to 1, that is the same in all of them
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "RATIO")]
    shared_prefix: f64,
    /// Requests of each run [default: 100, or those of the trace, unless --duration is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    requests: Option<u64>,
    /// No request of a run is made later than this
    #[arg(long, value_parser = time, value_name = "TIME")]
    duration: Option<Duration>,
    /// Requests before the first run that do not count [default: as many as at a time, in an open loop 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    warmup: Option<u64>,
    /// Most requests under way in an open loop; those beyond wait, and their waiting counts
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_in_flight: u32,
    /// For texts, lengths and times: the same seed makes the same load
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What comes of it, besides the table on standard output.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Report")]
struct ReportArgs {
    /// Bounds that a request has to meet to count as goodput, such as ttft=500ms,tpot=50ms,e2e=10s
    #[arg(long, value_parser = slo, value_name = "BOUNDS")]
    slo: Option<Slo>,
    /// All figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A row per request
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// A page with tables and plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EndpointArg {
    Completions,
    Chat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
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
    /// Idle, full, and rates between them
    Sweep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SweepTimes {
    Constant,
    Poisson,
}

/// What the arguments amount to.
enum Shape {
    One(Profile),
    Sweep(Sweep),
}

impl BenchServeArgs {
    pub(super) fn run(&self, style: LogStyle) -> Result<()> {
        let trace = self.load.trace()?;
        let shape = self.load.shape(trace.as_ref())?;
        super::runtime()?.block_on(self.measure(trace, shape, style))
    }

    async fn measure(&self, trace: Option<Trace>, shape: Shape, style: LogStyle) -> Result<()> {
        let target = self.target().await?;
        let started_at = SystemTime::now();
        let calibration = Calibration::measure(&target.1, self.load.seed).await;
        let calibration = calibration.map_err(|failure| {
            anyhow::anyhow!("the server refuses a short request ({}): {}", failure.kind.name(), failure.message)
        })?;
        let load = self.load.load(trace, &shape, calibration);
        self.load.warm_up(&load, &shape, &target.1, style).await;
        let runs = match shape {
            Shape::Sweep(config) => {
                let watcher = |load: &Load| Arc::new(LoadProgress::new("", load, style)) as _;
                sweep(&load, config, &target.1, watcher).await
            }
            Shape::One(_) => vec![load.run(&target.1, Arc::new(LoadProgress::new("", &load, style))).await],
        };
        let described =
            report::TargetDescription { url: self.url.clone(), endpoint: self.endpoint.path(), model: target.0 };
        let report = report::Report::new(
            started_at,
            described,
            self.load.describe(&load, self.extra()),
            calibration,
            (&runs, self.report.slo),
        );
        self.report.write(&report, &runs)?;
        if report.runs.iter().all(|run| run.completed == 0) {
            bail!("no request was answered");
        }
        Ok(())
    }

    /// The model's name, and the server.
    async fn target(&self) -> Result<(String, Target)> {
        let config = TargetConfig {
            url: self.url.clone(),
            endpoint: match self.endpoint {
                EndpointArg::Completions => Endpoint::Completions,
                EndpointArg::Chat => Endpoint::Chat,
            },
            model: self.model.clone().unwrap_or_default(),
            api_key: self.api_key.clone(),
            timeout: self.timeout,
            extra: self.extra(),
        };
        let target = Target::new(config).map_err(|error| UsageError(error.to_string()))?;
        if let Some(model) = &self.model {
            return Ok((model.clone(), target));
        }
        let models = target.models().await?;
        let model = models.into_iter().next().context("the server lists no model; name one with --model")?;
        Ok((model.clone(), target.with_model(model)))
    }

    fn extra(&self) -> Map<String, Value> {
        let mut extra = Map::new();
        if !self.stop_at_eos {
            extra.insert("ignore_eos".to_owned(), Value::Bool(true));
        }
        extra.extend(self.extra_body.clone());
        extra
    }
}

impl LoadArgs {
    fn trace(&self) -> Result<Option<Trace>> {
        let read = |path: &PathBuf| Trace::read(path).with_context(|| path.display().to_string());
        Ok(self.trace.as_ref().map(read).transpose().map_err(|error| UsageError(format!("{error:#}")))?)
    }

    /// The profile, once it is clear that it has what it needs and that nothing is given which it would not use.
    fn shape(&self, trace: Option<&Trace>) -> Result<Shape, UsageError> {
        let profile = self.profile;
        let used: &[&str] = match profile {
            ProfileArg::Synchronous => &[],
            ProfileArg::Concurrent => &["concurrency"],
            ProfileArg::Constant | ProfileArg::Poisson => &["rate"],
            ProfileArg::Replay => &["speed"],
            ProfileArg::Sweep => &["concurrency", "points", "sweep-times"],
        };
        let given = [
            ("concurrency", self.concurrency.is_some()),
            ("rate", self.rate.is_some()),
            ("speed", self.speed.is_some()),
            ("points", self.points.is_some()),
            ("sweep-times", self.sweep_times.is_some()),
        ];
        let name = clap::ValueEnum::to_possible_value(&profile).expect("no profile is skipped").get_name().to_owned();
        if let Some((option, _)) = given.iter().find(|(option, given)| *given && !used.contains(option)) {
            return Err(UsageError(format!("--profile {name} does not use --{option}")));
        }
        let needs = |option: &str| UsageError(format!("--profile {name} needs --{option}"));
        Ok(Shape::One(match profile {
            ProfileArg::Synchronous => Profile::Synchronous,
            ProfileArg::Concurrent => Profile::Concurrent(self.concurrency.ok_or_else(|| needs("concurrency"))?),
            ProfileArg::Constant => Profile::Constant(self.rate.ok_or_else(|| needs("rate"))?),
            ProfileArg::Poisson => Profile::Poisson(self.rate.ok_or_else(|| needs("rate"))?),
            ProfileArg::Replay => {
                let times = trace.ok_or_else(|| needs("trace"))?.times(self.speed.unwrap_or(1.0));
                Profile::Replay(times.ok_or_else(|| needs("trace with a timestamp in each line"))?)
            }
            ProfileArg::Sweep => return Ok(Shape::Sweep(self.sweep())),
        }))
    }

    fn sweep(&self) -> Sweep {
        let times = match self.sweep_times {
            Some(SweepTimes::Constant) => RateTimes::Constant,
            Some(SweepTimes::Poisson) | None => RateTimes::Poisson,
        };
        Sweep { points: self.points.unwrap_or(5), full: self.concurrency.unwrap_or(DEFAULT_FULL), times }
    }

    fn load(&self, trace: Option<Trace>, shape: &Shape, calibration: Calibration) -> Load {
        let profile = match shape {
            Shape::One(profile) => profile.clone(),
            Shape::Sweep(_) => Profile::Synchronous,
        };
        let default_requests = match (&trace, self.duration) {
            (_, Some(_)) => None,
            (Some(trace), None) => Some(trace.rows.len() as u64),
            (None, None) => Some(DEFAULT_REQUESTS),
        };
        let source = match trace {
            Some(trace) => Source::Recorded(trace),
            None => Source::Drawn {
                input: self.input_tokens.clone().unwrap_or_else(|| Lengths::fixed(128)),
                output: self.output_tokens.clone().unwrap_or_else(|| Lengths::fixed(64)),
            },
        };
        Load {
            plan: Plan::new(self.seed, source, Prompts::new(self.seed, self.shared_prefix, calibration)),
            profile,
            until: Until { requests: self.requests.or(default_requests), duration: self.duration },
            first_index: 0,
            max_in_flight: self.max_in_flight,
            seed: self.seed,
        }
    }

    /// Requests before the first run, and how many of them at a time.
    fn warm_up_requests(&self, shape: &Shape) -> (u64, u32) {
        let at_a_time = match shape {
            Shape::One(profile) => profile.closed_loop().unwrap_or(DEFAULT_WARMUP),
            Shape::Sweep(sweep) => sweep.full,
        };
        let requests = self.warmup.unwrap_or(u64::from(at_a_time));
        (requests, at_a_time.min(u32::try_from(requests).unwrap_or(u32::MAX)))
    }

    async fn warm_up(&self, load: &Load, shape: &Shape, target: &Target, style: LogStyle) {
        let (requests, at_a_time) = self.warm_up_requests(shape);
        if requests == 0 {
            return;
        }
        let load = Load {
            profile: Profile::Concurrent(at_a_time),
            until: Until::requests(requests),
            first_index: WARMUP_INDEX,
            ..load.clone()
        };
        load.run(target, Arc::new(LoadProgress::new("warm-up, ", &load, style))).await;
    }

    fn describe(&self, load: &Load, extra_body: Map<String, Value>) -> report::LoadDescription {
        let trace = self.trace.as_ref().map(|path| format!("trace {}", path.display()));
        let lengths = |lengths: &Option<Lengths>, default: u32| {
            trace.clone().unwrap_or_else(|| lengths.clone().unwrap_or_else(|| Lengths::fixed(default)).to_string())
        };
        let (profile, warmup) = match self.profile {
            ProfileArg::Sweep => ("sweep".to_owned(), self.warm_up_requests(&Shape::Sweep(self.sweep())).0),
            _ => (load.profile.to_string(), self.warm_up_requests(&Shape::One(load.profile.clone())).0),
        };
        report::LoadDescription {
            profile,
            input: lengths(&self.input_tokens, 128),
            output: lengths(&self.output_tokens, 64),
            shared_prefix: self.shared_prefix,
            requests: load.until.requests,
            duration_s: load.until.duration.map(|duration| duration.as_secs_f64()),
            warmup,
            max_in_flight: self.max_in_flight,
            seed: self.seed,
            extra_body,
        }
    }
}

impl ReportArgs {
    /// The table to standard output, the others to their files.
    fn write(&self, report: &report::Report, runs: &[Run]) -> Result<()> {
        let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
            Some(path) => std::fs::write(path, text()).with_context(|| format!("cannot write {}", path.display())),
            None => Ok(()),
        };
        super::super::print(&report::table(report))?;
        write(&self.json, &|| report.json())?;
        write(&self.csv, &|| report::csv(runs))?;
        write(&self.html, &|| report::html(report, runs))
    }
}

impl EndpointArg {
    fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("write a number from 0 to 1".to_owned())
}

fn slo(text: &str) -> Result<Slo, String> {
    let mut slo = Slo::default();
    for bound in text.split(',') {
        let (name, value) = bound.split_once('=').ok_or_else(|| format!("{bound:?} is no bound such as ttft=500ms"))?;
        let field = match name {
            "ttft" => &mut slo.ttft_ms,
            "tpot" => &mut slo.tpot_ms,
            "e2e" => &mut slo.e2e_ms,
            _ => return Err(format!("{name:?} is none of ttft, tpot, e2e")),
        };
        if field.replace(time(value)?.as_secs_f64() * 1e3).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(slo)
}
