//! When the log is opened, and what happens while it cannot be.
//!
//! Main type: [`Opening`]. Invariants: a log that was changed is never gone on with; one that cannot be used at all, as its
//! disk is full or not there, stops the process only where that is to refuse, and is tried again otherwise.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    Audit, AuditError, OnFailure, Shared,
    line::{now_us, time_text},
};

/// How often it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of a log that is not open.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Held by whoever opens it, which may take its time.
    one_at_a_time: Mutex<()>,
    /// A thread tries again and again.
    is_tried_again: AtomicBool,
    is_closed: AtomicBool,
    /// It is there, and is not what was written.
    is_wrong: AtomicBool,
}

impl Audit {
    /// From now on it is written down what is done. To do this again costs nothing; the first time may take its time, so that
    /// no thread which serves others is to do it.
    pub fn wake(&self) -> Result<(), AuditError> {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.inner.get().is_none()) else { return Ok(()) };
        let _one_at_a_time = shared.opening.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_wanted() {
            return Ok(());
        }
        let error = match shared.open() {
            Ok(inner) => {
                drop(shared.inner.set(inner)); // nobody else can have set it
                return Ok(());
            }
            Err(error) => error,
        };
        match (&error, shared.options.on_failure) {
            (AuditError::File { path, .. }, OnFailure::Continue) => {
                shared.metrics.failed();
                tracing::error!(%error, "the audit log cannot be opened, so it is not written down what is done");
                let opening = &shared.opening.is_tried_again;
                let (shared, since_us) = (Arc::downgrade(shared), now_us());
                let builder = thread::Builder::new().name("audit-opening".to_owned());
                builder.spawn(move || try_again(&shared, since_us)).map_err(|error| AuditError::file(path, error))?;
                opening.store(true, Ordering::Relaxed);
                Ok(())
            }
            (_, OnFailure::Refuse | OnFailure::Continue) => Err(error),
        }
    }

    /// Is it to be written down what is done, be that possible or not?
    pub fn is_wanted(&self) -> bool {
        self.is_on() || self.shared.as_ref().is_some_and(|shared| shared.opening.is_tried_again())
    }

    /// Is there a log that nobody has woken yet?
    pub fn is_asleep(&self) -> bool {
        self.shared.is_some() && !self.is_wanted()
    }

    /// Fails if there is a log that cannot be gone on with whatever happens, as it was changed.
    pub fn check(&self) -> Result<(), AuditError> {
        let is_wrong = |shared: &Arc<Shared>| shared.opening.is_wrong.load(Ordering::Relaxed);
        if self.shared.as_ref().is_some_and(is_wrong) { Err(AuditError::Closed) } else { Ok(()) }
    }

    /// Counts what cannot be written down, as the log is not open.
    pub fn missed(&self) {
        if let Some(shared) = self.shared.as_ref().filter(|shared| shared.opening.is_tried_again()) {
            shared.metrics.lost();
        }
    }

    pub(super) fn close_opening(&self) {
        if let Some(shared) = &self.shared {
            shared.opening.is_closed.store(true, Ordering::Relaxed);
        }
    }
}

impl Opening {
    fn is_tried_again(&self) -> bool {
        self.is_tried_again.load(Ordering::Relaxed)
    }
}

/// Until it is open, or nobody has it any more.
fn try_again(shared: &Weak<Shared>, since_us: u64) {
    let mut told = None;
    loop {
        thread::sleep(RETRY);
        let Some(shared) = shared.upgrade() else { return };
        if shared.opening.is_closed.load(Ordering::Relaxed) {
            return;
        }
        // Nobody else opens it meanwhile.
        match shared.open() {
            Ok(inner) => {
                drop(shared.inner.set(inner));
                tracing::info!("the audit log is open: it is written down again what is done");
                let details = json!({ "unrecorded_since": time_text(since_us) });
                let act = json!({ "by": { "source": "server" }, "action": "audit.open", "details": details });
                drop(Audit { shared: Some(shared) }.act_blocking(&act)); // the writer says why not
                return;
            }
            Err(error) => {
                shared.metrics.failed();
                // To go on without a log is for one that cannot be written, not for one that was changed.
                let is_wrong = !matches!(error, AuditError::File { .. });
                shared.opening.is_wrong.store(is_wrong, Ordering::Relaxed);
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::error!(error, "the audit log cannot be opened yet");
                    told = Some(error);
                }
            }
        }
    }
}
