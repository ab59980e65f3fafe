//! Items as clients write them -> items as they are stored and shown: with an id, and whole.
//!
//! Main function: [`normalized`]. Responses and conversations read their items here, so one rule holds for both: every
//! key is read, asks for nothing, or is refused by its path. Knows nothing of prompts.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::{
    api::{
        body::{shortened, unknown_key, wrong},
        error::ApiError,
    },
    store::{NewItem, new_id},
};

const MAX_ID_CHARACTERS: usize = 64;

/// An item of an input.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::api) enum Given {
    /// As it will be stored.
    Item(Value),
    /// An item that is stored already.
    Reference { id: String, path: String },
}

/// Reads a list of items; `path` is where it stands.
pub(in crate::api) fn normalized(items: Vec<Value>, path: &str) -> Result<Vec<Given>, ApiError> {
    let mut ids = HashSet::new();
    let mut read = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let given = normalized_item(item, &path)?;
        if let Given::Item(item) = &given
            && !ids.insert(id_of(item).to_owned())
        {
            let message = format!("`{path}.id`: an earlier item has the same id.");
            return Err(ApiError::invalid(format!("{path}.id"), message));
        }
        read.push(given);
    }
    Ok(read)
}

/// The message of a user, as a client may write a whole input.
pub(super) fn user_message(text: &str) -> Value {
    message(new_id("msg_"), "user", vec![json!({ "type": "input_text", "text": text })])
}

/// The id of a normalized item.
pub(in crate::api) fn id_of(item: &Value) -> &str {
    item.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// Items as the store keeps them.
pub(in crate::api) fn to_store(items: &[Value]) -> Vec<NewItem> {
    items.iter().map(|item| NewItem { id: id_of(item).to_owned(), body: item.to_string() }).collect()
}

/// An item that was stored.
pub(in crate::api) fn from_store(body: &str) -> Result<Value, ApiError> {
    serde_json::from_str(body).map_err(|error| ApiError::Internal { message: format!("A stored item: {error}.") })
}

/// The members of an object that nobody has taken yet.
struct Members<'a> {
    map: Map<String, Value>,
    path: &'a str,
}

impl Members<'_> {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn string(&mut self, name: &str) -> Result<String, ApiError> {
        match self.take(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(wrong(&self.path(name), "a string", &other.unwrap_or(Value::Null))),
        }
    }

    /// The client's own id, or a new one.
    fn id(&mut self, prefix: &str) -> Result<String, ApiError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match self.take("id") {
            None => Ok(new_id(prefix)),
            Some(Value::String(id)) if (1..=MAX_ID_CHARACTERS).contains(&id.len()) && id.chars().all(is_allowed) => {
                Ok(id)
            }
            Some(other) => {
                let expected = format!("1 to {MAX_ID_CHARACTERS} letters, digits, `_` and `-`");
                Err(wrong(&self.path("id"), expected, &other))
            }
        }
    }

    /// `status` says nothing of an item that is there.
    fn forget_status(&mut self) -> Result<(), ApiError> {
        match self.take("status") {
            None => Ok(()),
            Some(Value::String(text)) if ["in_progress", "completed", "incomplete"].contains(&text.as_str()) => Ok(()),
            Some(other) => Err(wrong(&self.path("status"), "in_progress, completed or incomplete", &other)),
        }
    }

    /// Takes a member that may only have this value.
    fn only(&mut self, name: &str, value: &Value) -> Result<(), ApiError> {
        match self.take(name) {
            Some(found) if found != *value => Err(wrong(&self.path(name), value, &found)),
            Some(_) | None => Ok(()),
        }
    }

    fn list(&mut self, name: &str) -> Result<Vec<Value>, ApiError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(wrong(&self.path(name), "a list", &other)),
        }
    }

    /// Refuses what nobody took.
    fn finish(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((key, _)) => Err(unknown_key(self.path, key)),
        }
    }
}

fn normalized_item(item: Value, path: &str) -> Result<Given, ApiError> {
    let mut members = object(item, path)?;
    let kind = match members.take("type") {
        Some(Value::String(kind)) => kind,
        None if members.map.contains_key("role") => "message".to_owned(),
        None => "item_reference".to_owned(),
        Some(other) => return Err(wrong(&members.path("type"), "the type of an item", &other)),
    };
    let item = match kind.as_str() {
        "message" => whole_message(members)?,
        "function_call" => function_call(members)?,
        "function_call_output" => function_call_output(members)?,
        "reasoning" => reasoning(members)?,
        "item_reference" => {
            let id = members.string("id")?;
            members.finish()?;
            return Ok(Given::Reference { id, path: path.to_owned() });
        }
        other => {
            let expected = "message, function_call, function_call_output, reasoning or item_reference: others belong to \
                            tools that this server does not have";
            return Err(wrong(&format!("{path}.type"), expected, &other.into()));
        }
    };
    Ok(Given::Item(item))
}

