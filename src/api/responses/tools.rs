//! `tools` and `tool_choice` of the Responses API -> those of a chat.
//!
//! Only functions are there to be called: every other tool would be run by the server, and is refused by its name.

use serde_json::{Map, Value, json};

use crate::api::{
    body::{Fields, unknown_key, wrong},
    error::ApiError,
    turn::FieldNames,
};

const CHOICES: &str = r#"auto, none, required, {"type": "function", "name": ..} or {"type": "allowed_tools", ..}"#;
/// Takes both fields, writes them into a chat and says how they are shown in the response.
pub(super) fn take(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
    shown: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let given = match fields.take("tools") {
        None => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong("tools", "a list of functions", &other)),
    };
    let (mut tools, mut shown_tools) = (Vec::new(), Vec::new());
    for (index, tool) in given.into_iter().enumerate() {
        let function = function(tool, &format!("tools[{index}]"))?;
        shown_tools.push(Value::Object(shown_function(&function)));
        tools.push((index, function));
    }
    let choice = fields.take("tool_choice");
    shown.insert("tool_choice".to_owned(), choice.clone().unwrap_or_else(|| "auto".into()));
    shown.insert("tools".to_owned(), Value::Array(shown_tools));
    if let Some(choice) = choice {
        names.add("tool_choice.function", "tool_choice");
        chat.insert("tool_choice".to_owned(), chat_choice(choice, &mut tools)?);
    }
    for (place, (index, _)) in tools.iter().enumerate() {
        names.add(format!("tools[{place}].function"), format!("tools[{index}]"));
        names.add(format!("tools[{place}]"), format!("tools[{index}]"));
    }
    if !tools.is_empty() {
        let tool = |(_, function)| json!({ "type": "function", "function": Value::Object(function) });
        chat.insert("tools".to_owned(), tools.into_iter().map(tool).collect());
    }
    Ok(())
}

/// The members of a function that a chat has.
fn function(tool: Value, path: &str) -> Result<Map<String, Value>, ApiError> {
    let Value::Object(mut tool) = tool else { return Err(wrong(path, "an object", &tool)) };
    match tool.remove("type").filter(|kind| !kind.is_null()) {
        Some(Value::String(kind)) if kind == "function" => {}
        kind => {
            let expected = "function: this server runs no tools of its own";
            return Err(wrong(&format!("{path}.type"), expected, &kind.unwrap_or(Value::Null)));
        }
    }
    // With these values they ask for nothing.
    for (name, neutral) in
        [("async", json!(false)), ("defer_loading", json!(false)), ("allowed_callers", json!(["direct"]))]
    {
        if let Some(value) = tool.remove(name).filter(|value| !value.is_null() && *value != neutral) {
            return Err(wrong(&format!("{path}.{name}"), neutral, &value));
        }
    }
    let known = ["name", "description", "parameters", "strict"];
    tool.retain(|_, value| !value.is_null());
    match tool.keys().find(|key| !known.contains(&key.as_str())) {
        None => check_types(&tool, path).map(|()| tool),
        Some(key) => Err(unknown_key(path, key)),
    }
}

/// A tool may be left out of the chat, so its types are checked here.
fn check_types(tool: &Map<String, Value>, path: &str) -> Result<(), ApiError> {
    let value = |name: &str| tool.get(name).unwrap_or(&Value::Null);
    for (name, fits, expected) in [
        ("name", value("name").is_string(), "a string"),
        ("description", matches!(value("description"), Value::String(_) | Value::Null), "a string"),
        ("parameters", matches!(value("parameters"), Value::Object(_) | Value::Null), "an object"),
        ("strict", matches!(value("strict"), Value::Bool(_) | Value::Null), "true or false"),
    ] {
        if !fits {
            return Err(wrong(&format!("{path}.{name}"), expected, value(name)));
        }
    }
    Ok(())
}

fn shown_function(function: &Map<String, Value>) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("type".to_owned(), "function".into());
    for (key, default) in
        [("name", Value::Null), ("description", Value::Null), ("parameters", Value::Null), ("strict", false.into())]
    {
        shown.insert(key.to_owned(), function.get(key).cloned().unwrap_or(default));
    }
    shown
}

/// `allowed_tools` leaves the others out of the prompt.
fn chat_choice(choice: Value, tools: &mut Vec<(usize, Map<String, Value>)>) -> Result<Value, ApiError> {
    let members = match &choice {
        Value::String(word) if ["auto", "none", "required"].contains(&word.as_str()) => return Ok(choice),
        Value::Object(members) => members,
        other => return Err(wrong("tool_choice", CHOICES, other)),
    };
    let has_only = |keys: &[&str]| members.keys().all(|key| keys.contains(&key.as_str()));
    match choice["type"].as_str() {
        Some("function") if has_only(&["type", "name"]) && choice["name"].is_string() => {
            Ok(json!({ "type": "function", "function": { "name": choice["name"] } }))
        }
        Some("allowed_tools") if has_only(&["type", "mode", "tools"]) => {
            let mode = match choice["mode"].as_str() {
                Some(mode @ ("auto" | "required")) => mode,
                Some(_) | None => return Err(wrong("tool_choice.mode", "auto or required", &choice["mode"])),
            };
            let allowed = allowed_names(&choice["tools"], tools)?;
            tools.retain(|(_, tool)| allowed.iter().any(|name| tool.get("name") == Some(name)));
            Ok(mode.into())
        }
        Some(_) | None => Err(wrong("tool_choice", CHOICES, &choice)),
    }
}

fn allowed_names(list: &Value, tools: &[(usize, Map<String, Value>)]) -> Result<Vec<Value>, ApiError> {
    let path = "tool_choice.tools";
    let Some(list) = list.as_array() else { return Err(wrong(path, "a list of functions", list)) };
    let name = |(index, it): (usize, &Value)| {
        let is_one = it["type"] == "function" && tools.iter().any(|(_, tool)| tool.get("name") == Some(&it["name"]));
        if is_one {
            return Ok(it["name"].clone());
        }
        Err(wrong(&format!("{path}[{index}]"), r#"{"type": "function", "name": ..} of one of the `tools`"#, it))
    };
    list.iter().enumerate().map(name).collect()
}
