//! Where checkpoints go beside the log, so that somebody who can change the log cannot change all that is known of it.
//!
//! Main type: [`Anchors`], to which lines are handed. Invariants: an anchor that fails or is slow never holds the log up, and
//! its end for no longer than was agreed; it is logged and counted.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    iter,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use crate::{config::AuditAnchor as Anchor, telemetry::AuditMetrics};

/// Checkpoints that wait to be anchored. A later one covers all before it, so losing one loses little.
const MOST_WAITING: usize = 64;
/// Time for a server to take one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hands lines on. They are gone with the process if it ends before they are.
pub(super) struct Anchors {
    lines: Option<SyncSender<String>>,
    /// Says that the thread has ended.
    ended: Option<Receiver<()>>,
    /// So long the end waits for those that were handed in.
    patience: Duration,
    metrics: AuditMetrics,
}

impl Anchors {
    pub(super) fn start(anchors: Vec<Anchor>, patience: Duration, metrics: AuditMetrics) -> io::Result<Self> {
        if anchors.is_empty() {
            return Ok(Self { lines: None, ended: None, patience, metrics });
        }
        let (end, ended) = mpsc::channel::<()>();
        let (lines, waiting) = mpsc::sync_channel::<String>(MOST_WAITING);
        let counted = metrics.clone();
        let run = move || {
            let _end = end; // is dropped with the thread
            let agent = ureq::AgentBuilder::new().timeout(PATIENCE).redirects(0).build();
            while let Ok(line) = waiting.recv() {
                let lines: Vec<String> = iter::once(line).chain(waiting.try_iter()).collect();
                for (anchor, line) in anchors.iter().flat_map(|anchor| due(anchor, &lines)) {
                    if let Err(reason) = put(anchor, &agent, line) {
                        counted.anchor_failed();
                        tracing::warn!(
                            anchor = anchor.name(),
                            reason,
                            "a checkpoint of the audit log was not anchored"
                        );
                    }
                }
            }
        };
        thread::Builder::new().name("audit-anchors".to_owned()).spawn(run)?;
        Ok(Self { lines: Some(lines), ended: Some(ended), patience, metrics })
    }

    pub(super) fn put(&self, line: String) {
        let Some(lines) = &self.lines else { return };
        if lines.try_send(line).is_err() {
            self.metrics.anchor_failed();
            tracing::warn!("a checkpoint of the audit log was not anchored: too many wait");
        }
    }
}

impl Drop for Anchors {
    /// Waits for those that were handed in, but not for ever.
    fn drop(&mut self) {
        self.lines = None;
        let Some(ended) = self.ended.take() else { return };
        if ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            self.metrics.anchor_failed();
            let waited_s = self.patience.as_secs_f64();
            tracing::warn!(
                waited_s,
                "the last checkpoint of the audit log may not be anchored: its anchor is too slow"
            );
        }
    }
}

/// What an anchor is handed of lines that have come meanwhile: a later checkpoint covers those before it, so a server, which
/// may be slow, is sent the last alone.
fn due<'l>(anchor: &'l Anchor, lines: &'l [String]) -> impl Iterator<Item = (&'l Anchor, &'l String)> {
    let covered = match anchor {
        Anchor::Url(_) => lines.len().saturating_sub(1),
        Anchor::File(_) | Anchor::Stdout => 0,
    };
    lines.iter().skip(covered).map(move |line| (anchor, line))
}

fn put(anchor: &Anchor, agent: &ureq::Agent, line: &str) -> Result<(), String> {
    match anchor {
        Anchor::File(path) => append(path, line).map_err(|error| error.to_string()),
        Anchor::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|error| error.to_string())
        }
        Anchor::Url(url) => {
            let sent = agent.post(url).set("Content-Type", "application/json").send_string(line.trim_end());
            sent.map(drop).map_err(|error| match error {
                ureq::Error::Status(status, _) => format!("the answer was {status}"),
                ureq::Error::Transport(error) => error.kind().to_string(), // without what the URL may hold
            })
        }
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}
