//! `tramontane serve`: loads one model and answers HTTP until told to stop.

use anyhow::Result;

use crate::{
    config::{Args, Config, EngineArgs, HttpArgs, LogArgs, ModelArgs},
    telemetry::logs::LogStyle,
};

/// Load a model and answer HTTP requests
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    http: HttpArgs,
}

impl ServeArgs {
    pub(super) fn settings(&self, log: LogArgs) -> Args {
        Args { model: self.model.clone(), engine: self.engine.clone(), http: self.http.clone(), log }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let directory = super::locate::checkpoint(&config.model, super::locate::Network::Allowed, style)?;
        tracing::info!(directory = %directory.display(), "checkpoint found");
        Ok(())
    }
}
