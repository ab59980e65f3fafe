//! Typed reading of JSON configuration files: each accessor names the key, the value and the expectation
//! when it refuses. Nothing is allocated by a number in the file, and files have a size limit.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::{CheckpointError, quote};

/// One JSON object of a configuration file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The file's outermost object.
    pub(super) fn root(path: &'a Path, value: &'a Value) -> Result<Section<'a>, CheckpointError> {
        match value {
            Value::Object(map) => Ok(Section { path, prefix: String::new(), map }),
            other => Err(CheckpointError::Corrupt {
                path: path.into(),
                what: "the outermost value".into(),
                found: describe(other),
                expected: "an object".into(),
            }),
        }
    }

    /// The file, for errors.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The value, unless the key is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The key is there, be it null.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// How many members the object has.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Their names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// The object's members that are objects.
    pub(super) fn sections(&self) -> impl Iterator<Item = Section<'a>> {
        self.map.iter().filter_map(|(key, value)| Some(self.nested(key, value.as_object()?)))
    }

    /// A nested object.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(self.nested(key, map))),
            Some(_) => Err(self.refuse(key, "an object")),
        }
    }

    /// A whole number within `bounds`.
    pub(super) fn count(&self, key: &str, bounds: RangeInclusive<usize>) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| bounds.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.refuse(key, &format!("a whole number from {} to {}", bounds.start(), bounds.end()))),
        }
    }

    /// A finite number within `bounds`.
    pub(super) fn number(&self, key: &str, bounds: RangeInclusive<f64>) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| bounds.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(key, &format!("a number from {:e} to {:e}", bounds.start(), bounds.end()))),
        }
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, "a string"))
    }

    /// A boolean.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refuse(key, "true or false"))
    }

    /// A list.
    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_array().map(|list| Some(list.as_slice())).ok_or_else(|| self.refuse(key, "a list"))
    }

    /// The error for a value that is not what was expected.
    pub(super) fn refuse(&self, key: &str, expected: &str) -> CheckpointError {
        CheckpointError::Config {
            path: self.path.into(),
            key: format!("{}{key}", self.prefix),
            found: self.map.get(key).map_or_else(|| "missing".into(), describe),
            expected: expected.into(),
        }
    }

    fn nested(&self, key: &str, map: &'a Map<String, Value>) -> Section<'a> {
        Section { path: self.path, prefix: format!("{}{}.", self.prefix, quote(key)), map }
    }
}

/// A value as an error message shows it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => quote(&number.to_string()),
        Value::String(text) => format!("\"{}\"", quote(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => format!("an object of {}", map.len()),
    }
}
