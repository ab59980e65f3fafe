//! Issuers whose tokens are believed, and how their keys are fetched where the operator has given an address.

use std::{
    io::{self, Read},
    time::Duration,
};

use anyhow::Result;

use super::error::UsageError;
use crate::{
    config::Config,
    governance::{FetchKeys, GovernanceError, Issuers, jwt::MOST_KEY_SET_BYTES},
};

/// For all of it: connecting, sending, reading.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those of the configuration. An error is told before the port opens.
pub(super) fn open(config: &Config) -> Result<Issuers> {
    let Some(path) = &config.access.identity_file else { return Ok(Issuers::default()) };
    let fetch = (!config.model.offline.is_on()).then_some(fetch as FetchKeys);
    Issuers::open(path, fetch).map_err(|error| match error {
        GovernanceError::File { .. } => error.into(),
        error => UsageError(error.to_string()).into(),
    })
}

/// What is at an address: one that was configured, or that a document names which is there.
fn fetch(url: &str) -> io::Result<Vec<u8>> {
    let agent = ureq::AgentBuilder::new()
        .timeout(PATIENCE)
        .redirects(0)
        // Plain http is for addresses of this machine alone, which a proxy would take for its own.
        .try_proxy_from_env(!url.starts_with("http://"))
        .user_agent(concat!("tramontane/", env!("CARGO_PKG_VERSION")))
        .build();
    let response = agent.get(url).call().map_err(io::Error::other)?;
    if response.status() != 200 {
        return Err(io::Error::other(format!("{url} answers {}", response.status())));
    }
    let mut content = Vec::new();
    let most = u64::try_from(MOST_KEY_SET_BYTES).unwrap_or(u64::MAX);
    response.into_reader().take(most.saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}
