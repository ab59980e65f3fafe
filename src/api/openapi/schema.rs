//! JSON schemas in few words.

use serde_json::{Map, Value, json};

/// A schema by its name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Also null.
pub(super) fn or_null(mut schema: Value) -> Value {
    match (schema.get("type"), schema.get("enum")) {
        (Some(Value::String(kind)), None) if kind == "null" => schema,
        (Some(Value::String(kind)), None) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// An object with these members. One whose name ends with `?` may be absent.
pub(super) fn object(members: &[(&str, Value)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in members {
        let optional = name.strip_suffix('?');
        properties.insert(optional.unwrap_or(name).to_owned(), schema.clone());
        if optional.is_none() {
            required.push(*name);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

pub(super) fn map_of(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub(super) fn constant(text: &str) -> Value {
    json!({ "const": text })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn integer() -> Value {
    json!({ "type": "integer" })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn null() -> Value {
    json!({ "type": "null" })
}
