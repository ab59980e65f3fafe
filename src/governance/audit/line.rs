//! How a record is written: one line of JSON whose bytes can be hashed and signed without writing it anew.
//!
//! `{"seq":N,"prev":"HASH","time":"TIME","kind":"KIND",...,"hash":"HASH"}`, and with `,"sig":"SIGNATURE"` before the hash if it
//! is signed. The hash is SHA-256 of all bytes of the line before `,"hash":`; `prev` is the hash of the line before, over all
//! segments; the signature is over all bytes before `,"sig":`. Main type: [`Line`]. Knows nothing of files.

use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use crate::types::hexadecimal;

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// What stands before the first record.
pub(super) const NO_HASH: Hash = [0; 32];
const HASH_KEY: &str = r#","hash":""#;
const SIGNATURE_KEY: &str = r#","sig":""#;
const HASH_DIGITS: usize = 64;
const SIGNATURE_DIGITS: usize = 128;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file begins.
    Segment,
    /// The model was asked something.
    Begun,
    /// The answer to it has ended.
    Ended,
    /// Somebody administered.
    Act,
    /// Somebody was refused.
    Refused,
    /// A signature over all before it.
    Checkpoint,
    /// Retention has removed the oldest segments.
    Pruned,
    /// An unfinished line was cut after a crash.
    Recovered,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Segment,
        Self::Begun,
        Self::Ended,
        Self::Act,
        Self::Refused,
        Self::Checkpoint,
        Self::Pruned,
        Self::Recovered,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Begun => "begun",
            Self::Ended => "ended",
            Self::Act => "act",
            Self::Refused => "refused",
            Self::Checkpoint => "checkpoint",
            Self::Pruned => "pruned",
            Self::Recovered => "recovered",
        }
    }

    /// The kind that is written so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A line that was read and whose hash is right.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) hash: Hash,
    pub(super) kind: Kind,
    /// All members, those of above included.
    pub(super) members: Map<String, Value>,
}

/// Writes a line behind others. `fields` is a JSON object; its members must have other names than those of a line.
pub(super) fn write(into: &mut Vec<u8>, place: Place<'_>, kind: Kind, fields: &str, sign: Option<Sign<'_>>) -> Hash {
    let begin = into.len();
    let Place { seq, prev, time_us } = place;
    let (prev, time, kind) = (hexadecimal(prev), time_text(time_us), kind.name());
    into.extend_from_slice(format!(r#"{{"seq":{seq},"prev":"{prev}","time":"{time}","kind":"{kind}""#).as_bytes());
    let inner = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}')).unwrap_or_default();
    if !inner.is_empty() {
        into.push(b',');
        into.extend_from_slice(inner.as_bytes());
    }
    if let Some(sign) = sign {
        let signature = hexadecimal(&sign(&into[begin..]));
        into.extend_from_slice(format!("{SIGNATURE_KEY}{signature}\"").as_bytes());
    }
    let hash = sha256(&into[begin..]);
    into.extend_from_slice(format!("{HASH_KEY}{}\"}}\n", hexadecimal(&hash)).as_bytes());
    hash
}

/// Signs bytes.
pub(super) type Sign<'a> = &'a dyn Fn(&[u8]) -> [u8; 64];

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) seq: u64,
    pub(super) prev: &'a Hash,
    pub(super) time_us: u64,
}

impl Line {
    /// Reads a line without its end. The error says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const ODD: &str = "it is no record";
        let (hashed, hash) = split(bytes, HASH_KEY, HASH_DIGITS, "\"}").ok_or(ODD)?;
        let hash: Hash = unhexadecimal(hash).ok_or(ODD)?;
        if sha256(hashed) != hash {
            return Err("its hash is not that of its bytes");
        }
        let members: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| ODD)?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let seq = members.get("seq").and_then(Value::as_u64).ok_or(ODD)?;
        let prev = text("prev").and_then(|prev| unhexadecimal(prev.as_bytes())).ok_or(ODD)?;
        let kind = text("kind").and_then(Kind::of_name).ok_or("its kind is not known")?;
        Ok(Self { seq, prev, hash, kind, members })
    }

    /// A text among its members.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Value::as_str)
    }

    /// A count among its members.
    pub(super) fn count(&self, name: &str) -> Option<u64> {
        self.members.get(name).and_then(Value::as_u64)
    }
}

/// What is signed of a line, and the signature, if it has one.
pub(super) fn signed_part(bytes: &[u8]) -> Option<(&[u8], [u8; 64])> {
    let (hashed, _) = split(bytes, HASH_KEY, HASH_DIGITS, "\"}")?;
    let (signed, signature) = split(hashed, SIGNATURE_KEY, SIGNATURE_DIGITS, "\"")?;
    Some((signed, unhexadecimal(signature)?))
}

/// What stands before a member at the end, and its digits.
fn split<'b>(bytes: &'b [u8], key: &str, digits: usize, end: &str) -> Option<(&'b [u8], &'b [u8])> {
    let bytes = bytes.strip_suffix(end.as_bytes())?;
    let (before, value) = bytes.split_at_checked(bytes.len().checked_sub(digits)?)?;
    Some((before.strip_suffix(key.as_bytes())?, value))
}

pub(super) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = NO_HASH;
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Only what [`hexadecimal`] writes: another spelling of the same bytes is another line.
pub(super) fn unhexadecimal<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, always with six digits behind the point, so that texts are in the order of times.
pub(super) fn time_text(time_us: u64) -> String {
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + Duration::from_micros(time_us)).to_string()
}

pub(super) fn time_of_text(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros()).ok()
}
