//! `tools` and `tool_choice`.

use super::fields::{at_index, at_key, check_function_type, optional_array, optional_bool, optional_string};
use super::fields::{present, required_object, required_string};
use crate::prompt::error::PromptError;
use crate::prompt::json::{Object, Value};
use crate::prompt::schema;

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// What it does; empty if the request does not say.
    pub description: String,
    /// The JSON schema of its arguments, as it was written; `{}` if the request has none.
    pub parameters: Value,
    /// Whether arguments are held to the schema.
    pub strict: bool,
}

impl Tool {
    /// The tool as prompts write it: this order of keys, and no others.
    pub(crate) fn to_json(&self) -> Value {
        let mut function = Object::new();
        function.insert("name", self.name.as_str());
        function.insert("description", self.description.as_str());
        function.insert("parameters", self.parameters.clone());
        let mut tool = Object::new();
        tool.insert("type", "function");
        tool.insert("function", function);
        Value::Object(tool)
    }
}

pub(super) fn from_body(body: &Value) -> Result<Vec<Tool>, PromptError> {
    let items = optional_array(body, "", "tools")?;
    items.iter().enumerate().map(|(index, item)| from_item(item, &at_index("tools", index))).collect()
}

fn from_item(item: &Value, path: &str) -> Result<Tool, PromptError> {
    if item.as_object().is_none() {
        return Err(PromptError::invalid_value(path, Some(item), "an object"));
    }
    check_function_type(item, path)?;
    let function = required_object(item, path, "function")?;
    let path = at_key(path, "function");
    let parameters = match present(function, "parameters") {
        None => Value::Object(Object::new()),
        Some(_) => required_object(function, &path, "parameters")?.clone(),
    };
    schema::check(&parameters, &at_key(&path, "parameters"))?;
    let strict = optional_bool(function, &path, "strict")?.unwrap_or(false);
    Ok(Tool {
        name: required_string(function, &path, "name")?.to_owned(),
        description: optional_string(function, &path, "description")?.unwrap_or_default().to_owned(),
        parameters,
        strict,
    })
}

/// A name (`auto`, `none`, `any`, `required`) or one function. Null means `auto`: clients send it.
pub(super) fn check_tool_choice(body: &Value) -> Result<(), PromptError> {
    let Some(choice) = present(body, "tool_choice") else {
        return Ok(());
    };
    if let Some(function) = choice.get("function") {
        check_function_type(choice, "tool_choice")?;
        required_string(function, "tool_choice.function", "name")?;
        return Ok(());
    }
    match choice.as_str() {
        Some("auto" | "none" | "any" | "required") => Ok(()),
        Some(_) | None => Err(PromptError::invalid_value(
            "tool_choice",
            Some(choice),
            "auto, none, any, required, or {\"type\": \"function\", \"function\": {\"name\": ..}}",
        )),
    }
}
