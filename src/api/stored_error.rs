//! What can be wrong with a request for something stored, and how the store's own errors look to a client.

use axum::http::StatusCode;

use super::{body::shortened, error::ApiError};
use crate::store::StoreError;

/// Why a file or a batch was not stored, found or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// No object has this id (any more).
    #[error("There is no {kind} `{id}`.")]
    Missing {
        /// What was looked for.
        kind: &'static str,
        /// As asked for, shortened.
        id: String,
    },
    /// The file is longer than the limit.
    #[error("The file is longer than {limit} bytes.")]
    FileTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body is no form.
    #[error("Content-Type must be multipart/form-data with a boundary: {reason}.")]
    NotMultipart {
        /// What is wrong with it.
        reason: String,
    },
    /// It has ended, or is about to.
    #[error("The batch is {state} and cannot be cancelled.")]
    NotCancellable {
        /// Where it is.
        state: &'static str,
    },
    /// It is being worked on.
    #[error("The batch is {state} and cannot be deleted: cancel it, and delete it when it has ended.")]
    Unfinished {
        /// Where it is.
        state: &'static str,
    },
    /// There are as many as there may be.
    #[error("There are {limit} {kinds} already, and there may be no more: delete some.")]
    TooMany {
        /// Of what.
        kinds: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Somebody else has changed it, and this change was made for what it was before.
    #[error("The {kind} `{id}` was changed by somebody else meanwhile: read it, and send the request again.")]
    Changed {
        /// What it is.
        kind: &'static str,
        /// Its id, shortened.
        id: String,
    },
    /// Two have continued the same conversation at once, and this one came second.
    #[error("The conversation `{id}` has changed meanwhile: read it, and send the request again.")]
    ConversationChanged {
        /// The conversation, shortened.
        id: String,
    },
    /// A conversation has no room.
    #[error("The conversation `{id}` may have {limit} items; begin another one.")]
    ConversationFull {
        /// The conversation, shortened.
        id: String,
        /// The limit.
        limit: u64,
    },
    /// Ids of items are unique in a conversation.
    #[error("The conversation has an item `{id}` already.")]
    ItemExists {
        /// The item, shortened.
        id: String,
    },
    /// Nothing is stored for this purpose.
    #[error("For the purpose `{purpose}` nothing is stored here.")]
    NotKept {
        /// The purpose.
        purpose: String,
    },
    /// It is kept for another purpose than the request's.
    #[error("The {kind} `{id}` is kept for the purpose `{purpose}`, and is not used for another.")]
    OtherPurpose {
        /// What it is.
        kind: &'static str,
        /// Its id, shortened.
        id: String,
        /// What it is kept for.
        purpose: String,
    },
    /// Nothing more can be stored.
    #[error("The storage is full: delete files, or let the operator raise `storage_limit`.")]
    Full,
}

