//! Which tokens are believed: one issuer's settings, checked as they are read.
//!
//! A [`JwtConfig`] exists only if its settings make sense together; `serde` is the one way to make one, and its errors name
//! the setting and the value. It knows nothing of what is in the files and at the addresses that it names.

mod claim_path;
mod key_source;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::Path,
};

use serde::Deserialize;

use self::key_source::KeySources;
pub(super) use self::key_source::{DISCOVERY, check_url};
pub use self::{claim_path::ClaimPath, key_source::KeySource};
use super::{algorithm::Algorithm, error::SourceError};

const DEFAULT_ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

/// Bounds of the numbers, in their units.
const LEEWAY_SECONDS: RangeInclusive<u64> = 0..=300;
const TOKEN_BYTES: RangeInclusive<u64> = 256..=65_536;
const LIFETIME_SECONDS: RangeInclusive<u64> = 1..=31_536_000;
const FILE_REFRESH_SECONDS: RangeInclusive<u64> = 1..=86_400;
const URL_REFRESH_SECONDS: RangeInclusive<u64> = 60..=86_400;

/// One issuer's settings. `url` in `keys` is the only thing here that has the server leave the machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct JwtConfig {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) keys: KeySources,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) tenant: Option<String>,
    pub(super) claims: ClaimNames,
    pub(super) role_map: BTreeMap<String, String>,
    pub(super) default_roles: BTreeSet<String>,
    pub(super) limits: Limits,
}

/// Numbers, in the units of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub leeway_seconds: u64,
    pub max_token_bytes: usize,
    pub max_lifetime_seconds: u64,
    pub refresh_seconds: u64,
}

/// Where in a token things are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClaimNames {
    pub tenant: Option<ClaimPath>,
    pub roles: Option<ClaimPath>,
    pub attributes: BTreeMap<String, ClaimPath>,
}

/// The settings as they are in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    issuer: String,
    audiences: Vec<String>,
    keys: KeySources,
    algorithms: Option<Vec<Algorithm>>,
    tenant: Option<String>,
    #[serde(default)]
    claims: ClaimNames,
    #[serde(default)]
    role_map: BTreeMap<String, String>,
    #[serde(default)]
    default_roles: BTreeSet<String>,
    leeway_seconds: Option<u64>,
    max_token_bytes: Option<u64>,
    max_lifetime_seconds: Option<u64>,
    refresh_seconds: Option<u64>,
}

impl JwtConfig {
    /// `iss` of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The address that is read, if any: a reason to leave the machine.
    pub fn url(&self) -> Option<&str> {
        self.keys.url()
    }

    /// Hosts that a discovery document may lead to.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.keys.hosts.iter().map(String::as_str)
    }

    /// Files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.keys.files()
    }

    /// Every role that a token could be given, as written: whoever knows the roles checks them at the start.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.role_map.values().chain(&self.default_roles).map(String::as_str)
    }

    /// The tenant of all of the issuer's tokens, if it is not for a claim to say.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

impl TryFrom<Written> for JwtConfig {
    type Error = SourceError;

    fn try_from(written: Written) -> Result<Self, SourceError> {
        check_names(&written)?;
        let algorithms = written.algorithms.clone().unwrap_or_else(|| DEFAULT_ALGORITHMS.to_vec());
        check_keys(&written.keys, &algorithms)?;
        check_roles(&written)?;
        Ok(Self {
            limits: limits(&written)?,
            issuer: written.issuer,
            audiences: written.audiences,
            keys: written.keys,
            algorithms,
            tenant: written.tenant,
            claims: written.claims,
            role_map: written.role_map,
            default_roles: written.default_roles,
        })
    }
}

fn check_names(written: &Written) -> Result<(), SourceError> {
    if written.issuer.is_empty() {
        return Err(invalid("issuer", "", "the `iss` of the tokens"));
    }
    if written.audiences.is_empty() || written.audiences.iter().any(String::is_empty) {
        let value = written.audiences.join(", ");
        return Err(invalid("audiences", value, "at least one `aud` that means this server, and none that is empty"));
    }
    match (&written.tenant, &written.claims.tenant) {
        (Some(tenant), Some(_)) => Err(invalid("tenant", tenant, "nothing, as claims.tenant says where it is")),
        (Some(tenant), None) if tenant.is_empty() => Err(invalid("tenant", "", "the tenant of all tokens")),
        _ => Ok(()),
    }
}

/// Each kind of algorithm has its kind of key, and no key is there for nothing.
fn check_keys(keys: &KeySources, algorithms: &[Algorithm]) -> Result<(), SourceError> {
    let named = || algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
    let has_secret = algorithms.iter().any(|algorithm| algorithm.is_symmetric());
    let has_public = algorithms.iter().any(|algorithm| !algorithm.is_symmetric());
    match (&keys.public, &keys.secret_file) {
        _ if algorithms.is_empty() => Err(invalid("algorithms", "", "at least one")),
        (None, _) if has_public => Err(invalid("algorithms", named(), "keys.file or keys.url for them")),
        (_, None) if has_secret => Err(invalid("algorithms", named(), "keys.secret_file for those that begin with HS")),
        (_, Some(path)) if !has_secret => {
            let expected = "nothing, unless HS256, HS384 or HS512 is in algorithms";
            Err(invalid("keys.secret_file", path.display().to_string(), expected))
        }
        (Some(source), _) if !has_public => {
            Err(invalid("keys", source.to_string(), "keys.secret_file alone, as all algorithms begin with HS"))
        }
        _ => Ok(()),
    }
}

fn check_roles(written: &Written) -> Result<(), SourceError> {
    match &written.claims.roles {
        Some(path) if written.role_map.is_empty() => {
            Err(invalid("claims.roles", path.to_string(), "a role_map, which says what its values mean"))
        }
        None if !written.role_map.is_empty() => {
            let values = written.role_map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(invalid("role_map", values, "claims.roles, which says where its values are"))
        }
        _ => Ok(()),
    }
}

fn limits(written: &Written) -> Result<Limits, SourceError> {
    let (refresh_default, refresh) = match written.keys.public {
        Some(KeySource::Url(_)) => (3600, URL_REFRESH_SECONDS),
        Some(KeySource::File(_)) | None => (5, FILE_REFRESH_SECONDS),
    };
    let bytes = ("max_token_bytes", written.max_token_bytes);
    let lifetime = ("max_lifetime_seconds", written.max_lifetime_seconds);
    let refresh_expected = "1 to 86400, and 60 or more where keys are fetched";
    Ok(Limits {
        leeway_seconds: number(("leeway_seconds", written.leeway_seconds), 60, LEEWAY_SECONDS, "0 to 300")?,
        max_token_bytes: number(bytes, 8192, TOKEN_BYTES, "256 to 65536")? as usize,
        max_lifetime_seconds: number(lifetime, 86_400, LIFETIME_SECONDS, "1 to 31536000")?,
        refresh_seconds: number(
            ("refresh_seconds", written.refresh_seconds),
            refresh_default,
            refresh,
            refresh_expected,
        )?,
    })
}

fn number(
    (field, value): (&str, Option<u64>),
    default: u64,
    range: RangeInclusive<u64>,
    expected: &'static str,
) -> Result<u64, SourceError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) { Ok(value) } else { Err(invalid(field, value.to_string(), expected)) }
}

fn invalid(field: &str, value: impl Into<String>, expected: &'static str) -> SourceError {
    SourceError::Invalid { field: field.to_owned(), value: value.into(), expected }
}
