//! `tramontane bench`: what a server delivers, measured from outside, and what measuring costs.

mod accuracy;
mod engine;
mod load;
mod null_server;
mod overhead;
mod progress;
mod serve;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    bench::RATES,
    config::{Args, Config},
    telemetry::logs::LogStyle,
};

const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// Measure what a server delivers
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    Serve(Box<serve::BenchServeArgs>),
    Engine(Box<engine::BenchEngineArgs>),
    Accuracy(Box<accuracy::BenchAccuracyArgs>),
    Overhead(overhead::OverheadArgs),
    NullServer(null_server::NullServerArgs),
}

impl BenchArgs {
    pub(super) fn settings(&self) -> Args {
        match &self.command {
            BenchCommand::Engine(args) => args.settings(),
            BenchCommand::Accuracy(args) => args.settings(),
            BenchCommand::Serve(_) | BenchCommand::Overhead(_) | BenchCommand::NullServer(_) => Args::default(),
        }
    }

    pub(super) fn run(self, config: &Config, style: LogStyle) -> Result<()> {
        match self.command {
            BenchCommand::Serve(args) => args.run(style),
            BenchCommand::Engine(args) => args.run(config, style),
            BenchCommand::Accuracy(args) => args.run(config, style),
            BenchCommand::Overhead(args) => args.run(style),
            BenchCommand::NullServer(args) => args.run(),
        }
    }
}

/// The client uses the cores it finds: on a machine of its own all of them are for it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

/// A file of results, opened before the work so that a path that cannot be written costs nobody an hour.
struct OutputFile {
    path: PathBuf,
    file: File,
}

impl OutputFile {
    fn create(path: &PathBuf) -> Result<Self> {
        let file = File::create(path).with_context(|| cannot_write(path))?;
        Ok(Self { path: path.clone(), file })
    }

    fn write(mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).with_context(|| cannot_write(&self.path))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A time such as `30s`, `5m` or `250ms`.
fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s, 5m or 250ms"))?;
    match time {
        time if time.is_zero() => Err("it has to be longer than nothing".to_owned()),
        time if time > LONGEST => Err("it has to be a month at most".to_owned()),
        time => Ok(time),
    }
}

/// A time that a runtime's timer can keep.
fn whole_milliseconds(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    let is_whole = time.subsec_nanos().is_multiple_of(1_000_000);
    if is_whole { Ok(time) } else { Err("write whole milliseconds: the server's timer has no others".to_owned()) }
}

/// Something per second, or a factor of it.
fn times_per_s(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| RATES.contains(number));
    number.ok_or_else(|| format!("write a number from {} to {}", RATES.start(), RATES.end()))
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("write a number from 0 to 1".to_owned())
}
