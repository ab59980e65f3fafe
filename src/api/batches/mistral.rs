//! Mistral's view: `POST /v1/batch/jobs` and its kin.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use serde_json::{Value, json};

use super::{MAX_UNFINISHED, cancelled, request};
use crate::{
    api::{
        body::{Fields, JsonText, as_integer, shortened, wrong},
        error::ApiError,
        fields,
        files::{BATCH, PART_BYTES},
        query::{ObjectId, QueryFields},
        request::{StorageWork, off_thread},
        state::{AppState, unix_seconds},
        stored_error::{StoredError, named_by},
    },
    store::{Batch, BatchFilter, BatchRequest, BatchState, FileDetails, Order, Store, StoreError},
};

const HOUR_SECONDS: u64 = 3600;
const DEFAULT_HOURS: u64 = 24;
const MOST_HOURS: i64 = 7 * 24;
const MOST_FILES: usize = 100;
const LISTED: u64 = 100;
/// Results that an answer may repeat; more are read from their file.
const MOST_INLINE_BYTES: u64 = 8 << 20;

/// A checked body.
struct JobRequest {
    endpoint: String,
    model: Option<String>,
    lines: Source,
    metadata: Option<String>,
    hours: u64,
}

enum Source {
    Files(Vec<String>),
    /// JSONL.
    Inline(String),
}

/// Stores a job and tells the worker.
pub(in crate::api) async fn create(work: StorageWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let StorageWork { state, in_flight } = work;
    let _in_flight = in_flight;
    let job = off_thread(&state, text.len(), move || parse(&text)).await?;
    check_model(&state, job.model.as_deref())?;
    let store = state.store();
    let created_at = unix_seconds();
    let input_files = match job.lines {
        Source::Inline(lines) => vec![store_inline(&state, lines, created_at).await?],
        Source::Files(ids) => {
            for (index, id) in ids.iter().enumerate() {
                let path = format!("input_files[{index}]");
                let file = store.file(id).await.map_err(named_by(&path))?;
                if file.details.purpose != BATCH {
                    let expected = format!("a file with the purpose `{BATCH}`");
                    return Err(wrong(&path, expected, &id.as_str().into()));
                }
            }
            ids
        }
    };
    let request = BatchRequest {
        endpoint: job.endpoint,
        model: job.model,
        input_files,
        window: format!("{}h", job.hours),
        metadata: job.metadata,
        created_at,
        expires_at: created_at + job.hours * HOUR_SECONDS,
    };
    let batch = store.create_batch(request, MAX_UNFINISHED).await?;
    state.batches_changed().notify_one();
    Ok(Json(object(&batch)))
}

/// Jobs, newest first.
pub(in crate::api) async fn list(work: StorageWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let mut page = query.page(LISTED, LISTED)?;
    if let Some(order) = query.word("order_by", &[("created", Order::Ascending), ("-created", Order::Descending)])? {
        page.order = order;
    }
    if query.flag("created_by_me")? == Some(true) {
        let message = "`created_by_me` is not supported: the server does not tell its users apart.";
        return Err(ApiError::invalid("created_by_me", message));
    }
    let words = query.all("status");
    let states = words.iter().map(|word| states_of(word)).collect::<Result<Vec<_>, _>>()?;
    let filter = BatchFilter {
        states: (!states.is_empty()).then(|| states.concat()),
        model: query.text("model")?,
        created_after: take_created_after(&mut query)?,
    };
    query.finish()?;
    let batches = work.state.store().batches(filter, page).await.map_err(named_by("after"))?;
    let data: Vec<Value> = batches.items.iter().map(object).collect();
    Ok(Json(json!({ "object": "list", "data": data, "total": batches.total })))
}

/// One job as it is now.
pub(in crate::api) async fn get(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    let is_inline = query.flag("inline")?.unwrap_or(false);
    query.finish()?;
    let batch = work.state.store().batch(&id).await?;
    let mut object = object(&batch);
    if is_inline && let Some(file) = &batch.output_file {
        object["outputs"] = inline_results(work.state.store(), file).await?;
    }
    Ok(Json(object))
}

