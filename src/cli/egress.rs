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
    /// Where to: scheme, host and port.
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
    // Without a model there is none to be fetched; whoever asks is told so.
    let has_model = locate::no_model(&config.model).is_none();
    if has_model && locate::missing_hub_id(&config.model)?.is_some() {
        let address = shown(Hub::from_env()?.endpoint());
        reasons.push(Reason { when: "start", what: "the model is fetched", setting: "model", address });
    }
    reasons.extend(reasons_of_server(config)?);
    if !reasons.is_empty() {
        for name in PROXIES {
            let proxy = std::env::var(name).ok().filter(|value| !value.is_empty());
            reasons.extend(proxy.map(|proxy| {
                let address = shown(&proxy);
                Reason { when: "always", what: "connections go through a proxy", setting: name, address }
            }));
        }
    }
    Ok(reasons)
}

/// Those of a server that has its model.
pub(super) fn reasons_of_server(config: &Config) -> Result<Vec<Reason>> {
    let is_address = |text: &String| {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        matches!(scheme.as_deref(), Some("http" | "https"))
    };
    let mut reasons: Vec<Reason> = config
        .texts()
        .filter(|(_, text)| is_address(text))
        .map(|(setting, text)| Reason {
            when: "serving",
            what: "its address is a setting",
            setting,
            address: shown(&text),
        })
        .collect();
    // In offline mode such a file is refused.
    let file = config.access.identity_file.as_ref().filter(|_| !config.model.offline.is_on());
    let Some(path) = file else { return Ok(reasons) };
    let reason = |what, url: &str| Reason { when: "serving", what, setting: "identity_file", address: shown(url) };
    let sources = identity_sources(path)?;
    reasons.extend(sources.urls.iter().map(|url| reason("keys of an issuer are fetched", url)));
    let led_to =
        |host: &String| reason("keys are fetched where an issuer's document may say", &format!("https://{host}"));
    reasons.extend(sources.hosts.iter().map(led_to));
    Ok(reasons)
}

/// Where an identity file has keys from.
pub(super) fn identity_sources(path: &Path) -> Result<KeySources> {
    Issuers::sources(path).map_err(|error| UsageError(error.to_string()).into())
}

/// Of a URL what a firewall has to know: scheme, host and port. Users, paths and queries may hold secrets.
fn shown(url: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), url), // proxies need none
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if is_host(host) { format!("{scheme}{host}") } else { format!("{scheme}(not the name of a host)") }
}

/// A name or an address, maybe with a port. What is none could be a part of a password.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", rest.strip_prefix(':')),
        Some(_) => return false,
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let is_name = |letter: char| letter.is_alphanumeric() || "-._".contains(letter);
    is_port && !name.is_empty() && name.chars().all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_addresses_only_hosts_are_shown() {
        for (url, expected) in [
            ("https://id.example.org/keys?token=secret#secret", "https://id.example.org"),
            ("http://me:secret@proxy.example.org:3128", "http://proxy.example.org:3128"),
            ("http://me:secret@proxy.example.org:3128/@secret", "http://proxy.example.org:3128"),
            ("me:secret@proxy.example.org:3128", "proxy.example.org:3128"),
            ("proxy.example.org", "proxy.example.org"),
            ("https://id.example.org?secret", "https://id.example.org"),
            ("https://[2001:db8::1]:8443/secret", "https://[2001:db8::1]:8443"),
            ("https://[secret]/", "https://(not the name of a host)"),
            // A password that should have been escaped: what follows it is a path.
            ("http://me:secret/part@proxy.example.org", "http://(not the name of a host)"),
            ("me:secret://more@proxy.example.org", "(not the name of a host)"),
            ("http://", "http://(not the name of a host)"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }
}
