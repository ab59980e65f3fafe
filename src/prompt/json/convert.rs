//! To and from `serde_json::Value`, for the layers that speak serde.
//!
//! The way out can lose what serde_json cannot hold: integers beyond 64 bits become doubles,
//! `NaN` and the infinities become null. The way in loses nothing.

use super::{Number, Object, Value};

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => number_to_serde(number),
            Value::String(text) => text.as_str().into(),
            Value::Array(items) => items.iter().map(serde_json::Value::from).collect(),
            Value::Object(object) => {
                object.iter().map(|(key, item)| (key.to_owned(), serde_json::Value::from(item))).collect()
            }
        }
    }
}

impl From<&serde_json::Value> for Value {
    fn from(value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(*flag),
            serde_json::Value::Number(number) => Value::Number(number_from_serde(number)),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(items) => Value::Array(items.iter().map(Value::from).collect()),
            serde_json::Value::Object(map) => {
                let entries = map.iter().map(|(key, item)| (key.clone(), item.into())).collect();
                Value::Object(Object { entries })
            }
        }
    }
}

fn number_to_serde(number: &Number) -> serde_json::Value {
    if let Some(integer) = number.as_i64() {
        return integer.into();
    }
    if let Some(integer) = number.as_u64() {
        return integer.into();
    }
    // `From<f64>` gives null for what JSON has no digits for.
    number.as_f64().into()
}

fn number_from_serde(number: &serde_json::Number) -> Number {
    if let Some(integer) = number.as_i64() {
        return integer.into();
    }
    if let Some(integer) = number.as_u64() {
        return integer.into();
    }
    number.as_f64().unwrap_or(f64::NAN).into()
}
