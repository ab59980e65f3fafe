//! `tramontane bench`: what a server delivers, measured from outside, and what measuring costs.

mod null_server;
mod overhead;
mod progress;
mod serve;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::telemetry::logs::LogStyle;

/// Measure what a server delivers
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    Serve(Box<serve::BenchServeArgs>),
    Overhead(overhead::OverheadArgs),
    NullServer(null_server::NullServerArgs),
}

impl BenchArgs {
    pub(super) fn run(self, style: LogStyle) -> Result<()> {
        match self.command {
            BenchCommand::Serve(args) => args.run(style),
            BenchCommand::Overhead(args) => args.run(style),
            BenchCommand::NullServer(args) => args.run(),
        }
    }
}

/// The client uses the cores it finds: on a machine of its own all of them are for it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

/// A time such as `30s`, `5m` or `250ms`, longer than nothing.
fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s, 5m or 250ms"))?;
    if time.is_zero() { Err("it has to be longer than nothing".to_owned()) } else { Ok(time) }
}

/// A number above zero.
fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or("write a number above 0".to_owned())
}
