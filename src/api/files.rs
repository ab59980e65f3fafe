//! `/v1/files`: what clients leave here for batches, and what batches leave for them. OpenAI's and Mistral's clients
//! use the same routes; an answer has the keys of both.

mod kinds;
mod upload;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::Request,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};

use self::{kinds::Kind, upload::Upload};
use super::{
    error::ApiError,
    query::{ObjectId, QueryFields},
    request::StorageWork,
    stored_error::named_by,
};
use crate::store::{FileFilter, Store, StoreError, StoredFile};

/// Purpose of a file with lines to answer.
pub(super) const BATCH: &str = "batch";
/// Purpose of a file that a batch has left.
pub(super) const BATCH_OUTPUT: &str = "batch_output";

/// The name of the file that says which lines of a batch have no answer.
pub(super) fn error_filename(batch: &str) -> String {
    format!("{batch}{ERROR_FILE}")
}

/// OpenAI's default is also its maximum.
const MOST_LISTED: u64 = 10_000;

const ERROR_FILE: &str = "_error.jsonl";

/// Pieces in which content is stored.
pub(super) const PART_BYTES: usize = 256 << 10;

/// Stores a file.
pub(super) async fn create(work: StorageWork, request: Request) -> Result<Json<Value>, ApiError> {
    let StorageWork { state, in_flight, .. } = work;
    let _in_flight = in_flight;
    let mut upload = Upload::new(&state);
    let limit = state.limits().request_timeout;
    let stored = match tokio::time::timeout(limit, upload.store(request)).await {
        Ok(stored) => stored,
        Err(_) => Err(ApiError::BodyTimeout { seconds: limit.as_secs() }),
    };
    if stored.is_err() {
        upload.abandon().await;
    }
    stored.map(|file| Json(object(&file)))
}

/// Files, newest first.
pub(super) async fn list(work: StorageWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let page = query.page(MOST_LISTED, MOST_LISTED)?;
    let filter =
        FileFilter { purpose: query.text("purpose")?, search: query.text("search")?, kinds: kinds::take(&mut query)? };
    let is_counted = query.flag("include_total")?.unwrap_or(true);
    query.unsupported("mimetypes", "what type the content of a file has is not recorded here")?;
    query.finish()?;
    let files = work.state.store().files(filter, page).await.map_err(named_by("after"))?;
    let ids = |file: Option<&StoredFile>| file.map(|file| file.id.clone());
    Ok(Json(json!({
        "object": "list",
        "data": files.items.iter().map(object).collect::<Vec<_>>(),
        "first_id": ids(files.items.first()),
        "last_id": ids(files.items.last()),
        "has_more": files.has_more,
        "total": is_counted.then_some(files.total),
    })))
}

/// What is known of a file.
pub(super) async fn get(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    Ok(Json(object(&work.state.store().file(&id).await?)))
}

/// Deletes a file; its content is gone when this answers.
pub(super) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    work.state.store().delete_file(&id).await?;
    Ok(Json(json!({ "id": id, "object": "file", "deleted": true })))
}

/// The content, piece by piece as the client reads it.
pub(super) async fn content(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Response, ApiError> {
    query.finish()?;
    let StorageWork { state, in_flight, .. } = work;
    let file = state.store().file(&id).await?;
    let reading = (state.store().clone(), id, 0_u64, in_flight);
    let pieces = stream::try_unfold(reading, async |(store, id, part, in_flight): (Store, String, u64, _)| {
        // A file that is deleted meanwhile breaks the answer off: it is shorter than its head says.
        let data = store.file_part(&id, part).await?;
        Ok::<_, StoreError>(data.map(|data| (Bytes::from(data), (store, id, part + 1, in_flight))))
    });
    let head = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, file.bytes.to_string())];
    Ok((head, Body::from_stream(pieces)).into_response())
}

/// A file as both clients expect it.
fn object(file: &StoredFile) -> Value {
    let details = &file.details;
    let Kind { source, sample_type, .. } = kinds::of(details);
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": details.expires_at,
        "filename": details.filename,
        "purpose": details.purpose,
        "status": "processed",
        "status_details": null,
        // Mistral's.
        "source": source,
        "sample_type": sample_type,
        "num_lines": null,
        "mimetype": null,
        "signature": null,
        "deleted": false,
    })
}
