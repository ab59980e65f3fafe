//! What can be wrong with an administrative act, beside what can be wrong with any request.

use axum::http::StatusCode;

/// Why something was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdministrationError {
    /// It does not go with what there is.
    #[error("Nothing was changed: {reason}.")]
    Conflict {
        /// What there is.
        reason: String,
    },
    /// Files of policies or guardrails are wrong.
    #[error("Those from before go on to apply: {reason}.")]
    WrongRules {
        /// What is wrong with them.
        reason: String,
    },
}

impl AdministrationError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Conflict { .. } | Self::WrongRules { .. } => StatusCode::CONFLICT,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::WrongRules { .. } => "wrong_rules",
        }
    }
}