/// Deletes a job that has ended. Its files stay.
pub(in crate::api) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    work.state.store().delete_batch(&id).await?;
    Ok(Json(json!({ "id": id, "object": "batch", "deleted": true })))
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

fn parse(text: &str) -> Result<JobRequest, ApiError> {
    let mut fields = Fields::parse(text, &fields::BATCH_JOBS)?;
    let endpoint = request::take_endpoint(&mut fields)?;
    let model = fields.string("model")?;
    let lines = take_lines(&mut fields)?;
    let metadata = request::take_metadata(&mut fields)?;
    let hours = match fields.take("timeout_hours") {
        None => DEFAULT_HOURS,
        Some(hours) => as_integer(&hours, "timeout_hours", 1..=MOST_HOURS)?.unsigned_abs(),
    };
    fields.finish()?;
    Ok(JobRequest { endpoint, model, lines, metadata, hours })
}

fn take_lines(fields: &mut Fields) -> Result<Source, ApiError> {
    match (fields.take("input_files"), fields.take("requests")) {
        (Some(_), Some(_)) => Err(ApiError::invalid("requests", "Give `input_files` or `requests`, not both.")),
        (None, None) => Err(wrong("input_files", "a list of file ids (or give `requests`)", &Value::Null)),
        (Some(Value::Array(ids)), None) if (1..=MOST_FILES).contains(&ids.len()) => {
            let id = |(index, id): (usize, &Value)| match id.as_str() {
                // Ids are stored one a line.
                Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
                Some(_) | None => Err(wrong(&format!("input_files[{index}]"), "the id of a file", id)),
            };
            ids.iter().enumerate().map(id).collect::<Result<_, _>>().map(Source::Files)
        }
        (Some(other), None) => Err(wrong("input_files", format!("a list of 1 to {MOST_FILES} file ids"), &other)),
        (None, Some(Value::Array(requests))) if !requests.is_empty() => inline(&requests).map(Source::Inline),
        (None, Some(other)) => Err(wrong("requests", "a list of at least one request", &other)),
    }
}

/// Requests as lines of a file. One without a name of its own is known by its index.
fn inline(requests: &[Value]) -> Result<String, ApiError> {
    let mut lines = String::new();
    for (index, request) in requests.iter().enumerate() {
        let path = format!("requests[{index}]");
        let Some(members) = request.as_object() else {
            return Err(wrong(&path, "an object with `custom_id` and `body`", request));
        };
        if let Some(key) = members.keys().find(|key| !["custom_id", "body"].contains(&key.as_str())) {
            let path = format!("{path}.{}", shortened(key.clone()));
            return Err(ApiError::invalid(path.clone(), format!("`{path}` is unknown.")));
        }
        let body = members.get("body").unwrap_or(&Value::Null);
        if !body.is_object() {
            return Err(wrong(&format!("{path}.body"), "an object", body));
        }
        let custom_id = match members.get("custom_id") {
            None | Some(Value::Null) => index.to_string(),
            Some(Value::String(id)) => id.clone(),
            Some(other) => return Err(wrong(&format!("{path}.custom_id"), "a string", other)),
        };
        lines.push_str(&json!({ "custom_id": custom_id, "body": body }).to_string());
        lines.push('\n');
    }
    Ok(lines)
}

/// The lines of a file of results.
async fn inline_results(store: &Store, file: &str) -> Result<Value, ApiError> {
    let missing = |error| match error {
        StoreError::Missing { .. } => ApiError::invalid("inline", "`inline`: the file of results was deleted."),
        error => error.into(),
    };
    let bytes = store.file(file).await.map_err(missing)?.bytes;
    if bytes > MOST_INLINE_BYTES {
        let message = format!("`inline`: the results have {bytes} bytes; read the content of `output_file`.");
        return Err(ApiError::invalid("inline", message));
    }
    let mut content = Vec::new();
    let mut number = 0;
    while let Some(part) = store.file_part(file, number).await? {
        content.extend_from_slice(&part);
        number += 1;
    }
    let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let lines: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
    lines.map(Value::from).map_err(|error| ApiError::Internal { message: format!("A file of results: {error}.") })
}

