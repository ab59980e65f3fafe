//! JSON as Mistral's prompts need it: Python's dialect, with every number's spelling kept.
//!
//! Tool schemas, call arguments and tool results reach the model as JSON text, and the model was
//! trained on what Python's `json.dumps(value, ensure_ascii=False)` writes. Two things follow:
//! key order and number spelling must survive parsing (`1e5` is written `100000.0`, an integer of
//! 40 digits stays as it is), and what Python's `json.loads` accepts must be accepted (`NaN`,
//! `Infinity`, duplicate keys: the last value wins at the first one's place).
//!
//! Main type: [`Value`]. Invariants: numbers hold a spelling that the JSON grammar allows, keys of
//! an [`Object`] are unique, and nesting is at most [`MAX_DEPTH`], so walking a value recursively
//! cannot exhaust the stack. This module must not know what the values mean.

mod convert;
mod parse;
mod write;

pub use parse::{JsonError, JsonFault, MAX_DEPTH};

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

/// A number as it was spelled, for example `1e5`, `-0` or `NaN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    spelling: String,
}

/// An object: unique keys in the order of their first appearance.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    entries: Vec<(String, Value)>,
}

impl Value {
    /// The value of `key`, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object().and_then(|object| object.get(key))
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The flag, if this is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The number, if this is one.
    pub fn as_number(&self) -> Option<&Number> {
        match self {
            Value::Number(number) => Some(number),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The nearest double, if this is a number.
    pub fn as_f64(&self) -> Option<f64> {
        self.as_number().map(Number::as_f64)
    }

    /// The exact value, if this is an integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().and_then(Number::as_i64)
    }

    /// The exact value, if this is a non-negative integer that fits.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_number().and_then(Number::as_u64)
    }

    /// The items, if this is a list.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
        }
    }

    /// The object, if this is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// True for `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// What an error message calls this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

impl Number {
    /// The digits as they were written.
    pub fn spelling(&self) -> &str {
        &self.spelling
    }

    /// True when Python would read an `int`: no fraction, no exponent, not `NaN` or an infinity.
    pub fn is_integer_literal(&self) -> bool {
        self.spelling.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
    }

    /// The nearest double; magnitudes beyond its range become infinities, as in Python.
    pub fn as_f64(&self) -> f64 {
        match self.spelling.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            digits => digits.parse().expect("the parser admits only spellings that f64 reads"),
        }
    }

    /// The exact value of an integer literal, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.spelling.parse().ok()
    }

    /// The exact value of an integer literal, if it fits and is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        if self.spelling == "-0" {
            return Some(0);
        }
        self.spelling.parse().ok()
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Number {
        Number { spelling: value.to_string() }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number { spelling: value.to_string() }
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number { spelling: write::python_float(value) }
    }
}

impl Object {
    /// An object without keys.
    pub fn new() -> Object {
        Object::default()
    }

    /// Looks a key up by walking the entries: fine for the handful of lookups a request needs.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Sets a key: in place if it is there, at the end if it is new.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let key = key.into();
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value.into(),
            None => self.entries.push((key, value.into())),
        }
    }

    /// Appends a key that is known to be new, without looking for it.
    pub(crate) fn push_unique(&mut self, key: String, value: Value) {
        self.entries.push((key, value));
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True for `{}`.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Value::Object(object)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(items)
    }
}
