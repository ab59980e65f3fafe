//! Checks that a tool's `parameters` (or a response schema) is a JSON schema of draft 7.
//!
//! Main function: [`check`]. Only the schema itself is checked, against the draft's meta-schema
//! (<https://json-schema.org/draft-07/schema>): each keyword has a value of the right type, all the
//! way down. Unknown keywords are allowed, as the draft allows them. Regular expressions are checked
//! only for mistakes in any dialect, and `format` of `$ref` and `$id` not at all.

mod pattern;

use super::error::PromptError;
use super::json::{Object, Value};

/// What the meta-schema demands of one keyword's value.
enum Rule {
    String,
    Pattern,
    Bool,
    Number,
    PositiveNumber,
    Count,
    Array,
    Schema,
    /// A list of at least one schema.
    Schemas,
    /// One schema, or a list of at least one.
    SchemaOrSchemas,
    /// An object whose values are schemas.
    NamedSchemas,
    /// An object whose keys are regular expressions and whose values are schemas.
    PatternSchemas,
    /// An object whose values are schemas or lists of names.
    Dependencies,
    UniqueStrings,
    Types,
}

const TYPE_NAMES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Checks a schema; `path` is the schema's place in the request.
pub(super) fn check(schema: &Value, path: &str) -> Result<(), PromptError> {
    match schema {
        Value::Bool(_) => Ok(()),
        Value::Object(object) => check_keywords(object, path),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(PromptError::invalid_value(path, Some(schema), "a JSON schema (an object, true or false)"))
        }
    }
}

fn check_keywords(object: &Object, path: &str) -> Result<(), PromptError> {
    for (keyword, value) in object.iter() {
        if let Some(rule) = rule_of(keyword) {
            check_rule(&rule, value, &format!("{path}.{keyword}"))?;
        }
    }
    Ok(())
}

fn rule_of(keyword: &str) -> Option<Rule> {
    let rule = match keyword {
        "$id" | "$schema" | "$ref" | "$comment" | "title" | "description" | "format" | "contentMediaType"
        | "contentEncoding" => Rule::String,
        "pattern" => Rule::Pattern,
        "patternProperties" => Rule::PatternSchemas,
        "readOnly" | "uniqueItems" => Rule::Bool,
        "maximum" | "exclusiveMaximum" | "minimum" | "exclusiveMinimum" => Rule::Number,
        "multipleOf" => Rule::PositiveNumber,
        "maxLength" | "minLength" | "maxItems" | "minItems" | "maxProperties" | "minProperties" => Rule::Count,
        "examples" | "enum" => Rule::Array,
        "additionalItems" | "contains" | "additionalProperties" | "propertyNames" | "if" | "then" | "else" | "not" => {
            Rule::Schema
        }
        "allOf" | "anyOf" | "oneOf" => Rule::Schemas,
        "items" => Rule::SchemaOrSchemas,
        "definitions" | "properties" => Rule::NamedSchemas,
        "dependencies" => Rule::Dependencies,
        "required" => Rule::UniqueStrings,
        "type" => Rule::Types,
        _ => return None,
    };
    Some(rule)
}

fn check_rule(rule: &Rule, value: &Value, path: &str) -> Result<(), PromptError> {
    match rule {
        Rule::String => expect(value.as_str().is_some(), value, path, "a string"),
        Rule::Pattern => match value.as_str() {
            Some(text) => check_pattern(text, path),
            None => Err(PromptError::invalid_value(path, Some(value), "a string")),
        },
        Rule::Bool => expect(value.as_bool().is_some(), value, path, "true or false"),
        Rule::Number => expect(value.as_f64().is_some(), value, path, "a number"),
        Rule::PositiveNumber => {
            expect(value.as_f64().is_some_and(|number| number > 0.0), value, path, "a number above zero")
        }
        Rule::Count => expect(is_count(value), value, path, "an integer of at least 0"),
        Rule::Array => expect(value.as_array().is_some(), value, path, "an array"),
        Rule::Schema => check(value, path),
        Rule::Schemas => check_schemas(value, path),
        Rule::SchemaOrSchemas if value.as_array().is_some() => check_schemas(value, path),
        Rule::SchemaOrSchemas => check(value, path),
        Rule::NamedSchemas => check_named(value, path, check),
        Rule::PatternSchemas => {
            check_named(value, path, check)?;
            let mut names = value.as_object().into_iter().flat_map(|object| object.iter());
            names.try_for_each(|(name, _)| check_pattern(name, path))
        }
        Rule::Dependencies => check_named(value, path, |item, path| match item {
            Value::Array(_) => check_unique_strings(item, path),
            _ => check(item, path),
        }),
        Rule::UniqueStrings => check_unique_strings(value, path),
        Rule::Types => check_types(value, path),
    }
}

fn expect(holds: bool, value: &Value, path: &str, expected: &str) -> Result<(), PromptError> {
    if holds { Ok(()) } else { Err(PromptError::invalid_value(path, Some(value), expected)) }
}

fn check_pattern(text: &str, path: &str) -> Result<(), PromptError> {
    match pattern::fault(text) {
        None => Ok(()),
        Some(fault) => Err(PromptError::invalid(path, text, format!("a regular expression (this one has {fault})"))),
    }
}

/// A whole number that is not negative; `5.0` counts as whole.
fn is_count(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number >= 0.0 && (number.fract() == 0.0 || number.is_infinite()))
}

fn check_schemas(value: &Value, path: &str) -> Result<(), PromptError> {
    let items = value.as_array().unwrap_or_default();
    expect(!items.is_empty(), value, path, "an array of at least one schema")?;
    items.iter().enumerate().try_for_each(|(index, item)| check(item, &format!("{path}[{index}]")))
}

fn check_named(
    value: &Value,
    path: &str,
    check_item: impl Fn(&Value, &str) -> Result<(), PromptError>,
) -> Result<(), PromptError> {
    match value {
        Value::Object(object) => object.iter().try_for_each(|(name, item)| check_item(item, &format!("{path}.{name}"))),
        _ => Err(PromptError::invalid_value(path, Some(value), "an object")),
    }
}

fn check_unique_strings(value: &Value, path: &str) -> Result<(), PromptError> {
    let expected = "an array of different strings";
    let items = value.as_array();
    let Some(mut names) = items.and_then(|items| items.iter().map(Value::as_str).collect::<Option<Vec<&str>>>()) else {
        return Err(PromptError::invalid_value(path, Some(value), expected));
    };
    let n_names = names.len();
    names.sort_unstable();
    names.dedup();
    expect(names.len() == n_names, value, path, expected)
}

fn check_types(value: &Value, path: &str) -> Result<(), PromptError> {
    let expected = "one or more of array, boolean, integer, null, number, object, string";
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPE_NAMES.contains(&name));
    if let Some(items) = value.as_array() {
        expect(!items.is_empty() && items.iter().all(is_type), value, path, expected)?;
        return check_unique_strings(value, path);
    }
    expect(is_type(value), value, path, expected)
}
