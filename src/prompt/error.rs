//! The one error type of this layer: what is wrong, where, and what would be right.
//!
//! [`PromptError::Invalid`], [`PromptError::Order`], [`PromptError::Unsupported`] and [`PromptError::Form`] are the client's to repair and name
//! the request field by its path (`messages[2].tool_calls[0].id`); the others concern the files of
//! the checkpoint and are the operator's.

use super::json::{JsonError, Value};
use super::version::TokenizerVersion;

/// The longest value an error message repeats, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// Why a request gave no prompt, or a checkpoint no codec.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A field of the request has a value that no prompt can be made from.
    #[error("`{field}` is {value}, expected {expected}")]
    Invalid {
        /// The field's path.
        field: String,
        /// What it was, shortened.
        value: String,
        /// What would be right.
        expected: String,
    },

    /// The messages are fine each by itself, but not in this order.
    #[error("`{field}` is {value}, expected {expected}")]
    Order {
        /// The path of the message at which it shows.
        field: String,
        /// What stands there.
        value: String,
        /// What could.
        expected: String,
    },

    /// The field is fine as such, but this tokenizer has no way to write it.
    #[error("`{field}`: {feature} cannot be used with this model ({tokenizer})")]
    Unsupported {
        /// The field's path.
        field: String,
        /// What was asked for.
        feature: String,
        /// What cannot do it.
        tokenizer: String,
    },

    /// No answer can have the form that the field asks for, or finding out takes too long.
    #[error("`{field}` is no form that an answer can be given: {reason}")]
    Form {
        /// The field's path.
        field: String,
        /// Why not.
        reason: String,
    },

    /// The text is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),

    /// A tokenizer file is truncated, corrupt, or of a kind that is not implemented.
    #[error("tokenizer file `{file}`: {reason}")]
    TokenizerFile {
        /// Its path or name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A file of the checkpoint cannot be read.
    #[error("cannot read `{file}`: {source}")]
    Read {
        /// Its path.
        file: String,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// The checkpoint has no usable chat template.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// What is wrong with it.
        reason: String,
    },
}

impl PromptError {
    /// The path of the request field at fault, if it is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            PromptError::Invalid { field, .. }
            | PromptError::Order { field, .. }
            | PromptError::Unsupported { field, .. }
            | PromptError::Form { field, .. } => Some(field),
            PromptError::Json(_)
            | PromptError::TokenizerFile { .. }
            | PromptError::Read { .. }
            | PromptError::ChatTemplate { .. } => None,
        }
    }

    /// A field whose value was given as text.
    pub(super) fn invalid(field: impl Into<String>, value: &str, expected: impl Into<String>) -> PromptError {
        PromptError::Invalid { field: field.into(), value: shortened(&format!("{value:?}")), expected: expected.into() }
    }

    /// A field of the wrong JSON type or value; `None` when it is missing.
    pub(super) fn invalid_value(
        field: impl Into<String>,
        value: Option<&Value>,
        expected: impl Into<String>,
    ) -> PromptError {
        let value = match value {
            None => "missing".to_owned(),
            Some(value) => shortened(&value.to_json()),
        };
        PromptError::Invalid { field: field.into(), value, expected: expected.into() }
    }

    /// A rule about how parts of the request relate; `found` says what was found instead.
    pub(super) fn rule(field: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> PromptError {
        PromptError::Invalid { field: field.into(), value: found.into(), expected: expected.into() }
    }

    /// A message that cannot stand where it does.
    pub(super) fn order(
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> PromptError {
        PromptError::Order { field: field.into(), value: found.into(), expected: expected.into() }
    }

    pub(super) fn unsupported(
        field: impl Into<String>,
        feature: impl Into<String>,
        version: TokenizerVersion,
    ) -> PromptError {
        PromptError::Unsupported {
            field: field.into(),
            feature: feature.into(),
            tokenizer: format!("tokenizer version {version}"),
        }
    }

    pub(super) fn form(field: impl Into<String>, reason: impl Into<String>) -> PromptError {
        PromptError::Form { field: field.into(), reason: reason.into() }
    }

    pub(super) fn file(file: impl Into<String>, reason: impl Into<String>) -> PromptError {
        PromptError::TokenizerFile { file: file.into(), reason: reason.into() }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
