//! The worker of the queue: one for the server, for as long as it serves.
//!
//! It does three things beside each other: batches are answered one after the other (`answering`); whatever needs no
//! answers is tended to (`tending`); and what is past its time is deleted. All that it knows is in the store, and every
//! step is written down before the next begins, so being stopped at any point loses at most the computation of lines
//! under way, which are asked again. A batch that meets an error waits, and fails if that does not pass; the others
//! go on.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::Router;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::troubles::Troubles;
use crate::{
    api::{
        about::About,
        request::inner_layers,
        routes,
        state::{AppState, unix_seconds},
    },
    store::{Batch, BatchState, Store, StoreError},
};

/// After the database failed.
pub(super) const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Batches whose time is over wait no longer for that to be noticed.
const TENDING_INTERVAL: Duration = Duration::from_secs(5);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Uploads that are not complete after this time never will be.
const ABANDONED_SECONDS: u64 = 24 * 60 * 60;

/// Works on batches and deletes what is past its time; never ends. What it was doing when it is dropped is taken up by
/// the next one.
pub async fn run(state: AppState) {
    keep_running("batches", FAILURE_PAUSE, || work(state.clone())).await;
}

/// Runs what never ends; if it panics, once more after a pause.
pub(in crate::api) async fn keep_running<Running: Future<Output = ()>>(
    worker: &'static str,
    pause: Duration,
    begin: impl Fn() -> Running,
) {
    // All that it leaves behind is in the store, whose transactions are whole or not at all.
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(worker, "a worker panicked; it begins again");
        sleep(pause).await;
    }
}

async fn work(state: AppState) {
    let worker = Worker {
        router: inner_layers(routes(), state.clone()),
        state,
        tended: Notify::new(),
        troubles: Troubles::default(),
    };
    tokio::join!(worker.sweep(), worker.tend(), worker.answer());
}

pub(super) struct Worker {
    pub(super) state: AppState,
    pub(super) router: Router,
    /// Rings when a batch may have come to be answered, or not to be any more.
    pub(super) tended: Notify,
    pub(super) troubles: Troubles,
}

impl Worker {
    pub(super) fn store(&self) -> &Store {
        self.state.store()
    }

    /// When what a batch leaves at that moment is deleted, in Unix seconds.
    pub(super) fn expiry(&self, batch: &Batch, at: u64) -> u64 {
        self.state.with_about(About::of_kept(batch.kept.clone())).expiry(at)
    }

    async fn sweep(&self) {
        loop {
            let now = unix_seconds();
            if let Err(error) = self.store().sweep(now, now.saturating_sub(ABANDONED_SECONDS)).await {
                tracing::warn!(%error, "what is past its time could not be deleted");
            }
            sleep(SWEEP_INTERVAL).await;
        }
    }

    async fn tend(&self) {
        loop {
            if let Err(error) = self.tend_to_all().await {
                tracing::warn!(%error, "batches have to wait");
            }
            self.tended.notify_one();
            // Elapsed or called: there may be something to do.
            let _ = timeout(TENDING_INTERVAL, self.state.batches_changed().notified()).await;
        }
    }

    async fn tend_to_all(&self) -> Result<(), StoreError> {
        while let Some(batch) = self.store().batch_to_tend(unix_seconds(), self.troubles.resting()).await? {
            match self.tend_to(&batch).await {
                Ok(()) => self.troubles.passed(&batch.id),
                Err(error) => self.set_aside(&batch, error).await,
            }
            self.tended.notify_one();
        }
        Ok(())
    }

    async fn answer(&self) {
        loop {
            match self.store().batch_to_answer(unix_seconds(), self.troubles.resting()).await {
                Ok(Some(batch)) => {
                    match self.answer_lines(&batch).await {
                        Ok(()) => self.troubles.passed(&batch.id),
                        Err(error) => self.set_aside(&batch, error).await,
                    }
                    self.state.batches_changed().notify_one();
                }
                Ok(None) => self.tended.notified().await,
                Err(error) => {
                    tracing::warn!(%error, "batches have to wait");
                    sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// A batch met an error, which is not to hold up the others.
    async fn set_aside(&self, batch: &Batch, error: StoreError) {
        let id = &batch.id;
        if matches!(error, StoreError::Missing { kind: "batch", .. }) {
            return self.troubles.passed(id); // it was deleted
        }
        tracing::warn!(batch = id, %error, "a batch has to wait");
        let is_full = matches!(error, StoreError::Full);
        if !self.troubles.met(id, FAILURE_PAUSE) && !is_full {
            return;
        }
        let reason = if is_full {
            told("storage_full", "The storage has no place for its results.")
        } else {
            told("server_error", "The server could not go on with it; its log says why.")
        };
        match self.fail(batch, reason).await {
            Ok(()) => self.troubles.passed(id),
            Err(error) => tracing::error!(batch = id, %error, "a batch cannot even fail"),
        }
    }

    /// What a batch has is kept, if its lines were asked; it goes no further.
    async fn fail(&self, batch: &Batch, reason: Value) -> Result<(), StoreError> {
        let (store, id, now) = (self.store(), &batch.id, unix_seconds());
        let errors = Value::from(vec![reason]).to_string();
        match store.batch(id).await?.state {
            BatchState::Validating => store.fail_batch(id, errors, now, self.expiry(batch, now)).await,
            BatchState::InProgress => store.finalize_batch(id, Some(errors), now).await,
            BatchState::Finalizing | BatchState::Cancelling => self.end(batch, BatchState::Failed, Some(errors)).await,
            BatchState::Completed | BatchState::Failed | BatchState::Expired | BatchState::Cancelled => Ok(()),
        }
    }
}

/// An entry of a batch's `errors` that is about no line.
pub(super) fn told(code: &str, message: &str) -> Value {
    json!({ "code": code, "line": null, "message": message, "param": null })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_begins_again() {
        let began = AtomicU32::new(0);
        let panics_twice = async || {
            if began.fetch_add(1, Relaxed) < 2 {
                panic!("on purpose");
            }
        };
        keep_running("test", Duration::ZERO, panics_twice).await;
        assert_eq!(began.load(Relaxed), 3);
    }
}
