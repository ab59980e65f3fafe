//! The keys of a log: one signs checkpoints (Ed25519, RFC 8032), one makes hashes of texts that only its holder can compare.
//!
//! Main types: [`Signer`], [`PublicKey`], [`TextHasher`]. The signing key is PKCS #8 (RFC 8410) and the public one
//! SubjectPublicKeyInfo, both as PEM, so that other programs can check a signature. Invariant: secrets are wiped from memory
//! and their files are readable by this user alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use zeroize::Zeroizing;

use super::{AuditError, line::unhexadecimal, segments::Directory};
use crate::types::hexadecimal;

const SIGNING_KEY: &str = "signing.key";
const PUBLIC_KEY: &str = "signing.pub";
const HASH_KEY: &str = "hash.key";
const KEY_BYTES: usize = 32;
/// What DER has before the 32 bytes of a private key (RFC 8410, section 7).
const PRIVATE_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// The same of a public one (RFC 8410, section 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Signs checkpoints.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
}

/// Checks signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; KEY_BYTES],
}

/// Makes hashes of texts, for each tenant by a key of its own: equal texts of two tenants have other hashes.
#[derive(Clone)]
pub struct TextHasher {
    key: hmac::Key,
}

impl Signer {
    /// That of a directory; it is made if there is none. Whoever calls this holds the directory's lock.
    pub(super) fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(SIGNING_KEY);
        let seed = match read_secret(&path)? {
            Some(text) => from_pem(&text, "PRIVATE KEY", &PRIVATE_PREFIX),
            None => {
                let seed = random()?;
                write_new(&path, to_pem("PRIVATE KEY", &PRIVATE_PREFIX, &seed).as_bytes(), 0o600)?;
                Some(seed)
            }
        };
        let wrong = || AuditError::Key { path: path.clone(), reason: "it is no Ed25519 private key in PEM" };
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed.ok_or_else(wrong)?).map_err(|_| wrong())?;
        let signer = Self { pair };
        let public = directory.join(PUBLIC_KEY);
        if !public.exists() {
            write_new(&public, signer.public_key().to_pem().as_bytes(), 0o644)?;
        }
        Ok(signer)
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }

    pub(super) fn public_key(&self) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey { bytes }
    }
}

impl PublicKey {
    /// That of a directory.
    pub fn of_directory(directory: &Path) -> Result<Self, AuditError> {
        Self::open(&directory.join(PUBLIC_KEY))
    }

    /// Reads a file of it.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let text = fs::read_to_string(path).map_err(|error| AuditError::file(path, error))?;
        let bytes = from_pem(&text, "PUBLIC KEY", &PUBLIC_PREFIX);
        let wrong = || AuditError::Key { path: path.to_owned(), reason: "it is no Ed25519 public key in PEM" };
        Ok(Self { bytes: *bytes.ok_or_else(wrong)? })
    }

    /// As a log has it.
    pub fn to_hexadecimal(self) -> String {
        hexadecimal(&self.bytes)
    }

    pub(super) fn verifies(self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.bytes).verify(bytes, signature).is_ok()
    }

    fn to_pem(self) -> String {
        to_pem("PUBLIC KEY", &PUBLIC_PREFIX, &self.bytes).to_string()
    }
}

impl TextHasher {
    /// That of a directory for one tenant; the directory's secret is made if there is none.
    pub(super) fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(HASH_KEY);
        let secret = match read_secret(&path)? {
            Some(text) => unhexadecimal(text.trim_end().as_bytes()).map(Zeroizing::new),
            None => {
                // With another one nobody would be found in what is there.
                if has_records(directory)? {
                    return Err(AuditError::Key { path, reason: "it is missing beside a log that has hashes by it" });
                }
                let secret: Zeroizing<[u8; KEY_BYTES]> = random()?;
                write_new(&path, Zeroizing::new(hexadecimal(&*secret) + "\n").as_bytes(), 0o600)?;
                Some(secret)
            }
        };
        let wrong = || AuditError::Key { path: path.clone(), reason: "it is no 64 hexadecimal digits" };
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*secret.ok_or_else(wrong)?) })
    }

    /// That of a directory, if it has one; nothing is made. A log without it is an error, as nobody could be found in it.
    pub fn of_directory(directory: &Path) -> Result<Option<Self>, AuditError> {
        let is_there = directory.join(HASH_KEY).exists() || has_records(directory)?;
        is_there.then(|| Self::open(directory)).transpose()
    }

    /// The one of a tenant: its key is HMAC-SHA-256 of the tenant's id by the log's secret.
    pub fn of_tenant(&self, tenant: &str) -> Self {
        let key = hmac::sign(&self.key, format!("tenant {tenant}").as_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()) }
    }

    /// Hash of a text of some sort, in hexadecimal digits.
    pub fn hash(&self, sort: &str, bytes: &[u8]) -> String {
        let mut running = self.begin(sort);
        running.context.update(bytes);
        running.finish()
    }

    /// Hash of what comes piece by piece.
    pub fn begin(&self, sort: &str) -> RunningHash {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(sort.as_bytes());
        context.update(b"\n");
        RunningHash { context }
    }
}

impl std::fmt::Debug for TextHasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TextHasher")
    }
}

/// A hash that is being made.
#[derive(Clone)]
pub struct RunningHash {
    context: hmac::Context,
}

impl RunningHash {
    /// Goes on with token ids, four bytes each, the lowest first.
    pub fn tokens(&mut self, ids: &[u32]) {
        ids.iter().for_each(|id| self.context.update(&id.to_le_bytes()));
    }

    /// In hexadecimal digits.
    pub fn finish(self) -> String {
        hexadecimal(self.context.sign().as_ref())
    }
}

/// Has anything been written here?
fn has_records(directory: &Path) -> Result<bool, AuditError> {
    let directory = Directory::at(directory);
    directory.check_not_emptied()?;
    Ok(!directory.segments()?.is_empty())
}

fn random() -> Result<Zeroizing<[u8; KEY_BYTES]>, AuditError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let failed = |_| AuditError::file(Path::new("/dev/urandom"), io::Error::other("no random numbers"));
    SystemRandom::new().fill(&mut *bytes).map_err(failed)?;
    Ok(bytes)
}

fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, AuditError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuditError::file(path, error)),
    }
}

/// The file is there whole or not at all.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuditError> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|error| AuditError::file(path, error))
}

fn to_pem(label: &str, prefix: &[u8], key: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    let der = Zeroizing::new([prefix, key].concat());
    let base64 = Zeroizing::new(STANDARD.encode(&*der));
    Zeroizing::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *base64))
}

fn from_pem(text: &str, label: &str, prefix: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let inner = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let inner = inner.strip_suffix(&format!("-----END {label}-----"))?;
    let der = Zeroizing::new(STANDARD.decode(inner.trim()).ok()?);
    let key = der.strip_prefix(prefix)?;
    Some(Zeroizing::new(key.try_into().ok()?))
}
