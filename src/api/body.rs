//! Request bodies: bytes within limits -> JSON without surprises -> typed fields.
//!
//! Main types: [`BodyText`], a body that counts against the memory of all bodies for as long as it is held; and
//! [`Fields`], the top level of a body. A handler takes out the fields it honours; [`Fields::finish`]
//! refuses whatever is left. So a field cannot be ignored by accident: it is taken, neutral by the table of
//! [`super::fields`], or a 400 that names it.

use std::{
    fmt,
    ops::{Deref, RangeInclusive},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    about::subject_of_body,
    audit::AuditScope,
    error::ApiError,
    fields::{Support, Table},
    request::{body_tenant, off_thread_of},
    state::{AppState, BODY_PIECE_BYTES},
};
use crate::engine::TakenPlace;

/// The longest value that an error message repeats, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// The text of a JSON request body, within the limits of size and time, and UTF-8.
pub(super) struct JsonText(pub(super) BodyText);

/// The text of a body, and its share of the memory for bodies.
pub(super) struct BodyText {
    text: String,
    _memory: Option<TakenPlace>,
}

impl Deref for BodyText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl FromRequest<AppState> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let audit = request.extensions().get::<AuditScope>().cloned();
        check_content_type(request.headers())?;
        let timeout = state.limits().body_timeout;
        let tenant = body_tenant(request.extensions(), state);
        let Ok(read) = tokio::time::timeout(timeout, read(request.into_body(), &tenant, state)).await else {
            return Err(ApiError::BodyTimeout { seconds: timeout.as_secs() });
        };
        let (bytes, memory) = read?;
        let text = String::from_utf8(bytes).map_err(|error| ApiError::Invalid {
            message: format!("The body is not UTF-8 from byte {} on.", error.utf8_error().valid_up_to()),
            param: None,
            code: Some("invalid_utf8"),
        })?;
        let body = BodyText { text, _memory: memory };
        match audit.filter(AuditScope::lacks_subject) {
            Some(audit) => with_subject(body, &tenant, state, audit).await.map(Self),
            None => Ok(Self(body)),
        }
    }
}

/// Tells the audit whom a body says that it is about. Whether it says that rightly is for its route to judge.
async fn with_subject(
    body: BodyText,
    tenant: &Arc<str>,
    state: &AppState,
    audit: AuditScope,
) -> Result<BodyText, ApiError> {
    off_thread_of(tenant, state, body.len(), move || {
        audit.about(subject_of_body(&body).filter(|subject| !subject.is_empty()));
        Ok(body)
    })
    .await
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let declared = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(declared) = declared else { return Err(ApiError::NotJson { found: "none".to_owned() }) };
    let media_type = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = media_type.strip_prefix("application/");
    if subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json")) {
        Ok(())
    } else {
        Err(ApiError::NotJson { found: shortened(declared) })
    }
}

/// Reads a body piece by piece; each is counted before it is kept.
async fn read(body: Body, tenant: &Arc<str>, state: &AppState) -> Result<(Vec<u8>, Option<TakenPlace>), ApiError> {
    let limit = state.limits().body_bytes;
    let mut body = Limited::new(body, limit);
    let (mut bytes, mut memory) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if error.is::<LengthLimitError>() => return Err(ApiError::BodyTooLarge { limit }),
            Err(error) => {
                let message = format!("The body broke off: {error}.");
                return Err(ApiError::Invalid { message, param: None, code: None });
            }
        };
        let Ok(data) = frame.into_data() else { continue }; // trailers are no part of the text
        let len = bytes.len() + data.len();
        if len > bytes.capacity() {
            // What the buffer takes counts, not what is in it. A long body grows by an eighth at a time.
            let capacity = (len + len / 8).next_multiple_of(BODY_PIECE_BYTES);
            state.reserve_body_of(tenant, &mut memory, capacity)?;
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, memory))
}

