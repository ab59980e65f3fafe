//! What the engine thread shows to others without being asked: health and load, in atomics. The main type
//! is [`Status`]; the thread writes it between steps, handles read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{EngineConfig, Places, TakenPlace, sequence::Precedence};

/// Is the engine able to answer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Steps complete.
    Ready,
    /// Takes no new work, finishes what runs.
    Draining,
    /// A step has been running for too long, the device answers no more, the engine found its state
    /// inconsistent, or the thread is gone.
    Wedged,
}

/// Load as of the last step, and totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Sequences that hold blocks.
    pub running: usize,
    /// Requests accepted and not running.
    pub waiting: usize,
    /// Blocks held by running sequences.
    pub held_blocks: usize,
    /// Blocks in the pool.
    pub total_blocks: usize,
    /// Times a sequence lost its blocks, in total.
    pub preemptions: u64,
    /// Tokens whose keys and values came from the prefix cache, in total.
    pub cached_tokens: u64,
}

#[derive(Debug)]
pub(super) struct Status {
    epoch: Instant,
    max_step_ms: u64,
    max_step_us_per_token: u64,
    total_blocks: usize,
    /// 0 between steps, else milliseconds from `epoch` to when the step counts as stuck.
    stuck_from_ms: AtomicU64,
    down: AtomicBool,
    draining: AtomicBool,
    places: [Arc<Places>; Precedence::ALL.len()],
    running: AtomicUsize,
    held_blocks: AtomicUsize,
    preemptions: AtomicU64,
    cached_tokens: AtomicU64,
}

impl Status {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            epoch: Instant::now(),
            max_step_ms: config.max_step_ms,
            max_step_us_per_token: config.max_step_us_per_token,
            total_blocks: config.num_blocks.max(1),
            stuck_from_ms: AtomicU64::new(0),
            down: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            places: Precedence::ALL.map(|_| Arc::new(Places::new(config.max_in_flight()))),
            running: AtomicUsize::new(0),
            held_blocks: AtomicUsize::new(0),
            preemptions: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
        }
    }

    pub(super) fn health(&self) -> Health {
        let stuck_from_ms = self.stuck_from_ms.load(Relaxed);
        let stuck = stuck_from_ms > 0 && self.elapsed_ms() >= stuck_from_ms;
        if stuck || self.is_down() {
            Health::Wedged
        } else if self.draining.load(Relaxed) {
            Health::Draining
        } else {
            Health::Ready
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let running = self.running.load(Relaxed);
        let in_flight: usize = self.places.iter().map(|places| places.num_taken()).sum();
        Snapshot {
            running,
            waiting: in_flight.saturating_sub(running),
            held_blocks: self.held_blocks.load(Relaxed),
            total_blocks: self.total_blocks,
            preemptions: self.preemptions.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
        }
    }

    /// A step of `n_tokens` begins, or the computation of so many of its tokens.
    pub(super) fn begin_step(&self, n_tokens: usize) {
        let stuck_from_ms = self.elapsed_ms().saturating_add(self.longest_step_ms(n_tokens));
        self.stuck_from_ms.store(stuck_from_ms.max(1), Relaxed);
    }

    pub(super) fn end_step(&self) {
        self.stuck_from_ms.store(0, Relaxed);
    }

    /// The engine will not answer any more; there is no way back.
    pub(super) fn set_down(&self) {
        self.down.store(true, Relaxed);
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) fn set_load(&self, running: usize, held_blocks: usize) {
        self.running.store(running, Relaxed);
        self.held_blocks.store(held_blocks, Relaxed);
    }

    pub(super) fn count_preemption(&self) {
        self.preemptions.fetch_add(1, Relaxed);
    }

    pub(super) fn count_cached(&self, tokens: usize) {
        self.cached_tokens.fetch_add(tokens as u64, Relaxed);
    }

    /// A place for one more request of a share, if there is one: none takes a place of the other precedence.
    pub(super) fn enter(&self, precedence: Precedence, share: &Arc<str>) -> Option<TakenPlace> {
        self.places[precedence as usize].take(share)
    }

    fn longest_step_ms(&self, n_tokens: usize) -> u64 {
        self.max_step_ms.max(self.max_step_us_per_token.saturating_mul(n_tokens as u64) / 1000)
    }

    fn elapsed_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// Marks the engine as down when its thread ends, also by a panic.
pub(super) struct DownWhenGone(pub(super) Arc<Status>);

impl Drop for DownWhenGone {
    fn drop(&mut self) {
        self.0.set_down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_take_as_long_as_its_tokens_need() {
        let config = EngineConfig { max_step_ms: 60_000, max_step_us_per_token: 500_000, ..EngineConfig::default() };
        let status = Status::new(&config);
        assert_eq!([1, 120, 2048].map(|n_tokens| status.longest_step_ms(n_tokens)), [60_000, 60_000, 1_024_000]);
        let instant = Status::new(&EngineConfig { max_step_ms: 0, ..config });
        assert_eq!(instant.health(), Health::Ready);
        instant.begin_step(1000);
        assert_eq!(instant.health(), Health::Ready);
        instant.begin_step(0);
        while instant.health() == Health::Ready {
            std::thread::yield_now();
        }
        instant.end_step();
        assert_eq!(instant.health(), Health::Ready);
    }
}