/// Writes inline requests to a file like any other.
async fn store_inline(state: &AppState, lines: String, created_at: u64) -> Result<String, ApiError> {
    let limits = &state.limits().storage;
    if lines.len() > limits.file_bytes {
        return Err(StoredError::FileTooLarge { limit: limits.file_bytes }.into());
    }
    let store: &Store = state.store();
    let id = store.begin_file(created_at).await?;
    for part in lines.as_bytes().chunks(PART_BYTES) {
        store.append_to_file(&id, part.to_vec()).await?;
    }
    let details = FileDetails {
        filename: "requests.jsonl".to_owned(),
        purpose: BATCH.to_owned(),
        expires_at: created_at.saturating_add(limits.retention.as_secs()),
    };
    store.complete_file(&id, details).await?;
    Ok(id)
}

/// Lines that name no model get the served one, so a job may name no other.
fn check_model(state: &AppState, model: Option<&str>) -> Result<(), ApiError> {
    let Some(name) = model else { return Ok(()) };
    let Some(served) = state.loaded_model() else {
        return Err(ApiError::Unavailable { reason: "the model is loading" });
    };
    if served.names.iter().any(|served| served == name) {
        return Ok(());
    }
    Err(ApiError::ModelNotFound { model: shortened(name.to_owned()), served: served.names.join(", ") })
}

fn take_created_after(query: &mut QueryFields) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.text("created_after")? else { return Ok(None) };
    // With the offset that Python writes for UTC.
    let utc = text.strip_suffix("+00:00").unwrap_or(&text);
    match humantime::parse_rfc3339_weak(utc) {
        Ok(moment) => Ok(Some(moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())),
        Err(_) => Err(wrong("created_after", "a time in UTC such as 2026-01-31T12:00:00Z", &Value::String(text))),
    }
}

fn status(state: BatchState) -> &'static str {
    match state {
        BatchState::Validating => "QUEUED",
        BatchState::InProgress | BatchState::Finalizing => "RUNNING",
        BatchState::Completed => "SUCCESS",
        BatchState::Failed => "FAILED",
        BatchState::Expired => "TIMEOUT_EXCEEDED",
        BatchState::Cancelling => "CANCELLATION_REQUESTED",
        BatchState::Cancelled => "CANCELLED",
    }
}

fn states_of(word: &str) -> Result<Vec<BatchState>, ApiError> {
    let states: Vec<BatchState> = BatchState::ALL.into_iter().filter(|state| status(*state) == word).collect();
    if states.is_empty() {
        let expected = "QUEUED, RUNNING, SUCCESS, FAILED, TIMEOUT_EXCEEDED, CANCELLATION_REQUESTED or CANCELLED";
        return Err(wrong("status", expected, &word.into()));
    }
    Ok(states)
}

fn object(batch: &Batch) -> Value {
    let (request, times, counts) = (&batch.request, &batch.times, &batch.counts);
    let errors = batch.errors.as_ref().and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let errors = errors.unwrap_or_default().into_iter().map(|error| json!({ "message": error["message"], "count": 1 }));
    json!({
        "id": batch.id,
        "object": "batch",
        "input_files": request.input_files,
        "metadata": request::metadata(request.metadata.as_ref()),
        "endpoint": request.endpoint,
        "model": request.model,
        "agent_id": null,
        "output_file": batch.output_file,
        "error_file": batch.error_file,
        "errors": errors.collect::<Vec<_>>(),
        "outputs": null,
        "status": status(batch.state),
        "created_at": request.created_at,
        "total_requests": counts.total,
        "completed_requests": counts.completed + counts.failed,
        "succeeded_requests": counts.completed,
        "failed_requests": counts.failed,
        "started_at": times.started_at,
        "completed_at": times.ended_at,
    })
}
