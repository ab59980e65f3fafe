//! The body of a request -> what is asked: items, the settings of a chat, and what becomes of the answer.
//!
//! Main type: [`Asked`]. It has every field of the body: in the chat that will be answered, in what the response shows
//! of its request, or in a member of its own. Knows nothing of what is stored.

use serde_json::{Map, Value, json};

use super::{
    items::{Given, normalized, user_message},
    tools,
};
use crate::api::{
    about::{Storing, subject_of},
    batches::{metadata_object, take_metadata},
    body::{Fields, as_bool, as_integer, unknown_key, wrong},
    error::ApiError,
    fields::Table,
    turn::FieldNames,
};

/// Log-probabilities of the answer.
pub(super) const LOGPROBS: &str = "message.output_text.logprobs";
/// Most alternatives per token.
const MAX_LOGPROBS: usize = 20;

/// A request, read.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) input: Input,
    pub(super) instructions: Option<String>,
    pub(super) continued: Option<Continued>,
    pub(super) delivery: Delivery,
    pub(super) truncation: Truncation,
    pub(super) max_output_tokens: Option<usize>,
    /// The chat without its messages.
    pub(super) chat: Map<String, Value>,
    /// What the fields of the chat are called in the request.
    pub(super) names: FieldNames,
    /// What the response shows of its request.
    pub(super) shown: Map<String, Value>,
}

/// What is new.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) items: Vec<Given>,
    /// It was written as a text.
    pub(super) is_text: bool,
}

/// What the input continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Continued {
    /// A response.
    Response(String),
    /// A conversation.
    Conversation(String),
}

/// What becomes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It is sent, and perhaps kept.
    Now { streamed: bool, stored: bool },
    /// It is kept until it is asked for, and perhaps told as it comes.
    Later { streamed: bool },
}

/// What is done with an input that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truncation {
    /// It is refused.
    Disabled,
    /// Its oldest items are left out.
    Auto,
}

impl Continued {
    /// The field that names it.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Response(_) => "previous_response_id",
            Self::Conversation(_) => "conversation",
        }
    }
}

impl Asked {
    /// Reads a body with the fields of `table`, which may have fewer than `POST /v1/responses`.
    pub(super) fn parse(text: &str, table: &'static Table, storing: &Storing) -> Result<Self, ApiError> {
        let mut fields = Optional { fields: Fields::parse(text, table)? };
        let (mut chat, mut names, mut shown) = (Map::new(), FieldNames::default(), Map::new());
        let input = take_input(&mut fields)?;
        let instructions = fields.string("instructions")?;
        shown.insert("instructions".to_owned(), instructions.clone().into());
        let continued = take_continued(&mut fields)?;
        let delivery = take_delivery(&mut fields, storing)?;
        check_place(continued.as_ref(), delivery)?;
        let max_output_tokens = fields.count("max_output_tokens")?;
        take_settings(&mut fields, &mut chat, &mut shown)?;
        if let Some(most) = max_output_tokens {
            chat.insert("max_tokens".to_owned(), most.into());
        }
        names.add("max_tokens", "max_output_tokens");
        shown.insert("max_output_tokens".to_owned(), max_output_tokens.into());
        shown.insert("max_tool_calls".to_owned(), fields.count("max_tool_calls")?.into());
        tools::take(&mut fields.fields, &mut chat, &mut names, &mut shown)?;
        take_text(&mut fields, &mut chat, &mut names, &mut shown)?;
        take_reasoning(&mut fields, &mut chat, &mut names, &mut shown)?;
        take_logprobs(&mut fields, &mut chat, &mut shown)?;
        let truncation = match fields.string("truncation")?.as_deref() {
            None | Some("disabled") => Truncation::Disabled,
            Some("auto") => Truncation::Auto,
            Some(other) => return Err(wrong("truncation", "auto or disabled", &other.into())),
        };
        let word = if truncation == Truncation::Auto { "auto" } else { "disabled" };
        shown.insert("truncation".to_owned(), word.into());
        take_labels(&mut fields, &mut shown)?;
        fields.fields.finish()?;
        if input.items.is_empty() && continued.is_none() {
            return Err(wrong("input", "a text or a list of items", &Value::Null));
        }
        let asked =
            Self { input, instructions, continued, delivery, truncation, max_output_tokens, chat, names, shown };
        asked.subject()?; // which must be one, if there is one
        Ok(asked)
    }

