//! How many refusals get a record of their own, so that a flood of them does not fill the disk.
//!
//! Main type: [`RefusalLimit`], a bucket that fills again with time. What is left out is counted, and the next record says it.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Records at once after a quiet time.
const BURST: f64 = 100.0;
/// And then so many a second.
const PER_SECOND: f64 = 1.0;

/// A limit of records of one sort.
#[derive(Debug)]
pub(super) struct RefusalLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: f64,
    at: Instant,
    left_out: u64,
}

impl RefusalLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: Mutex::new(State { left: BURST, at: now, left_out: 0 }) }
    }

    /// How many were left out before this one, if this one gets a record.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.left = (state.left + passed * PER_SECOND).min(BURST);
        state.at = now;
        if state.left < 1.0 {
            state.left_out += 1;
            return None;
        }
        state.left -= 1.0;
        Some(std::mem::take(&mut state.left_out))
    }

    /// How many were left out that no record tells of yet.
    pub(super) fn take_left_out(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).left_out)
    }
}
