//! From an idle server to a full one. Main function: [`sweep`]. One run with one request at a time gives the
//! lowest rate that is worth asking for, one with as many at a time as are allowed the rate that the server can
//! keep; rates from the one to a tenth above the other, at equal distances, show where latency begins to grow.

use std::sync::Arc;

use super::{
    arrivals::Profile,
    client::Target,
    run::{Load, Run, Until, Watcher},
};

/// Requests of each client of a full server, at least.
const WAVES: u64 = 5;
/// The highest rate, relative to what the server can keep: latency beyond that grows without end.
const ABOVE: f64 = 1.1;

/// How to sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Rates between the lowest and the highest.
    pub points: u32,
    /// Requests at a time that fill the server.
    pub full: u32,
    /// Random times instead of equal distances.
    pub times: RateTimes,
}

/// How the requests of a rate are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateTimes {
    /// At equal distances.
    Constant,
    /// At random.
    Poisson,
}

/// All runs, the idle and the full one first. `load`'s own profile is not used; `before` is told of each run.
pub async fn sweep(
    load: &Load,
    sweep: Sweep,
    target: &Target,
    mut before: impl FnMut(&Load) -> Arc<dyn Watcher>,
) -> Vec<Run> {
    let mut load = load.clone();
    let mut runs: Vec<Run> = Vec::new();
    let asked = load.until;
    for profile in [Profile::Synchronous, Profile::Concurrent(sweep.full)] {
        let waves = profile.closed_loop().map_or(1, |count| WAVES * u64::from(count));
        load.until = Until { requests: asked.requests.map(|requests| requests.max(waves)), ..asked };
        load.profile = profile;
        let watcher = before(&load);
        runs.push(load.run(target, watcher).await);
        load.first_index += runs.last().map_or(0, |run| run.samples.len() as u64);
    }
    load.until = asked;
    for rate in rates(steady_rate(&runs[0]), ABOVE * steady_rate(&runs[1]), sweep.points) {
        load.profile = match sweep.times {
            RateTimes::Constant => Profile::Constant(rate),
            RateTimes::Poisson => Profile::Poisson(rate),
        };
        let watcher = before(&load);
        runs.push(load.run(target, watcher).await);
        load.first_index += runs.last().map_or(0, |run| run.samples.len() as u64);
    }
    runs
}

/// Answers per second of a closed loop while all of its clients are busy: from when each of them has had an answer to the
/// last request. Before and after that it is filled and emptied, which says little of the rate that it can keep.
pub(super) fn steady_rate(run: &Run) -> f64 {
    let mut ends: Vec<f64> = run.answered().map(|sample| sample.due_s + sample.end_s).collect();
    ends.sort_by(f64::total_cmp);
    let last_due_s = run.samples.iter().map(|sample| sample.due_s).fold(0.0, f64::max);
    let clients = run.profile.closed_loop().unwrap_or(1) as usize;
    let from_s = ends.get(clients - 1).copied().unwrap_or(f64::INFINITY);
    let within = ends.iter().filter(|end| **end > from_s && **end <= last_due_s).count();
    match (within, ends.len()) {
        (0, 0) => 0.0,
        (0, answered) => answered as f64 / run.duration_s,
        (within, _) => within as f64 / (last_due_s - from_s),
    }
}

/// `points` rates from `low` to `high`, both included; none if the server answered nothing.
fn rates(low: f64, high: f64, points: u32) -> Vec<f64> {
    let step = if points > 1 { (high - low) / f64::from(points - 1) } else { 0.0 };
    let rates = (0..points).map(|point| if points > 1 { low + step * f64::from(point) } else { high });
    rates.filter(|rate| *rate > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::rates;

    #[test]
    fn rates_reach_from_idle_to_full() {
        assert_eq!(rates(1.0, 5.0, 5), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(rates(1.0, 5.0, 1), [5.0]);
        assert_eq!(rates(0.0, 0.0, 3), [0.0; 0]);
    }
}
