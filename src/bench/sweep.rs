//! From an idle server to a full one. Main function: [`sweep`]. One run with one request at a time gives the
//! lowest rate that is worth asking for, one with as many at a time as are allowed the highest that the server
//! reaches; the rates between them, at equal distances, show where latency begins to grow.

use std::sync::Arc;

use super::{
    arrivals::Profile,
    client::Target,
    run::{Load, Run, Watcher},
};

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
    for profile in [Profile::Synchronous, Profile::Concurrent(sweep.full)] {
        load.profile = profile;
        let watcher = before(&load);
        runs.push(load.run(target, watcher).await);
        load.first_index += runs.last().map_or(0, |run| run.samples.len() as u64);
    }
    for rate in rates(answered_per_s(&runs[0]), answered_per_s(&runs[1]), sweep.points) {
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

fn answered_per_s(run: &Run) -> f64 {
    let answered = run.samples.iter().filter(|sample| sample.failure.is_none()).count() as f64;
    if run.duration_s > 0.0 { answered / run.duration_s } else { 0.0 }
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
