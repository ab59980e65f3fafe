//! Who the owner of a client certificate is here.
//!
//! [`CertificateMap`] is a list of entries, each with one thing that a certificate must say. Matches are exact, and an entry
//! that is exact goes before one for a part of a trust domain, so the order in the file decides nothing. A certificate that
//! matches no entry is nobody's, whoever signed it.

mod spiffe;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{certificate::CertificateIdentity, error::SourceError};

/// What a certificate must say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateMatch {
    /// One of its URIs; after `spiffe://DOMAIN/.../` a `*` stands for any path from there on.
    Uri(String),
    /// One of its DNS names, in any case.
    Dns(String),
    /// One of its e-mail addresses, whose domain may be in any case.
    Email(String),
    /// The common name of its subject.
    CommonName(String),
    /// SHA-256 of the certificate in hexadecimal, with or without colons.
    Fingerprint(String),
}

/// Who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedIdentity {
    /// For people.
    pub name: String,
    /// Whose it is, if the entry says so.
    pub tenant: Option<String>,
    /// What it does here, as written.
    pub roles: BTreeSet<String>,
    /// What else policies may ask for.
    pub attributes: BTreeMap<String, String>,
}

/// Entries for certificates: `[[...]]` in TOML with `match`, `name` and what [`MappedIdentity`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Vec<WrittenEntry>")]
pub struct CertificateMap {
    exact: BTreeMap<CertificateMatch, MappedIdentity>,
    /// What stands before the `*`, the longest first.
    below: Vec<(String, MappedIdentity)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    r#match: CertificateMatch,
    name: String,
    tenant: Option<String>,
    #[serde(default)]
    roles: BTreeSet<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl CertificateMap {
    /// Who the certificate's owner is, if anybody. What is hardest to come by decides: the certificate itself, then its URI,
    /// DNS name, e-mail address, common name, and last the part of a trust domain; of several names of a kind, the first
    /// in the certificate.
    pub fn find(&self, certificate: &CertificateIdentity) -> Option<&MappedIdentity> {
        let fingerprint = CertificateMatch::Fingerprint(certificate.fingerprint_sha256.clone());
        let common_name = certificate.common_name.iter().cloned().map(CertificateMatch::CommonName);
        let mut said = std::iter::once(fingerprint)
            .chain(certificate.uris.iter().cloned().map(CertificateMatch::Uri))
            .chain(certificate.dns_names.iter().cloned().map(CertificateMatch::Dns))
            .chain(certificate.emails.iter().map(|email| CertificateMatch::Email(normal_email(email))))
            .chain(common_name);
        said.find_map(|said| self.exact.get(&said)).or_else(|| self.find_below(certificate))
    }

    /// Every role that an entry gives, as written: whoever knows the roles checks them at the start.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        let below = self.below.iter().map(|(_, identity)| identity);
        self.exact.values().chain(below).flat_map(|identity| &identity.roles).map(String::as_str)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A certificate with several URIs is no SPIFFE identity document: X509-SVID §2 and §5.2.
    fn find_below(&self, certificate: &CertificateIdentity) -> Option<&MappedIdentity> {
        let [uri] = certificate.uris.as_slice() else { return None };
        let found = self.below.iter().find(|(prefix, _)| uri.starts_with(prefix));
        found.filter(|_| spiffe::is_id(uri)).map(|(_, identity)| identity)
    }
}

impl TryFrom<Vec<WrittenEntry>> for CertificateMap {
    type Error = SourceError;

    fn try_from(written: Vec<WrittenEntry>) -> Result<Self, SourceError> {
        let mut map = Self::default();
        for entry in written {
            if entry.name.is_empty() {
                return Err(invalid("name", "", "a name for people"));
            }
            map.insert(entry)?;
        }
        map.below.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(map)
    }
}

impl CertificateMap {
    fn insert(&mut self, entry: WrittenEntry) -> Result<(), SourceError> {
        let WrittenEntry { r#match, name, tenant, roles, attributes } = entry;
        let identity = MappedIdentity { name, tenant, roles, attributes };
        let (field, value) = r#match.parts();
        let twice = invalid(field, value, "something that no other entry has");
        if let CertificateMatch::Uri(pattern) = &r#match
            && let Some(prefix) = pattern.strip_suffix('*')
        {
            if !spiffe::is_prefix(prefix) {
                return Err(invalid(
                    field,
                    value,
                    "a `*` only after `spiffe://DOMAIN/`, at the end of it or of a later /",
                ));
            }
            if self.below.iter().any(|(known, _)| known == prefix) {
                return Err(twice);
            }
            self.below.push((prefix.to_owned(), identity));
            return Ok(());
        }
        match self.exact.insert(r#match.normal()?, identity) {
            None => Ok(()),
            Some(_) => Err(twice),
        }
    }
}

impl CertificateMatch {
    /// As certificates are read.
    fn normal(&self) -> Result<Self, SourceError> {
        let (field, value) = self.parts();
        if value.is_empty() || value.contains('*') || value.chars().any(char::is_control) {
            return Err(invalid(field, value, "text without control characters and without *"));
        }
        Ok(match self {
            Self::Dns(name) => Self::Dns(name.to_ascii_lowercase()),
            Self::Email(email) => Self::Email(normal_email(email)),
            Self::Fingerprint(hexadecimal) => {
                let digits = hexadecimal.replace(':', "").to_ascii_lowercase();
                if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(invalid(field, value, "the 64 hexadecimal digits of a SHA-256"));
                }
                Self::Fingerprint(digits)
            }
            Self::Uri(_) | Self::CommonName(_) => self.clone(),
        })
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Uri(value) => ("match.uri", value),
            Self::Dns(value) => ("match.dns", value),
            Self::Email(value) => ("match.email", value),
            Self::CommonName(value) => ("match.common_name", value),
            Self::Fingerprint(value) => ("match.fingerprint", value),
        }
    }
}

/// RFC 5280 §7.5: the domain in any case, what is before it as written.
fn normal_email(email: &str) -> String {
    match email.rsplit_once('@') {
        Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
        None => email.to_owned(),
    }
}

fn invalid(field: &str, value: &str, expected: &'static str) -> SourceError {
    SourceError::Invalid { field: field.to_owned(), value: value.to_owned(), expected }
}
