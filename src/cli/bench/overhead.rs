//! `tramontane bench overhead`: what the load generator itself costs, against a server without a model in a
//! process of its own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Map;

use super::{progress::LoadProgress, time, whole_milliseconds};
use crate::{
    bench::{Endpoint, Overhead, OverheadConfig, Target, TargetConfig, measure_overhead},
    cli::{error::UsageError, machine},
    telemetry::logs::LogStyle,
};

const LONGEST: Duration = Duration::from_secs(600);

/// Measure what the load generator itself costs, against a server without a model
#[derive(Debug, clap::Args)]
pub(super) struct OverheadArgs {
    /// Answers at a time
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Time between two tokens of an answer: with 100 streams, 2ms make 50,000 tokens a second
    #[arg(long, default_value = "2ms", value_parser = whole_milliseconds)]
    pace: Duration,
    /// How long to measure
    #[arg(long, default_value = "5s", value_parser = time)]
    duration: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OverheadArgs {
    pub(super) fn run(&self, style: LogStyle) -> Result<()> {
        if self.duration > LONGEST {
            return Err(UsageError(format!(
                "--duration {:?}: each token is timed, so {LONGEST:?} at most",
                self.duration
            ))
            .into());
        }
        let server = NullServerProcess::start(self.pace)?;
        let target = Target::new(TargetConfig {
            url: server.url.clone(),
            endpoint: Endpoint::Completions,
            model: "null".to_owned(),
            api_key: None,
            timeout: self.duration * 10 + Duration::from_secs(30),
            extra: Map::new(),
        })?;
        let config = OverheadConfig { streams: self.streams, pace: self.pace, duration: self.duration };
        let overhead =
            super::runtime()?.block_on(measure_overhead(&target, config, machine::processor_seconds, |load| {
                Arc::new(LoadProgress::new("overhead, ", load, style))
            }));
        drop(server);
        let text = if self.json { serde_json::to_string_pretty(&overhead)? + "\n" } else { text(&overhead) };
        super::super::print(&text)?;
        if overhead.failed > 0 {
            bail!("{} of {} requests failed", overhead.failed, self.streams);
        }
        Ok(())
    }
}

fn text(overhead: &Overhead) -> String {
    let cores = overhead.client_cores.map_or("not known here".to_owned(), |cores| format!("{cores:.2} cores"));
    let error = &overhead.itl_error_ms;
    format!(
        "pace of the server             {:.0} tokens/s\nreached                        {:.0} tokens/s, {:.1} %\n\
         timed                          {} of {} tokens\n\
         error of times between tokens  p50 {:.3} ms, p99 {:.3} ms, largest {:.3} ms\n\
         processor time of the client   {cores}\n",
        overhead.asked_tokens_per_s,
        overhead.tokens_per_s,
        overhead.reached * 100.0,
        overhead.timed_pieces,
        overhead.sent_tokens,
        error.p50,
        error.p99,
        error.max,
    )
}

/// Ends with the value.
struct NullServerProcess {
    process: Child,
    url: String,
}

impl NullServerProcess {
    fn start(pace: Duration) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let pace = format!("{}ms", pace.as_millis());
        let mut command = Command::new(program);
        command.args(["bench", "null-server", "--pace", &pace]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Self { process: command.spawn().context("cannot start the server")?, url: String::new() };
        let out = server.process.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut server.url).context("the server says nothing")?;
        server.url.truncate(server.url.trim_end().len());
        if server.url.is_empty() {
            bail!("the server ended before it listened");
        }
        Ok(server)
    }
}

impl Drop for NullServerProcess {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
