//! One thread that writes: it takes all records that wait, puts them on disk together, and tells everybody.
//!
//! Main types: [`Queue`], into which records are put, and [`Slot`], in which it is told what became of one. Invariants: the
//! queue has a limit for what begins, and what ends has its place in it from its beginning; a slot is filled once, after the
//! record is on disk or has failed.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc::SyncSender},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    AuditError,
    anchor::Anchors,
    chain::{About, Chain, Committed, Entry, Sign},
    line::{Kind, now_us},
};
use crate::telemetry::AuditMetrics;

/// Records of beginnings that may wait.
const MOST_WAITING: usize = 8192;
/// Records of ends that are kept for later while nothing can be written.
const MOST_KEPT: usize = 65_536;
/// Records written at once.
const MOST_AT_ONCE: usize = 2048;
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a record that nobody waits for may wait for one that somebody waits for, to be put on disk with that. Else those
/// would have the disk busy whenever somebody comes.
const PATIENCE: Duration = Duration::from_millis(20);

/// What became of a record.
#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: OnceLock<Result<u64, AuditError>>,
    told: Notify,
}

impl Slot {
    pub(super) fn outcome(&self) -> Option<&Result<u64, AuditError>> {
        self.outcome.get()
    }

    /// Its sequence number, once it is on disk.
    pub(super) async fn wait(&self) -> Result<u64, AuditError> {
        loop {
            let told = self.told.notified();
            if let Some(outcome) = self.outcome() {
                return outcome.clone();
            }
            told.await;
        }
    }

    fn fill(&self, outcome: Result<u64, AuditError>) {
        if self.outcome.set(outcome).is_ok() {
            self.told.notify_waiters();
        }
    }
}

/// A record that waits to be written.
pub(super) struct Job {
    pub(super) kind: Kind,
    /// A JSON object.
    pub(super) fields: String,
    /// The record that it belongs to.
    pub(super) about: Option<Arc<Slot>>,
    pub(super) told: Told,
}

/// Who wants to know what becomes of it.
pub(super) enum Told {
    /// Nobody, so it is tried again.
    Nobody,
    Slot(Arc<Slot>),
    Thread(SyncSender<Result<u64, AuditError>>),
}

