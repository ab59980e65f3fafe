//! Identities that others vouch for: whose word is taken for who somebody is, and what becomes of what they say.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::sync::watch;

use super::{
    DEFAULT_TENANT, GovernanceError, Principal, Role, Source,
    jwt::{
        CertificateIdentity, CertificateMap, Claims, Fetch, JwtConfig, JwtError, JwtVerifier, MappedIdentity, Occasion,
        Refreshed,
    },
    known::KnownTenant,
    policy::Asker,
};

/// Gets what is at an address that the operator has named.
pub type FetchKeys = fn(&str) -> io::Result<Vec<u8>>;

/// A file of identities that others vouch for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    #[serde(default)]
    issuer: Vec<JwtConfig>,
    #[serde(default)]
    client_certificates: CertificateMap,
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
    certificates: CertificateMap,
}

impl Issuers {
    /// Those of a TOML file. `fetch` is called for the addresses that are in it, if there are any and it is given.
    pub fn open(path: &Path, fetch: Option<FetchKeys>) -> Result<Self, GovernanceError> {
        let unusable = |source| GovernanceError::File { path: path.into(), source };
        let wrong = |reason: String| GovernanceError::Identities { path: path.into(), reason };
        let text = fs::read_to_string(path).map_err(unusable)?;
        let file: IdentityFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.issuer.is_empty() && file.client_certificates.is_empty() {
            return Err(wrong("expected at least one [[issuer]] or [[client_certificates]]".to_owned()));
        }
        file.client_certificates.role_names().try_for_each(|role| Role::of_name(role).map(drop))?;
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
        Ok(Self { verifiers, certificates: file.client_certificates })
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
        !self.has_issuers() && !self.knows_certificates()
    }

    /// Are tokens believed?
    pub(super) fn has_issuers(&self) -> bool {
        !self.verifiers.is_empty()
    }

    /// Are owners of certificates known?
    pub fn knows_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Whose certificate this is, if it is anybody's.
    pub(super) fn owner(&self, certificate: &CertificateIdentity) -> Option<&MappedIdentity> {
        self.certificates.find(certificate)
    }

    /// Is the word of the issuer of this principal's id taken?
    pub(super) fn know(&self, id: &str) -> bool {
        let issuers = self.verifiers.iter().map(|verifier| verifier.config().issuer());
        issuers.map(|issuer| id.strip_prefix(issuer)).any(|rest| rest.is_some_and(|rest| rest.starts_with('#')))
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
pub(super) fn principal(claims: Claims, tenant: String, known: &KnownTenant) -> Principal {
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
    Principal { asker, source: Source::Token, place: known.place.clone(), over, tenant_gone: known.gone.subscribe() }
}

/// Who the owner of a certificate is. Nobody can end it before its time.
pub(super) fn certified(owner: &MappedIdentity, certificate: &CertificateIdentity, known: &KnownTenant) -> Principal {
    let asker = Asker {
        id: certificate.fingerprint_sha256.clone(),
        name: owner.name.clone(),
        tenant: owner.tenant.clone().unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
        source: Source::Certificate.name().to_owned(),
        // They were checked when the file was read.
        roles: owner.roles.iter().cloned().collect(),
        attributes: owner.attributes.clone(),
    };
    let (_, over) = watch::channel(Some(certificate.not_after));
    let tenant_gone = known.gone.subscribe();
    Principal { asker, source: Source::Certificate, place: known.place.clone(), over, tenant_gone }
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
