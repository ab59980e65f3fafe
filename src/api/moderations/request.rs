//! The bodies of moderation requests -> quoted texts.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::api::{
    body::{Fields, unknown_key, wrong},
    error::ApiError,
    fields,
    guard::RequestGuard,
    params::{Scheduling, drop_metadata, take_model},
    pooling::Question,
    state::ServedModel,
    texts::{check_count, check_fits},
};

/// Most texts of one request: each is asked about once per category.
const MAX_TEXTS: usize = 32;
/// Most messages of one conversation.
const MAX_MESSAGES: usize = 1024;
/// Keys of a message that are quoted with it.
const MESSAGE_KEYS: [&str; 6] = ["role", "content", "name", "prefix", "tool_calls", "tool_call_id"];
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// A moderation request, checked.
pub(super) struct ModerationCall {
    pub(super) model_name: String,
    pub(super) scheduling: Scheduling,
    pub(super) texts: Vec<Quoted>,
}

/// A text to be judged.
pub(super) struct Quoted {
    /// Where the request has it.
    pub(super) path: String,
    /// What a classifier reads.
    text: String,
    /// As JSON.
    pub(super) quotation: String,
    /// What is quoted, and of what of it the question is.
    pub(super) what: &'static str,
    pub(super) subject: &'static str,
}

impl Quoted {
    fn text(path: String, text: Cow<'_, str>) -> Self {
        let quotation = Value::from(&*text).to_string();
        Self { path, text: text.into_owned(), quotation, what: "a text", subject: "the text" }
    }

    /// The last message counts; those before are what it answers.
    fn conversation(path: String, messages: &[Value]) -> Self {
        let last = messages.last().and_then(|message| message.get("content"));
        let text = match last {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(chunks)) => chunks.iter().filter_map(|chunk| chunk["text"].as_str()).collect(),
            _ => String::new(),
        };
        let quotation = json!(messages).to_string();
        Self { path, text, quotation, what: "a conversation", subject: "the last message of the conversation" }
    }

    /// For a classification head.
    pub(super) fn to_classify(&self, model: &ServedModel) -> Result<Question, ApiError> {
        let [bos, eos] = model.codec.ends();
        let ids = model.codec.encode_text(&self.text, false);
        let ids: Vec<u32> = bos.into_iter().chain(ids).chain(eos).collect();
        check_fits(ids.len(), &self.path, model).map(|()| Question::pool(ids))
    }
}

impl ModerationCall {
    /// A text, a list of texts, or one text as a list of parts.
    pub(super) fn of_texts(body: &str, model: &ServedModel, guard: &RequestGuard) -> Result<Self, ApiError> {
        const EXPECTED: &str = "a text, a list of texts, or a list of text parts";
        let mut fields = Fields::parse(body, &fields::MODERATIONS)?;
        let model_name = take_model(&mut fields, model)?;
        let texts = match fields.take("input") {
            Some(Value::String(text)) => vec![Quoted::text("input".to_owned(), guard.text(&text)?)],
            Some(Value::Array(items)) if items.first().is_some_and(Value::is_object) => {
                vec![Quoted::text("input".to_owned(), guard.text(&parts(&items, "input")?)?)]
            }
            Some(Value::Array(items)) => {
                check_count("input", items.len(), MAX_TEXTS)?;
                let one = |(index, item)| {
                    let path = format!("input[{index}]");
                    match item {
                        Value::String(text) => Ok(Quoted::text(path, guard.text(&text)?)),
                        other => Err(wrong(&path, "a text", &other)),
                    }
                };
                items.into_iter().enumerate().map(one).collect::<Result<_, _>>()?
            }
            other => return Err(wrong("input", EXPECTED, &other.unwrap_or(Value::Null))),
        };
        Self::finish(fields, model_name, texts)
    }

    /// A conversation, or a list of them.
    pub(super) fn of_chats(body: &str, model: &ServedModel, guard: &RequestGuard) -> Result<Self, ApiError> {
        const EXPECTED: &str = "a list of messages, or a list of such lists";
        let mut fields = Fields::parse(body, &fields::CHAT_MODERATIONS)?;
        let model_name = take_model(&mut fields, model)?;
        let items = match fields.take("input") {
            Some(Value::Array(items)) => items,
            other => return Err(wrong("input", EXPECTED, &other.unwrap_or(Value::Null))),
        };
        let texts = if items.first().is_some_and(Value::is_object) {
            vec![conversation("input".to_owned(), &items, guard)?]
        } else {
            check_count("input", items.len(), MAX_TEXTS)?;
            let one = |(index, item): (usize, &Value)| {
                let path = format!("input[{index}]");
                match item {
                    Value::Array(messages) => conversation(path, messages, guard),
                    other => Err(wrong(&path, "a list of messages", other)),
                }
            };
            items.iter().enumerate().map(one).collect::<Result<_, _>>()?
        };
        Self::finish(fields, model_name, texts)
    }

    fn finish(mut fields: Fields, model_name: String, texts: Vec<Quoted>) -> Result<Self, ApiError> {
        drop_metadata(&mut fields)?;
        fields.finish()?;
        Ok(Self { model_name, scheduling: Scheduling::default(), texts })
    }
}

fn conversation(path: String, messages: &[Value], guard: &RequestGuard) -> Result<Quoted, ApiError> {
    check_count(&path, messages.len(), MAX_MESSAGES)?;
    for (index, message) in messages.iter().enumerate() {
        check_message(message, &format!("{path}[{index}]"))?;
    }
    Ok(Quoted::conversation(path, &guard.messages(messages)?))
}

/// Whatever a message has is quoted, so only what a model would not understand is refused.
fn check_message(message: &Value, path: &str) -> Result<(), ApiError> {
    let Some(members) = message.as_object() else { return Err(wrong(path, "a message", message)) };
    let is_there = |(_, value): &(&String, &Value)| !value.is_null();
    if let Some((key, _)) = members.iter().filter(is_there).find(|(key, _)| !MESSAGE_KEYS.contains(&key.as_str())) {
        return Err(unknown_key(path, key));
    }
    let role = &message["role"];
    if !role.as_str().is_some_and(|role| ROLES.contains(&role)) {
        return Err(wrong(&format!("{path}.role"), "system, user, assistant or tool", role));
    }
    let content_path = format!("{path}.content");
    match &message["content"] {
        Value::String(_) => Ok(()),
        Value::Array(chunks) => parts(chunks, &content_path).map(drop),
        Value::Null if message["tool_calls"].is_array() => Ok(()),
        other => Err(wrong(&content_path, "a text or a list of text chunks", other)),
    }
}

/// The text of parts that are all text.
fn parts(items: &[Value], path: &str) -> Result<String, ApiError> {
    check_count(path, items.len(), MAX_MESSAGES)?;
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(members) = item.as_object() else { return Err(wrong(&path, "a part with a type", item)) };
        if members.get("type").is_none_or(|kind| kind != "text") {
            let kind = members.get("type").unwrap_or(&Value::Null);
            return Err(wrong(&format!("{path}.type"), "text, as only text is judged", kind));
        }
        if let Some(key) = members.keys().find(|key| !["type", "text"].contains(&key.as_str())) {
            return Err(unknown_key(&path, key));
        }
        let part = members.get("text").unwrap_or(&Value::Null);
        text.push_str(part.as_str().ok_or_else(|| wrong(&format!("{path}.text"), "a text", part))?);
    }
    Ok(text)
}
