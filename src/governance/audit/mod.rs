//! What was done here, written down so that nobody can change it unseen: a chain of records, each with the hash of the one
//! before it, signed again and again.
//!
//! [`Audit`] is the seam: records go in, and whoever hands one in may wait until it is on disk. One thread writes all that wait
//! together (`writer`), and `chain` puts lines behind lines; `verify` and `query` read them, without the server. The log is
//! a directory of JSON lines (`docs/audit.md` has the format), to which several processes may append.
//!
//! Invariants: what is told to be on disk is; a failed write leaves nothing behind that is taken for a record; texts are here
//! only as keyed hashes, and what is captured of them is in files apart. Knows nothing of HTTP or models: what a record says
//! of an inference is for its caller to know.

mod acts;
mod anchor;
mod capturing;
mod chain;
mod content;
mod content_name;
mod error;
mod keys;
mod line;
mod opening;
pub mod query;
mod refusals;
mod segments;
mod subject;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use self::{
    anchor::Anchors,
    capturing::Capturing,
    chain::Chain,
    content::NewContent,
    opening::Opening,
    refusals::RefusalLimit,
    writer::{Job, Queue, Slot, Told, Writer},
};
pub use self::{
    content::{Content, Contents, RawJson},
    content_name::ContentName,
    error::AuditError,
    keys::{PublicKey, RunningHash, TextHasher},
    line::Kind,
    subject::SubjectRecords,
    verify::{Break, Evidence, Report, verify},
};
use crate::{config::AuditAnchor, telemetry::AuditMetrics};

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// What happens to requests while nothing can be written.
    pub on_failure: OnFailure,
    /// A segment that has this many bytes is ended.
    pub segment_bytes: u64,
    /// A segment of this age is ended.
    pub segment_age: Duration,
    /// So many records are signed together at most.
    pub checkpoint_records: u64,
    /// A record is signed after this time at the latest.
    pub checkpoint_interval: Duration,
    /// Segments whose records are all older are removed; never, if there is no such age.
    pub retention: Option<Duration>,
    /// Where checkpoints go beside the log.
    pub anchors: Vec<AuditAnchor>,
    /// So long the end of the log waits for them.
    pub anchor_patience: Duration,
    /// So long it waits for what was captured.
    pub capture_patience: Duration,
    /// Digest of the settings of this process.
    pub configuration: String,
    /// Is what is asked and answered kept, where nobody decides otherwise?
    pub capture: Capture,
    /// What the thread that writes does first, for all wait for it.
    pub on_thread_start: fn(),
}

/// Is what is asked and answered kept?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// Only hashes of it.
    #[default]
    Hashes,
    /// Its tokens as well, in files beside the log.
    Content,
}

/// What happens to requests while nothing can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They are refused.
    #[default]
    Refuse,
    /// They are answered without a record, which is logged and counted.
    Continue,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            on_failure: OnFailure::Refuse,
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(24 * 60 * 60),
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_secs(10),
            retention: None,
            anchors: Vec::new(),
            anchor_patience: Duration::from_secs(5),
            capture_patience: Duration::from_secs(10),
            configuration: String::new(),
            capture: Capture::Hashes,
            on_thread_start: || {},
        }
    }
}

/// How often old segments are looked for, at least.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// What hashes of those are made as whom data is about.
pub const SUBJECT_HASH: &str = "subject";
/// Of prompts.
pub const PROMPT_HASH: &str = "prompt";
/// Of answers.
pub const ANSWER_HASH: &str = "answer";
/// Of captured parameters, as they are in the file.
pub const PARAMETERS_HASH: &str = "parameters";

/// The audit log, or none. Cheap to clone; all clones are one. The default is none: then every method does nothing.
#[derive(Clone, Default)]
pub struct Audit {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    directory: PathBuf,
    options: AuditOptions,
    metrics: AuditMetrics,
    contents: Contents,
    opening: Opening,
    inner: OnceLock<Inner>,
}

struct Inner {
    on_failure: OnFailure,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    capturing: Capturing,
    hasher: TextHasher,
    metrics: AuditMetrics,
    strangers: RefusalLimit,
    known: RefusalLimit,
}

/// An inference whose beginning was handed in.
#[derive(Clone, Debug)]
pub struct Begun {
    slot: Arc<Slot>,
    on_failure: OnFailure,
}

/// Whether it is known who was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody without a credential, or with a wrong one.
    Stranger,
    /// Somebody with a good one.
    Known,
}

