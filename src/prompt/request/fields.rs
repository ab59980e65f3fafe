//! Typed access to the fields of a request body, with the field's path in every error.

use crate::prompt::error::PromptError;
use crate::prompt::json::Value;

/// `path.key`, or just `key` at the top of the body.
pub(super) fn at_key(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `path[index]`.
pub(super) fn at_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The value of a key that is there and not null.
pub(super) fn present<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

pub(super) fn required_string<'a>(object: &'a Value, path: &str, key: &str) -> Result<&'a str, PromptError> {
    let value = object.get(key);
    value.and_then(Value::as_str).ok_or_else(|| PromptError::invalid_value(at_key(path, key), value, "a string"))
}

pub(super) fn optional_string<'a>(object: &'a Value, path: &str, key: &str) -> Result<Option<&'a str>, PromptError> {
    match present(object, key) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(PromptError::invalid_value(at_key(path, key), Some(value), "a string or null")),
        },
    }
}

pub(super) fn optional_bool(object: &Value, path: &str, key: &str) -> Result<Option<bool>, PromptError> {
    match present(object, key) {
        None => Ok(None),
        Some(value) => match value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(PromptError::invalid_value(at_key(path, key), Some(value), "true or false")),
        },
    }
}

pub(super) fn required_object<'a>(object: &'a Value, path: &str, key: &str) -> Result<&'a Value, PromptError> {
    let value = object.get(key);
    value
        .filter(|value| value.as_object().is_some())
        .ok_or_else(|| PromptError::invalid_value(at_key(path, key), value, "an object"))
}

/// The items of a list that may be missing or null.
pub(super) fn optional_array<'a>(object: &'a Value, path: &str, key: &str) -> Result<&'a [Value], PromptError> {
    match present(object, key) {
        None => Ok(&[]),
        Some(value) => value
            .as_array()
            .ok_or_else(|| PromptError::invalid_value(at_key(path, key), Some(value), "an array or null")),
    }
}

/// The `type` of a tool or call: `function`, which is also what a missing type means.
pub(super) fn check_function_type(object: &Value, path: &str) -> Result<(), PromptError> {
    match object.get("type") {
        None => Ok(()),
        Some(value) if value.as_str() == Some("function") => Ok(()),
        Some(value) => Err(PromptError::invalid_value(at_key(path, "type"), Some(value), "\"function\"")),
    }
}
