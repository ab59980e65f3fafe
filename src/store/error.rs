//! What can go wrong with stored objects.

use std::{io, path::PathBuf};

use super::BatchState;

/// Why something could not be stored, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be made or written to.
    #[error("cannot use the data directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two servers would work on the same batches.
    #[error("the data directory {} is in use by another server", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A later version of this program has changed the tables.
    #[error("the stored data has format {found}, and this version knows formats up to {known}")]
    Newer {
        /// Format of the data.
        found: usize,
        /// The latest that this version knows.
        known: usize,
    },
    /// An earlier version of this program is using the tables.
    #[error("the stored data is in use by a server whose format is {found}, and this version knows only {needed}")]
    Older {
        /// Format of the data.
        found: usize,
        /// The one that this version knows.
        needed: usize,
    },
    /// Nothing is stored for this purpose.
    #[error("nothing is stored for the purpose {purpose:?}")]
    NotKept {
        /// The purpose.
        purpose: String,
    },
    /// It is kept for another purpose than the one it is asked for.
    #[error("the {kind} `{id}` is kept for the purpose {purpose:?}")]
    OtherPurpose {
        /// What it is.
        kind: &'static str,
        /// Which one.
        id: String,
        /// What it is kept for.
        purpose: String,
    },
    /// Somebody else reads the database and does not end.
    #[error("what was deleted is not overwritten yet, as the database is in use: try again")]
    NotErased,
    /// No object has this id (any more).
    #[error("there is no {kind} `{id}`")]
    Missing {
        /// What was looked for.
        kind: &'static str,
        /// As asked for.
        id: String,
    },
    /// The batch can no longer be cancelled.
    #[error("the batch `{id}` is {} and cannot be cancelled", state.as_str())]
    NotCancellable {
        /// The batch.
        id: String,
        /// Where it is.
        state: BatchState,
    },
    /// The batch has not ended.
    #[error("the batch `{id}` is {} and cannot be deleted", state.as_str())]
    Unfinished {
        /// The batch.
        id: String,
        /// Where it is.
        state: BatchState,
    },
    /// There are as many as there may be.
    #[error("there are {limit} {kinds}, which is the limit")]
    TooMany {
        /// Of what.
        kinds: &'static str,
        /// The limit.
        limit: u64,
    },
    /// It is not what the change was made for.
    #[error("the {kind} `{id}` was changed meanwhile")]
    Changed {
        /// What it is.
        kind: &'static str,
        /// Which one.
        id: String,
    },
    /// As many batches as may wait are waiting.
    #[error("{limit} batches are not finished yet")]
    QueueFull {
        /// The limit.
        limit: u64,
    },
    /// Somebody else has changed the conversation meanwhile.
    #[error("the conversation `{id}` has changed meanwhile")]
    Moved {
        /// The conversation.
        id: String,
    },
    /// The conversation would be longer than it may be.
    #[error("the conversation `{id}` may have {limit} items")]
    TooManyItems {
        /// The conversation.
        id: String,
        /// The limit.
        limit: u64,
    },
    /// The list has an item of this id.
    #[error("there is an item `{id}` already")]
    ItemExists {
        /// The item.
        id: String,
    },
    /// As many responses as may wait are waiting.
    #[error("{limit} responses are waiting already")]
    TooManyResponses {
        /// The limit.
        limit: u64,
    },
    /// What is stored is longer than a request may be.
    #[error("the conversation is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The database has the size that it may have, or the disk is full.
    #[error("the storage is full")]
    Full,
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] rusqlite::Error),
    /// The process ends.
    #[error("the server is shutting down")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(_) | None => Self::Database(error),
        }
    }
}