    /// Whom it says that it is about.
    pub(super) fn subject(&self) -> Result<Option<String>, ApiError> {
        subject_of(["safety_identifier", "user"].map(|name| (name, self.shown.get(name).unwrap_or(&Value::Null))))
    }
}

/// Fields of which the resource may not have all.
struct Optional {
    fields: Fields,
}

impl Optional {
    fn take(&mut self, name: &str) -> Option<Value> {
        if self.fields.knows(name) { self.fields.take(name) } else { None }
    }

    fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        if self.fields.knows(name) { self.fields.string(name) } else { Ok(None) }
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        if self.fields.knows(name) { self.fields.flag(name) } else { Ok(None) }
    }

    fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        if self.fields.knows(name) { self.fields.count(name, 1..=usize::MAX) } else { Ok(None) }
    }

    /// An object without the members that are null.
    fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(mut map)) => {
                map.retain(|_, value| !value.is_null());
                Ok(Some(map))
            }
            Some(other) => Err(wrong(name, "an object", &other)),
        }
    }
}

fn take_input(fields: &mut Optional) -> Result<Input, ApiError> {
    match fields.take("input") {
        None => Ok(Input { items: Vec::new(), is_text: false }),
        Some(Value::String(text)) => Ok(Input { items: vec![Given::Item(user_message(&text))], is_text: true }),
        Some(Value::Array(items)) => Ok(Input { items: normalized(items, "input")?, is_text: false }),
        Some(other) => Err(wrong("input", "a text or a list of items", &other)),
    }
}

