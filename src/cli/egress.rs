//! Every reason that a configuration gives the program to leave the machine. There are no others: what is listed here is all
//! that opens a connection.

use std::{fmt, path::Path};

use anyhow::Result;
use serde::Serialize;

use super::{error::UsageError, hub::Hub, locate};
use crate::{
    config::Config,
    governance::{Issuers, KeySources},
};

/// Where a proxy would be taken from.
const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    /// When it happens: `start` or `serving`.
    when: &'static str,
    /// What for.
    what: &'static str,
    /// The setting that says so.
    setting: &'static str,
    /// Where to.
    address: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { when, what, setting, address } = self;
        write!(f, "{address}: {what} ({setting}; {when})")
    }
}

/// All, from start to end.
pub(super) fn reasons(config: &Config) -> Result<Vec<Reason>> {
    let mut reasons = Vec::new();
    if let Some(id) = locate::missing_hub_id(&config.model)? {
        let address = format!("{}/{id}", Hub::from_env()?.endpoint());
        reasons.push(Reason { when: "start", what: "the model is fetched", setting: "model", address });
    }
    reasons.extend(reasons_of_server(config)?);
    if !reasons.is_empty() {
        for name in PROXIES {
            let proxy = std::env::var(name).ok().filter(|value| !value.is_empty());
            reasons.extend(proxy.map(|proxy| {
                let address = without_credentials(&proxy);
                Reason { when: "always", what: "connections go through a proxy", setting: name, address }
            }));
        }
    }
    Ok(reasons)
}

/// Those of a server that has its model.
pub(super) fn reasons_of_server(config: &Config) -> Result<Vec<Reason>> {
    let is_address = |text: &String| text.starts_with("http://") || text.starts_with("https://");
    let mut reasons: Vec<Reason> = config
        .texts()
        .filter(|(_, text)| is_address(text))
        .map(|(setting, text)| Reason {
            when: "serving",
            what: "its address is a setting",
            setting,
            address: without_credentials(&text),
        })
        .collect();
    // In offline mode such a file is refused.
    let file = config.access.identity_file.as_ref().filter(|_| !config.model.offline.is_on());
    let Some(path) = file else { return Ok(reasons) };
    let what = "keys of an issuer are fetched, from there or where a document there says";
    let reason = |address| Reason { when: "serving", what, setting: "identity_file", address };
    reasons.extend(identity_sources(path)?.urls.into_iter().map(reason));
    Ok(reasons)
}

/// Where an identity file has keys from.
pub(super) fn identity_sources(path: &Path) -> Result<KeySources> {
    Issuers::sources(path).map_err(|error| UsageError(error.to_string()).into())
}

/// Of a URL, what may be shown.
fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
    }
}
