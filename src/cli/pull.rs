//! `tramontane pull`: fetches a checkpoint from the hub into the cache and checks every file. Together with
//! `serve` of a hub id, this is all in Tramontane that opens an outbound connection.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::ProgressBar;

use super::{
    error::UsageError,
    hub::{Hub, RemoteFile, Watcher, Weights},
    locate::HubId,
    lock, progress,
};
use crate::{
    config::{ByteSize, Config, ModelArgs, NetworkArgs},
    telemetry::logs::LogStyle,
};

/// Fetch a checkpoint from the hub into the cache and check every file
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// owner/name or owner/name@revision
    #[arg(value_name = "HUB_ID")]
    id: HubId,
    /// Fetch Mistral's own layout (consolidated.safetensors) even if there is Hugging Face's
    #[arg(long)]
    native: bool,
    /// Put what was fetched into this lock, which is made if there is none (docs/supply-chain.md)
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl PullArgs {
    pub(super) fn settings(&self) -> ModelArgs {
        ModelArgs { network: self.network.clone(), ..ModelArgs::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        if config.model.offline.is_on() {
            return Err(UsageError(format!("cannot pull {}: this is offline mode", self.id)).into());
        }
        let weights = if self.native { Weights::Native } else { Weights::HuggingFace };
        let directory = pull(&Hub::from_env()?, &self.id, weights, style)?;
        if let Some(path) = &self.lock {
            lock::put_pulled(path, &self.id, &directory)?;
        }
        super::print(&format!("{}\n", directory.display()))
    }
}

/// Fetches with bars on a terminal and a log line per file otherwise.
pub(super) fn pull(hub: &Hub, id: &HubId, weights: Weights, style: LogStyle) -> Result<PathBuf> {
    hub.pull(id, weights, &Reporter { style })
}

struct Reporter {
    style: LogStyle,
}

impl Watcher for Reporter {
    type Bar = Bar;

    fn start(&self, file: &RemoteFile) -> Bar {
        Bar(match self.style {
            LogStyle::Human => {
                ProgressBar::new(file.size).with_style(progress::bar_style()).with_message(file.name.clone())
            }
            LogStyle::Json => ProgressBar::hidden(),
        })
    }

    fn checked(&self, file: &RemoteFile, fetched: bool) {
        let (size, digest) = (ByteSize::new(file.size).human(), &file.digest);
        let origin = if fetched { "fetched" } else { "in the cache" };
        match self.style {
            LogStyle::Human => eprintln!("{} ({size}): {origin}, {} as stated", file.name, digest.kind()),
            LogStyle::Json => {
                tracing::info!(file = file.name, bytes = file.size, fetched, digest = digest.hex(), "file checked");
            }
        }
    }
}

/// A progress bar as `hf-hub` drives it: started anew at each attempt, and told at once what a part already has.
struct Bar(ProgressBar);

impl hf_hub::api::Progress for Bar {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}
