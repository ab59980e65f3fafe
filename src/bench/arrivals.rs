//! When requests are made. Main type: [`Profile`]. A closed loop makes the next request when one is answered,
//! so its rate follows the server; an open loop makes each when it is due, whatever the server does, as people
//! do who do not know of each other.

use std::{fmt, time::Duration};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp};

/// Requests per second, and how much faster a trace is replayed, may be from 10^-6 to 10^6.
pub const RATES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// No request is due later than a century from now.
const LATEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// How requests follow each other. Rates are within [`RATES`].
#[derive(Clone, Debug, PartialEq)]
pub enum Profile {
    /// One after the other.
    Synchronous,
    /// So many at a time.
    Concurrent(u32),
    /// So many per second, at equal distances.
    Constant(f64),
    /// So many per second in the mean, each at its own random time.
    Poisson(f64),
    /// At these times after the beginning.
    Replay(Vec<Duration>),
}

/// Due times after the beginning, without end but for a replay.
pub type DueTimes = Box<dyn Iterator<Item = Duration> + Send>;

impl Profile {
    /// Requests at a time of a closed loop, none for an open one.
    pub fn closed_loop(&self) -> Option<u32> {
        match self {
            Self::Synchronous => Some(1),
            Self::Concurrent(count) => Some(*count),
            Self::Constant(_) | Self::Poisson(_) | Self::Replay(_) => None,
        }
    }

    /// Requests per second that a profile of a rate asks for.
    pub fn rate(&self) -> Option<f64> {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => Some(*rate),
            Self::Synchronous | Self::Concurrent(_) | Self::Replay(_) => None,
        }
    }

    /// When requests of an open loop are due; a closed loop's are always due.
    pub fn due_times(&self, seed: u64) -> DueTimes {
        match self {
            Self::Synchronous | Self::Concurrent(_) => Box::new(std::iter::repeat(Duration::ZERO)),
            Self::Constant(rate) => {
                let rate = *rate;
                Box::new((0u64..).map(move |index| after(index as f64 / rate)))
            }
            Self::Poisson(rate) => {
                let gaps = Exp::new(*rate).expect("a rate is positive");
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut due = 0.0;
                Box::new(std::iter::repeat_with(move || {
                    due += gaps.sample(&mut rng);
                    after(due)
                }))
            }
            Self::Replay(times) => Box::new(times.clone().into_iter()),
        }
    }
}

/// A time of so many seconds, as far as there is one.
pub(super) fn after(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(LATEST).min(LATEST)
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synchronous => f.write_str("synchronous"),
            Self::Concurrent(count) => write!(f, "concurrent {count}"),
            Self::Constant(rate) => write!(f, "constant {rate:.3}/s"),
            Self::Poisson(rate) => write!(f, "poisson {rate:.3}/s"),
            Self::Replay(times) => write!(f, "replay of {}", times.len()),
        }
    }
}