fn take_continued(fields: &mut Optional) -> Result<Option<Continued>, ApiError> {
    let previous = fields.string("previous_response_id")?;
    let conversation = match fields.take("conversation") {
        None => None,
        Some(Value::String(id)) => Some(id),
        Some(Value::Object(map)) if map.len() == 1 && map.get("id").is_some_and(Value::is_string) => {
            map.get("id").and_then(Value::as_str).map(str::to_owned)
        }
        Some(other) => return Err(wrong("conversation", r#"an id or {"id": ..}"#, &other)),
    };
    match (previous, conversation) {
        (Some(_), Some(_)) => {
            let message = "`conversation` and `previous_response_id` exclude each other.";
            Err(ApiError::invalid("conversation", message))
        }
        (Some(id), None) => Ok(Some(Continued::Response(id))),
        (None, conversation) => Ok(conversation.map(Continued::Conversation)),
    }
}

fn take_delivery(fields: &mut Optional, storing: &Storing) -> Result<Delivery, ApiError> {
    let stored = storing.decide(fields.flag("store")?)?;
    let streamed = fields.flag("stream")?.unwrap_or(false);
    let in_background = fields.flag("background")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if options.is_some() && !streamed {
        return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream` to be true."));
    }
    for (key, value) in options.unwrap_or_default() {
        let path = format!("stream_options.{key}");
        if key != "include_obfuscation" {
            return Err(unknown_key("stream_options", &key));
        }
        if as_bool(&value, &path)? {
            return Err(ApiError::invalid(path.clone(), format!("`{path}` is not supported.")));
        }
    }
    match (in_background, stored, streamed) {
        (true, false, _) => {
            let message = "`background` needs `store` to be true: the answer is kept until it is asked for.";
            Err(ApiError::invalid("background", message))
        }
        (true, true, streamed) => Ok(Delivery::Later { streamed }),
        (false, stored, streamed) => Ok(Delivery::Now { streamed, stored }),
    }
}

/// What extends a conversation is kept there.
fn check_place(continued: Option<&Continued>, delivery: Delivery) -> Result<(), ApiError> {
    match (continued, delivery) {
        (Some(Continued::Conversation(_)), Delivery::Now { stored: false, .. }) => {
            let message = "`conversation` needs `store` to be true: input and output are added to it.";
            Err(ApiError::invalid("conversation", message))
        }
        (_, Delivery::Now { .. } | Delivery::Later { .. }) => Ok(()),
    }
}

/// Fields that a chat has under the same name; the chat checks them.
fn take_settings(
    fields: &mut Optional,
    chat: &mut Map<String, Value>,
    shown: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    for name in ["model", "temperature", "top_p"] {
        if let Some(value) = fields.take(name) {
            chat.insert(name.to_owned(), value);
        }
    }
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    chat.insert("parallel_tool_calls".to_owned(), parallel.into());
    shown.insert("parallel_tool_calls".to_owned(), parallel.into());
    Ok(())
}

fn take_text(
    fields: &mut Optional,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
    shown: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let mut text = fields.object("text")?.unwrap_or_default();
    match text.remove("verbosity") {
        None => {}
        Some(Value::String(word)) if word == "medium" => {}
        Some(other) => {
            return Err(wrong("text.verbosity", "medium: Mistral's models have no such setting", &other));
        }
    }
    let format = text.remove("format").unwrap_or_else(|| json!({ "type": "text" }));
    if let Some(key) = text.keys().next() {
        return Err(unknown_key("text", key));
    }
    let Value::Object(members) = &format else { return Err(wrong("text.format", "an object", &format)) };
    names.add("response_format", "text.format");
    names.add("response_format.json_schema", "text.format");
    if format["type"] == "json_schema" {
        let mut described = members.clone();
        described.remove("type");
        chat.insert("response_format".to_owned(), json!({ "type": "json_schema", "json_schema": described }));
    } else if format != json!({ "type": "text" }) {
        chat.insert("response_format".to_owned(), format.clone());
    }
    shown.insert("text".to_owned(), json!({ "format": format, "verbosity": "medium" }));
    Ok(())
}

fn take_reasoning(
    fields: &mut Optional,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
    shown: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let mut reasoning = fields.object("reasoning")?.unwrap_or_default();
    names.add("reasoning_effort", "reasoning.effort");
    let effort = reasoning.remove("effort");
    if let Some(effort) = effort.clone() {
        chat.insert("reasoning_effort".to_owned(), effort);
    }
    // What is asked for beside the effort is had in one form only.
    for (name, words, reason) in [
        ("summary", &["auto"][..], "auto: thoughts are given as they are, and nobody summarizes them"),
        ("generate_summary", &["auto"][..], "auto: thoughts are given as they are, and nobody summarizes them"),
        ("context", &["auto", "all_turns"][..], "auto or all_turns: the model reads what it has thought"),
        ("mode", &["standard"][..], "standard"),
    ] {
        if let Some(value) = reasoning.remove(name)
            && !words.iter().any(|word| value == *word)
        {
            return Err(wrong(&format!("reasoning.{name}"), reason, &value));
        }
    }
    if let Some(key) = reasoning.keys().next() {
        return Err(unknown_key("reasoning", key));
    }
    shown.insert("reasoning".to_owned(), json!({ "effort": effort, "summary": null }));
    Ok(())
}

fn take_logprobs(
    fields: &mut Optional,
    chat: &mut Map<String, Value>,
    shown: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let top = match fields.take("top_logprobs") {
        None => 0,
        Some(value) => as_integer(&value, "top_logprobs", 0..=MAX_LOGPROBS as i64)?,
    };
    let wanted = match fields.take("include") {
        None => false,
        Some(Value::Array(words)) => {
            for (index, word) in words.iter().enumerate() {
                check_included(word, &format!("include[{index}]"))?;
            }
            !words.is_empty()
        }
        Some(other) => return Err(wrong("include", "a list", &other)),
    };
    if top > 0 && !wanted {
        let message = format!("`top_logprobs` needs `include` to have `{LOGPROBS}`.");
        return Err(ApiError::invalid("top_logprobs", message));
    }
    if wanted {
        chat.insert("logprobs".to_owned(), true.into());
        chat.insert("top_logprobs".to_owned(), top.into());
    }
    shown.insert("top_logprobs".to_owned(), top.into());
    Ok(())
}

/// What else could be included belongs to tools that the server does not have.
pub(super) fn check_included(word: &Value, path: &str) -> Result<(), ApiError> {
    if word == LOGPROBS { Ok(()) } else { Err(wrong(path, format_args!("{LOGPROBS}: nothing else is there"), word)) }
}

fn take_labels(fields: &mut Optional, shown: &mut Map<String, Value>) -> Result<(), ApiError> {
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        shown.insert(name.to_owned(), fields.string(name)?.into());
    }
    let labels = if fields.fields.knows("metadata") { take_metadata(&mut fields.fields)? } else { None };
    shown.insert("metadata".to_owned(), metadata_object(labels.as_ref()));
    Ok(())
}
