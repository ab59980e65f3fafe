//! Days and months in UTC, as names and as ends. The days' arithmetic is that of the proleptic Gregorian calendar.

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// `2026-11-28`, and when it is over, in Unix milliseconds.
pub(super) fn day(now_ms: u64) -> (String, u64) {
    let days = now_ms / DAY_MS;
    let (year, month, day) = date(days);
    (format!("{year:04}-{month:02}-{day:02}"), (days + 1) * DAY_MS)
}

/// `2026-11`, and when it is over, in Unix milliseconds.
pub(super) fn month(now_ms: u64) -> (String, u64) {
    let mut days = now_ms / DAY_MS;
    let (year, month, _) = date(days);
    while date(days).1 == month {
        days += 1;
    }
    (format!("{year:04}-{month:02}"), days * DAY_MS)
}

/// Year, month and day of a number of days since 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months() {
        for (seconds, name) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_868_999, "2026-11-28"),
            (1_798_761_599, "2026-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(seconds * 1000).0, name);
            assert_eq!(month(seconds * 1000).0, name[..7]);
        }
        assert_eq!(month(951_782_400_000).1, 951_868_800_000);
        assert_eq!(day(1_798_761_599_000).1, 1_798_761_600_000);
    }
}
