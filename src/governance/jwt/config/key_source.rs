//! Where keys are.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::invalid;
use crate::governance::jwt::error::SourceError;

/// What OpenID Connect Discovery 1.0 §4 appends to the issuer.
pub(in super::super) const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWK set, or PEM with public keys or certificates.
    File(PathBuf),
    /// `https` (or `http` to this machine): a JWK set, or the issuer's `/.well-known/openid-configuration`, which says
    /// where one is.
    Url(String),
}

/// Public keys, a secret, or both. At least one of them is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenKeys")]
pub(in super::super) struct KeySources {
    pub public: Option<KeySource>,
    /// Hosts beside that of the address at which its discovery document may say that the keys are.
    pub hosts: Vec<String>,
    pub secret_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKeys {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    hosts: Vec<String>,
    secret_file: Option<PathBuf>,
}

impl KeySources {
    pub(super) fn url(&self) -> Option<&str> {
        match &self.public {
            Some(KeySource::Url(url)) => Some(url),
            Some(KeySource::File(_)) | None => None,
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let public = match &self.public {
            Some(KeySource::File(path)) => Some(path.as_path()),
            Some(KeySource::Url(_)) | None => None,
        };
        public.into_iter().chain(self.secret_file.as_deref())
    }
}

impl TryFrom<WrittenKeys> for KeySources {
    type Error = SourceError;

    fn try_from(written: WrittenKeys) -> Result<Self, SourceError> {
        let public = match (written.file, written.url) {
            (Some(path), Some(url)) => {
                return Err(invalid("keys", format!("{}, {url}", path.display()), "either file or url"));
            }
            (Some(path), None) => Some(KeySource::File(path)),
            (None, Some(url)) => Some(check_url("keys.url", &url).map(|()| KeySource::Url(url))?),
            (None, None) if written.secret_file.is_none() => {
                return Err(invalid("keys", "", "file, url or secret_file"));
            }
            (None, None) => None,
        };
        let is_discovered = matches!(&public, Some(KeySource::Url(url)) if url.ends_with(DISCOVERY));
        if let Some(first) = written.hosts.first().filter(|_| !is_discovered) {
            return Err(invalid("keys.hosts", first, "nothing, unless keys.url is a discovery document"));
        }
        if let Some(wrong) = written.hosts.iter().find(|host| !is_host(host)) {
            return Err(invalid("keys.hosts", wrong, "names of hosts, such as keys.example.org, or with a port"));
        }
        Ok(Self { public, hosts: written.hosts, secret_file: written.secret_file })
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Url(url) => formatter.write_str(url),
        }
    }
}

/// Keys that came another way could be anybody's. On this machine nobody is in between.
pub(in super::super) fn check_url(field: &str, url: &str) -> Result<(), SourceError> {
    let is_plain = |rest: &str| !rest.is_empty() && rest.chars().all(|letter| letter.is_ascii_graphic());
    let is_loopback = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = match authority.strip_prefix("[::1]") {
            Some(port) => return port.is_empty() || is_port(port),
            None => authority.split_once(':').map_or((authority, true), |(host, port)| (host, is_digits(port))),
        };
        matches!(host, ("localhost" | "127.0.0.1", true))
    };
    let is_right = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => is_plain(rest),
        (None, Some(rest)) => is_plain(rest) && is_loopback(rest),
        (None, None) => false,
    };
    if is_right { Ok(()) } else { Err(invalid(field, url, "an https address, or an http one of localhost")) }
}

fn is_host(text: &str) -> bool {
    let (host, is_right) = text.split_once(':').map_or((text, true), |(host, port)| (host, is_digits(port)));
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    is_right && !host.is_empty() && host.chars().all(is_letter)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(is_digits)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
