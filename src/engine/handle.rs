//! The engine from outside: [`EngineHandle`] to send work, [`RequestStream`] to receive tokens.
//!
//! Invariant: nothing here waits for the engine thread except [`EngineHandle::drain`] and
//! [`EngineHandle::inspect`], and the engine thread never waits for a reader.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    EngineConfig, Health, Inspection, Request, Snapshot, Update,
    draft::Drafter,
    engine::Engine,
    event::{Event, Submission},
    places::LIMIT_WITH_PARTS,
    sequence::Precedence,
    status::Status,
};
use crate::{model::ForwardPass, telemetry::EngineMetrics, types::Outputs};

/// Room in the event queue for requests that are not submissions.
const SPARE_EVENTS: usize = 16;

/// Sends work to the engine thread. Cheap to clone. When the last handle is gone the engine stops and what
/// still runs ends as cancelled; [`EngineHandle::drain`] first to let it finish.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

/// One request's updates. Dropping it cancels the request and frees its blocks.
#[derive(Debug)]
pub struct RequestStream {
    updates: mpsc::Receiver<Update>,
    stopped: Arc<AtomicBool>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests as are admitted are under way: try again later.
    #[error("the queue is full ({waiting} requests are waiting)")]
    QueueFull {
        /// Requests waiting now.
        waiting: usize,
    },
    /// The engine drains or has stopped.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The prompt leaves no room for a token.
    #[error("the prompt has {prompt_tokens} tokens; the longest sequence is {max_model_len}")]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// The limit: the model's, or what the KV cache can hold if that is less.
        max_model_len: usize,
    },
    /// Nothing can be generated with this model.
    #[error("the model predicts no tokens: it only embeds or classifies texts")]
    NoText,
    /// Nothing can be pooled with this model.
    #[error("the model cannot embed or classify texts")]
    NotPooled,
    /// A field that the layer above should have refused.
    #[error("{field}: {reason}")]
    Invalid {
        /// Field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug)]
struct Inner {
    events: mpsc::Sender<Event>,
    status: Arc<Status>,
    outputs: Outputs,
    vocab_size: usize,
    max_sequence_len: usize,
    max_in_flight: usize,
    guesses_ahead: bool,
    /// True once draining. Held while submitting, so that no submission follows the drain event.
    closed: Mutex<bool>,
}

impl EngineHandle {
    /// Starts the owner thread.
    pub fn spawn(model: Box<dyn ForwardPass>, config: EngineConfig, metrics: Arc<EngineMetrics>) -> EngineHandle {
        Self::spawn_with_drafter(model, None, config, metrics)
    }

    /// The same with a drafter in place of looking drafts up.
    pub fn spawn_with_drafter(
        model: Box<dyn ForwardPass>,
        drafter: Option<Box<dyn Drafter>>,
        config: EngineConfig,
        metrics: Arc<EngineMetrics>,
    ) -> EngineHandle {
        metrics.set_cache_config(config.block_size, config.num_blocks);
        let status = Arc::new(Status::new(&config));
        let capacity = config
            .max_in_flight()
            .saturating_mul(LIMIT_WITH_PARTS * Precedence::ALL.len())
            .saturating_add(SPARE_EVENTS)
            .min(Semaphore::MAX_PERMITS);
        let (events, receiver) = mpsc::channel(capacity);
        let (outputs, vocab_size) = (model.outputs(), model.vocab_size());
        let (max_sequence_len, max_in_flight) = (config.max_sequence_len(), config.max_in_flight());
        let engine = Engine::new(model, drafter, config, metrics, Arc::clone(&status));
        let inner = Inner {
            events,
            status: Arc::clone(&status),
            outputs,
            vocab_size,
            max_sequence_len,
            max_in_flight,
            guesses_ahead: engine.speculation.is_some(),
            closed: Mutex::new(false),
        };
        let started = thread::Builder::new().name("engine".to_owned()).spawn(move || engine.run(receiver));
        if let Err(error) = started {
            tracing::error!(%error, "the engine thread did not start");
            status.set_down();
        }
        Self { inner: Arc::new(inner) }
    }

    /// Hands a request over; its updates arrive on the stream.
    pub fn submit(&self, request: Request) -> Result<RequestStream, SubmitError> {
        let inner = &*self.inner;
        request.check(inner.outputs, inner.vocab_size, inner.max_sequence_len)?;
        let closed = inner.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed || inner.status.is_down() {
            return Err(SubmitError::ShuttingDown);
        }
        let Some(place) = inner.status.enter(request.precedence, &request.share) else {
            return Err(SubmitError::QueueFull { waiting: inner.status.snapshot().waiting });
        };
        let (updates, receiver) = mpsc::channel(request.max_updates(inner.max_sequence_len));
        let stopped = Arc::new(AtomicBool::new(false));
        let submission = Submission { request, updates, stopped: Arc::clone(&stopped), arrived: Instant::now(), place };
        inner.events.try_send(Event::Submit(Box::new(submission))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::QueueFull { waiting: inner.status.snapshot().waiting },
            mpsc::error::TrySendError::Closed(_) => SubmitError::ShuttingDown,
        })?;
        Ok(RequestStream { updates: receiver, stopped })
    }

    /// Requests that can be under way at once: more than these are never taken together.
    pub fn max_in_flight(&self) -> usize {
        self.inner.max_in_flight
    }

    /// Whether tokens are guessed ahead, so that a request's prediction is of use.
    pub fn guesses_ahead(&self) -> bool {
        self.inner.guesses_ahead
    }

    /// What requests can ask of the model.
    pub fn outputs(&self) -> Outputs {
        self.inner.outputs
    }

    /// Health as of now, without asking the engine thread.
    pub fn health(&self) -> Health {
        self.inner.status.health()
    }

    /// Load as of the last step, without asking the engine thread.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.status.snapshot()
    }

    /// Refuses new work from now on and resolves when every running request has ended.
    pub async fn drain(&self) {
        self.close();
        let (done, finished) = oneshot::channel();
        if self.inner.events.send(Event::Drain(done)).await.is_ok() {
            // An error means that the thread is gone, and every request with it.
            let _ = finished.await;
        }
    }

    /// Asks the engine thread to check its state between two steps. `None` if it is gone.
    pub async fn inspect(&self) -> Option<Inspection> {
        let (reply, answer) = oneshot::channel();
        self.inner.events.send(Event::Inspect(reply)).await.ok()?;
        answer.await.ok()
    }

    fn close(&self) {
        *self.inner.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.status.set_draining();
    }
}

impl RequestStream {
    /// The next update; `None` after `Finished`, or if the engine died.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// [`Self::next`] for callers outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Update> {
        self.updates.blocking_recv()
    }

    /// Ends the request because its text has reached a stop string: like dropping the stream, but counted
    /// as stopped instead of aborted.
    pub fn stop(self) {
        self.stopped.store(true, Relaxed);
    }
}