impl Audit {
    /// Opens the log of a directory, which is made if it is not there.
    pub fn open(directory: &Path, options: AuditOptions, metrics: AuditMetrics) -> Result<Self, AuditError> {
        let audit = Self::dormant(directory, options, metrics);
        audit.wake()?;
        Ok(audit)
    }

    /// One that does nothing until it is woken.
    pub fn dormant(directory: &Path, options: AuditOptions, metrics: AuditMetrics) -> Self {
        let contents = Contents::of(directory);
        let (directory, opening, inner) = (directory.to_owned(), Opening::default(), OnceLock::new());
        Self { shared: Some(Arc::new(Shared { directory, options, metrics, contents, opening, inner })) }
    }

    /// Is it written down what is done?
    pub fn is_on(&self) -> bool {
        self.inner().is_some()
    }

    /// Where it is, or will be.
    pub fn directory(&self) -> Option<&Path> {
        self.shared.as_ref().map(|shared| shared.directory.as_path())
    }

    /// What was captured beside it, and at which age that goes with the log.
    pub fn contents(&self) -> Option<(Contents, Option<Duration>)> {
        self.shared.as_ref().map(|shared| (shared.contents.clone(), shared.options.retention))
    }

    /// Where it counts.
    pub fn metrics(&self) -> Option<&AuditMetrics> {
        self.shared.as_ref().map(|shared| &shared.metrics)
    }

    /// Digest of the settings of this process.
    pub fn configuration(&self) -> &str {
        self.shared.as_ref().map_or("", |shared| &shared.options.configuration)
    }

    /// Is what is asked and answered kept, where nobody decides otherwise?
    pub fn capture(&self) -> Capture {
        self.shared.as_ref().map_or(Capture::Hashes, |shared| shared.options.capture)
    }

    fn inner(&self) -> Option<&Inner> {
        self.shared.as_ref()?.inner.get()
    }

    /// Makes hashes of a tenant's texts.
    pub fn hasher(&self, tenant: &str) -> Option<TextHasher> {
        Some(self.inner()?.hasher.of_tenant(tenant))
    }

    /// Hands in that an inference begins. `None` if nothing is written down.
    pub fn begin(&self, fields: &impl Serialize) -> Result<Option<Begun>, AuditError> {
        self.hand_in(Kind::Begun, fields)
    }

    /// Hands in that work was taken which is done later; otherwise like an inference that begins.
    pub fn queued(&self, fields: &impl Serialize) -> Result<Option<Begun>, AuditError> {
        self.hand_in(Kind::Act, fields)
    }

    fn hand_in(&self, kind: Kind, fields: &impl Serialize) -> Result<Option<Begun>, AuditError> {
        let Some(inner) = self.inner() else {
            self.check()?;
            self.missed();
            return Ok(None);
        };
        let slot = Arc::new(Slot::default());
        let job = job(kind, fields, Told::Slot(Arc::clone(&slot)));
        match (inner.queue.put(job), inner.on_failure) {
            (Ok(()), _) => Ok(Some(Begun { slot, on_failure: inner.on_failure })),
            (Err(error), OnFailure::Refuse) => Err(error),
            (Err(_), OnFailure::Continue) => {
                inner.metrics.lost();
                Ok(None)
            }
        }
    }

    /// Hands in how an inference ended. It is tried again while it cannot be written. What is captured is written before it,
    /// for which nothing else waits.
    pub fn end(&self, begun: &Begun, fields: &impl Serialize, content: Option<(ContentName, Content)>) {
        let Some(inner) = self.inner() else { return };
        let about = Some(Arc::clone(&begun.slot));
        let job = Job { about, ..job(Kind::Ended, fields, Told::Nobody) };
        match content {
            Some((name, content)) => inner.capturing.put(NewContent { name, content }, job),
            None => {
                if inner.queue.put(job).is_err() {
                    inner.metrics.lost();
                }
            }
        }
    }

    /// Writes down what somebody did who administers, and returns when it is on disk.
    pub async fn act(&self, act: &impl Serialize) -> Result<(), AuditError> {
        let Some(inner) = self.inner() else {
            self.missed();
            return Ok(());
        };
        let slot = Arc::new(Slot::default());
        inner.queue.put(job(Kind::Act, act, Told::Slot(Arc::clone(&slot))))?;
        slot.wait().await.map(drop)
    }

