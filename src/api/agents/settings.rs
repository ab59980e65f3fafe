//! How a model is to speak in a conversation: what an agent and a conversation of its own have in common.
//!
//! Main type: [`Settings`]. They are checked by reading the chat that they would make, so that what is stored can be
//! asked later, and whatever is wrong is told by the name that it has here.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::{
    body::{Fields, unknown_key, wrong},
    chat,
    error::ApiError,
    state::ServedModel,
    turn::FieldNames,
};

/// What `completion_args` may have: Mistral's list.
const ARGUMENTS: [&str; 11] = [
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "temperature",
    "top_p",
    "max_tokens",
    "random_seed",
    "prediction",
    "response_format",
    "tool_choice",
    "reasoning_effort",
];
const COMPLETION_ARGS: &str = "completion_args";
const MOST_TOOLS: usize = 128;
/// Limits of `metadata`, whose values can be anything.
const MOST_LABELS: usize = 64;
const MOST_LABEL_BYTES: usize = 16 << 10;

/// Who speaks, told what, with which tools and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::api) struct Settings {
    /// One of the served names.
    pub(in crate::api) model: String,
    /// Stand before the conversation.
    pub(in crate::api) instructions: Option<String>,
    /// Functions, as a chat has them.
    pub(in crate::api) tools: Vec<Value>,
    /// Arguments of a chat, by their names.
    pub(in crate::api) completion_args: Map<String, Value>,
}

impl Settings {
    /// The body of a chat: `messages` behind the instructions, `more` tools behind the settings' own.
    pub(in crate::api) fn chat(&self, messages: Vec<Value>, more: &[Value]) -> Map<String, Value> {
        let mut body = self.completion_args.clone();
        let instructions = self.instructions.as_ref().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<Value> = instructions.into_iter().chain(messages).collect();
        let tools: Vec<Value> = self.tools.iter().chain(more).cloned().collect();
        body.insert("model".to_owned(), self.model.clone().into());
        body.insert("messages".to_owned(), messages.into());
        if !tools.is_empty() {
            body.insert("tools".to_owned(), tools.into());
        }
        body
    }

    /// Refuses what a chat would refuse, and what leaves no room for one.
    pub(in crate::api) fn check(&self, more_tools: &[Value], model: &ServedModel) -> Result<(), ApiError> {
        let message = json!({ "role": "user", "content": "Hello" });
        let body = Value::Object(self.chat(vec![message], more_tools)).to_string();
        let checked = chat::check(&body, model);
        checked.map_err(|error| {
            let mut names = self.names();
            names.add_whole("prompt", self.longest_part(more_tools));
            names.translated(error)
        })
    }

    /// The field that most of the prompt comes from.
    fn longest_part(&self, more_tools: &[Value]) -> &'static str {
        let length = |tools: &[Value]| tools.iter().map(|tool| tool.to_string().len()).sum::<usize>();
        let parts = [
            ("handoffs", length(more_tools)),
            ("tools", length(&self.tools)),
            ("instructions", self.instructions.as_ref().map_or(0, String::len)),
        ];
        parts.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("instructions", |(name, _)| name)
    }

    /// What the fields of that chat are called here.
    pub(in crate::api) fn names(&self) -> FieldNames {
        let mut names = FieldNames::default();
        for argument in ARGUMENTS {
            names.add(argument, format!("{COMPLETION_ARGS}.{argument}"));
        }
        if self.instructions.is_some() {
            names.add("messages[0].content", "instructions");
            names.add("messages[0]", "instructions");
        }
        names
    }
}

/// Takes `tools`: functions, whose own members the chat checks.
pub(in crate::api) fn take_tools(fields: &mut Fields) -> Result<Option<Vec<Value>>, ApiError> {
    let tools = match fields.take("tools") {
        None => return Ok(None),
        Some(Value::Array(tools)) if tools.len() <= MOST_TOOLS => tools,
        Some(other) => return Err(wrong("tools", format_args!("a list of at most {MOST_TOOLS} functions"), &other)),
    };
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        if !tool.is_object() {
            return Err(wrong(&path, "an object", tool));
        }
        match tool.get("type") {
            None => {}
            Some(kind) if kind == "function" => {}
            Some(kind) => {
                let expected = "function (this server runs no tools of its own)";
                return Err(wrong(&format!("{path}.type"), expected, kind));
            }
        }
    }
    Ok(Some(tools))
}

/// Takes `completion_args`, whose values the chat checks.
pub(in crate::api) fn take_arguments(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    let mut arguments = match fields.take(COMPLETION_ARGS) {
        None => return Ok(None),
        Some(Value::Object(arguments)) => arguments,
        Some(other) => return Err(wrong(COMPLETION_ARGS, "an object", &other)),
    };
    arguments.retain(|_, value| !value.is_null());
    match arguments.keys().find(|key| !ARGUMENTS.contains(&key.as_str())) {
        None => Ok(Some(arguments)),
        Some(key) => Err(unknown_key(COMPLETION_ARGS, key)),
    }
}

/// Takes `metadata`: an object of anything, within limits.
pub(in crate::api) fn take_metadata(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    let labels = match fields.take("metadata") {
        None => return Ok(None),
        Some(Value::Object(labels)) => labels,
        Some(other) => return Err(wrong("metadata", "an object", &other)),
    };
    if labels.len() > MOST_LABELS || Value::Object(labels.clone()).to_string().len() > MOST_LABEL_BYTES {
        let message = format!("`metadata` may have {MOST_LABELS} members and {MOST_LABEL_BYTES} bytes as JSON.");
        return Err(ApiError::invalid("metadata", message));
    }
    Ok(Some(labels))
}

/// Takes a text of so many characters.
pub(in crate::api) fn take_text(
    fields: &mut Fields,
    name: &str,
    characters: std::ops::RangeInclusive<usize>,
) -> Result<Option<String>, ApiError> {
    let text = fields.string(name)?;
    match &text {
        Some(text) if !characters.contains(&text.chars().count()) => {
            let expected = format!("a text of {} to {} characters", characters.start(), characters.end());
            Err(wrong(name, expected, &text.as_str().into()))
        }
        Some(_) | None => Ok(text),
    }
}
