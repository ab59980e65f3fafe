//! What a log promises, on real files.

mod captured;
mod changes;
mod keeping;
mod reading;
mod sharing;
mod waiting;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Audit, AuditError, AuditOptions, Break, Evidence, Refused, Report, verify};
use crate::{config::AuditAnchor, telemetry::AuditMetrics};

/// Nothing is due by time.
fn options() -> AuditOptions {
    AuditOptions { checkpoint_interval: Duration::from_secs(3600), ..AuditOptions::default() }
}

fn open(directory: &Path, options: AuditOptions) -> Audit {
    Audit::open(directory, options, AuditMetrics::default()).expect("a log")
}

fn act(number: usize) -> Value {
    json!({ "by": { "source": "command_line" }, "action": "test", "target": format!("thing {number}") })
}

/// A log of several segments with all kinds of records of a server's life, and the checkpoints of it.
fn sample() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let anchor = folder.path().join("anchored");
    let directory = folder.path().join("audit");
    let options = AuditOptions {
        segment_bytes: 1500,
        checkpoint_records: 3,
        anchors: vec![AuditAnchor::File(anchor.clone())],
        ..options()
    };
    let audit = open(&directory, options);
    for number in 0..4 {
        audit.act_blocking(&act(number)).expect("on disk");
        let begun = audit.begin(&json!({ "request": format!("r{number}"), "tenant": "default" })).expect("room");
        let begun = begun.expect("it is on");
        if number < 3 {
            audit.end(&begun, &json!({ "request": format!("r{number}") }), None);
        }
        audit.refuse(Refused::Stranger, &json!({ "status": 401 }));
        audit.act_blocking(&act(number)).expect("on disk");
    }
    audit.close();
    (folder, anchor)
}

/// The directory of a log whose last line was changed.
fn changed_sample() -> (TempDir, PathBuf) {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let last = segments(&directory).pop().expect("a segment");
    let mut bytes = fs::read(&last).expect("a segment");
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&last, bytes).expect("written");
    (folder, directory)
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
    files.sort();
    files
}

fn check(directory: &Path) -> Result<Report, AuditError> {
    verify(directory, &Evidence::default())
}

fn check_anchored(directory: &Path, checkpoints: &Path) -> Result<Report, AuditError> {
    verify(directory, &Evidence { checkpoints: Some(checkpoints.to_owned()), ..Evidence::default() })
}

fn broken(result: Result<Report, AuditError>) -> Break {
    match result {
        Err(AuditError::Broken(found)) => *found,
        other => panic!("expected a break, got {other:?}"),
    }
}
