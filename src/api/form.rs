//! `response_format` and `structured_outputs`: the form that an answer's text is to have.

mod structural_tag;

use serde_json::{Map, Value};

use super::{
    body::{Fields, as_bool, unknown_key, wrong},
    error::ApiError,
};
use crate::prompt::{ContentForm, ContentKind, PromptError, ResponseFormat, json};

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";
/// The forms that `structured_outputs` may ask for, one at a time.
const KINDS: &str = "one of `json`, `json_object`, `regex`, `choice`, `grammar` and `structural_tag`";
const MOST_CHOICES: usize = 1024;

/// What parsing a body costs, in bytes of a body without a form: compiling a grammar takes longer than reading any text.
pub(super) fn parsing_cost(text: &str) -> usize {
    const ASKS: [&str; 5] =
        ["\"response_format\"", "\"structured_outputs\"", "\"tool_choice\"", "\"parallel_tool_calls\"", "\"strict\""];
    if ASKS.iter().any(|field| text.contains(field)) { usize::MAX } else { text.len() }
}

/// Takes both fields of a request whose body is `text`; they say the same thing in two ways.
pub(super) fn take_content_form(fields: &mut Fields, text: &str) -> Result<Option<ContentForm>, ApiError> {
    let format = match fields.take(RESPONSE_FORMAT) {
        None => None,
        Some(format) => response_format(&format, text)?,
    };
    let structured = match fields.take(STRUCTURED_OUTPUTS) {
        None => None,
        Some(Value::Object(map)) => structured_outputs(&map)?,
        Some(other) => return Err(wrong(STRUCTURED_OUTPUTS, "an object", &other)),
    };
    match (format, structured) {
        (Some(_), Some(_)) => {
            let message = "`structured_outputs` and `response_format` exclude each other.";
            Err(ApiError::invalid(STRUCTURED_OUTPUTS, message))
        }
        (format, structured) => Ok(format.or(structured)),
    }
}

/// Refuses keys that nothing reads; the prompt layer reads the rest, in the spelling of the body.
fn response_format(format: &Value, text: &str) -> Result<Option<ContentForm>, ApiError> {
    check_keys(format, RESPONSE_FORMAT, &["type", "json_schema"])?;
    if let Some(described) = format.get("json_schema").filter(|described| !described.is_null()) {
        let path = format!("{RESPONSE_FORMAT}.json_schema");
        if format.get("type").and_then(Value::as_str) != Some("json_schema") {
            return Err(ApiError::invalid(
                &path,
                format!("`{path}` needs `{RESPONSE_FORMAT}.type` to be json_schema."),
            ));
        }
        check_keys(described, &path, &["name", "description", "schema", "strict"])?;
    }
    let body = json::Value::parse(text).map_err(PromptError::from)?;
    let (field, schema) = match ResponseFormat::from_json(&body)? {
        ResponseFormat::Text => return Ok(None),
        ResponseFormat::JsonObject => (RESPONSE_FORMAT.to_owned(), any_object()),
        ResponseFormat::JsonSchema(schema) => (format!("{RESPONSE_FORMAT}.json_schema.schema"), schema),
    };
    Ok(Some(ContentForm { field, kind: ContentKind::Json { schema, whitespace: None } }))
}

/// vLLM's field of that name.
fn structured_outputs(map: &Map<String, Value>) -> Result<Option<ContentForm>, ApiError> {
    let path = |key: &str| format!("{STRUCTURED_OUTPUTS}.{key}");
    let mut asked: Option<ContentForm> = None;
    let mut whitespace = None;
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let field = path(key);
        let kind = match key.as_str() {
            "json" => ContentKind::Json { schema: schema(value, &field)?, whitespace: None },
            "json_object" if !as_bool(value, &field)? => continue,
            "json_object" => ContentKind::Json { schema: any_object(), whitespace: None },
            "regex" => ContentKind::Regex(string(value, &field)?),
            "grammar" => ContentKind::Lark(string(value, &field)?),
            "choice" => ContentKind::Choice(choices(value, &field)?),
            "structural_tag" => ContentKind::Tags(structural_tag::read(value, &field)?),
            "whitespace_pattern" => {
                whitespace = Some(string(value, &field)?);
                continue;
            }
            _ => {
                let message = format!("`{field}` is not supported: give {KINDS}, and with JSON `whitespace_pattern`.");
                return Err(ApiError::Invalid { message, param: Some(field), code: Some("unknown_parameter") });
            }
        };
        if let Some(other) = &asked {
            return Err(ApiError::invalid(&field, format!("`{}` and `{field}` exclude each other.", other.field)));
        }
        asked = Some(ContentForm { field, kind });
    }
    match (&mut asked, whitespace) {
        (_, None) => {}
        (Some(ContentForm { kind: ContentKind::Json { whitespace, .. }, .. }), pattern) => *whitespace = pattern,
        (Some(_) | None, Some(_)) => {
            let field = path("whitespace_pattern");
            return Err(ApiError::invalid(&field, format!("`{field}` needs `json` or `json_object` beside it.")));
        }
    }
    if asked.is_none() && !map.values().any(|value| value == false) {
        return Err(ApiError::invalid(STRUCTURED_OUTPUTS, format!("`{STRUCTURED_OUTPUTS}` must have {KINDS}.")));
    }
    Ok(asked)
}

/// A schema, or the text of one.
fn schema(value: &Value, field: &str) -> Result<json::Value, ApiError> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let parsed = json::Value::parse(&text).ok().filter(|schema| schema.as_object().is_some());
    let schema = parsed.ok_or_else(|| wrong(field, "a JSON schema (an object)", value))?;
    ResponseFormat::check_schema(&schema, field)?;
    Ok(schema)
}

fn any_object() -> json::Value {
    let mut schema = json::Object::new();
    schema.insert("type", "object");
    schema.into()
}

fn string(value: &Value, field: &str) -> Result<String, ApiError> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err(wrong(field, "a text that is not empty", value)),
    }
}

fn choices(value: &Value, field: &str) -> Result<Vec<String>, ApiError> {
    let expected = format!("1 to {MOST_CHOICES} texts");
    let items = value.as_array().filter(|items| (1..=MOST_CHOICES).contains(&items.len()));
    let items = items.ok_or_else(|| wrong(field, expected, value))?;
    items.iter().enumerate().map(|(index, item)| string(item, &format!("{field}[{index}]"))).collect()
}

fn check_keys(object: &Value, path: &str, known: &[&str]) -> Result<(), ApiError> {
    let Some(object) = object.as_object() else { return Ok(()) }; // the prompt layer says what is wrong
    match object.iter().find(|(key, value)| !known.contains(&key.as_str()) && !value.is_null()) {
        None => Ok(()),
        Some((key, _)) => Err(unknown_key(path, key)),
    }
}
