//! Public keys whose signatures count, from a PEM file.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate,
    der::{Decode, Encode, asn1::ObjectIdentifier},
    spki::SubjectPublicKeyInfoOwned,
};

use super::{ProvenanceError, lock::read};
use crate::types::hexadecimal;

const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112"); // RFC 8410
const EC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1"); // RFC 5480
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// Keys whose signatures count.
#[derive(Clone, Debug)]
pub struct TrustedKeys {
    keys: Vec<Key>,
}

/// What a key can sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Locks: Ed25519.
    Lock,
    /// Models, in OpenSSF's format: ECDSA.
    Model,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) usage: Use,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(super) name: String,
    algorithm: Algorithm,
    point: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Ed25519,
    P256,
    P384,
}

impl TrustedKeys {
    /// All of a file: `PUBLIC KEY` blocks, or `CERTIFICATE` blocks, of which only the key is taken.
    pub fn open(path: &Path) -> Result<Self, ProvenanceError> {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let invalid = |reason: String| ProvenanceError::Invalid { path: path.into(), reason };
        let mut keys = Vec::new();
        for (label, der) in pem_blocks(&text).map_err(invalid)? {
            keys.push(Key::parse(&label, &der).map_err(invalid)?);
        }
        if keys.is_empty() {
            return Err(invalid("no PUBLIC KEY and no CERTIFICATE in PEM".to_owned()));
        }
        Ok(Self { keys })
    }

    pub(super) fn of(&self, usage: Use) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.usage == usage)
    }

    /// Are there keys that sign locks?
    pub fn sign_locks(&self) -> bool {
        self.of(Use::Lock).next().is_some()
    }

    /// Are there keys that sign models?
    pub fn sign_models(&self) -> bool {
        self.of(Use::Model).next().is_some()
    }
}

impl Key {
    /// Did it sign this?
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Ed25519 => &ED25519,
            Algorithm::P256 => &ECDSA_P256_SHA256_ASN1,
            Algorithm::P384 => &ECDSA_P384_SHA384_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.point).verify(message, signature).is_ok()
    }

    fn parse(label: &str, der: &[u8]) -> Result<Self, String> {
        match label {
            "PUBLIC KEY" => {
                let info = SubjectPublicKeyInfoOwned::from_der(der).map_err(|error| format!("PUBLIC KEY: {error}"))?;
                Self::of_info(&info)
            }
            "CERTIFICATE" => {
                let certificate = Certificate::from_der(der).map_err(|error| format!("CERTIFICATE: {error}"))?;
                Self::of_info(certificate.tbs_certificate().subject_public_key_info())
            }
            _ if label.contains("PRIVATE KEY") => {
                Err(format!("{label}: expected public keys; keep the private one where it signs"))
            }
            _ => Err(format!("{label}: expected PUBLIC KEY or CERTIFICATE")),
        }
    }

    pub(super) fn of_info(info: &SubjectPublicKeyInfoOwned) -> Result<Self, String> {
        let curve = || info.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let (algorithm, usage) = match info.algorithm.oid {
            ED25519_KEY => (Algorithm::Ed25519, Use::Lock),
            EC_KEY => match curve() {
                Some(P256) => (Algorithm::P256, Use::Model),
                Some(P384) => (Algorithm::P384, Use::Model),
                Some(P521) => {
                    return Err("a key on P-521 cannot be used here: sign with P-256 or P-384".to_owned());
                }
                _ => return Err("a key on an unknown curve: expected P-256 or P-384".to_owned()),
            },
            other => return Err(format!("a key of algorithm {other}: expected Ed25519, or ECDSA on P-256 or P-384")),
        };
        let encoded = info.to_der().map_err(|error| error.to_string())?;
        let point = info.subject_public_key.as_bytes().ok_or("a key of bits that are not whole bytes")?.to_vec();
        Ok(Self { usage, name: format!("sha256:{}", hexadecimal(&Sha256::digest(&encoded))), algorithm, point })
    }
}

/// Labels and contents (RFC 7468).
pub(super) fn pem_blocks(text: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once("-----BEGIN ") {
        let (label, behind) = behind.split_once("-----").ok_or("a BEGIN line without its end")?;
        let (body, behind) =
            behind.split_once(&format!("-----END {label}-----")).ok_or(format!("{label}: no END line"))?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|error| format!("{label}: {error}"))?;
        blocks.push((label.to_owned(), der));
        rest = behind;
    }
    Ok(blocks)
}
