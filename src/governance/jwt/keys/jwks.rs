//! JWK sets: RFC 7517, with the key types of RFC 7518 §6 and RFC 8037 §2.
//!
//! A key that cannot be used is skipped and told, as RFC 7517 §5 has it: an issuer may publish keys for other things. Secrets
//! are never read from here, because a set is what everybody may see.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{Algorithm, Material, ReadKey};
use crate::governance::jwt::json;

/// Bytes of an Ed25519 public key.
const ED25519_BYTES: usize = 32;

/// The keys of a set, or why it is none.
pub(super) fn read(text: &[u8]) -> Result<Vec<ReadKey>, &'static str> {
    let set = json::object(text).ok_or("it is not a JSON object in which each name is there once")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list `keys`, so it is no JWK set")?;
    Ok(keys.iter().map(read_key).collect())
}

fn read_key(key: &Value) -> ReadKey {
    let Some(key) = key.as_object() else { return (None, Err("it is not an object")) };
    match key.get("kid") {
        None => (None, read_members(key)),
        Some(Value::String(id)) if !id.is_empty() => (Some(id.clone()), read_members(key)),
        Some(_) => (None, Err("its `kid` is not text")),
    }
}

fn read_members(key: &Map<String, Value>) -> Result<(Option<Algorithm>, Material), &'static str> {
    if key.get("use").is_some_and(|usage| usage != "sig") {
        return Err("its `use` is not sig");
    }
    let verifies =
        |operations: &Value| operations.as_array().is_some_and(|list| list.iter().any(|name| name == "verify"));
    if !key.get("key_ops").is_none_or(verifies) {
        return Err("its `key_ops` have no verify");
    }
    if key.contains_key("d") {
        return Err("it is a private key, which nobody else may have");
    }
    let material = match (text(key, "kty"), text(key, "crv")) {
        (Some("RSA"), _) => Material::rsa(&bytes(key, "n")?, &bytes(key, "e")?)?,
        (Some("EC"), Some("P-256")) => Material::P256(point(key, 32)?),
        (Some("EC"), Some("P-384")) => Material::P384(point(key, 48)?),
        (Some("OKP"), Some("Ed25519")) => Material::Ed25519(ed25519(key)?),
        (Some("oct"), _) => return Err("a secret does not belong into a key set: name a secret_file"),
        _ => return Err("its `kty` or `crv` is none that is known"),
    };
    Ok((only_algorithm(key, &material)?, material))
}

/// A key's `alg`, which must be one that its type can do.
fn only_algorithm(key: &Map<String, Value>, material: &Material) -> Result<Option<Algorithm>, &'static str> {
    let Some(name) = key.get("alg") else { return Ok(None) };
    let algorithm = name.as_str().and_then(Algorithm::of_name).ok_or("its `alg` is none that is known")?;
    if algorithm.key_type() != material.key_type() {
        return Err("its `alg` is not for its `kty`");
    }
    Ok(Some(algorithm))
}

/// An uncompressed point: 4, x, y. Both coordinates have all of their bytes, RFC 7518 §6.2.1.2.
fn point(key: &Map<String, Value>, coordinate_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err("its coordinates do not have the curve's length");
    }
    Ok([&[4], x.as_slice(), &y].concat())
}

fn ed25519(key: &Map<String, Value>) -> Result<Vec<u8>, &'static str> {
    let x = bytes(key, "x")?;
    if x.len() == ED25519_BYTES { Ok(x) } else { Err("its `x` does not have 32 bytes") }
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let encoded = text(key, name).ok_or("a number of it is not there")?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "a number of it is not base64url without padding")
}