/// Parses one JSON text. Duplicate keys are refused at any depth, as one of the two would be ignored.
pub(super) fn parse(text: &str) -> Result<Value, ApiError> {
    match serde_json::from_str::<Unambiguous>(text) {
        Ok(Unambiguous(value)) => Ok(value),
        Err(error) => Err(ApiError::Invalid {
            message: format!("The body is not valid JSON: {error}."),
            param: None,
            code: Some("invalid_json"),
        }),
    }
}

/// The fields of a request body that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    table: &'static Table,
}

impl Fields {
    /// Parses the body of a request to the resource that `table` describes.
    pub(super) fn parse(text: &str, table: &'static Table) -> Result<Self, ApiError> {
        match parse(text)? {
            Value::Object(map) => Ok(Self { map, table }),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                let message = format!("The body must be a JSON object, got {}.", shown(&other));
                Err(ApiError::Invalid { message, param: None, code: None })
            }
        }
    }

    /// Fields that arrived otherwise than in a JSON text.
    pub(super) fn of(map: Map<String, Value>, table: &'static Table) -> Self {
        Self { map, table }
    }

    /// Takes a field out; `None` if it is missing or null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        debug_assert!(self.table.field(name).is_some(), "{name} is not in the table of fields");
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field without taking it.
    pub(super) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Does this resource have the field?
    pub(super) fn knows(&self, name: &str) -> bool {
        self.table.field(name).is_some()
    }

    /// Takes a true or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take(name).map(|value| as_bool(&value, name)).transpose()
    }

    /// Takes a text.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// Takes a number.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<f32>, ApiError> {
        self.take(name).map(|value| as_f32(&value, name)).transpose()
    }

    /// Takes an integer in `range`.
    pub(super) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        self.take(name).map(|value| as_integer(&value, name, range)).transpose()
    }

    /// Takes a count in `range`.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let bound = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let value = self.integer(name, bound(*range.start())..=bound(*range.end()))?;
        Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    }

    /// Takes a list of token ids of a vocabulary of `vocab_size`.
    pub(super) fn token_ids(&mut self, name: &str, vocab_size: usize) -> Result<Option<Vec<u32>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => as_token_ids(&items, name, vocab_size).map(Some),
            Some(other) => Err(wrong(name, "an array of token ids", &other)),
        }
    }

    /// Drops fields that another layer has read from the same body.
    pub(super) fn forget(&mut self, names: &[&str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Refuses names that the resource does not have, where somebody else reads the fields themselves.
    pub(super) fn check_names(&self) -> Result<(), ApiError> {
        match self.map.keys().find(|name| !self.knows(name)) {
            None => Ok(()),
            Some(name) => Err(self.table.unknown(name)),
        }
    }

    /// Refuses what nobody took, except for values that ask for nothing.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        for (name, value) in &self.map {
            let Some(field) = self.table.field(name) else { return Err(self.table.unknown(name)) };
            let asks_for_nothing = match field.support {
                Support::Neutral { accepted, .. } => {
                    let value = without_nulls(value);
                    accepted.iter().any(|text| parse(text).as_ref() == Ok(&value))
                }
                // Refused here if a handler forgot it, which the tests would notice.
                Support::Honoured { .. } | Support::Label { .. } => false,
            };
            if !value.is_null() && !asks_for_nothing {
                let message = format!("`{name}` = {} is not supported: {}", shown(value), field.note);
                return Err(ApiError::Invalid { message, param: Some(name.clone()), code: Some("unsupported_value") });
            }
        }
        Ok(())
    }
}

impl Table {
    /// The error for a field that is not in it.
    pub(super) fn unknown(&self, name: &str) -> ApiError {
        ApiError::Invalid {
            message: format!("`{}` is not a field of {}.", shortened(name.to_owned()), self.resource),
            param: Some(shortened(name.to_owned())),
            code: Some("unknown_parameter"),
        }
    }
}

/// The value without the members that are null, at any depth: null is the same as leaving it out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let present = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(present.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// `param` has a value of the wrong type or range.
pub(super) fn wrong(param: &str, expected: impl fmt::Display, got: &Value) -> ApiError {
    ApiError::invalid(param, format!("`{param}` must be {expected}, got {}.", shown(got)))
}