    /// The same for a thread that may wait.
    pub fn act_blocking(&self, act: &impl Serialize) -> Result<(), AuditError> {
        let Some(inner) = self.inner() else {
            self.missed();
            return Ok(());
        };
        let (told, outcome) = mpsc::sync_channel(1);
        let handed_in = inner.queue.put(job(Kind::Act, act, Told::Thread(told)));
        let done = handed_in.and_then(|()| outcome.recv().unwrap_or(Err(AuditError::Closed)));
        match (done, inner.on_failure) {
            (Ok(_), _) => Ok(()),
            (Err(error), OnFailure::Refuse) => Err(error),
            (Err(_), OnFailure::Continue) => {
                inner.metrics.lost();
                Ok(())
            }
        }
    }

    /// Hands in that somebody was refused. Of many only some get a record, which says how many it stands for.
    pub fn refuse(&self, who: Refused, fields: &Value) {
        let Some(inner) = self.inner() else { return self.missed() };
        let limit = match who {
            Refused::Stranger => &inner.strangers,
            Refused::Known => &inner.known,
        };
        let Some(left_out) = limit.admit(Instant::now()) else { return inner.metrics.left_out() };
        let mut fields = fields.clone();
        if left_out > 0 {
            fields["left_out_before"] = left_out.into();
        }
        if inner.queue.put(job(Kind::Refused, &fields, Told::Nobody)).is_err() {
            inner.metrics.lost();
        }
    }

    /// Waits until all that was captured so far is written or lost, so that it can be deleted. For a thread that may wait.
    pub fn settle_captured(&self) -> Result<(), AuditError> {
        let (Some(inner), Some(shared)) = (self.inner(), &self.shared) else { return Ok(()) };
        let patience = shared.options.capture_patience;
        match inner.capturing.settles_within(patience) {
            true => Ok(()),
            false => Err(AuditError::Behind { waited_s: patience.as_secs() }),
        }
    }

    /// Writes what waits, signs it and ends the thread, which may take its time. Nothing is taken afterwards.
    pub fn close(&self) {
        self.close_opening();
        if let Some(inner) = self.inner() {
            inner.close();
        }
    }
}

impl Shared {
    fn open(&self) -> Result<Inner, AuditError> {
        let options = self.options.clone();
        let chain = Chain::open(&self.directory, options.clone())?;
        let hasher = chain.hasher()?;
        let failed = |error| AuditError::file(&self.directory, error);
        let queue = Arc::new(Queue::new());
        let mut writer = Writer {
            chain,
            anchors: Anchors::start(options.anchors, options.anchor_patience, self.metrics.clone()).map_err(failed)?,
            metrics: self.metrics.clone(),
            checkpoint_interval: options.checkpoint_interval,
            retention: options.retention,
            prune_interval: options.segment_age.min(PRUNE_INTERVAL),
        };
        writer.begin()?;
        let (contents, records, patience) = (self.contents.clone(), Arc::clone(&queue), options.capture_patience);
        let capturing = Capturing::start(contents, records, self.metrics.clone(), patience);
        let capturing = capturing.map_err(failed)?;
        let taken = Arc::clone(&queue);
        let run = move || {
            (options.on_thread_start)();
            writer.run(&taken);
        };
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(run).map_err(failed)?;
        let now = Instant::now();
        Ok(Inner {
            on_failure: options.on_failure,
            queue,
            thread: Mutex::new(Some(thread)),
            capturing,
            hasher,
            metrics: self.metrics.clone(),
            strangers: RefusalLimit::new(now),
            known: RefusalLimit::new(now),
        })
    }
}

impl Inner {
    fn close(&self) {
        self.capturing.close();
        for limit in [&self.strangers, &self.known] {
            let left_out = limit.take_left_out();
            if left_out > 0 {
                let fields = json!({ "left_out_before": left_out });
                drop(self.queue.put(job(Kind::Refused, &fields, Told::Nobody))); // closed already: they are counted
            }
        }
        self.queue.close();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join()); // a panic was logged where it happened
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Audit").field("directory", &self.directory()).finish()
    }
}

impl Begun {
    /// Returns when the record is on disk, or may be missing.
    pub async fn on_disk(&self) -> Result<(), AuditError> {
        match (self.slot.wait().await, self.on_failure) {
            (Ok(_), _) | (Err(_), OnFailure::Continue) => Ok(()),
            (Err(error), OnFailure::Refuse) => Err(error),
        }
    }
}

fn job(kind: Kind, fields: &impl Serialize, told: Told) -> Job {
    let fields = serde_json::to_string(fields).expect("names are texts, and numbers are finite");
    Job { kind, fields, about: None, told }
}
