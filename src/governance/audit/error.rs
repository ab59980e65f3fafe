//! What can go wrong with the audit log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::verify::Break;

/// Why something of the audit log was not done. Cheap to clone: all who wait for one write are told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be used.
    #[error("audit: cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A key is not one.
    #[error("audit: {}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The log has been changed or is damaged.
    #[error("audit: {0}")]
    Broken(Box<Break>),
    /// More records wait to be written than there is room for.
    #[error("audit: {waiting} records wait to be written, and no more may")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// What was captured is not all written yet, so not all of it could be deleted.
    #[error("audit: what was captured is not all written after {waited_s} s: try again")]
    Behind {
        /// How long that was waited for.
        waited_s: u64,
    },
    /// Nothing is written any more.
    #[error("audit: the log is closed")]
    Closed,
    /// A value that cannot be.
    #[error("audit: {field} = {value:?}: expected {expected}")]
    Invalid {
        /// What was given.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl AuditError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source: Arc::new(source) }
    }
}