/// The object at `path` has a key that nothing reads.
pub(super) fn unknown_key(path: &str, key: &str) -> ApiError {
    const SHOWN: usize = 64;
    let path = format!("{path}.{}", key.chars().take(SHOWN).collect::<String>());
    let message = format!("`{path}` is not supported.");
    ApiError::Invalid { message, param: Some(path), code: Some("unknown_parameter") }
}

pub(super) fn as_bool(value: &Value, path: &str) -> Result<bool, ApiError> {
    value.as_bool().ok_or_else(|| wrong(path, "true or false", value))
}

pub(super) fn as_f32(value: &Value, path: &str) -> Result<f32, ApiError> {
    // Beyond f32 this becomes infinite, which the range checks refuse.
    value.as_f64().map(|number| number as f32).ok_or_else(|| wrong(path, "a number", value))
}

/// `5.0` is an integer too: some clients know no other numbers.
pub(super) fn as_integer(value: &Value, path: &str, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53, up to which every integer is a double
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64);
    match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
        Some(integer) if range.contains(&integer) => Ok(integer),
        Some(_) | None => Err(wrong(path, describe(&range), value)),
    }
}

pub(super) fn as_token_ids(items: &[Value], path: &str, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let last = i64::try_from(vocab_size).unwrap_or(i64::MAX) - 1;
    let id = |(index, item)| {
        let id = as_integer(item, &format!("{path}[{index}]"), 0..=last)?;
        Ok(u32::try_from(id).expect("vocabularies are smaller than 2^32"))
    };
    items.iter().enumerate().map(id).collect()
}

fn describe(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "an integer".to_owned(),
        (start, i64::MAX) => format!("an integer of at least {start}"),
        (start, end) => format!("an integer from {start} to {end}"),
    }
}

fn shown(value: &Value) -> String {
    shortened(value.to_string())
}

pub(super) fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARACTERS) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// A JSON value in which every object's keys are unique.
struct Unambiguous(Value);

struct UnambiguousVisitor;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unambiguous(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{}` appears twice", shortened(key))));
            }
            let Unambiguous(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&match parse(text) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        });
    }

    #[test]
    fn numbers_keep_their_value() {
        check("[1, -1, 18446744073709551615, 0.5, 1e3]", expect!["[1,-1,18446744073709551615,0.5,1000.0]"]);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_position() {
        check("{\"a\": 1,}", expect!["The body is not valid JSON: trailing comma at line 1 column 9."]);
        check("", expect!["The body is not valid JSON: EOF while parsing a value at line 1 column 0."]);
        check("1 2", expect!["The body is not valid JSON: trailing characters at line 1 column 3."]);
        check("NaN", expect!["The body is not valid JSON: expected value at line 1 column 1."]);
        check("1e999", expect!["The body is not valid JSON: number out of range at line 1 column 5."]);
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        check(
            "{\"a\": [{\"b\": 1, \"b\": 1}]}",
            expect!["The body is not valid JSON: the key `b` appears twice at line 1 column 19."],
        );
    }

    #[test]
    fn a_deep_bomb_does_not_exhaust_the_stack() {
        check(
            &"[".repeat(1_000_000),
            expect!["The body is not valid JSON: recursion limit exceeded at line 1 column 128."],
        );
    }

    #[test]
    fn integers_may_be_spelled_as_floats_but_not_be_fractions() {
        let integer = |text: &str| as_integer(&parse(text).expect("JSON"), "n", 1..=10).ok();
        assert_eq!(integer("3"), Some(3));
        assert_eq!(integer("3.0"), Some(3));
        assert_eq!(integer("3.5"), None);
        assert_eq!(integer("0"), None);
        assert_eq!(integer("11"), None);
        assert_eq!(integer("1e300"), None);
        assert_eq!(integer("\"3\""), None);
        assert_eq!(integer("true"), None);
    }
}
