//! Batches that met errors: each waits a while before it is tried again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many errors in a row are no coincidence.
const MOST: u32 = 3;

/// Which batches wait because of an error. It is empty while all goes well.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_batch: Mutex<HashMap<String, Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    times: u32,
    until: Instant,
}

impl Troubles {
    /// A batch met an error: it waits. True once there were so many in a row that the batch is to fail.
    pub(super) fn met(&self, batch: &str, pause: Duration) -> bool {
        let mut by_batch = self.lock();
        let trouble = by_batch.entry(batch.to_owned()).or_insert(Trouble { times: 0, until: Instant::now() });
        trouble.times += 1;
        trouble.until = Instant::now() + pause;
        trouble.times >= MOST
    }

    /// A batch went on, or has ended.
    pub(super) fn passed(&self, batch: &str) {
        self.lock().remove(batch);
    }

    /// Batches that are not to be tried now.
    pub(super) fn resting(&self) -> Vec<String> {
        let now = Instant::now();
        self.lock().iter().filter(|(_, trouble)| now < trouble.until).map(|(batch, _)| batch.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Trouble>> {
        self.by_batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_rests_after_an_error_and_fails_after_several() {
        let troubles = Troubles::default();
        let hour = Duration::from_secs(3600);
        assert!(!troubles.met("a", hour));
        assert_eq!(troubles.resting(), ["a"]);
        assert!(!troubles.met("a", Duration::ZERO));
        assert!(troubles.resting().is_empty(), "it is tried again");
        assert!(!troubles.met("b", hour), "each has its own");
        assert!(troubles.met("a", hour));
        troubles.passed("a");
        assert!(!troubles.met("a", hour), "it went on meanwhile");
    }
}
