//! The single map from what can go wrong to status, headers and body.
//!
//! Every answer that is not a success, whatever layer it comes from, is an [`ApiError`] and has OpenAI's
//! shape: `{"error": {"message", "type", "param", "code"}}`, all four keys always present. A request in Mistral's
//! dialect gets the same error in Mistral's shape: `dialect` makes it of the error that a response carries.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    access_error::AccessError, administration_error::AdministrationError, guardrail_error::GuardrailError,
    quota::QuotaError, stored_error::StoredError,
};
use crate::{engine::SubmitError, prompt::PromptError, types::InvalidSampling};

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request was not answered, or an answer not finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A field of the request is wrong.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what would be right.
        message: String,
        /// Path of the field, if it is one field.
        param: Option<String>,
        /// For programs, if the kind of mistake has a name.
        code: Option<&'static str>,
    },
    /// `model` is none of the served names.
    #[error("The model `{model}` does not exist; this server has {served}.")]
    ModelNotFound {
        /// As asked for.
        model: String,
        /// Names that would do.
        served: String,
    },
    /// No such path.
    #[error("There is no route {path}.")]
    RouteNotFound {
        /// As asked for.
        path: String,
    },
    /// One of the public APIs has it, this server has not.
    #[error("This server does not serve {what}.")]
    NotServed {
        /// What it would be.
        what: &'static str,
    },
    /// The path exists, the method does not.
    #[error("{path} does not answer {method}.")]
    MethodNotAllowed {
        /// As asked for.
        method: String,
        /// As asked for.
        path: String,
    },
    /// The body did not arrive in time.
    #[error("The request body did not arrive within {seconds} s.")]
    BodyTimeout {
        /// The limit.
        seconds: u64,
    },
    /// The body is longer than the limit.
    #[error("The request body is longer than {limit} bytes.")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body is not declared as JSON.
    #[error("Content-Type must be application/json, got {found}.")]
    NotJson {
        /// As sent.
        found: String,
    },
    /// More work than this server takes at once.
    #[error("The server is busy: {reason}.")]
    Busy {
        /// Which limit was reached.
        reason: String,
    },
    /// No work is possible now: the model loads, the server drains, the engine is stuck.
    #[error("The server is not ready: {reason}.")]
    Unavailable {
        /// Which of them.
        reason: &'static str,
    },
    /// Something about a file or a batch.
    #[error("{0}")]
    Stored(#[from] StoredError),
    /// The caller is not let in, or may not do this.
    #[error("{0}")]
    Access(#[from] AccessError),
    /// Something that governs was not changed.
    #[error("{0}")]
    Administration(#[from] AdministrationError),
    /// Guardrails do not let it through.
    #[error("{0}")]
    Guardrail(#[from] GuardrailError),
    /// It is more than a quota allows.
    #[error("{0}")]
    Quota(#[from] QuotaError),
    /// The request's time is over.
    #[error("The request was not finished in time.")]
    DeadlineExceeded,
    /// A bug or a failing device.
    #[error("{message}")]
    Internal {
        /// What failed.
        message: String,
    },
}

impl ApiError {
    /// A wrong value of the field at `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), param: Some(param.into()), code: None }
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::ModelNotFound { .. } | Self::RouteNotFound { .. } => StatusCode::NOT_FOUND,
            Self::NotServed { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy { .. } | Self::Quota(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Stored(error) => error.status(),
            Self::Access(error) => error.status(),
            Self::Administration(error) => error.status(),
            Self::Guardrail(error) => error.status(),
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The JSON body, also sent as the last event of a stream that fails.
    pub fn body(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.to_string(),
            "type": self.kind(),
            "param": self.param(),
            "code": self.code(),
        }})
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "rate_limit_error",
            Self::Quota(error) => error.kind(),
            Self::Unavailable { .. } => "service_unavailable_error",
            Self::Stored(error) => error.kind(),
            Self::Access(error) => error.kind(),
            Self::DeadlineExceeded => "timeout_error",
            Self::Internal { .. } => "server_error",
            Self::Invalid { .. }
            | Self::ModelNotFound { .. }
            | Self::RouteNotFound { .. }
            | Self::NotServed { .. }
            | Self::MethodNotAllowed { .. }
            | Self::BodyTimeout { .. }
            | Self::BodyTooLarge { .. }
            | Self::NotJson { .. }
            | Self::Administration(_)
            | Self::Guardrail(_) => "invalid_request_error",
        }
    }

    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid { param, .. } => param.as_deref(),
            Self::ModelNotFound { .. } => Some("model"),
            Self::Stored(error) => error.param(),
            Self::Guardrail(error) => error.param(),
            Self::Access(_)
            | Self::Administration(_)
            | Self::RouteNotFound { .. }
            | Self::NotServed { .. }
            | Self::MethodNotAllowed { .. }
            | Self::BodyTimeout { .. }
            | Self::BodyTooLarge { .. }
            | Self::NotJson { .. }
            | Self::Busy { .. }
            | Self::Quota(_)
            | Self::Unavailable { .. }
            | Self::DeadlineExceeded
            | Self::Internal { .. } => None,
        }
    }

    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { code, .. } => *code,
            Self::ModelNotFound { .. } => Some("model_not_found"),
            Self::RouteNotFound { .. } => Some("route_not_found"),
            Self::NotServed { .. } => Some("not_served"),
            Self::MethodNotAllowed { .. } => Some("method_not_allowed"),
            Self::BodyTimeout { .. } => Some("body_timeout"),
            Self::BodyTooLarge { .. } => Some("body_too_large"),
            Self::NotJson { .. } => Some("unsupported_media_type"),
            Self::Busy { .. } => Some("busy"),
            Self::Quota(error) => Some(error.code()),
            Self::Unavailable { .. } => Some("unavailable"),
            Self::Stored(error) => Some(error.code()),
            Self::Access(error) => Some(error.code()),
            Self::Administration(error) => Some(error.code()),
            Self::Guardrail(error) => Some(error.code()),
            Self::DeadlineExceeded => Some("deadline_exceeded"),
            Self::Internal { .. } => Some("internal_error"),
        }
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Busy { .. } => Some(HeaderValue::from_static("1")),
            Self::Quota(error) => error.retry_after(),
            Self::Unavailable { .. } => Some(HeaderValue::from_static("5")),
            Self::Invalid { .. }
            | Self::ModelNotFound { .. }
            | Self::RouteNotFound { .. }
            | Self::NotServed { .. }
            | Self::MethodNotAllowed { .. }
            | Self::BodyTimeout { .. }
            | Self::BodyTooLarge { .. }
            | Self::NotJson { .. }
            | Self::Stored(_)
            | Self::Access(_)
            | Self::Administration(_)
            | Self::Guardrail(_)
            | Self::DeadlineExceeded
            | Self::Internal { .. } => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status().is_server_error() && !matches!(self, Self::NotServed { .. }) {
            tracing::warn!(error = %self, status = self.status().as_u16(), "request failed");
        }
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(&self, Self::NotServed { .. }) || matches!(&self, Self::Quota(error) if !error.passes()) {
            // OpenAI's clients take any 5xx as a reason to try again unless they are told.
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match &error {
            SubmitError::QueueFull { .. } => Self::Busy { reason: error.to_string() },
            SubmitError::ShuttingDown => Self::Unavailable { reason: "it is shutting down" },
            SubmitError::PromptTooLong { .. } => {
                Self::Invalid { message: error.to_string(), param: None, code: Some("context_length_exceeded") }
            }
            SubmitError::NoText | SubmitError::NotPooled => {
                Self::invalid("model", format!("It cannot be asked for this: {error}."))
            }
            SubmitError::Invalid { field, .. } => Self::invalid(*field, error.to_string()),
        }
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::Order { .. } => Self::Invalid {
                message: error.to_string(),
                param: error.field().map(str::to_owned),
                code: Some("invalid_message_order"),
            },
            PromptError::Invalid { .. }
            | PromptError::Unsupported { .. }
            | PromptError::Form { .. }
            | PromptError::Json(_)
            // A template refuses a conversation, not the operator.
            | PromptError::ChatTemplate { .. } => Self::Invalid {
                message: error.to_string(),
                param: Some(error.field().unwrap_or("messages").to_owned()),
                code: None,
            },
            PromptError::TokenizerFile { .. } | PromptError::Read { .. } => {
                Self::Internal { message: error.to_string() }
            }
        }
    }
}

impl From<InvalidSampling> for ApiError {
    fn from(error: InvalidSampling) -> Self {
        Self::invalid(error.field, error.to_string())
    }
}
