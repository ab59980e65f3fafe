//! What has been learnt about time and luck: how long a step of so many tokens takes, and how often drafted tokens
//! come. Numbers only; time is handed in.

use std::collections::BTreeMap;

use super::{Evidence, N_EVIDENCE};

/// Share of the newest observation in an average.
const NEW_SHARE: f64 = 0.2;
/// Steps after which a time that has not been seen again is forgotten, so that it will be tried again.
const FORGOTTEN_AFTER: u64 = 512;
/// Where nothing is known, computing so many tokens is taken to last as long as reading the weights.
const TOKENS_PER_READING: f64 = 16.0;

/// How long steps take, by the number of tokens that they compute.
#[derive(Clone, Debug, Default)]
pub struct StepTimes {
    /// By bucket.
    points: BTreeMap<usize, Point>,
    steps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    rows: f64,
    seconds: f64,
    seen: u64,
}

impl StepTimes {
    /// A step of `rows` tokens took so long.
    pub fn observe(&mut self, rows: usize, seconds: f64) {
        self.steps += 1;
        let steps = self.steps;
        self.points.retain(|_, point| steps - point.seen < FORGOTTEN_AFTER);
        let new = Point { rows: rows as f64, seconds, seen: steps };
        let point = self.points.entry(bucket(rows)).or_insert(new);
        point.rows = mix(point.rows, new.rows);
        point.seconds = mix(point.seconds, new.seconds);
        point.seen = steps;
    }

    /// True if steps of about so many tokens have been seen, and not long ago.
    pub fn knows(&self, rows: usize) -> bool {
        self.points.contains_key(&bucket(rows))
    }

    /// How long a step of `rows` tokens will take: between two numbers that have been seen by interpolation, elsewhere
    /// in proportion to the rows and the reading of the weights. 0 if nothing is known.
    pub fn seconds(&self, rows: usize) -> f64 {
        let at = rows as f64;
        let below = self.points.range(..=bucket(rows)).next_back().map(|(_, point)| *point);
        let above = self.points.range(bucket(rows)..).next().map(|(_, point)| *point);
        let beyond = |point: Point| point.seconds * (at + TOKENS_PER_READING) / (point.rows + TOKENS_PER_READING);
        match (below, above) {
            (Some(below), Some(above)) if above.rows > below.rows => {
                let share = ((at - below.rows) / (above.rows - below.rows)).clamp(0.0, 1.0);
                below.seconds + share * (above.seconds - below.seconds)
            }
            (Some(point), _) | (None, Some(point)) => beyond(point),
            (None, None) => 0.0,
        }
    }
}

/// Small numbers by themselves, larger ones with those that differ by less than an eighth.
fn bucket(rows: usize) -> usize {
    const EXACT: usize = 32;
    if rows < EXACT {
        return rows;
    }
    let shift = rows.ilog2() - 3;
    rows >> shift << shift
}

/// How often a drafted token comes, if those before it have come; by evidence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acceptance([f64; N_EVIDENCE]);

impl Default for Acceptance {
    fn default() -> Self {
        Self([0.3, 0.5, 0.7])
    }
}

impl Acceptance {
    pub(super) fn of(&self, evidence: Evidence) -> f64 {
        self.0[evidence]
    }

    /// Of a draft of `n_drafted` tokens the first `n_accepted` came. An average in which each token has `new_share`.
    pub(super) fn observe(&mut self, evidence: Evidence, n_accepted: usize, n_drafted: usize, new_share: f64) {
        let estimate = &mut self.0[evidence];
        for _ in 0..n_accepted {
            *estimate += new_share * (1.0 - *estimate);
        }
        if n_accepted < n_drafted {
            *estimate -= new_share * *estimate;
        }
    }

    /// Nothing was tried: a low estimate rises a little, so that it will be.
    pub(super) fn rest(&mut self, evidence: Evidence) {
        const TRIED_AGAIN: f64 = 0.5;
        const REGAINED: f64 = 1.0 / 256.0;
        let estimate = &mut self.0[evidence];
        *estimate = estimate.max(*estimate + REGAINED * (TRIED_AGAIN - *estimate));
    }
}

/// The average of an estimate and what was observed.
pub(super) fn mix(estimate: f64, observed: f64) -> f64 {
    estimate + NEW_SHARE * (observed - estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(observed: &[(usize, f64)]) -> StepTimes {
        let mut times = StepTimes::default();
        observed.iter().for_each(|&(rows, seconds)| times.observe(rows, seconds));
        times
    }

    #[test]
    fn times_are_interpolated_between_what_was_seen() {
        let times = times(&[(1, 1.0), (5, 2.0), (101, 50.0)]);
        assert_eq!([1, 2, 3, 5].map(|rows| times.seconds(rows)), [1.0, 1.25, 1.5, 2.0]);
        assert!((times.seconds(53) - 26.0).abs() < 1e-9 && times.seconds(101) <= 50.0);
    }

    #[test]
    fn beyond_them_a_few_rows_cost_little_and_many_in_proportion() {
        assert_eq!(StepTimes::default().seconds(7), 0.0);
        let times = times(&[(1, 1.7)]);
        assert!((times.seconds(9) - 2.5).abs() < 1e-9);
        let times = self::times(&[(1008, 10.24)]);
        assert!((times.seconds(1) - 0.17).abs() < 1e-9 && times.seconds(2000) > 19.0);
    }

    #[test]
    fn averages_follow_and_are_forgotten() {
        let mut times = times(&[(1, 1.0), (4, 9.0)]);
        for _ in 0..40 {
            times.observe(1, 2.0);
        }
        assert!((times.seconds(1) - 2.0).abs() < 1e-3);
        assert_eq!(times.seconds(4), 9.0);
        for _ in 0..FORGOTTEN_AFTER {
            times.observe(1, 2.0);
        }
        assert!(times.seconds(4) < 2.5 && times.knows(1) && !times.knows(4));
        assert_eq!(times.points.len(), 1);
    }

    #[test]
    fn buckets_are_within_an_eighth() {
        for rows in 1..5000 {
            let bucket = bucket(rows);
            assert!(bucket <= rows && rows < bucket + (bucket / 8).max(1), "{rows}: {bucket}");
        }
    }

    #[test]
    fn acceptance_follows_what_comes() {
        let mut acceptance = Acceptance::default();
        for _ in 0..20 {
            acceptance.observe(0, 4, 4, 0.2);
            acceptance.observe(1, 0, 4, 0.2);
            acceptance.observe(2, 1, 2, 0.2);
        }
        assert!(acceptance.of(0) > 0.95 && acceptance.of(1) < 0.05 && (acceptance.of(2) - 0.5).abs() < 0.1);
        for _ in 0..1000 {
            acceptance.rest(0);
            acceptance.rest(1);
        }
        assert!(acceptance.of(0) > 0.95 && acceptance.of(1) > 0.4);
    }
}
