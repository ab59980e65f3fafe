//! What captured content is called, and in which folder it is: by when it was begun, and until when it is kept.
//!
//! Main types: [`ContentName`], which records have, and [`Hours`], which names a folder: files lie together that were begun in one
//! hour and go in one hour. Invariant: a name leads to no file elsewhere. Opens no file.

use std::{fmt, time::SystemTime};

use super::AuditError;

const HOUR_S: u64 = 3600;
const ID_DIGITS: usize = 32;
const LONGEST_PLACE: usize = 64;

/// What content is called: whose it is, until when it is kept, and a number that no other has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentName {
    place: String,
    /// Unix seconds; 0 for as long as the log.
    until: u64,
    id: String,
}

/// What files of one folder have in common, in hours since 1970: `UNTIL-BEGUN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hours {
    /// 0 for as long as the log.
    until: u64,
    begun: u64,
}

impl ContentName {
    /// That of something new of a tenant, by the place of its data.
    pub fn new(place: &str, until: Option<u64>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let random = uuid::Uuid::new_v4().into_bytes();
        // Of these all bits are random.
        let [a, b, c, d, e, f, _, _, _, g, h, i, j, ..] = random;
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &[a, b, c, d, e, f, g, h, i, j]).into_uuid();
        let id = id.simple().to_string();
        Self { place: place.to_owned(), until: until.unwrap_or(0), id }
    }

    /// As a record has it. Anything else would be another file.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let parsed = text.split_once('/').and_then(|(place, file)| {
            let is_place = (1..=LONGEST_PLACE).contains(&place.len())
                && place.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let (until, id) = of_file(file)?;
            is_place.then(|| Self { place: place.to_owned(), until, id: id.to_owned() })
        });
        let expected = "PLACE/SECONDS-ID, where an id has 32 hexadecimal digits";
        parsed.ok_or_else(|| AuditError::Invalid { field: "content", value: text.to_owned(), expected })
    }

    /// The place of its tenant's data.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// That of its file, without its end.
    pub(super) fn file(&self) -> String {
        let Self { until, id, .. } = self;
        format!("{until:010}-{id}")
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        is_over(self.until, now)
    }

    /// That of its folder. Earlier versions had ids without a time, in folders by their first digits.
    pub(super) fn folder(&self) -> String {
        self.hours().map_or_else(|| self.id.get(..2).unwrap_or_default().to_owned(), Hours::folder)
    }

    /// Those of an id that has its time (RFC 9562, version 7: milliseconds in the first 48 bits).
    fn hours(&self) -> Option<Hours> {
        let begun_ms = self.id.get(..12).filter(|_| self.id.as_bytes().get(12) == Some(&b'7'))?;
        let begun_ms = u64::from_str_radix(begun_ms, 16).ok()?;
        Some(Hours { until: self.until / HOUR_S, begun: begun_ms / 1000 / HOUR_S })
    }
}

impl Hours {
    pub(super) fn of_folder(name: &str) -> Option<Self> {
        let (until, begun) = name.split_once('-')?;
        let hours = Self { until: until.parse().ok()?, begun: begun.parse().ok()? };
        (hours.folder() == name).then_some(hours)
    }

    fn folder(self) -> String {
        let Self { until, begun } = self;
        format!("{until:06}-{begun:06}")
    }

    /// May something of it be past its time at `now`, or be written before another moment?
    pub(super) fn is_due(self, now: u64, written_before: Option<u64>) -> bool {
        let is_written_before = |moment| self.begun.saturating_mul(HOUR_S) < moment;
        (self.until != 0 && self.until.saturating_mul(HOUR_S) <= now) || written_before.is_some_and(is_written_before)
    }
}

impl fmt::Display for ContentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.place, self.file())
    }
}

/// Until when it is kept, and its id, by the name of a file without its end.
pub(super) fn of_file(stem: &str) -> Option<(u64, &str)> {
    let (until, id) = stem.split_once('-')?;
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_until = until.len() >= 10 && until.bytes().all(|byte| byte.is_ascii_digit());
    Some((until.parse().ok().filter(|_| is_id && is_until)?, id))
}

pub(super) fn is_over(until: u64, now: u64) -> bool {
    until != 0 && until <= now
}