impl StoredError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Missing { .. } => StatusCode::NOT_FOUND,
            Self::FileTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotMultipart { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotCancellable { .. }
            | Self::Unfinished { .. }
            | Self::TooMany { .. }
            | Self::Changed { .. }
            | Self::ConversationChanged { .. }
            | Self::ItemExists { .. } => StatusCode::CONFLICT,
            Self::ConversationFull { .. } | Self::NotKept { .. } => StatusCode::BAD_REQUEST,
            Self::OtherPurpose { .. } => StatusCode::FORBIDDEN,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. }
            | Self::FileTooLarge { .. }
            | Self::NotMultipart { .. }
            | Self::Unfinished { .. }
            | Self::TooMany { .. }
            | Self::Changed { .. }
            | Self::NotCancellable { .. }
            | Self::ConversationChanged { .. }
            | Self::ConversationFull { .. }
            | Self::NotKept { .. }
            | Self::OtherPurpose { .. }
            | Self::ItemExists { .. } => "invalid_request_error",
            Self::Full => "server_error",
        }
    }

    pub(super) fn param(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } | Self::Changed { .. } => Some("id"),
            Self::FileTooLarge { .. } => Some("file"),
            Self::ConversationChanged { .. } | Self::ConversationFull { .. } => Some("conversation"),
            Self::ItemExists { .. } => Some("items"),
            Self::Unfinished { .. }
            | Self::TooMany { .. }
            | Self::NotMultipart { .. }
            | Self::NotCancellable { .. }
            | Self::NotKept { .. }
            | Self::OtherPurpose { .. }
            | Self::Full => None,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "not_found",
            Self::FileTooLarge { .. } => "file_too_large",
            Self::NotMultipart { .. } => "unsupported_media_type",
            Self::NotCancellable { .. } => "not_cancellable",
            Self::Unfinished { .. } => "unfinished",
            Self::TooMany { .. } => "too_many",
            Self::Changed { .. } => "changed_meanwhile",
            Self::ConversationChanged { .. } => "conversation_changed",
            Self::ConversationFull { .. } => "conversation_full",
            Self::ItemExists { .. } => "item_exists",
            Self::NotKept { .. } => "purpose_stores_nothing",
            Self::OtherPurpose { .. } => "other_purpose",
            Self::Full => "storage_full",
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Missing { kind, id } => StoredError::Missing { kind, id: shortened(id) }.into(),
            StoreError::NotCancellable { state, .. } => StoredError::NotCancellable { state: state.as_str() }.into(),
            StoreError::Unfinished { state, .. } => StoredError::Unfinished { state: state.as_str() }.into(),
            StoreError::TooMany { kinds, limit } => StoredError::TooMany { kinds, limit }.into(),
            StoreError::Changed { kind, id } => StoredError::Changed { kind, id: shortened(id) }.into(),
            StoreError::Moved { id } => StoredError::ConversationChanged { id: shortened(id) }.into(),
            StoreError::TooManyItems { id, limit } => StoredError::ConversationFull { id: shortened(id), limit }.into(),
            StoreError::ItemExists { id } => StoredError::ItemExists { id: shortened(id) }.into(),
            StoreError::NotKept { purpose } => StoredError::NotKept { purpose }.into(),
            StoreError::OtherPurpose { kind, id, purpose } => {
                StoredError::OtherPurpose { kind, id: shortened(id), purpose }.into()
            }
            StoreError::Full => StoredError::Full.into(),
            StoreError::QueueFull { .. } | StoreError::TooManyResponses { .. } => {
                Self::Busy { reason: error.to_string() }
            }
            StoreError::TooLong { .. } => Self::Invalid {
                message: format!("It cannot be continued: {error}."),
                param: None,
                code: Some("context_length_exceeded"),
            },
            StoreError::Closed => Self::Unavailable { reason: "it is shutting down" },
            StoreError::NotErased => Self::Unavailable {
                reason: "what was deleted is not overwritten yet, as somebody else has the database open",
            },
            StoreError::Database(source) => {
                // What the database says may name its files, which are the operator's business.
                tracing::error!(error = %source, "the database failed");
                Self::Internal { message: "The database failed; the log has more.".to_owned() }
            }
            StoreError::Directory { .. }
            | StoreError::InUse { .. }
            | StoreError::Newer { .. }
            | StoreError::Older { .. } => Self::Internal { message: error.to_string() },
        }
    }
}

/// An object that a field of the body names: not the request's own, so its absence is a wrong value.
pub(super) fn named_by(param: &str) -> impl FnOnce(StoreError) -> ApiError {
    move |error| match error {
        StoreError::Missing { kind, id } => ApiError::Invalid {
            message: format!("`{param}`: there is no {kind} `{}`.", shortened(id)),
            param: Some(param.to_owned()),
            code: Some("not_found"),
        },
        StoreError::TooLong { .. } => ApiError::Invalid {
            message: format!("`{param}` cannot be continued: {error}."),
            param: Some(param.to_owned()),
            code: Some("context_length_exceeded"),
        },
        other => other.into(),
    }
}
