//! `tramontane bench serve`: drives a server with a load and reports what it delivers. It opens connections to the
//! server that the user names, and to no other.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::{
    OutputFile,
    load::{LoadArgs, Shape},
    progress::LoadProgress,
    time,
};
use crate::{
    bench::{
        Calibration, Endpoint, Failure, FailureKind, Load, Run, Slo, Summary, Target, TargetConfig,
        report::{self, Report, TargetDescription},
        sweep,
    },
    cli::error::UsageError,
    telemetry::logs::LogStyle,
};

/// Fields of a request that are the load's, so that others would make its figures untrue.
const OWN_FIELDS: [&str; 8] = ["model", "prompt", "messages", "stream", "max_tokens", "n", "best_of", "echo"];
/// As a shell names a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

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
    /// Further fields of every request, as a JSON object such as '{"temperature": 0}'; null leaves out one that is sent
    /// otherwise, such as stream_options
    #[arg(long, value_parser = further_fields, value_name = "JSON", default_value = "{}")]
    extra_body: Map<String, Value>,
    /// Let answers end where the model ends them; else `ignore_eos` asks for as many tokens as are wanted
    #[arg(long)]
    stop_at_eos: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    report: ReportArgs,
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

impl BenchServeArgs {
    pub(super) fn run(&self, style: LogStyle) -> Result<()> {
        super::runtime()?.block_on(self.measure(style))
    }

    async fn measure(&self, style: LogStyle) -> Result<()> {
        let plan = self.load.plan()?;
        let target = self.target().await?;
        let outputs = self.report.open()?; // before an hour's work
        let started_at = SystemTime::now();
        let calibration = Calibration::measure(&target).await.map_err(|failure| refusal(&failure))?;
        let load = self.load.load(&plan, calibration);
        stop_on_interrupt(load.stop.clone());
        if let Some(warm_up) = self.load.warm_up(&load, &plan.shape) {
            warm_up.run(&target, Arc::new(LoadProgress::new("warm-up, ", &warm_up, style))).await;
        }
        let watch = |load: &Load| Arc::new(LoadProgress::new("", load, style)) as _;
        let runs = match &plan.shape {
            Shape::Sweep(config) => sweep(&load, *config, &target, watch).await,
            Shape::One(_) => vec![load.run(&target, watch(&load)).await],
        };
        let described = self.load.describe(&plan, &load, (self.timeout, self.fields()));
        let summaries = runs.iter().map(|run| Summary::new(run, self.report.slo)).collect();
        let report = Report::new(started_at, self.describe(&target), described, calibration, summaries);
        let printed = super::super::print(&report::table(&report));
        outputs.write(&report, &runs)?;
        printed?;
        if report.runs.iter().all(|run| run.completed == 0) {
            bail!("no request was answered");
        }
        Ok(())
    }

    async fn target(&self) -> Result<Target> {
        let target = Target::new(TargetConfig {
            url: self.url.clone(),
            endpoint: self.endpoint.endpoint(),
            model: self.model.clone().unwrap_or_default(),
            api_key: self.api_key.clone(),
            timeout: self.timeout,
            extra: self.fields(),
        });
        let target = target.map_err(|error| UsageError(error.to_string()))?;
        if self.model.is_some() {
            return Ok(target);
        }
        let model = target.models().await?.into_iter().next();
        Ok(target.with_model(model.context("the server lists no model; name one with --model")?))
    }

    fn describe(&self, target: &Target) -> TargetDescription {
        let endpoint = self.endpoint.endpoint().path();
        TargetDescription { url: self.url.clone(), endpoint, model: target.model().to_owned() }
    }

    /// Fields of every request besides those of the load.
    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        if !self.stop_at_eos {
            fields.insert("ignore_eos".to_owned(), Value::Bool(true));
        }
        fields.extend(self.extra_body.clone());
        fields
    }
}

impl EndpointArg {
    fn endpoint(self) -> Endpoint {
        match self {
            Self::Completions => Endpoint::Completions,
            Self::Chat => Endpoint::Chat,
        }
    }
}

fn refusal(failure: &Failure) -> anyhow::Error {
    let advice = match failure.kind {
        FailureKind::Status => {
            ". If it does not know ignore_eos, give --stop-at-eos; if not stream_options, --extra-body \
             '{\"stream_options\": null}'"
        }
        FailureKind::Connection | FailureKind::Timeout | FailureKind::Refused | FailureKind::Stream => "",
    };
    anyhow!("the server does not answer a short request ({}: {}){advice}", failure.kind.name(), failure.message)
}

/// The first interrupt ends the load, and what has been measured is reported; the second ends the process.
fn stop_on_interrupt(stop: Arc<AtomicBool>) {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.store(true, Ordering::Relaxed);
            tracing::warn!("no further requests; waiting for those under way, unless interrupted once more");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(INTERRUPTED);
        }
    });
}

/// Files of the reports that are wanted.
struct Outputs {
    json: Option<OutputFile>,
    csv: Option<OutputFile>,
    html: Option<OutputFile>,
}

impl ReportArgs {
    fn open(&self) -> Result<Outputs> {
        let open = |path: &Option<PathBuf>| path.as_ref().map(OutputFile::create).transpose();
        Ok(Outputs { json: open(&self.json)?, csv: open(&self.csv)?, html: open(&self.html)? })
    }
}

impl Outputs {
    /// Writes them all; a failure of one does not keep the others from being written.
    fn write(self, report: &Report, runs: &[Run]) -> Result<()> {
        let write = |output: Option<OutputFile>, text: &dyn Fn() -> String| match output {
            Some(file) => file.write(&text()),
            None => Ok(()),
        };
        let written = [
            write(self.json, &|| report.json()),
            write(self.csv, &|| report::csv(runs)),
            write(self.html, &|| report::html(report, runs)),
        ];
        written.into_iter().collect()
    }
}

fn further_fields(text: &str) -> Result<Map<String, Value>, String> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
    match fields.keys().find(|name| OWN_FIELDS.contains(&name.as_str())) {
        Some(name) => Err(format!("{name} is set by the load")),
        None => Ok(fields),
    }
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
