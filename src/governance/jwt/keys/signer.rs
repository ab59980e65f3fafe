//! Which key has signed a token: kept with what the token was believed for, so that it is seen when the key is there no more.
//!
//! Main type: [`Signer`]. Invariant: no key can be had from it, and two keys never have the same one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Algorithm, Material, SignedBy};
use crate::types::hexadecimal;

/// A key, and what a token has said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// What it was used with.
    pub algorithm: Algorithm,
    /// The token's `kid`.
    pub key_id: Option<String>,
    /// Of the key itself: another may have its id later.
    fingerprint: String,
}

impl Signer {
    pub(in super::super) fn new(by: SignedBy<'_>, fingerprint: &str) -> Self {
        let key_id = by.key_id.map(str::to_owned);
        Self { algorithm: by.algorithm, key_id, fingerprint: fingerprint.to_owned() }
    }

    pub(super) fn by(&self) -> SignedBy<'_> {
        SignedBy { algorithm: self.algorithm, key_id: self.key_id.as_deref() }
    }

    pub(super) fn is(&self, fingerprint: &str) -> bool {
        self.fingerprint == fingerprint
    }
}

/// SHA-256 of a key, in hexadecimal. Lengths go before the parts, so that none can be taken for others.
pub(super) fn fingerprint(material: &Material) -> String {
    let (kind, parts): (u8, [&[u8]; 2]) = match material {
        Material::Rsa { n, e } => (0, [n, e]),
        Material::P256(point) => (1, [point, &[]]),
        Material::P384(point) => (2, [point, &[]]),
        Material::Ed25519(key) => (3, [key, &[]]),
        Material::Secret(secret) => (4, [secret, &[]]),
    };
    let mut digest = Sha256::new_with_prefix([kind]);
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hexadecimal(&digest.finalize())
}
