//! Why guardrails do not let a request through. Names of the operator's file, never what was found.

use axum::http::StatusCode;

/// What guardrails say against a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardrailError {
    /// Something was found that is not to be sent.
    #[error("The request was blocked by the guardrail `{guardrail}`, which found {detector}.")]
    Blocked {
        /// Its name.
        guardrail: String,
        /// What found it.
        detector: String,
    },
    /// Something is to be redacted where nothing else can stand.
    #[error(
        "The request was blocked by the guardrail `{guardrail}`, which found {detector} in a name or a keyword that cannot \
         be replaced."
    )]
    Irreplaceable {
        /// Its name.
        guardrail: String,
        /// What found it.
        detector: String,
    },
    /// Something cannot be checked, so it is not taken.
    #[error("`{param}` has token ids, which guardrails of this server cannot read: send texts.")]
    TokenIds {
        /// The field.
        param: String,
    },
}

impl GuardrailError {
    /// A block is what OpenAI calls a filter of content, and a mistake of the request.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Blocked { .. } | Self::Irreplaceable { .. } => StatusCode::BAD_REQUEST,
            Self::TokenIds { .. } => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Blocked { .. } | Self::Irreplaceable { .. } => "content_filter",
            Self::TokenIds { .. } => "guardrail_needs_text",
        }
    }

    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::Blocked { .. } | Self::Irreplaceable { .. } => None,
            Self::TokenIds { param } => Some(param),
        }
    }
}
