//! Public keys of an issuer, and the one rule about them: a key is used with its own algorithm alone.
//!
//! [`KeySet`] is read from text, either a JWK set or PEM, and never changes. A token's `kid` is compared with the ids in it
//! and is nothing else: no path, no address, no query. It knows no files and no addresses.

mod jwks;
mod pem;
mod signer;

use std::{fmt, ops::RangeInclusive};

use ring::{hmac, signature};
use zeroize::Zeroizing;

pub use self::signer::Signer;
use super::{
    algorithm::{Algorithm, KeyType},
    error::{JwtError, SourceError},
};

/// Largest key set in bytes.
pub const MOST_KEY_SET_BYTES: usize = 256 * 1024;
/// Longest secret: more is a file that is none.
const MOST_SECRET_BYTES: usize = 1024;
/// Most keys of a set.
const MOST_KEYS: usize = 100;
/// Most keys that are tried for one token, which may name none: a caller without one must not buy much work.
const MOST_TRIED: usize = 4;
/// Bits of an RSA modulus that can be verified with, as in `ring`; RFC 7518 §3.3 demands the lower bound.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;
/// Longest RSA exponent in bytes that `ring` takes.
const RSA_EXPONENT_BYTES: usize = 4;

/// A key that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Counted from 0 in the file.
    pub index: usize,
    /// Its id.
    pub id: Option<String>,
    /// Why.
    pub reason: &'static str,
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(formatter, "key {} ({id:?}): {}", self.index, self.reason),
            None => write!(formatter, "key {}: {}", self.index, self.reason),
        }
    }
}

/// Keys of one issuer.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

/// A key with what restricts its use.
struct Key {
    /// None of a key from PEM, which stands for any id.
    id: Option<String>,
    /// A JWK's `alg`: nothing else may be done with it.
    only: Option<Algorithm>,
    material: Material,
    /// What it is known by later.
    fingerprint: String,
}

enum Material {
    /// Big-endian without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point, SEC 1 §2.3.3.
    P256(Vec<u8>),
    /// The same.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Zeroizing<Vec<u8>>),
}

impl KeySet {
    /// Those in a JWK set or in PEM. `origin` is named in errors.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, SourceError> {
        let content = |reason| SourceError::Content { origin: origin.to_owned(), reason };
        if text.len() > MOST_KEY_SET_BYTES {
            return Err(content("a key set may have 256 KiB"));
        }
        let is_json = text.trim_ascii_start().first() == Some(&b'{');
        let read = if is_json { jwks::read(text) } else { pem::read(text) }.map_err(content)?;
        let mut set = Self::default();
        for (index, (id, read)) in read.into_iter().enumerate() {
            match read {
                Ok((only, material)) => set.keys.push(Key::new(id, only, material)),
                Err(reason) => set.skipped.push(SkippedKey { index, id, reason }),
            }
        }
        match set.keys.len() {
            0 => Err(SourceError::NoUsableKey { origin: origin.to_owned(), skipped: set.skipped }),
            1..=MOST_KEYS => Ok(set),
            _ => Err(content("a key set may have 100 keys")),
        }
    }

    /// The one key that is a secret of both sides: a file's bytes but for one line break at their end. `algorithms` say how
    /// long it must be.
    pub fn secret(text: Zeroizing<Vec<u8>>, origin: &str, algorithms: &[Algorithm]) -> Result<Self, SourceError> {
        let content = |reason| SourceError::Content { origin: origin.to_owned(), reason };
        let secret = text.strip_suffix(b"\n").unwrap_or(&text);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if algorithms.iter().any(|algorithm| secret.len() < algorithm.least_secret_bytes()) {
            return Err(content("a secret must have 32 bytes for HS256, 48 for HS384, 64 for HS512"));
        }
        if secret.len() > MOST_SECRET_BYTES {
            return Err(content("a secret may have 1024 bytes"));
        }
        let material = Material::Secret(Zeroizing::new(secret.to_vec()));
        Ok(Self { keys: vec![Key::new(None, None, material)], skipped: Vec::new() })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Which key, that has this id and is for this algorithm, the signature is of.
    pub fn verify(&self, by: SignedBy<'_>, signed: &[u8], signature: &[u8]) -> Result<Signer, JwtError> {
        let mut candidates = self.candidates(by)?.into_iter();
        let signer = candidates.find(|key| key.confirms(by.algorithm, signed, signature));
        Ok(Signer::new(by, &signer.ok_or(JwtError::BadSignature)?.fingerprint))
    }

    /// Would the key that has signed a token be tried for it now?
    pub fn has_signer(&self, signer: &Signer) -> bool {
        self.candidates(signer.by()).is_ok_and(|keys| keys.iter().any(|key| signer.is(&key.fingerprint)))
    }

    fn candidates(&self, by: SignedBy<'_>) -> Result<Vec<&Key>, JwtError> {
        let fitting = self.keys.iter().filter(|key| key.is_for(by.algorithm));
        let fitting: Vec<&Key> = fitting.filter(|key| key.may_be(by.key_id)).collect();
        match fitting.len() {
            0 if self.has(by.key_id) => Err(JwtError::AlgorithmNotAllowed),
            0 => Err(JwtError::UnknownKey),
            1..=MOST_TRIED => Ok(fitting),
            _ => Err(JwtError::UnknownKey),
        }
    }

    /// Has a key this very id?
    fn has(&self, id: Option<&str>) -> bool {
        id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id)
    }
}

