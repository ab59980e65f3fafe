//! A token taken apart, before anything in it is believed.
//!
//! The compact form of RFC 7515 §7.1 and no other: three parts of unpadded base64url, each written in the one canonical way,
//! a header and a payload that are JSON objects. Headers that would have the token bring or choose its key are refused
//! here, so nothing after this can look at them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    algorithm::Algorithm,
    error::{JwtError, Part},
    json,
};

/// `jwk`, `jku`, `x5u` and `x5c` bring a key; what `crit` lists would have to be understood (RFC 7515 §4.1.11) and nothing
/// that could be listed is; `b64` and `zip` change what is signed; `enc` is of encrypted tokens.
const REFUSED_HEADERS: [&str; 8] = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"];

/// Longest `kid` in bytes. It is compared with those of the key set and used for nothing else.
const LONGEST_KEY_ID: usize = 256;

/// What a token says, and what it is signed with.
pub(super) struct Token<'a> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    pub payload: Map<String, Value>,
    /// Header and payload as they were sent: what is signed.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes `text` apart if it has at most `limit` bytes.
    pub fn parse(text: &'a str, limit: usize) -> Result<Self, JwtError> {
        if text.len() > limit {
            return Err(JwtError::TooLarge { bytes: text.len(), limit });
        }
        let (header, payload, signature) = three_parts(text)?;
        let (algorithm, key_id) = read_header(&json_part(header, Part::Header)?)?;
        Ok(Self {
            algorithm,
            key_id,
            payload: json_part(payload, Part::Payload)?,
            signed: &text.as_bytes()[..header.len() + 1 + payload.len()],
            signature: decode(signature, Part::Signature)?,
        })
    }
}

fn three_parts(text: &str) -> Result<(&str, &str, &str), JwtError> {
    let mut parts = text.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok((header, payload, signature)),
        _ => Err(JwtError::Malformed { part: Part::Token, reason: "it does not have three parts" }),
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), JwtError> {
    let malformed = |reason| JwtError::Malformed { part: Part::Header, reason };
    if let Some(name) = REFUSED_HEADERS.into_iter().find(|name| header.contains_key(*name)) {
        return Err(JwtError::HeaderRefused { name });
    }
    let name = header.get("alg").and_then(Value::as_str).ok_or(malformed("`alg` is not there or not text"))?;
    let algorithm = Algorithm::of_name(name).ok_or(JwtError::AlgorithmNotAllowed)?;
    if !header.get("typ").is_none_or(is_token_type) {
        return Err(JwtError::WrongType);
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) if !id.is_empty() && id.len() <= LONGEST_KEY_ID => Some(id.clone()),
        Some(_) => return Err(malformed("`kid` is not text of 1 to 256 bytes")),
    };
    Ok((algorithm, key_id))
}

/// `JWT` (RFC 7519 §5.1) or `at+jwt` (RFC 9068 §2.1): media types, so in any case and with `application/` in front or not
/// (RFC 7515 §4.1.9).
fn is_token_type(typ: &Value) -> bool {
    let Some(name) = typ.as_str().map(str::to_ascii_lowercase) else { return false };
    matches!(name.strip_prefix("application/").unwrap_or(&name), "jwt" | "at+jwt")
}

fn json_part(encoded: &str, part: Part) -> Result<Map<String, Value>, JwtError> {
    let malformed = JwtError::Malformed { part, reason: "it is not a JSON object in which each name is there once" };
    json::object(&decode(encoded, part)?).ok_or(malformed)
}

/// This engine takes neither padding nor bits that mean nothing, so a part has one way to be written.
fn decode(encoded: &str, part: Part) -> Result<Vec<u8>, JwtError> {
    let malformed = JwtError::Malformed { part, reason: "it is not canonical base64url without padding" };
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed)
}
