//! What can be wrong with a configuration: always the key, the value and what would be right.

use std::path::PathBuf;

use super::Origin;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// The file has a key that no setting has.
    #[error("{} has the unknown key `{key}`; known keys: {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// All keys, separated by commas.
        known: String,
    },
    /// A value that does not parse or is out of range.
    #[error("{key} = {value:?} ({origin}): expected {expected}")]
    Invalid {
        /// Name of the setting.
        key: String,
        /// The value as given.
        value: String,
        /// Where it was given.
        origin: Origin,
        /// What would be right.
        expected: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} exclude each other: set one of them")]
    Exclusive {
        /// One key.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A setting that means nothing without another.
    #[error("{key} = {value:?} is of no use without {needed}: set both or neither")]
    Lacking {
        /// Name of the setting.
        key: &'static str,
        /// The value in force.
        value: String,
        /// The other key.
        needed: &'static str,
    },
    /// A value that is right in itself but not for this model or this machine.
    #[error("{key} = {value}: {reason}")]
    Unfit {
        /// Name of the setting.
        key: &'static str,
        /// The value in force.
        value: String,
        /// The numbers it collides with, and what to do.
        reason: String,
    },
}
