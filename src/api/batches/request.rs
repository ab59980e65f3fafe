//! What both dialects ask for, checked.

use serde_json::{Value, json};

use crate::api::{
    body::{Fields, wrong},
    error::ApiError,
};

/// What can answer lines: routes that take one JSON object and answer with one.
pub(in crate::api) const ENDPOINTS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/fim/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/chat/moderations",
    "/v1/responses",
];

/// OpenAI's limits of `metadata`.
const MAX_LABELS: usize = 16;
const MAX_KEY_CHARACTERS: usize = 64;
const MAX_VALUE_CHARACTERS: usize = 512;

/// Takes `endpoint`, which must be there.
pub(super) fn take_endpoint(fields: &mut Fields) -> Result<String, ApiError> {
    match fields.string("endpoint")? {
        Some(endpoint) if ENDPOINTS.contains(&endpoint.as_str()) => Ok(endpoint),
        other => Err(wrong("endpoint", ENDPOINTS.join(" or "), &other.into())),
    }
}

/// Takes `metadata`: labels, kept as they are written.
pub(in crate::api) fn take_metadata(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let map = match fields.take("metadata") {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong("metadata", "an object of strings", &other)),
    };
    if map.len() > MAX_LABELS {
        let message = format!("`metadata` may have {MAX_LABELS} members, got {}.", map.len());
        return Err(ApiError::invalid("metadata", message));
    }
    for (key, value) in &map {
        if key.chars().count() > MAX_KEY_CHARACTERS {
            let expected = format!("keyed by at most {MAX_KEY_CHARACTERS} characters");
            return Err(wrong("metadata", expected, &key.as_str().into()));
        }
        if value.as_str().is_none_or(|text| text.chars().count() > MAX_VALUE_CHARACTERS) {
            let expected = format!("a string of at most {MAX_VALUE_CHARACTERS} characters");
            return Err(wrong(&format!("metadata.{key}"), expected, value));
        }
    }
    Ok(Some(Value::Object(map).to_string()))
}

/// Labels as they were written, for an answer; null if there are none.
pub(super) fn metadata(stored: Option<&String>) -> Value {
    stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// The same where no labels are an empty object.
pub(in crate::api) fn metadata_object(stored: Option<&String>) -> Value {
    match metadata(stored) {
        Value::Null => json!({}),
        labels => labels,
    }
}
