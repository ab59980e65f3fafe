//! What reaches the engine's thread: events, and nothing else.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use tokio::sync::{mpsc, oneshot};

use super::{Request, Snapshot, TakenPlace, Update, blocks::IntegrityError};

/// Everything that can be asked of the engine thread.
#[derive(Debug)]
pub(super) enum Event {
    /// A new request.
    Submit(Box<Submission>),
    /// Answer when nothing is in flight; no submission follows.
    Drain(oneshot::Sender<()>),
    /// Check the state and report it.
    Inspect(oneshot::Sender<Inspection>),
}

#[derive(Debug)]
pub(super) struct Submission {
    pub(super) request: Request,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) arrived: Instant,
    pub(super) place: TakenPlace,
}

/// The engine's own view of its state, between two steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Exact load.
    pub snapshot: Snapshot,
    /// Result of the integrity check.
    pub integrity: Result<(), IntegrityError>,
}
