//! Mistral's view: `POST /v1/batch/jobs` and its kin.

use std::{
    collections::HashSet,
    time::{Duration, UNIX_EPOCH},
};

use axum::{Json, http::Method};
use serde_json::{Value, json};

use super::{MAX_UNFINISHED, cancelled, request};
use crate::{
    api::{
        body::{Fields, JsonText, as_integer, shortened, wrong},
        dialect::Dialect,
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
    let StorageWork { state, in_flight, caller, audit, .. } = work;
    let _in_flight = in_flight;
    let job = off_thread(&state, text.len(), move || parse(&text)).await?;
    // Its lines will be asked there.
    caller.may_use(&state, &Method::POST, &job.endpoint)?;
    check_model(&state, job.model.as_deref())?;
    let store = state.store();
    let created_at = unix_seconds();
    let owns_input = matches!(job.lines, Source::Inline(_));
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
        dialect: Some(Dialect::Mistral.name().to_owned()),
        owns_input,
        keep_output_s: None,
        behalf: caller.behalf(),
    };
    let batch = create_of(store, request).await?;
    audit.queued("batches.create", &batch.id)?;
    state.batches_changed().notify_one();
    Ok(Json(object(&batch)))
}

/// Stores a job. If that fails, its requests are deleted: nobody would ever know of them.
async fn create_of(store: &Store, request: BatchRequest) -> Result<Batch, ApiError> {
    let own = if request.owns_input { request.input_files.clone() } else { Vec::new() };
    let created = store.create_batch(request, MAX_UNFINISHED).await;
    if created.is_err() {
        delete_all(store, &own).await;
    }
    Ok(created?)
}

async fn delete_all(store: &Store, files: &[String]) {
    for file in files {
        if let Err(error) = store.delete_file(file).await {
            tracing::warn!(%error, "requests of a job that was refused stay until their time is over");
        }
    }
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
        object["outputs"] = inline_results(&work.state, file).await?;
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
                Some(text) if ids[..index].iter().any(|earlier| earlier == text) => {
                    let path = format!("input_files[{index}]");
                    Err(ApiError::invalid(path.clone(), format!("`{path}` is an earlier file again.")))
                }
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

/// Requests as lines of a file. One without a name of its own is known by its index, or, where another request is
/// called so, by the next number that is nobody's name.
fn inline(requests: &[Value]) -> Result<String, ApiError> {
    let taken: HashSet<&str> = requests.iter().filter_map(|request| request["custom_id"].as_str()).collect();
    let mut next_free = requests.len();
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
            None | Some(Value::Null) => default_id(index, &mut next_free, &taken),
            Some(Value::String(id)) => id.clone(),
            Some(other) => return Err(wrong(&format!("{path}.custom_id"), "a string", other)),
        };
        lines.push_str(&json!({ "custom_id": custom_id, "body": body }).to_string());
        lines.push('\n');
    }
    Ok(lines)
}

/// The index as a name, unless it is taken; then a number behind all indices.
fn default_id(index: usize, next_free: &mut usize, taken: &HashSet<&str>) -> String {
    let mut id = index.to_string();
    while taken.contains(id.as_str()) {
        id = next_free.to_string();
        *next_free += 1;
    }
    id
}

/// The lines of a file of results.
async fn inline_results(state: &AppState, file: &str) -> Result<Value, ApiError> {
    let store: &Store = state.store();
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
    off_thread(state, content.len(), move || {
        let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let lines: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
        lines.map(Value::from).map_err(|error| ApiError::Internal { message: format!("A file of results: {error}.") })
    })
    .await
}

/// Writes inline requests to a file like any other.
async fn store_inline(state: &AppState, lines: String, created_at: u64) -> Result<String, ApiError> {
    let limit = state.limits().storage.file_bytes;
    if lines.len() > limit {
        return Err(StoredError::FileTooLarge { limit }.into());
    }
    let store: &Store = state.store();
    let id = store.begin_file(created_at).await?;
    match fill(store, &id, &lines, state.expiry(created_at)).await {
        Ok(()) => Ok(id),
        Err(error) => {
            delete_all(store, &[id]).await;
            Err(error.into())
        }
    }
}

async fn fill(store: &Store, id: &str, lines: &str, expires_at: u64) -> Result<(), StoreError> {
    for part in lines.as_bytes().chunks(PART_BYTES) {
        store.append_to_file(id, part.to_vec()).await?;
    }
    let (filename, purpose) = ("requests.jsonl".to_owned(), BATCH.to_owned());
    store.complete_file(id, FileDetails { filename, purpose, expires_at }).await?;
    Ok(())
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
    match unix_time(&text) {
        Some(moment) => Ok(Some(moment)),
        None => Err(wrong("created_after", "a time such as 2026-01-31T12:00:00+01:00", &Value::String(text))),
    }
}

/// RFC 3339, where Python's clients leave the offset out or write it for UTC too. Times before 1970 count as 1970.
fn unix_time(text: &str) -> Option<u64> {
    let at = text.len().checked_sub("+00:00".len())?;
    let (local, offset) = match text.split_at_checked(at) {
        Some((local, offset)) if offset.starts_with(['+', '-']) && local.contains('T') => {
            (local, offset_seconds(offset)?)
        }
        Some(_) | None => (text, 0),
    };
    let local = humantime::parse_rfc3339_weak(local).ok()?;
    let local = local.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    Some(local.saturating_add_signed(-offset))
}

/// `+05:30` as seconds.
fn offset_seconds(text: &str) -> Option<i64> {
    let (hours, minutes) = text[1..].split_once(':')?;
    let digits = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().ok())?
    };
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let seconds = (hours < 24 && minutes < 60).then_some((hours * 60 + minutes) * 60)?;
    Some(if text.starts_with('-') { -seconds } else { seconds })
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
        // Requests that came with the job are in no file that its owner knows.
        "input_files": if request.owns_input { &[] } else { request.input_files.as_slice() },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_index_are_nobody_elses() {
        let named = |id: &str| json!({ "custom_id": id, "body": {} });
        let lines = inline(&[json!({ "body": {} }), named("0"), json!({ "body": {} }), named("4")]).expect("requests");
        let id = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["custom_id"].clone();
        assert_eq!(lines.lines().map(id).collect::<Vec<_>>(), ["5", "0", "2", "4"]);
    }

    #[test]
    fn times_have_any_offset() {
        for (text, expected) in [
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T00:00:00", Some(86_400)),
            ("1970-01-02T00:00:00.5+00:00", Some(86_400)),
            ("1970-01-02T00:00:00+05:30", Some(66_600)),
            ("1970-01-02T00:00:00-01:00", Some(90_000)),
            ("1970-01-01T00:00:00+02:00", Some(0)),
            ("1970-01-02T00:00:00+24:00", None),
            ("1970-01-02T00:00:00+1:000", None),
            ("1970-01-02T00:00:00+\u{e9}:00", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(unix_time(text), expected, "{text}");
        }
    }
}
