//! What was found, without what it says: a [`Finding`] is a kind and a place.
//!
//! Invariant: nothing here holds text that was checked, so that findings may be logged, stored and sent.

use std::{ops::Range, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// What is done about a finding. In rising order: of findings that overlap, the highest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is reported.
    Flag,
    /// It is replaced.
    Redact,
    /// The request is refused, or the answer ends before it.
    Block,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// What the caller sends.
    Input,
    /// What the model answers.
    Output,
    /// Either.
    Both,
}

impl Stage {
    pub(super) fn includes(self, other: Stage) -> bool {
        self == Stage::Both || self == other
    }
}

/// Something that a guardrail looks for, and where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Name of the guardrail.
    #[serde(serialize_with = "as_text")]
    pub guardrail: Arc<str>,
    /// Name of the detector: `iban`, `pattern`, `words`, ...
    #[serde(serialize_with = "as_text")]
    pub detector: Arc<str>,
    /// What its guardrail does about it.
    pub action: Action,
    /// Which of the texts; 0 for an answer.
    pub text: usize,
    /// Bytes of that text, or of the answer as the model wrote it. Its ends are boundaries of characters. Where
    /// findings that are redacted overlap, it is all that they cover.
    pub range: Range<usize>,
    /// How sure the detector is, from 0 to 1.
    pub score: f32,
}

/// Why a request is refused, or where an answer ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// Name of the guardrail.
    #[serde(serialize_with = "as_text")]
    pub guardrail: Arc<str>,
    /// Name of the detector.
    #[serde(serialize_with = "as_text")]
    pub detector: Arc<str>,
    /// Why.
    pub cause: BlockCause,
}

/// What led to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockCause {
    /// A finding; it is among the findings.
    Finding,
    /// The classifier failed, and what cannot be judged does not pass.
    ClassifierFailed,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}