fn object(value: Value, path: &str) -> Result<Members<'_>, ApiError> {
    match value {
        Value::Object(map) => Ok(Members { map, path }),
        other => Err(wrong(path, "an object", &other)),
    }
}

fn whole_message(mut members: Members) -> Result<Value, ApiError> {
    let id = members.id("msg_")?;
    let role = members.string("role")?;
    let own = match role.as_str() {
        "assistant" => "output_text",
        "user" | "system" | "developer" => "input_text",
        other => {
            return Err(wrong(&members.path("role"), "user, assistant, system or developer", &other.into()));
        }
    };
    members.forget_status()?;
    if let Some(phase) = members.take("phase") {
        return Err(wrong(&members.path("phase"), "left out: models of this server have no phases", &phase));
    }
    let path = members.path("content");
    let content = match members.take("content") {
        Some(Value::String(text)) => vec![part(own, text)],
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(index, it)| content_part(it, own, &format!("{path}[{index}]"))).collect::<Result<_, _>>()?
        }
        other => return Err(wrong(&path, "a text or a list of parts", &other.unwrap_or(Value::Null))),
    };
    members.finish()?;
    Ok(message(id, &role, content))
}

fn message(id: String, role: &str, content: Vec<Value>) -> Value {
    json!({ "id": id, "type": "message", "status": "completed", "role": role, "content": content })
}

fn part(kind: &str, text: String) -> Value {
    match kind {
        "output_text" => json!({ "type": kind, "text": text, "annotations": [], "logprobs": [] }),
        _ => json!({ "type": kind, "text": text }),
    }
}

/// A part of a message whose own parts are of the kind `own`. What an assistant has said may be written in both.
fn content_part(value: Value, own: &str, path: &str) -> Result<Value, ApiError> {
    let mut members = object(value, path)?;
    let kind = members.string("type")?;
    if kind != own && kind != "input_text" {
        let expected =
            if own == "output_text" { "output_text or input_text" } else { "input_text: only text is served" };
        return Err(wrong(&members.path("type"), expected, &kind.into()));
    }
    let text = members.string("text")?;
    if kind == "output_text" {
        members.only("annotations", &json!([]))?;
        members.list("logprobs")?; // of an answer that is sent back: they change nothing
    }
    members.finish()?;
    Ok(part(own, text))
}

fn function_call(mut members: Members) -> Result<Value, ApiError> {
    let id = members.id("fc_")?;
    let (call_id, name) = (members.string("call_id")?, members.string("name")?);
    let arguments = members.string("arguments")?;
    finish_call(members)?;
    Ok(json!({
        "id": id, "type": "function_call", "status": "completed", "call_id": call_id, "name": name,
        "arguments": arguments,
    }))
}

fn function_call_output(mut members: Members) -> Result<Value, ApiError> {
    let id = members.id("fco_")?;
    let call_id = members.string("call_id")?;
    let path = members.path("output");
    let output = match members.take("output") {
        Some(Value::String(text)) => Value::String(text),
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            parts
                .map(|(index, it)| content_part(it, "input_text", &format!("{path}[{index}]")))
                .collect::<Result<_, _>>()?
        }
        other => return Err(wrong(&path, "a text or a list of parts", &other.unwrap_or(Value::Null))),
    };
    finish_call(members)?;
    Ok(json!({
        "id": id, "type": "function_call_output", "status": "completed", "call_id": call_id, "output": output,
    }))
}

fn finish_call(mut members: Members) -> Result<(), ApiError> {
    members.forget_status()?;
    members.only("caller", &json!({ "type": "direct" }))?;
    members.only("async", &false.into())?;
    members.finish()
}

fn reasoning(mut members: Members) -> Result<Value, ApiError> {
    let id = members.id("rs_")?;
    members.forget_status()?;
    for (name, reason) in [
        ("encrypted_content", "left out: only the server that has encrypted it can read it"),
        ("summary", "an empty list: the model reads its own words, in `content`, or nothing"),
    ] {
        if let Some(found) = members.take(name).filter(|found| *found != json!([])) {
            return Err(wrong(&members.path(name), reason, &shown(found)));
        }
    }
    let path = members.path("content");
    let mut content = Vec::new();
    for (index, value) in members.list("content")?.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let mut part = object(value, &path)?;
        part.only("type", &"reasoning_text".into())?;
        content.push(json!({ "type": "reasoning_text", "text": part.string("text")? }));
        part.finish()?;
    }
    members.finish()?;
    Ok(json!({ "id": id, "type": "reasoning", "status": "completed", "summary": [], "content": content }))
}

fn shown(value: Value) -> Value {
    match value {
        Value::String(text) => shortened(text).into(),
        other => other,
    }
}
