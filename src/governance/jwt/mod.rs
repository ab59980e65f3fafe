//! Identities that others vouch for: JSON Web Tokens of an OpenID Connect issuer, and TLS client certificates.
//!
//! [`JwtVerifier`] turns a bearer token into [`Claims`] or a [`JwtError`]. [`CertificateIdentity`] is what a client
//! certificate says whose chain TLS has verified already, and [`CertificateMap`] says who that is here.
//!
//! How it is wired: `JwtConfig` comes out of TOML; `JwtVerifier::open` at the start, where an error ends the start;
//! `refresh(Occasion::Interval, now)` every second or so on a thread that may wait, which reads keys when it is time and
//! tells what came of it; `verify` for each request, which never waits; on [`JwtError::UnknownKey`] or
//! [`JwtError::NoKeys`], `verify_or_refresh` on a thread that may wait. With several issuers, the one whose `verify` does
//! not say [`JwtError::UnknownIssuer`] has the say.
//!
//! Invariants: a key is used with its own algorithm alone; a token chooses its key only by an id within the issuer's set; no
//! text of a token is in an error; nothing is fetched unless the configuration has an address. It knows nothing of HTTP, of
//! which roles there are, or of where the time comes from.

mod algorithm;
mod certificate;
mod certificate_map;
mod claims;
mod config;
mod error;
mod json;
mod keys;
mod source;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use tokio::sync::watch;
use zeroize::Zeroizing;

pub use self::{
    algorithm::Algorithm,
    certificate::CertificateIdentity,
    certificate_map::{CertificateMap, CertificateMatch, MappedIdentity},
    claims::Claims,
    config::{ClaimPath, JwtConfig, KeySource},
    error::{JwtError, Part, SourceError},
    keys::{MOST_KEY_SET_BYTES, Signer, SkippedKey},
    source::{Fetch, Occasion, Refreshed},
};
use self::{
    keys::{KeySet, SignedBy},
    source::{LiveKeys, read_file},
    token::Token,
};

/// Decides whether a token is of the configured issuer and valid. Shared between threads.
pub struct JwtVerifier {
    config: JwtConfig,
    public: Option<Arc<LiveKeys>>,
    secret: Option<Arc<KeySet>>,
}

impl JwtVerifier {
    /// One for an issuer. Files are read now and must be right. `fetch` is needed, and used, only if the configuration has
    /// an address; that is read at the first refresh, so that an issuer that is down does not keep the server from
    /// starting.
    pub fn open(config: JwtConfig, fetch: Option<Fetch>) -> Result<Self, SourceError> {
        let public = config.keys.public.as_ref().map(|source| LiveKeys::open(source, &config, fetch)).transpose()?;
        let public = public.map(Arc::new);
        let secret = config.keys.secret_file.as_deref().map(|path| {
            let text = Zeroizing::new(read_file(path)?);
            KeySet::secret(text, &path.display().to_string(), &config.algorithms).map(Arc::new)
        });
        Ok(Self { secret: secret.transpose()?, public, config })
    }

    /// What it was made from.
    pub fn config(&self) -> &JwtConfig {
        &self.config
    }

    /// Goes on with the public keys of another verifier, if they are fetched from the same place in the same way. A file has
    /// been read.
    pub fn keep_keys_of(&mut self, before: &Self) {
        let (ours, theirs) = (&self.config, &before.config);
        if ours.url().is_some()
            && ours.keys == theirs.keys
            && ours.limits.refresh_seconds == theirs.limits.refresh_seconds
        {
            self.public.clone_from(&before.public);
        }
    }

    /// Whose token this is at `now`, in Unix seconds. It reads no file and no address.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, JwtError> {
        let token = self.parse(token)?;
        let keys = self.keys_for(token.algorithm);
        self.check(token, keys.as_deref(), now)
    }

    /// The same, but on an unknown key the keys are read again if that has not been done in the last minute, or second if
    /// they are in a file. It may wait for the issuer; errors of reading are logged. A new key without an id, which every
    /// id could mean, is found by the interval only.
    pub fn verify_or_refresh(&self, token: &str, now: u64) -> Result<Claims, JwtError> {
        let parsed = self.parse(token)?;
        let before = self.keys_for(parsed.algorithm);
        let result = self.check(parsed, before.as_deref(), now);
        if !matches!(result, Err(JwtError::UnknownKey | JwtError::NoKeys)) {
            return result;
        }
        if let Err(error) = self.refresh(Occasion::UnknownKey, now) {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(issuer = self.config.issuer, error, "the issuer's keys could not be read again");
        }
        self.verify(token, now)
    }

    /// Reads the keys again if it is time, and says what came of it. On an error the keys of before stay in use. It may wait
    /// for the issuer, but never for another thread that does.
    pub fn refresh(&self, occasion: Occasion, now: u64) -> Result<Refreshed, SourceError> {
        self.public.as_ref().map_or(Ok(Refreshed::NotDue), |keys| keys.refresh(occasion, now))
    }

    /// Is the key that has signed a token none of the issuer's any more? While its keys are not known yet nobody can say so.
    pub fn has_withdrawn(&self, signer: &Signer) -> bool {
        let is_known = if signer.algorithm.is_symmetric() { self.secret.is_some() } else { self.public.is_some() };
        match self.keys_for(signer.algorithm) {
            Some(keys) => !keys.has_signer(signer),
            None => !is_known,
        }
    }

    /// A number that changes with the keys that are read again and again, if there are such.
    pub fn key_changes(&self) -> Option<watch::Receiver<u64>> {
        self.public.as_ref().map(|keys| keys.changes())
    }

    /// What needs no key: the form, the algorithm, the issuer.
    fn parse<'a>(&self, token: &'a str) -> Result<Token<'a>, JwtError> {
        let token = Token::parse(token, self.config.limits.max_token_bytes)?;
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(JwtError::AlgorithmNotAllowed);
        }
        claims::check_issuer(&token.payload, &self.config)?;
        Ok(token)
    }

    /// Secrets and public keys are never in one set, so neither can be taken for the other.
    fn keys_for(&self, algorithm: Algorithm) -> Option<Arc<KeySet>> {
        if algorithm.is_symmetric() {
            self.secret.clone()
        } else {
            self.public.as_ref().and_then(|keys| keys.current())
        }
    }

    fn check(&self, token: Token<'_>, keys: Option<&KeySet>, now: u64) -> Result<Claims, JwtError> {
        let by = SignedBy { algorithm: token.algorithm, key_id: token.key_id.as_deref() };
        let signer = keys.ok_or(JwtError::NoKeys)?.verify(by, token.signed, &token.signature)?;
        claims::read(&token.payload, signer, &self.config, now)
    }
}
