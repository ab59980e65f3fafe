//! The texts in a JSON value: what people read of arguments of calls and of schemas.
//!
//! Invariant: [`texts`] and [`replace`] walk in the same order, so that the texts of the one can be the other's after they
//! were checked. Numbers are texts too: one may be that of a card.

use crate::prompt::json::{Number, Object, Value};

/// All strings, names of members and numbers as they are spelled.
pub(super) fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => found.push(number.spelling()),
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(members) => {
            for (name, member) in members.iter() {
                found.push(name);
                texts(member, found);
            }
        }
    }
}

/// May another text stand for one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It says something.
    Replaceable,
    /// It is a name or a keyword that the API goes by.
    Fixed,
}

/// Members of a schema that say something to people, or are values.
const PROSE: &[&str] = &["description", "title", "$comment", "default", "const", "enum", "examples"];

/// Members of a schema whose own members are schemas, whatever they are called.
const SCHEMAS_BY_NAME: &[&str] = &["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// What may be done with each of the [`texts`] of a schema. Names in it are keywords or names of members, and values are
/// numbers, names and expressions, but where they are prose or data.
pub(super) fn fates_of_schema(schema: &Value, found: &mut Vec<Fate>) {
    match schema {
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) | Value::String(_) => found.push(Fate::Fixed),
        Value::Array(items) => items.iter().for_each(|item| fates_of_schema(item, found)),
        Value::Object(members) => {
            for (name, member) in members.iter() {
                found.push(Fate::Fixed);
                match member {
                    Value::Object(schemas) if SCHEMAS_BY_NAME.contains(&name) => {
                        for (_, schema) in schemas.iter() {
                            found.push(Fate::Fixed);
                            fates_of_schema(schema, found);
                        }
                    }
                    _ if PROSE.contains(&name) => {
                        let mut data = Vec::new();
                        texts(member, &mut data);
                        found.extend(data.iter().map(|_| Fate::Replaceable));
                    }
                    _ => fates_of_schema(member, found),
                }
            }
        }
    }
}

/// The same value with other texts. A number whose text is another becomes a string.
pub(super) fn replace(value: &Value, with: &mut impl Iterator<Item = String>) -> Value {
    let mut next = |old: &str| with.next().unwrap_or_else(|| old.to_owned());
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(number) => number_or_text(number, next(number.spelling())),
        Value::String(text) => Value::String(next(text)),
        Value::Array(items) => Value::Array(items.iter().map(|item| replace(item, with)).collect()),
        Value::Object(members) => {
            let mut replaced = Object::new();
            for (name, member) in members.iter() {
                let name = with.next().unwrap_or_else(|| name.to_owned());
                replaced.insert(name, replace(member, with));
            }
            Value::Object(replaced)
        }
    }
}

fn number_or_text(number: &Number, text: String) -> Value {
    if number.spelling() == text { Value::Number(number.clone()) } else { Value::String(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_something_only_where_it_describes() {
        let schema = r##"{"type": "object", "description": "d", "required": ["default"], "properties": {
            "default": {"type": "string", "enum": ["e", 1], "pattern": "p"}, "properties": {"$ref": "#/$defs/x"}},
            "default": {"k": "v"}, "$defs": {"x": {"const": "c", "minimum": 2, "items": [true, {"title": "t"}]}}}"##;
        let schema = Value::parse(schema).expect("JSON");
        let (mut found, mut fates) = (Vec::new(), Vec::new());
        texts(&schema, &mut found);
        fates_of_schema(&schema, &mut fates);
        assert_eq!(found.len(), fates.len());
        let said = found.iter().zip(fates).filter(|(_, fate)| *fate == Fate::Replaceable).map(|(text, _)| *text);
        assert_eq!(said.collect::<Vec<_>>(), ["d", "e", "1", "k", "v", "c", "t"]);
    }

    #[test]
    fn texts_are_replaced_in_the_order_in_which_they_are_found() {
        let value = Value::parse(r#"{"a": ["\u0062", 1e5, null], "c": {"d": true}}"#).expect("JSON");
        let mut found = Vec::new();
        texts(&value, &mut found);
        assert_eq!(found, ["a", "b", "1e5", "c", "d"]);
        let same = replace(&value, &mut found.iter().map(|&text| text.to_owned()));
        assert_eq!(same, value);
        let other = replace(&value, &mut found.iter().map(|text| format!("<{text}\">")));
        assert_eq!(other.to_json(), r#"{"<a\">": ["<b\">", "<1e5\">", null], "<c\">": {"<d\">": true}}"#);
    }
}
