//! A thread that writes captured content, so that no record of another request waits for its bytes.
//!
//! Main type: [`Capturing`]. The record that an inference has ended follows once its content is on disk, or is lost. Invariant:
//! what waits has a limit, nobody who hands something in waits, and its end has a limit of time.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
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
    sender: Mutex<Option<Sender<Captured>>>,
    /// Says that the thread has ended.
    ended: Mutex<Receiver<()>>,
    /// So long the end waits for what was handed in.
    patience: Duration,
    shared: Arc<Shared>,
}

/// What both sides have.
struct Shared {
    /// Tokens that wait.
    waiting: AtomicUsize,
    counts: Mutex<Counts>,
    /// Something more was written, or is lost.
    done: Condvar,
    /// Held by the thread while it waits for more, and by nobody while it writes.
    handed_in: Mutex<Receiver<Captured>>,
    /// The record that follows what is being written. Whoever takes it says what has become of that, and hands it in before
    /// the lock goes. It is put here before that of `handed_in` goes: so the end finds each record in one of them, or handed in.
    current: Mutex<Option<Job>>,
    records: Arc<Queue>,
    metrics: AuditMetrics,
}

/// How many were handed in so far, and of how many it is known what became of them; in the same order.
#[derive(Default)]
struct Counts {
    handed_in: u64,
    done: u64,
}

struct Captured {
    content: NewContent,
    tokens: usize,
    /// The record that follows it.
    job: Job,
}

impl Capturing {
    pub(super) fn start(
        contents: Contents,
        records: Arc<Queue>,
        metrics: AuditMetrics,
        patience: Duration,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Captured>();
        let (end, ended) = mpsc::channel::<()>();
        let (waiting, handed_in, current) = (AtomicUsize::new(0), Mutex::new(receiver), Mutex::default());
        let (counts, done) = Default::default();
        let shared = Arc::new(Shared { waiting, counts, done, handed_in, current, records, metrics });
        let of_thread = Arc::clone(&shared);
        let run = move || {
            let _end = end; // is dropped with the thread
            of_thread.write(&contents);
        };
        thread::Builder::new().name("audit-content".to_owned()).spawn(run)?;
        Ok(Self { sender: Mutex::new(Some(sender)), ended: Mutex::new(ended), patience, shared })
    }

    /// Has the content written and then the record, or the record alone if too much waits.
    pub(super) fn put(&self, content: NewContent, job: Job) {
        let texts = content.content.prompts.iter().chain(&content.content.answers);
        let json =
            job.fields.len() + content.content.parameters.as_ref().map_or(0, |parameters| parameters.text().len());
        let tokens = texts.map(Vec::len).sum::<usize>() + json / 4 + EACH;
        let shared = &self.shared;
        let waiting = shared.waiting.fetch_add(tokens, Ordering::Relaxed);
        let sender = lock(&self.sender);
        // One alone may be as long as it is.
        let is_room = waiting == 0 || waiting.saturating_add(tokens) <= MOST_WAITING;
        let job = match sender.as_ref().filter(|_| is_room) {
            Some(sender) => match sender.send(Captured { content, tokens, job }) {
                Ok(()) => {
                    lock(&shared.counts).handed_in += 1; // under the lock of the sender
                    return;
                }
                Err(mpsc::SendError(captured)) => captured.job,
            },
            None => job,
        };
        drop(sender);
        shared.waiting.fetch_sub(tokens, Ordering::Relaxed);
        shared.lost(job);
    }

    /// Writes what waits, and takes nothing more. What cannot be written in time is lost, which is logged and counted; its
    /// records are not.
    pub(super) fn close(&self) {
        let Some(sender) = lock(&self.sender).take() else { return };
        drop(sender);
        if self.ends_within(self.patience) {
            return;
        }
        // Nobody holds this for long any more: there is no sender to wait for.
        let handed_in = lock(&self.shared.handed_in);
        let mut current = lock(&self.shared.current);
        let left: Vec<Job> =
            current.take().into_iter().chain(handed_in.try_iter().map(|captured| captured.job)).collect();
        let lost = left.len();
        left.into_iter().for_each(|job| self.shared.lost(job));
        drop((current, handed_in));
        let waited_s = self.patience.as_secs_f64();
        tracing::warn!(waited_s, lost, "what was captured of requests is not all written: its disk is too slow");
    }

    /// Waits for what was handed in so far. False if that takes longer.
    pub(super) fn settles_within(&self, patience: Duration) -> bool {
        let counts = lock(&self.shared.counts);
        let until = counts.handed_in;
        let waited = self.shared.done.wait_timeout_while(counts, patience, |counts| counts.done < until);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits for the thread, which ends once nothing can be handed in and nothing waits. False if that takes longer.
    pub(super) fn ends_within(&self, patience: Duration) -> bool {
        lock(&self.ended).recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

impl Shared {
    /// Writes until nobody hands anything in any more.
    fn write(&self, contents: &Contents) {
        let mut is_failing = false;
        while let Some((content, tokens)) = self.next() {
            let stored = content.map(|content| contents.store(&content));
            if let Some(stored) = &stored {
                tell(&mut is_failing, stored.as_ref().err());
            }
            self.waiting.fetch_sub(tokens, Ordering::Relaxed);
            lock(&self.counts).done += 1;
            self.done.notify_all();
            let mut current = lock(&self.current);
            match (current.take(), stored) {
                (Some(job), Some(Ok(()))) => {
                    self.metrics.captured();
                    self.put(job);
                }
                (Some(job), Some(Err(_))) => self.lost(job),
                (Some(job), None) => self.put(job),
                (None, _) => {} // it took too long, and was counted
            }
            drop(current);
        }
    }

    /// What is to be written now, and how many tokens it counts.
    fn next(&self) -> Option<(Option<NewContent>, usize)> {
        let handed_in = lock(&self.handed_in);
        let Captured { content, tokens, job } = handed_in.recv().ok()?;
        // What belongs to a record that could not be written is nobody's to find.
        let is_orphan = job.about.as_ref().and_then(|about| about.outcome()).is_some_and(Result::is_err);
        lock(&self.current).replace(job);
        drop(handed_in);
        Some((Some(content).filter(|_| !is_orphan), tokens))
    }

    /// The record alone.
    fn lost(&self, job: Job) {
        self.metrics.capture_lost();
        self.put(job);
    }

    fn put(&self, job: Job) {
        if self.records.put(job).is_err() {
            self.metrics.lost();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
