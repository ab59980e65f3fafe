//! A thread that writes captured content, so that no record of another request waits for its bytes.
//!
//! Main type: [`Capturing`]. The record that an inference has ended follows once its content is on disk, or is lost. Invariant:
//! what waits has a limit, and nobody who hands something in waits.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use super::{
    AuditError,
    content::{Contents, NewContent},
    writer::{Job, Queue},
};
use crate::telemetry::AuditMetrics;

/// Tokens that may wait, of which every four bytes of JSON count as one.
const MOST_WAITING: usize = 16 << 20;
/// What each inference counts beside, so that not more than 65,536 wait.
const EACH: usize = 256;

/// Hands content to the thread.
pub(super) struct Capturing {
    waiting: Arc<AtomicUsize>,
    sender: Mutex<Option<mpsc::Sender<Captured>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    queue: Arc<Queue>,
    metrics: AuditMetrics,
}

struct Captured {
    content: NewContent,
    tokens: usize,
    /// The record that follows it.
    job: Job,
}

impl Capturing {
    pub(super) fn start(contents: Contents, queue: Arc<Queue>, metrics: AuditMetrics) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Captured>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (left, records, counted) = (Arc::clone(&waiting), Arc::clone(&queue), metrics.clone());
        let run = move || {
            let mut is_failing = false;
            for Captured { content, tokens, job } in receiver {
                // What belongs to a record that could not be written is nobody's to find.
                let is_orphan = job.about.as_ref().and_then(|about| about.outcome()).is_some_and(Result::is_err);
                if is_orphan {
                    left.fetch_sub(tokens, Ordering::Relaxed);
                    put(&records, job, &counted);
                    continue;
                }
                let stored = contents.store(&content);
                tell(&mut is_failing, stored.as_ref().err());
                if stored.is_ok() {
                    counted.captured()
                } else {
                    counted.capture_lost()
                }
                left.fetch_sub(tokens, Ordering::Relaxed);
                put(&records, job, &counted);
            }
        };
        let thread = thread::Builder::new().name("audit-content".to_owned()).spawn(run)?;
        Ok(Self { waiting, sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), queue, metrics })
    }

    /// Has the content written and then the record, or the record alone if too much waits.
    pub(super) fn put(&self, content: NewContent, job: Job) {
        let texts = content.content.prompts.iter().chain(&content.content.answers);
        let json =
            job.fields.len() + content.content.parameters.as_ref().map_or(0, |parameters| parameters.text().len());
        let tokens = texts.map(Vec::len).sum::<usize>() + json / 4 + EACH;
        let waiting = self.waiting.fetch_add(tokens, Ordering::Relaxed);
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        // One alone may be as long as it is.
        let is_room = waiting == 0 || waiting.saturating_add(tokens) <= MOST_WAITING;
        let job = match sender.as_ref().filter(|_| is_room) {
            Some(sender) => match sender.send(Captured { content, tokens, job }) {
                Ok(()) => return,
                Err(mpsc::SendError(captured)) => captured.job,
            },
            None => job,
        };
        drop(sender);
        self.waiting.fetch_sub(tokens, Ordering::Relaxed);
        self.metrics.capture_lost();
        put(&self.queue, job, &self.metrics);
    }

    /// Writes what waits, and takes nothing more.
    pub(super) fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join()); // a panic was logged where it happened
        }
    }
}

fn put(queue: &Queue, job: Job, metrics: &AuditMetrics) {
    if queue.put(job).is_err() {
        metrics.lost();
    }
}

/// Once at the beginning, and once at the end.
fn tell(is_failing: &mut bool, error: Option<&AuditError>) {
    match (error, *is_failing) {
        (Some(error), false) => tracing::error!(%error, "what is to be captured of requests cannot be written"),
        (None, true) => tracing::info!("what is to be captured of requests can be written again"),
        (Some(_), true) | (None, false) => {}
    }
    *is_failing = error.is_some();
}
