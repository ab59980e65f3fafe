//! Issuers of tokens: whose word is taken for who somebody is, and what becomes of a token's claims.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::sync::watch;

use super::{
    GovernanceError, Principal, Role, Source,
    jwt::{Claims, Fetch, JwtConfig, JwtError, JwtVerifier, Occasion, Refreshed},
    policy::Asker,
    tenants::Place,
};

/// Gets what is at an address that the operator has named.
pub type FetchKeys = fn(&str) -> io::Result<Vec<u8>>;

/// A file of identities that others vouch for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    issuer: Vec<JwtConfig>,
}

/// Where the keys of issuers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySources {
    /// Addresses.
    pub urls: Vec<String>,
    /// Files.
    pub files: Vec<PathBuf>,
}

/// All that are believed.
#[derive(Default)]
pub struct Issuers {
    verifiers: Vec<JwtVerifier>,
}

impl Issuers {
    /// Those of a TOML file. `fetch` is called for the addresses that are in it, if there are any and it is given.
    pub fn open(path: &Path, fetch: Option<FetchKeys>) -> Result<Self, GovernanceError> {
        let unusable = |source| GovernanceError::File { path: path.into(), source };
        let wrong = |reason: String| GovernanceError::Identities { path: path.into(), reason };
        let text = fs::read_to_string(path).map_err(unusable)?;
        let file: IdentityFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.issuer.is_empty() {
            return Err(wrong("issuer = []: expected at least one".to_owned()));
        }
        let mut verifiers: Vec<JwtVerifier> = Vec::new();
        for config in file.issuer {
            let issuer = config.issuer().to_owned();
            config.role_names().try_for_each(|role| Role::of_name(role).map(drop))?;
            if verifiers.iter().any(|other| other.config().issuer() == issuer) {
                return Err(wrong(format!("issuer = {issuer:?}: it is there twice")));
            }
            if let (Some(url), None) = (config.url(), fetch) {
                return Err(wrong(format!("keys.url = {url:?}: in offline mode keys can only come from a file")));
            }
            let fetch = fetch.map(|fetch| Box::new(fetch) as Fetch);
            let verifier = JwtVerifier::open(config, fetch);
            verifiers.push(verifier.map_err(|error| wrong(format!("issuer = {issuer:?}: {}", chain(&error))))?);
        }
        Ok(Self { verifiers })
    }

    /// Where a file says that keys are, none of which is read.
    pub fn sources(path: &Path) -> Result<KeySources, GovernanceError> {
        let text = fs::read_to_string(path).map_err(|source| GovernanceError::File { path: path.into(), source })?;
        let file: IdentityFile = toml::from_str(&text)
            .map_err(|error| GovernanceError::Identities { path: path.into(), reason: error.to_string() })?;
        let mut sources = KeySources::default();
        for issuer in &file.issuer {
            sources.urls.extend(issuer.url().map(str::to_owned));
            sources.files.extend(issuer.files().map(PathBuf::from));
        }
        Ok(sources)
    }

    /// Is nobody's word taken?
    pub(super) fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// Addresses that keys are fetched from.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.verifiers.iter().filter_map(|verifier| verifier.config().url())
    }

    /// Whose token this is. It waits for nobody.
    pub(super) fn verify(&self, token: &str, now: u64) -> Result<Claims, JwtError> {
        self.first(|verifier| verifier.verify(token, now))
    }

    /// The same, but keys that are unknown are looked for, which may take its time.
    pub(super) fn verify_or_refresh(&self, token: &str, now: u64) -> Result<Claims, JwtError> {
        self.first(|verifier| verifier.verify_or_refresh(token, now))
    }

    /// Reads keys again where it is time, which may take its time.
    pub(super) fn refresh(&self, now: u64) {
        for verifier in &self.verifiers {
            let issuer = verifier.config().issuer();
            match verifier.refresh(Occasion::Interval, now) {
                Ok(Refreshed::NotDue | Refreshed::Unchanged) => {}
                Ok(Refreshed::Replaced { keys, skipped }) => {
                    tracing::info!(issuer, keys, skipped = skipped.len(), "the issuer has other keys");
                }
                Err(error) => tracing::warn!(issuer, error = chain(&error), "the issuer's keys cannot be read"),
            }
        }
    }

    /// What the first says that knows the issuer.
    fn first(&self, verify: impl Fn(&JwtVerifier) -> Result<Claims, JwtError>) -> Result<Claims, JwtError> {
        let mut last = Err(JwtError::UnknownIssuer);
        for verifier in &self.verifiers {
            last = verify(verifier);
            if !matches!(last, Err(JwtError::UnknownIssuer)) {
                break;
            }
        }
        last
    }
}

/// Whom the claims are about. Nobody can end it before its time.
pub(super) fn principal(claims: Claims, tenant: String, place: Place) -> Principal {
    let Claims { issuer, subject, roles, attributes, expires_at, .. } = claims;
    let asker = Asker {
        id: format!("{issuer}#{subject}"),
        name: subject,
        tenant,
        source: Source::Token.name().to_owned(),
        // They were checked when the file was read.
        roles: roles.into_iter().collect(),
        attributes,
    };
    let (_, over) = watch::channel(Some(expires_at));
    Principal { asker, source: Source::Token, place, over }
}

/// Does it look like a token of an issuer?
pub(super) fn is_token(credential: &str) -> bool {
    credential.matches('.').count() == 2
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
