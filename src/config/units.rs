//! Sizes and times as people write them.

use std::{fmt, time::Duration};

/// A number of bytes: `512MiB`, `2GB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many times 2^20 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// For people: three digits and a binary unit, such as `1.46 GiB`.
    pub fn human(self) -> String {
        let Some((unit, size)) = SIZES[..4].iter().find(|(_, size)| self.0 >= *size) else {
            return format!("{} B", self.0);
        };
        let value = self.0 as f64 / *size as f64;
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.decimals$} {unit}")
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        scale(text, &SIZES).map(Self)
    }
}

/// Exact: the largest binary unit that divides it, so that it parses back to the same number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES[..4].iter().find(|(_, size)| self.0 != 0 && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A length of time: `250ms`, `30s`, `10m`, `1h`, `30d`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

const SPANS_MS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    /// This many seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// This many times 24 hours.
    pub const fn days(count: u64) -> Self {
        Self::seconds(count * 24 * 60 * 60)
    }

    /// Seconds, without what is less than one.
    pub const fn as_seconds(self) -> u64 {
        self.0.as_secs()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let bare = text.trim().bytes().all(|byte| byte.is_ascii_digit());
        let seconds = if bare { format!("{}s", text.trim()) } else { text.to_owned() };
        scale(&seconds, &SPANS_MS).map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let (unit, size) = SPANS_MS.iter().rev().find(|(_, size)| ms.is_multiple_of(*size)).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", ms / size)
    }
}

/// `<digits><unit>`, the unit in any case; a bare number counts in units of 1.
fn scale(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" => 1,
        unit => units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
