//! OpenAI's view: `POST /v1/batches` and its kin.

use axum::{Json, http::Method};
use serde_json::{Value, json};

use super::{MAX_UNFINISHED, cancelled, request};
use crate::{
    api::{
        body::{Fields, JsonText, as_integer, unknown_key, wrong},
        error::ApiError,
        fields,
        files::BATCH,
        query::{ObjectId, QueryFields},
        request::{StorageWork, off_thread},
        state::unix_seconds,
        stored_error::named_by,
    },
    store::{Batch, BatchFilter, BatchRequest, BatchState},
};

/// The only window that OpenAI's clients know.
const WINDOW: &str = "24h";
const WINDOW_SECONDS: u64 = 24 * 60 * 60;
const MOST_LISTED: u64 = 100;
const LISTED: u64 = 20;

/// Stores a batch and tells the worker.
pub(in crate::api) async fn create(work: StorageWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let cost = text.len();
    let mut fields = off_thread(&work.state, cost, move || Fields::parse(&text, &fields::BATCHES)).await?;
    let endpoint = request::take_endpoint(&mut fields)?;
    let Some(input_file) = fields.string("input_file_id")? else {
        return Err(wrong("input_file_id", "the id of a file", &Value::Null));
    };
    match fields.string("completion_window")?.as_deref() {
        Some(WINDOW) => {}
        other => return Err(wrong("completion_window", WINDOW, &other.into())),
    }
    let metadata = request::take_metadata(&mut fields)?;
    let keep_output_s = take_output_expiry(&mut fields, work.state.retention_s())?;
    fields.finish()?;
    // Its lines will be asked there.
    work.caller.may_use(&work.state, &Method::POST, &endpoint)?;
    let store = work.state.store();
    let file = store.file(&input_file).await.map_err(named_by("input_file_id"))?;
    if file.details.purpose != BATCH {
        let expected = format!("a file with the purpose `{BATCH}`");
        return Err(wrong("input_file_id", expected, &input_file.into()));
    }
    let created_at = unix_seconds();
    let request = BatchRequest {
        endpoint,
        model: None,
        input_files: vec![input_file],
        window: WINDOW.to_owned(),
        metadata,
        created_at,
        expires_at: created_at + WINDOW_SECONDS,
        dialect: work.dialect.map(|dialect| dialect.name().to_owned()),
        owns_input: false,
        keep_output_s,
        behalf: work.caller.behalf(),
    };
    let batch = store.create_batch(request, MAX_UNFINISHED).await?;
    work.audit.queued("batches.create", &batch.id)?;
    work.state.batches_changed().notify_one();
    Ok(Json(object(&batch)))
}

/// Batches, newest first.
pub(in crate::api) async fn list(work: StorageWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let page = query.page(LISTED, MOST_LISTED)?;
    query.finish()?;
    let batches = work.state.store().batches(BatchFilter::default(), page).await.map_err(named_by("after"))?;
    let id = |batch: Option<&Batch>| batch.map(|batch| batch.id.clone());
    Ok(Json(json!({
        "object": "list",
        "data": batches.items.iter().map(object).collect::<Vec<_>>(),
        "first_id": id(batches.items.first()),
        "last_id": id(batches.items.last()),
        "has_more": batches.has_more,
    })))
}

/// One batch as it is now.
pub(in crate::api) async fn get(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    Ok(Json(object(&work.state.store().batch(&id).await?)))
}

/// Lines that are not done will not be.
pub(in crate::api) async fn cancel(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    Ok(Json(object(&cancelled(&work.state, &id).await?)))
}

/// How long the result files are kept, at most as long as all others.
fn take_output_expiry(fields: &mut Fields, retention: u64) -> Result<Option<u64>, ApiError> {
    const PATH: &str = "output_expires_after";
    let map = match fields.take(PATH) {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(PATH, "an object with `anchor` and `seconds`", &other)),
    };
    if let Some(key) = map.keys().find(|key| !["anchor", "seconds"].contains(&key.as_str())) {
        return Err(unknown_key(PATH, key));
    }
    if map.get("anchor").and_then(Value::as_str) != Some("created_at") {
        let anchor = map.get("anchor").unwrap_or(&Value::Null);
        return Err(wrong("output_expires_after.anchor", "created_at", anchor));
    }
    let most = i64::try_from(retention).unwrap_or(i64::MAX);
    let seconds = map.get("seconds").unwrap_or(&Value::Null);
    as_integer(seconds, "output_expires_after.seconds", 1..=most).map(|seconds| Some(seconds.unsigned_abs()))
}

fn object(batch: &Batch) -> Value {
    let (request, times, counts) = (&batch.request, &batch.times, &batch.counts);
    let ended_as = |state: BatchState| times.ended_at.filter(|_| batch.state == state);
    let errors = batch.errors.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": request.endpoint,
        "model": request.model,
        "errors": errors.map(|data| json!({ "object": "list", "data": data })),
        "input_file_id": request.input_files.first(),
        "completion_window": request.window,
        "status": batch.state.as_str(),
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": request.created_at,
        "in_progress_at": times.started_at,
        "expires_at": request.expires_at,
        "finalizing_at": times.finalizing_at,
        "completed_at": ended_as(BatchState::Completed),
        "failed_at": ended_as(BatchState::Failed),
        "expired_at": ended_as(BatchState::Expired),
        "cancelling_at": times.cancelling_at,
        "cancelled_at": ended_as(BatchState::Cancelled),
        "request_counts": { "total": counts.total, "completed": counts.completed, "failed": counts.failed },
        "metadata": request::metadata(request.metadata.as_ref()),
    })
}
