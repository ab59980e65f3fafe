//! `tramontane bench null-server`: a server without a model, for measuring clients.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};

use super::whole_milliseconds;
use crate::bench::{NullServer, Pace};

/// Serve words at a known pace, without a model, to measure clients against
#[derive(Debug, clap::Args)]
pub(super) struct NullServerArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    bind: SocketAddr,
    /// Time between two tokens of an answer
    #[arg(long, default_value = "2ms", value_parser = whole_milliseconds)]
    pace: Duration,
    /// Time to the first token [default: that between tokens]
    #[arg(long, value_parser = whole_milliseconds)]
    ttft: Option<Duration>,
}

impl NullServerArgs {
    /// Prints the URL once it listens.
    pub(super) fn run(&self) -> Result<()> {
        let pace = Pace { first: self.ttft.unwrap_or(self.pace), next: self.pace };
        super::runtime()?.block_on(async {
            let server =
                NullServer::bind(self.bind, pace).await.with_context(|| format!("cannot listen on {}", self.bind))?;
            super::super::print(&format!("http://{}\n", server.address()?))?;
            Ok(server.serve().await?)
        })
    }
}