/// What a token says that it is signed with.
#[derive(Clone, Copy)]
pub(super) struct SignedBy<'a> {
    pub algorithm: Algorithm,
    pub key_id: Option<&'a str>,
}

impl Key {
    fn new(id: Option<String>, only: Option<Algorithm>, material: Material) -> Self {
        Self { id, only, fingerprint: signer::fingerprint(&material), material }
    }

    fn may_be(&self, id: Option<&str>) -> bool {
        self.id.is_none() || id.is_none() || self.id.as_deref() == id
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.material.key_type() == algorithm.key_type() && self.only.is_none_or(|only| only == algorithm)
    }

    fn confirms(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let curve =
            |algorithm, point: &[u8]| signature::UnparsedPublicKey::new(algorithm, point).verify(signed, signature);
        match &self.material {
            Material::Rsa { n, e } => algorithm.rsa().is_some_and(|parameters| {
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }),
            Material::P256(point) => curve(&signature::ECDSA_P256_SHA256_FIXED, point).is_ok(),
            Material::P384(point) => curve(&signature::ECDSA_P384_SHA384_FIXED, point).is_ok(),
            Material::Ed25519(point) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, point).verify(signed, signature).is_ok()
            }
            Material::Secret(secret) => algorithm
                .hmac()
                .is_some_and(|hash| hmac::verify(&hmac::Key::new(hash, secret), signed, signature).is_ok()),
        }
    }
}

impl Material {
    /// An RSA key that can be verified with.
    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, &'static str> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err("an RSA key must have 2048 to 8192 bits");
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !is_odd(n) || !is_odd(e) || e == [1] || e.len() > RSA_EXPONENT_BYTES {
            return Err("its modulus or exponent is none of RSA's");
        }
        Ok(Self::Rsa { n: n.to_vec(), e: e.to_vec() })
    }

    fn key_type(&self) -> KeyType {
        match self {
            Self::Rsa { .. } => KeyType::Rsa,
            Self::P256(_) => KeyType::P256,
            Self::P384(_) => KeyType::P384,
            Self::Ed25519(_) => KeyType::Ed25519,
            Self::Secret(_) => KeyType::Secret,
        }
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// What a reader of key sets hands over: each key's id, and the key or why it is skipped.
type ReadKey = (Option<String>, Result<(Option<Algorithm>, Material), &'static str>);
