//! What is wrong with a configuration of guardrails. Checking a text has no errors: what cannot be judged is blocked.

/// A configuration that cannot be used. `at` is where, as in `guardrail[2].detect[0]`; the value is the configuration's
/// own, never a text that was checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardrailsError {
    /// A value that cannot be.
    #[error("{at} = {value:?}: expected {expected}")]
    Invalid {
        /// The field.
        at: String,
        /// As given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A regular expression that cannot be read, or would become too large.
    #[error("{at} = {pattern:?}: {reason}")]
    Pattern {
        /// The field.
        at: String,
        /// As given.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// A guardrail that asks for a classifier, in a server that has none.
    #[error("{at}: this server has no classifier to ask for {label:?}")]
    NoClassifier {
        /// The field.
        at: String,
        /// The label that would be asked for.
        label: String,
    },
}
