//! Why a checkpoint was refused. Every message names the file, the key or tensor, what was found and what
//! was expected, because the reader is an operator whose server did not start.

use std::fmt;
use std::path::PathBuf;

/// Longest piece of a file that an error message repeats, in characters.
const LONGEST_QUOTE: usize = 120;

/// Why a checkpoint could not be opened or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused to open, read or map a file.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The directory holds no checkpoint in a known layout.
    #[error("{dir}: no {expected} found")]
    NotFound {
        /// Where was looked.
        dir: PathBuf,
        /// The file names that would have been accepted.
        expected: &'static str,
    },
    /// A file is not JSON.
    #[error("{path}: not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the parser stopped, and why.
        source: serde_json::Error,
    },
    /// A file breaks its format: truncated, overlapping, pointing outside, or simply something else.
    #[error("{path}: {what} is {found}, expected {expected}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The part of the file.
        what: String,
        /// Its value.
        found: String,
        /// Which values are accepted.
        expected: String,
    },
    /// A configuration key is missing, of the wrong type or out of bounds.
    #[error("{path}: {key} is {found}, expected {expected}")]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key, with the sections it lies in.
        key: String,
        /// Its value, or `missing`.
        found: String,
        /// Which values are accepted.
        expected: String,
    },
    /// The file is sound, but asks for something that this server does not do.
    #[error("{path}: {subject} {found} is not served; served: {served}")]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The kind of thing.
        subject: Subject,
        /// Its name in the checkpoint.
        found: String,
        /// What is served instead.
        served: &'static str,
    },
    /// A tensor's type or shape does not fit the configuration.
    #[error("{path}: tensor {name} is {found}, expected {expected}")]
    Tensor {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// Its type, shape or value.
        found: String,
        /// What the configuration requires.
        expected: String,
    },
    /// The configuration requires a tensor that no file holds.
    #[error("{dir}: tensor {name} is missing, expected {expected}")]
    MissingTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type and shape.
        expected: String,
    },
    /// The files hold a tensor that the model would not use, so that its results would be wrong.
    #[error("{path}: tensor {name} belongs to no known part of this architecture ({count} such tensors)")]
    UnknownTensor {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The first such tensor.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// There is no memory for a tensor.
    #[error("no memory for {name}: {bytes} bytes")]
    OutOfMemory {
        /// The tensor.
        name: String,
        /// Its size in the compute dtype.
        bytes: usize,
    },
    /// The device refused a tensor.
    #[error("{name}: {source}")]
    Device {
        /// The tensor.
        name: String,
        /// What the tensor library said.
        source: candle_core::Error,
    },
}

/// What kind of thing is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `architectures` or `model_type`: other issues may serve it one day.
    Architecture,
    /// A way to store quantised weights.
    Quantization,
    /// A way to extend the rotary embedding.
    RopeType,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Architecture => "architecture",
            Subject::Quantization => "quantization",
            Subject::RopeType => "rope type",
        })
    }
}

impl CheckpointError {
    /// The checkpoint is of an architecture outside the served list, rather than broken.
    pub fn is_unsupported_architecture(&self) -> bool {
        matches!(self, CheckpointError::Unsupported { subject: Subject::Architecture, .. })
    }
}

/// Text from a file, cut so that a hostile file cannot fill the log.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(LONGEST_QUOTE).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        quoted.push('…');
    }
    quoted
}
