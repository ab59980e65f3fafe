//! Keys as they are now: read from where the configuration says, and read again when it is time.
//!
//! [`LiveKeys`] always answers at once with the last good set. Reading again is the caller's to begin, on a thread that may
//! wait; only one does so at a time and nobody waits for it, and what strangers can bring about (a key id that is not
//! known) happens at most once a minute.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, TryLockError},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    config::{DISCOVERY, JwtConfig, KeySource, check_url},
    error::SourceError,
    json,
    keys::{KeySet, MOST_KEY_SET_BYTES, SkippedKey},
};

/// Reads an address. It should stop reading after [`MOST_KEY_SET_BYTES`], give up after some seconds, and not follow a
/// redirection to another scheme.
pub type Fetch = Box<dyn Fn(&str) -> io::Result<Vec<u8>> + Send + Sync>;

/// Seconds after which an address is read again because of an unknown key id, or because the last try failed.
const URL_PAUSE_SECONDS: u64 = 60;
/// The same for a file, which costs little.
const FILE_PAUSE_SECONDS: u64 = 1;

/// Why keys might be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Time passes: to be asked again and again, every few seconds.
    Interval,
    /// A token names a key that is not known.
    UnknownKey,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing was read: it is too early, or another thread is reading.
    NotDue,
    /// The same keys as before.
    Unchanged,
    /// Other keys are used from now on.
    Replaced {
        /// How many.
        keys: usize,
        /// Those that are there and are not used.
        skipped: Vec<SkippedKey>,
    },
}

pub(super) struct LiveKeys {
    source: KeySource,
    hosts: Vec<String>,
    issuer: String,
    refresh_seconds: u64,
    fetch: Option<Fetch>,
    current: RwLock<Option<Arc<KeySet>>>,
    /// Changes with the current ones.
    changed: watch::Sender<u64>,
    last: Mutex<Last>,
}

/// The last time that keys were read.
#[derive(Default)]
struct Last {
    tried_at: Option<u64>,
    has_failed: bool,
    digest: Option<[u8; 32]>,
}

impl LiveKeys {
    /// Those at `source`. A file is read now and must be right; an address is read at the first refresh.
    pub fn open(source: &KeySource, config: &JwtConfig, fetch: Option<Fetch>) -> Result<Self, SourceError> {
        let mut keys = Self {
            source: source.clone(),
            hosts: config.keys.hosts.clone(),
            issuer: config.issuer.clone(),
            refresh_seconds: config.limits.refresh_seconds,
            fetch,
            current: RwLock::new(None),
            changed: watch::Sender::default(),
            last: Mutex::default(),
        };
        match source {
            KeySource::File(_) => {
                let mut last = Last::default();
                keys.read_again(&mut last)?;
                keys.last = Mutex::new(last);
            }
            KeySource::Url(url) if keys.fetch.is_none() => return Err(SourceError::NoFetch { url: url.clone() }),
            KeySource::Url(_) => {}
        }
        Ok(keys)
    }

    /// The last good set, if there has been one.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that changes with it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads the keys if it is time, at `now` in Unix seconds. On an error those of before stay.
    pub fn refresh(&self, occasion: Occasion, now: u64) -> Result<Refreshed, SourceError> {
        let mut last = match self.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::WouldBlock) => return Ok(Refreshed::NotDue),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if !self.is_due(&last, occasion, now) {
            return Ok(Refreshed::NotDue);
        }
        last.tried_at = Some(now);
        let refreshed = self.read_again(&mut last);
        last.has_failed = refreshed.is_err();
        refreshed
    }

    /// A clock that was set back counts as time that has passed, so that it never stops the reading.
    fn is_due(&self, last: &Last, occasion: Occasion, now: u64) -> bool {
        let pause = match self.source {
            KeySource::File(_) => FILE_PAUSE_SECONDS,
            KeySource::Url(_) => URL_PAUSE_SECONDS,
        };
        let wait = match occasion {
            Occasion::Interval if last.has_failed => pause.min(self.refresh_seconds),
            Occasion::Interval => self.refresh_seconds,
            Occasion::UnknownKey => pause,
        };
        last.tried_at.is_none_or(|tried_at| now.abs_diff(tried_at) >= wait)
    }

    fn read_again(&self, last: &mut Last) -> Result<Refreshed, SourceError> {
        let (text, origin) = match &self.source {
            KeySource::File(path) => (read_file(path)?, path.display().to_string()),
            KeySource::Url(url) => self.fetch_keys(url)?,
        };
        let digest = Sha256::digest(&text).into();
        if last.digest == Some(digest) {
            return Ok(Refreshed::Unchanged);
        }
        let set = KeySet::parse(&text, &origin)?;
        let refreshed = Refreshed::Replaced { keys: set.len(), skipped: set.skipped().to_vec() };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(set));
        self.changed.send_modify(|change| *change += 1);
        last.digest = Some(digest);
        Ok(refreshed)
    }

    /// The key set, and the address that it was at.
    fn fetch_keys(&self, url: &str) -> Result<(Vec<u8>, String), SourceError> {
        if !url.ends_with(DISCOVERY) {
            return Ok((self.fetch(url)?, url.to_owned()));
        }
        let keys_url = self.discover(&self.fetch(url)?, url)?;
        Ok((self.fetch(&keys_url)?, keys_url))
    }

    /// `jwks_uri` of an issuer's metadata, whose `issuer` must be the one that is trusted: OpenID Connect Discovery 1.0
    /// §3 and §4.3.
    fn discover(&self, text: &[u8], url: &str) -> Result<String, SourceError> {
        let content = |reason| SourceError::Content { origin: url.to_owned(), reason };
        let metadata = json::object(text).ok_or(content("it is not a JSON object in which each name is there once"))?;
        if metadata.get("issuer").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(content("its `issuer` is not the configured one"));
        }
        let keys_url = metadata.get("jwks_uri").and_then(Value::as_str).ok_or(content("it has no `jwks_uri`"))?;
        check_url("jwks_uri", keys_url)?;
        let origin @ (scheme, host) = &origin_of(keys_url);
        let is_named = || *scheme == "https" && self.hosts.iter().any(|named| named.eq_ignore_ascii_case(host));
        if *origin != origin_of(url) && !is_named() {
            return Err(SourceError::OtherHost { url: url.to_owned(), keys_url: keys_url.to_owned() });
        }
        Ok(keys_url.to_owned())
    }

    fn fetch(&self, url: &str) -> Result<Vec<u8>, SourceError> {
        let fetch = self.fetch.as_ref().ok_or_else(|| SourceError::NoFetch { url: url.to_owned() })?;
        let text = fetch(url).map_err(|source| SourceError::Fetch { url: url.to_owned(), source })?;
        if text.len() > MOST_KEY_SET_BYTES {
            return Err(SourceError::Content { origin: url.to_owned(), reason: "it has more than 256 KiB" });
        }
        Ok(text)
    }
}

/// Scheme and host of an address that was checked, with the port if it is not the usual one.
fn origin_of(url: &str) -> (&str, String) {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let usual = if scheme == "https" { ":443" } else { ":80" };
    (scheme, host.strip_suffix(usual).unwrap_or(host).to_ascii_lowercase())
}

/// A file, up to a byte more than a key set may have.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    // It never grows, so that of a secret no copy is left behind.
    let mut text = Vec::with_capacity(MOST_KEY_SET_BYTES + 64);
    File::open(path).map_err(failed)?.take(MOST_KEY_SET_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}
