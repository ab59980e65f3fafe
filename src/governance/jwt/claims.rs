//! What a token whose signature is right says about its bearer.
//!
//! [`Claims`] is made only by checks against the configuration: who it is from, whom it is for, when. Roles come from the
//! map alone, so a word in a token that nobody has mapped gives nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    config::{ClaimPath, JwtConfig},
    error::JwtError,
    keys::Signer,
};

/// 9999-12-31T23:59:59Z: a date after it is a mistake or an attack on whoever computes with it.
const LATEST: u64 = 253_402_300_799;
/// Longest text of a claim that is kept, in bytes.
const LONGEST_TEXT: usize = 256;
/// Claims that are words with spaces between: RFC 8693 §4.2, and the name that Microsoft's issuer has for it.
const LISTS_OF_WORDS: [&str; 2] = ["scope", "scp"];

/// A caller, as the issuer vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `sub`: unique within the issuer.
    pub subject: String,
    /// Of the configuration or of the claim that it names; none if it says neither.
    pub tenant: Option<String>,
    /// Those that the map makes of the claim's values, and the default ones. There may be none.
    pub roles: BTreeSet<String>,
    /// Those of the configured claims that are there.
    pub attributes: BTreeMap<String, String>,
    /// `exp`, in Unix seconds, without leeway.
    pub expires_at: u64,
    /// From when on it is refused, in Unix seconds: with the leeway.
    pub refused_from: u64,
    /// `nbf`, in Unix seconds.
    pub not_before: Option<u64>,
    /// `jti`.
    pub token_id: Option<String>,
    /// The key that signed it.
    pub signer: Signer,
}

/// Is the token, whose signature nobody has looked at yet, of this issuer?
pub(super) fn check_issuer(payload: &Map<String, Value>, config: &JwtConfig) -> Result<(), JwtError> {
    let issuer = payload.get("iss").ok_or_else(|| missing("iss"))?;
    if issuer == &config.issuer { Ok(()) } else { Err(JwtError::UnknownIssuer) }
}

/// The claims of a token whose signature is right, at `now` in Unix seconds.
pub(super) fn read(
    payload: &Map<String, Value>,
    signer: Signer,
    config: &JwtConfig,
    now: u64,
) -> Result<Claims, JwtError> {
    check_issuer(payload, config)?;
    check_audience(payload, config)?;
    let (expires_at, not_before) = check_times(payload, config, now)?;
    let subject = optional_text(payload.get("sub"), "sub")?.ok_or_else(|| missing("sub"))?;
    Ok(Claims {
        issuer: config.issuer.clone(),
        subject,
        tenant: tenant(payload, config)?,
        roles: roles(payload, config)?,
        attributes: attributes(payload, config)?,
        expires_at,
        refused_from: expires_at.saturating_add(config.limits.leeway_seconds),
        not_before,
        token_id: optional_text(payload.get("jti"), "jti")?,
        signer,
    })
}

/// One text or several, RFC 7519 §4.1.3.
fn check_audience(payload: &Map<String, Value>, config: &JwtConfig) -> Result<(), JwtError> {
    let audience = payload.get("aud").ok_or_else(|| missing("aud"))?;
    let invalid = || invalid("aud", "text or a list of texts");
    let named: Vec<&str> = match audience {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(invalid)?,
        _ => return Err(invalid()),
    };
    let is_ours = named.iter().any(|name| config.audiences.iter().any(|ours| ours == name));
    if is_ours { Ok(()) } else { Err(JwtError::WrongAudience) }
}

/// `exp` and `nbf`, if `now` is between them and the time between is not too long.
fn check_times(payload: &Map<String, Value>, config: &JwtConfig, now: u64) -> Result<(u64, Option<u64>), JwtError> {
    let expires_at = date(payload, "exp")?.ok_or_else(|| missing("exp"))?.floor() as u64;
    // Whoever is given half a second is not given the half that has not begun.
    let later = |name| Ok(date(payload, name)?.map(|seconds| seconds.ceil() as u64));
    let (not_before, issued_at) = (later("nbf")?, later("iat")?);
    if now >= expires_at.saturating_add(config.limits.leeway_seconds) {
        return Err(JwtError::Expired);
    }
    let latest_start = now.saturating_add(config.limits.leeway_seconds);
    if not_before.max(issued_at).is_some_and(|start| start > latest_start) {
        return Err(JwtError::NotYetValid);
    }
    let (seconds, limit) = (expires_at.saturating_sub(issued_at.unwrap_or(now)), config.limits.max_lifetime_seconds);
    if seconds > limit {
        return Err(JwtError::LifetimeTooLong { seconds, limit });
    }
    Ok((expires_at, not_before))
}

/// A NumericDate of RFC 7519 §2, which may have a fraction.
fn date(payload: &Map<String, Value>, name: &str) -> Result<Option<f64>, JwtError> {
    let Some(value) = payload.get(name) else { return Ok(None) };
    // A number of `serde_json` is finite; below 2^53 all whole ones are exact.
    let seconds = value.as_f64().filter(|seconds| (0.0..=LATEST as f64).contains(seconds));
    seconds.map(Some).ok_or_else(|| invalid(name, "a number of seconds from 1970 to 9999"))
}

fn tenant(payload: &Map<String, Value>, config: &JwtConfig) -> Result<Option<String>, JwtError> {
    let Some(path) = &config.claims.tenant else { return Ok(config.tenant.clone()) };
    let name = path.to_string();
    optional_text(path.find(payload), &name)?.map(Some).ok_or(JwtError::MissingClaim { claim: name })
}

fn roles(payload: &Map<String, Value>, config: &JwtConfig) -> Result<BTreeSet<String>, JwtError> {
    let mut roles = config.default_roles.clone();
    if let Some(path) = &config.claims.roles {
        let values = words(path, path.find(payload))?;
        roles.extend(values.into_iter().filter_map(|value| config.role_map.get(value)).cloned());
    }
    Ok(roles)
}

/// The values of a claim that may be text or a list of texts.
fn words<'a>(path: &ClaimPath, value: Option<&'a Value>) -> Result<Vec<&'a str>, JwtError> {
    let invalid = || invalid(&path.to_string(), "text or a list of texts");
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if LISTS_OF_WORDS.contains(&path.last()) => Ok(text.split(' ').collect()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(invalid),
        Some(_) => Err(invalid()),
    }
}

fn attributes(payload: &Map<String, Value>, config: &JwtConfig) -> Result<BTreeMap<String, String>, JwtError> {
    let mut attributes = BTreeMap::new();
    for (name, path) in &config.claims.attributes {
        let text = match path.find(payload) {
            Some(Value::Bool(value)) => Some(value.to_string()),
            Some(Value::Number(value)) => Some(value.to_string()),
            other => optional_text(other, &path.to_string())?,
        };
        attributes.extend(text.map(|text| (name.clone(), text)));
    }
    Ok(attributes)
}

/// Text that can stand in a log or a policy: not empty, not long, without control characters.
fn optional_text(value: Option<&Value>, claim: &str) -> Result<Option<String>, JwtError> {
    let is_plain = |text: &str| !text.is_empty() && text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control);
    match value {
        None => Ok(None),
        Some(Value::String(text)) if is_plain(text) => Ok(Some(text.clone())),
        Some(_) => Err(invalid(claim, "text of 1 to 256 bytes without control characters")),
    }
}

fn missing(claim: &str) -> JwtError {
    JwtError::MissingClaim { claim: claim.to_owned() }
}

fn invalid(claim: &str, expected: &'static str) -> JwtError {
    JwtError::InvalidClaim { claim: claim.to_owned(), expected }
}
