//! Where the data directory is, and what is opened in it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use sha2::{Digest, Sha256};
use tramontane_kernels::threads;

use super::error::UsageError;
use crate::{
    config::{AuditAnchor, AuditConfig, AuditMode, AuditOnFailure, Config, DataPlace, StorageConfig},
    governance::{
        Governance,
        audit::{Audit, AuditOptions, Capture, Contents, OnFailure},
    },
    store::Stores,
    telemetry::AuditMetrics,
    types::hexadecimal,
};

/// Where what tenants store is, or a place for it.
pub(super) fn stores(storage: &StorageConfig) -> Result<Stores> {
    let limit_bytes = storage.limit.bytes();
    let directory = directory(&storage.place)?;
    Ok(directory.map_or_else(|| Stores::in_memory(limit_bytes), |path| Stores::open(&path, limit_bytes)))
}

/// What it means that these cannot be opened.
pub(super) fn cannot_store(storage: &StorageConfig) -> String {
    let directory = directory(&storage.place).ok().flatten().unwrap_or_default();
    format!("cannot store in data_dir = {}; with ephemeral nothing is stored", directory.display())
}

/// Opens the identities; there are none where nothing is stored.
pub(super) fn governance(place: &DataPlace) -> Result<Governance> {
    let Some(directory) = directory(place)? else { return Ok(Governance::in_memory()?) };
    let governance = Governance::open(&directory);
    governance.with_context(|| format!("cannot read identities in data_dir = {}", directory.display()))
}

/// The same for a command that changes them.
pub(super) fn lasting_governance(place: &DataPlace) -> Result<Governance> {
    match place {
        DataPlace::Memory => Err(UsageError("with ephemeral nothing that is changed would last".to_owned()).into()),
        DataPlace::UserDirectory | DataPlace::Directory(_) => governance(place),
    }
}

/// Where the audit log is, if there can be one.
pub(super) fn audit_directory(config: &Config) -> Result<Option<PathBuf>> {
    match &config.audit.directory {
        Some(directory) => Ok(Some(directory.clone())),
        None => Ok(directory(&config.storage.place)?.map(|directory| directory.join("audit"))),
    }
}

/// What was captured beside a log goes with its tenant and its time, although the log is off now.
pub(super) fn with_captured(governance: Governance, config: &Config) -> Result<Governance> {
    match audit_directory(config)? {
        Some(directory) if config.audit.mode == AuditMode::Off => {
            Ok(governance.with_captured(Contents::of(&directory), config.audit.retention))
        }
        Some(_) | None => Ok(governance),
    }
}

/// The log of what commands do. They have standard output for themselves, so it is no anchor of theirs.
pub(super) fn audit(config: &Config) -> Result<Audit> {
    let mut options = audit_options(config);
    options.anchors.retain(|anchor| *anchor != AuditAnchor::Stdout);
    audit_with(config, options)
}

/// That of what a server does.
pub(super) fn audit_of_server(config: &Config) -> Result<Audit> {
    audit_with(config, audit_options(config))
}

/// In the mode `auto` it sleeps until somebody knows that there is a source of identities.
fn audit_with(config: &Config, options: AuditOptions) -> Result<Audit> {
    let Some(directory) = audit_directory(config)? else { return Ok(Audit::default()) };
    let open = || (directory.as_path(), options, AuditMetrics::default());
    match config.audit.mode {
        AuditMode::Off => Ok(Audit::default()),
        AuditMode::Auto => {
            let (directory, options, metrics) = open();
            Ok(Audit::dormant(directory, options, metrics))
        }
        AuditMode::On => {
            let (directory, options, metrics) = open();
            Ok(Audit::open(directory, options, metrics)?)
        }
    }
}

fn audit_options(config: &Config) -> AuditOptions {
    let AuditConfig { on_failure, anchor, retention, segment, capture, .. } = &config.audit;
    let defaults = AuditOptions::default();
    AuditOptions {
        on_failure: match on_failure {
            AuditOnFailure::Refuse => OnFailure::Refuse,
            AuditOnFailure::Continue => OnFailure::Continue,
        },
        segment_bytes: segment.bytes(),
        // What is removed is whole segments, so they are not to be much older than what is kept.
        segment_age: retention
            .map_or(defaults.segment_age, |kept| (kept / 10).clamp(Duration::from_secs(60), defaults.segment_age)),
        retention: *retention,
        anchors: anchor.iter().cloned().collect(),
        configuration: hexadecimal(&Sha256::digest(config.to_toml().as_bytes())),
        capture: if capture.is_on() { Capture::Content } else { Capture::Hashes },
        on_thread_start: threads::answer_soon,
        ..defaults
    }
}

/// Where data is kept, if it is.
pub(super) fn directory(place: &DataPlace) -> Result<Option<PathBuf>> {
    match place {
        DataPlace::Memory => Ok(None),
        DataPlace::Directory(directory) => Ok(Some(directory.clone())),
        DataPlace::UserDirectory => {
            let parent = dirs::data_dir().context("this user has no data directory: set data_dir, or ephemeral")?;
            Ok(Some(parent.join("tramontane")))
        }
    }
}
