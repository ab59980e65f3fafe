//! vLLM's `structured_outputs.structural_tag`: `structures`, each with `begin`, `schema` and `end`, and the `triggers` that
//! they begin with, as an object or as the text of one. The newer form, with a `format`, is refused.

use serde_json::{Map, Value};

use super::{schema, string};
use crate::{
    api::{
        body::{self, unknown_key, wrong},
        error::ApiError,
    },
    prompt::{StructuralTag, StructuralTags},
};

const MOST: usize = 128;

/// Reads the value of `field`.
pub(super) fn read(value: &Value, field: &str) -> Result<StructuralTags, ApiError> {
    let expected = "an object with `structures` and `triggers`, or the text of one";
    let parsed = match value {
        Value::String(text) => body::parse(text).map_err(|_| wrong(field, expected, value))?,
        other => other.clone(),
    };
    let object = parsed.as_object().ok_or_else(|| wrong(field, expected, value))?;
    check_keys(object, field, &["type", "structures", "triggers"])?;
    if let Some(other) = object.get("type").filter(|kind| !kind.is_null() && *kind != "structural_tag") {
        return Err(wrong(&format!("{field}.type"), "structural_tag", other));
    }
    let triggers = triggers(object, &format!("{field}.triggers"))?;
    let path = format!("{field}.structures");
    let one = |(index, item): (usize, &Value)| tag(item, &format!("{path}[{index}]"), &triggers);
    let tags = list(object, "structures", &path)?.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
    match triggers.iter().position(|trigger| !tags.iter().any(|tag| tag.begin.starts_with(trigger))) {
        None => Ok(StructuralTags { triggers, tags }),
        Some(index) => {
            let path = format!("{field}.triggers[{index}]");
            Err(wrong(&path, "the beginning of one of the structures", &triggers[index].as_str().into()))
        }
    }
}

/// At most one of them can be complete at any place of a text.
fn triggers(object: &Map<String, Value>, path: &str) -> Result<Vec<String>, ApiError> {
    let item = |(index, item): (usize, &Value)| string(item, &format!("{path}[{index}]"));
    let items = list(object, "triggers", path)?;
    let triggers: Vec<String> = items.iter().enumerate().map(item).collect::<Result<_, _>>()?;
    for (index, trigger) in triggers.iter().enumerate() {
        let is_within = |(at, other): (usize, &String)| at != index && trigger.contains(other.as_str());
        if triggers.iter().enumerate().any(is_within) {
            let expected = "a text that has no other trigger within it";
            return Err(wrong(&format!("{path}[{index}]"), expected, &items[index]));
        }
    }
    Ok(triggers)
}

fn tag(item: &Value, path: &str, triggers: &[String]) -> Result<StructuralTag, ApiError> {
    let object = item.as_object().ok_or_else(|| wrong(path, "an object with `begin`, `schema` and `end`", item))?;
    check_keys(object, path, &["begin", "schema", "end"])?;
    let member = |key: &str| (object.get(key).unwrap_or(&Value::Null), format!("{path}.{key}"));
    let (begin, at) = member("begin");
    let text = string(begin, &at)?;
    if !triggers.iter().any(|trigger| text.starts_with(trigger)) {
        return Err(wrong(&at, "a text that begins with one of the triggers", begin));
    }
    let (end, at) = member("end");
    let end = end.as_str().ok_or_else(|| wrong(&at, "a text", end))?.to_owned();
    let (described, at) = member("schema");
    Ok(StructuralTag { begin: text, schema: schema(described, &at)?, end })
}

fn list<'a>(object: &'a Map<String, Value>, key: &str, path: &str) -> Result<&'a [Value], ApiError> {
    let value = object.get(key).unwrap_or(&Value::Null);
    let items = value.as_array().filter(|items| (1..=MOST).contains(&items.len()));
    items.map(Vec::as_slice).ok_or_else(|| wrong(path, format_args!("a list of 1 to {MOST} items"), value))
}

fn check_keys(object: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), ApiError> {
    match object.iter().find(|(key, value)| !known.contains(&key.as_str()) && !value.is_null()) {
        None => Ok(()),
        Some((key, _)) => Err(unknown_key(path, key)),
    }
}
