//! What is wrong with a lock, a signature, a key, or a file that they speak of.

use std::{io, path::PathBuf};

/// The file, what was found and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A lock, a signature or a key that does not say what it should.
    #[error("{}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was found and what would be right.
        reason: String,
    },
    /// The lock has no such model.
    #[error("{}: no model {name:?}, only {known}", .path.display())]
    UnknownModel {
        /// The lock.
        path: PathBuf,
        /// What was looked for.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// A file is there that the manifest does not name.
    #[error("{file}: not in {manifest}, so it must not be among the model's files")]
    Unlisted {
        /// The file.
        file: String,
        /// The lock or signature.
        manifest: String,
    },
    /// A file that the manifest names is not there.
    #[error("{file}: missing, although {manifest} has it")]
    Missing {
        /// The file.
        file: String,
        /// The lock or signature.
        manifest: String,
    },
    /// A file is another than the manifest says.
    #[error("{file}: {found}, but {manifest} has {expected}")]
    Differs {
        /// The file.
        file: String,
        /// The lock or signature.
        manifest: String,
        /// Its size or digest.
        found: String,
        /// What it should have.
        expected: String,
    },
}