/// Records on their way to the thread.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Since when there are some.
    since: Option<Instant>,
    /// Does somebody wait for one of them?
    is_urgent: bool,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new() }
    }

    /// A full queue refuses what begins, never what ends.
    pub(super) fn put(&self, job: Job) -> Result<(), AuditError> {
        let mut state = self.state();
        if state.is_closed {
            return Err(AuditError::Closed);
        }
        let waiting = state.jobs.len();
        if waiting >= MOST_WAITING && job.about.is_none() {
            return Err(AuditError::Full { waiting });
        }
        let was_known = state.since.is_some();
        state.since.get_or_insert_with(Instant::now);
        state.is_urgent |= !matches!(job.told, Told::Nobody) || waiting >= MOST_AT_ONCE;
        let is_urgent = state.is_urgent;
        state.jobs.push_back(job);
        drop(state);
        if is_urgent || !was_known {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes nothing more; the thread ends when it has written what waits.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }

    /// What waits, once somebody waits for it or it has waited long enough, after at most a tick; and whether nothing will
    /// follow.
    fn take(&self) -> (Vec<Job>, bool) {
        let tick = Instant::now() + TICK;
        let mut state = self.state();
        while !state.is_urgent && !state.is_closed {
            let due = state.since.map_or(tick, |since| tick.min(since + PATIENCE));
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        let count = state.jobs.len().min(MOST_AT_ONCE);
        let jobs = state.jobs.drain(..count).collect();
        // What is left over has waited for long.
        state.is_urgent = !state.jobs.is_empty();
        state.since = state.since.filter(|_| state.is_urgent);
        (jobs, state.is_closed && state.jobs.is_empty())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has.
pub(super) struct Writer {
    pub(super) chain: Chain,
    pub(super) anchors: Anchors,
    pub(super) metrics: AuditMetrics,
    pub(super) checkpoint_interval: Duration,
    pub(super) retention: Option<Duration>,
    /// How often old segments are looked for.
    pub(super) prune_interval: Duration,
}

impl Writer {
    /// Looks at the log, so that one that is broken is known before anything is done: what a crash has left is cut.
    pub(super) fn begin(&mut self) -> Result<(), AuditError> {
        let committed = self.chain.commit(&[], Sign::WhenDue)?;
        self.pass_on(&committed);
        Ok(())
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Queue) {
        let mut kept: Vec<Job> = Vec::new();
        let (mut signed_at, mut pruned_at, mut is_failing) = (Instant::now(), None::<Instant>, false);
        loop {
            let (new, is_last) = queue.take();
            let mut jobs = mem::take(&mut kept);
            jobs.extend(new);
            if !self.chain.is_unsigned() && jobs.is_empty() {
                signed_at = Instant::now(); // from the first record on that is not covered
            }
            let is_due = is_last || signed_at.elapsed() >= self.checkpoint_interval;
            // A log to which nobody appends gets old as well.
            if !jobs.is_empty() || (is_due && self.chain.is_unsigned()) || self.chain.is_stale() {
                let result = self.commit(&mut jobs, if is_due { Sign::Now } else { Sign::WhenDue });
                if is_due && result.is_ok() {
                    signed_at = Instant::now();
                }
                tell_of_failure(&mut is_failing, result.as_ref().err());
                kept = self.tell(jobs, result);
            }
            if is_last {
                kept.iter().for_each(|_| self.metrics.lost());
                return;
            }
            if self.retention.is_some() && pruned_at.is_none_or(|at| at.elapsed() >= self.prune_interval) {
                pruned_at = Some(Instant::now());
                self.prune();
            }
        }
    }

    fn commit(&mut self, jobs: &mut Vec<Job>, sign: Sign) -> Result<Committed, AuditError> {
        // What belongs to a record that could not be written has nothing to say.
        jobs.retain(|job| {
            let is_orphan = job.about.as_ref().and_then(|about| about.outcome()).is_some_and(Result::is_err);
            if is_orphan {
                self.metrics.lost();
            }
            !is_orphan
        });
        let began = Instant::now();
        let entries: Vec<Entry> = jobs
            .iter()
            .enumerate()
            .map(|(index, job)| Entry {
                kind: job.kind,
                fields: job.fields.clone(),
                about: job.about.as_ref().and_then(|about| place_of(about, &jobs[..index])),
            })
            .collect();
        let committed = self.chain.commit(&entries, sign).inspect_err(|_| self.metrics.failed())?;
        self.metrics.committed(committed.bytes, began.elapsed().as_secs_f64());
        self.pass_on(&committed);
        Ok(committed)
    }

    /// Says what became of the records; keeps those that are tried again.
    fn tell(&self, jobs: Vec<Job>, result: Result<Committed, AuditError>) -> Vec<Job> {
        let mut kept = Vec::new();
        for (index, job) in jobs.into_iter().enumerate() {
            let outcome = match &result {
                Ok(committed) => committed.seqs.get(index).copied().ok_or(AuditError::Closed),
                Err(error) => Err(error.clone()),
            };
            match &job.told {
                Told::Slot(slot) => {
                    outcome.as_ref().err().into_iter().for_each(|_| self.metrics.lost());
                    slot.fill(outcome);
                }
                Told::Thread(sender) => drop(sender.send(outcome)), // whoever asked may have left
                Told::Nobody if outcome.is_err() && kept.len() < MOST_KEPT => kept.push(job),
                Told::Nobody if outcome.is_err() => self.metrics.lost(),
                Told::Nobody => {}
            }
        }
        kept
    }

    fn pass_on(&self, committed: &Committed) {
        committed.kinds.iter().for_each(|kind| self.metrics.written(kind.name()));
        committed.checkpoints.iter().for_each(|line| self.anchors.put(line.clone()));
    }

    fn prune(&mut self) {
        let Some(retention) = self.retention else { return };
        let cutoff_us = now_us().saturating_sub(u64::try_from(retention.as_micros()).unwrap_or(u64::MAX));
        match self.chain.prune(cutoff_us) {
            Ok((0, committed)) => self.pass_on(&committed),
            Ok((segments, committed)) => {
                self.pass_on(&committed);
                tracing::info!(segments, "retention removed the oldest segments of the audit log");
            }
            Err(error) => tracing::warn!(%error, "retention could not be applied to the audit log"),
        }
    }
}

fn place_of(about: &Arc<Slot>, before: &[Job]) -> Option<About> {
    if let Some(outcome) = about.outcome() {
        return outcome.as_ref().ok().map(|seq| About::Seq(*seq));
    }
    let is_it = |job: &Job| matches!(&job.told, Told::Slot(slot) if Arc::ptr_eq(slot, about));
    before.iter().position(is_it).map(About::Entry)
}

/// Once at the beginning, and once at the end.
fn tell_of_failure(is_failing: &mut bool, error: Option<&AuditError>) {
    match (error, *is_failing) {
        (Some(error), false) => tracing::error!(%error, "the audit log cannot be written"),
        (None, true) => tracing::info!("the audit log can be written again"),
        (Some(_), true) | (None, false) => {}
    }
    *is_failing = error.is_some();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(told: Told) -> Job {
        Job { kind: Kind::Ended, fields: "{}".to_owned(), about: None, told }
    }

    #[test]
    fn what_nobody_waits_for_goes_with_what_somebody_waits_for() {
        let queue = Queue::new();
        let began = Instant::now();
        queue.put(job(Told::Nobody)).expect("there is room");
        assert_eq!(queue.take().0.len(), 1);
        assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
        queue.put(job(Told::Nobody)).expect("there is room");
        queue.put(job(Told::Slot(Arc::default()))).expect("there is room");
        assert_eq!(queue.take().0.len(), 2);
        queue.put(job(Told::Nobody)).expect("there is room");
        queue.close();
        let (jobs, is_last) = queue.take();
        assert_eq!((jobs.len(), is_last), (1, true));
    }
}
