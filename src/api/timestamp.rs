//! Moments as Mistral's API writes those of agents and conversations.

use std::time::{Duration, UNIX_EPOCH};

/// Unix seconds as RFC 3339 in UTC.
pub(super) fn timestamp(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799; // of the year 9999
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}
