//! Identities that others vouch for: whose word is taken for who somebody is, and what becomes of what they say.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    DEFAULT_TENANT, GovernanceError, Principal, Role, Source,
    believed::{ShownCertificate, Vouched},
    jwt::{
        CertificateIdentity, CertificateMap, Claims, Fetch, JwtConfig, JwtError, JwtVerifier, MappedIdentity, Occasion,
        Refreshed, Signer,
    },
    known::KnownTenant,
    policy::Asker,
};
use crate::types::hexadecimal;

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
    /// Hosts, with a port or without, that documents at these addresses may lead to.
    pub hosts: Vec<String>,
    /// Files.
    pub files: Vec<PathBuf>,
}

/// Settings of an issuer that say how its keys are had, and nothing of whom its tokens are about.
const OF_KEYS: [&str; 2] = ["keys", "refresh_seconds"];

/// All that are believed.
#[derive(Default)]
pub struct Issuers {
    verifiers: Vec<JwtVerifier>,
    certificates: CertificateMap,
    /// What the file says of each issuer, as a digest.
    said: BTreeMap<String, Arc<str>>,
    file: Option<(PathBuf, Option<FetchKeys>)>,
    digest: String,
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
        let said = said_of_issuers(&text).map_err(|error| wrong(error.to_string()))?;
        let digest = hexadecimal(&Sha256::digest(&text));
        Ok(Self { verifiers, certificates: file.client_certificates, said, file: Some((path.into(), fetch)), digest })
    }

    /// What the same file says now; nothing if there is no file. Issuers whose keys are where they were keep those they have.
    pub(super) fn read_again(&self) -> Result<Option<Self>, GovernanceError> {
        let Some((path, fetch)) = &self.file else { return Ok(None) };
        let mut read = Self::open(path, *fetch)?;
        // What may leave the machine is settled before the first connection comes in.
        if let Some(url) = read.urls().find(|url| self.urls().all(|known| known != *url)) {
            return Err(
                read.wrong(&format!("keys.url = {url:?}: a server reads another address only after a new start"))
            );
        }
        if let Some(host) = read.hosts().find(|host| self.hosts().all(|known| known != *host)) {
            return Err(
                read.wrong(&format!("keys.hosts = {host:?}: a server goes to another host only after a new start"))
            );
        }
        for verifier in &mut read.verifiers {
            let issuer = verifier.config().issuer();
            if let Some(before) = self.verifier_of(issuer) {
                verifier.keep_keys_of(before);
            }
        }
        Ok(Some(read))
    }

    /// Of the file.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// The file is wrong.
    pub(super) fn wrong(&self, reason: &str) -> GovernanceError {
        let path = self.file.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        GovernanceError::Identities { path, reason: reason.to_owned() }
    }

    /// What the file says of an issuer, as a digest; nothing if it is not believed.
    pub(super) fn said_of(&self, issuer: &str) -> Option<&Arc<str>> {
        self.said.get(issuer)
    }

    /// Is the key that has signed a token of an issuer none of that issuer's any more?
    pub(super) fn has_withdrawn(&self, issuer: &str, signer: &Signer) -> bool {
        self.verifier_of(issuer).is_none_or(|verifier| verifier.has_withdrawn(signer))
    }

    /// A number that changes with an issuer's keys.
    pub(super) fn key_changes(&self, issuer: &str) -> Option<watch::Receiver<u64>> {
        self.verifier_of(issuer)?.key_changes()
    }

    fn verifier_of(&self, issuer: &str) -> Option<&JwtVerifier> {
        self.verifiers.iter().find(|verifier| verifier.config().issuer() == issuer)
    }

    /// Where a file says that keys are, none of which is read.
    pub fn sources(path: &Path) -> Result<KeySources, GovernanceError> {
        let text = fs::read_to_string(path).map_err(|source| GovernanceError::File { path: path.into(), source })?;
        let file: IdentityFile = toml::from_str(&text)
            .map_err(|error| GovernanceError::Identities { path: path.into(), reason: error.to_string() })?;
        let mut sources = KeySources::default();
        for issuer in &file.issuer {
            sources.urls.extend(issuer.url().map(str::to_owned));
            sources.hosts.extend(issuer.hosts().map(str::to_owned));
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

    /// Addresses that keys are fetched from.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.verifiers.iter().filter_map(|verifier| verifier.config().url())
    }

    /// Hosts that what is there may lead to.
    fn hosts(&self) -> impl Iterator<Item = &str> {
        self.verifiers.iter().flat_map(|verifier| verifier.config().hosts())
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

/// Whom the claims are about.
pub(super) fn principal(claims: Claims, tenant: String, known: &KnownTenant, vouched: Vouched) -> Principal {
    let Claims { issuer, subject, roles, attributes, refused_from, .. } = claims;
    let asker = Asker {
        id: format!("{issuer}#{subject}"),
        name: subject,
        tenant,
        source: Source::Token.name().to_owned(),
        // They were checked when the file was read.
        roles: roles.into_iter().collect(),
        attributes,
    };
    vouched_for(asker, Source::Token, refused_from, (known, vouched))
}

/// Who the owner of a certificate is.
pub(super) fn certified(
    owner: &MappedIdentity,
    certificate: &ShownCertificate,
    known: &KnownTenant,
    vouched: Vouched,
) -> Principal {
    let asker = Asker {
        id: certificate.identity.fingerprint_sha256.clone(),
        name: owner.name.clone(),
        tenant: owner.tenant.clone().unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
        source: Source::Certificate.name().to_owned(),
        // They were checked when the file was read.
        roles: owner.roles.iter().cloned().collect(),
        attributes: owner.attributes.clone(),
    };
    vouched_for(asker, Source::Certificate, certificate.identity.not_after, (known, vouched))
}

fn vouched_for(asker: Asker, source: Source, end: u64, (known, vouched): (&KnownTenant, Vouched)) -> Principal {
    let (_, over) = watch::channel(Some(end));
    let tenant_gone = known.gone.subscribe();
    Principal { asker, source, place: known.place.clone(), over, tenant_gone, vouched: Some(vouched) }
}

/// Does it look like a token of an issuer?
pub(super) fn is_token(credential: &str) -> bool {
    credential.matches('.').count() == 2
}

/// A digest of what a file says of each issuer, but for where its keys are.
fn said_of_issuers(text: &str) -> Result<BTreeMap<String, Arc<str>>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Tables {
        #[serde(default)]
        issuer: Vec<toml::Table>,
    }
    let Tables { issuer } = toml::from_str(text)?;
    let digests = issuer.into_iter().filter_map(|mut table| {
        OF_KEYS.iter().for_each(|name| drop(table.remove(*name)));
        let issuer = table.get("issuer")?.as_str()?.to_owned();
        Some((issuer, hexadecimal(&Sha256::digest(toml::Value::Table(table).to_string())).into()))
    });
    Ok(digests.collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_opens_no_new_way_out() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |url: &str, hosts: &str| {
            let keys = format!("keys = {{ url = {url:?}, hosts = [{hosts}] }}");
            let issuer = "issuer = \"https://idp.example\"\naudiences = [\"tramontane\"]\nalgorithms = [\"RS256\"]";
            fs::write(file.path(), format!("[[issuer]]\n{issuer}\n{keys}\n")).expect("it is written");
        };
        let url = "https://idp.example/.well-known/openid-configuration";
        write(url, r#""keys.example""#);
        let opened =
            Issuers::open(file.path(), Some(|_| Err(io::Error::other("nothing is fetched")))).expect("it is right");
        assert!(opened.read_again().expect("it is the same").is_some());
        write(url, "");
        assert!(opened.read_again().expect("less is not more").is_some());
        for (url, hosts, named) in [
            (url, r#""keys.example", "other.example""#, "other.example"),
            ("https://other.example/.well-known/openid-configuration", r#""keys.example""#, "keys.url"),
        ] {
            write(url, hosts);
            let refused = opened.read_again().map(drop).expect_err("it is new").to_string();
            assert!(refused.contains(named) && refused.contains("after a new start"), "{refused}");
        }
        let sources = Issuers::sources(file.path()).expect("it is right");
        assert_eq!(sources.hosts, ["keys.example"]);
    }
}
