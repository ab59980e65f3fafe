//! `POST /v1/agents/completions`: a chat with an agent's instructions, tools and arguments.
//!
//! The request and the agent become the body of one chat, which is answered like any other in Mistral's dialect. What
//! the request says itself wins. Nobody hands over here: that is what conversations are for.

use std::sync::Arc;

use axum::response::Response;
use serde_json::Value;

use super::{definition::Definition, settings::Settings};
use crate::{
    api::{
        body::{Fields, JsonText, wrong},
        chat,
        dialect::{Dialect, Refusal},
        error::ApiError,
        fields,
        form::parsing_cost,
        guard::Terms,
        request::{Work, off_thread},
        stored_error::named_by,
    },
    prompt::{PromptError, json},
    store::AgentVersion,
};

const AGENT_ID: &str = "agent_id";

/// Pairs of fields that say the same thing: where a request has the second, the agent's first does not count.
const SAME: [(&str, &str); 3] =
    [("random_seed", "seed"), ("max_tokens", "max_completion_tokens"), ("response_format", "structured_outputs")];

/// Asks an agent, at once or as a stream.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let refused = |error| Dialect::Mistral.refuse(error);
    let cost = parsing_cost(&text);
    let read = move || agent_id(&text).map(|id| (id, text));
    let (id, text) = off_thread(&work.state, cost, read).await.map_err(refused)?;
    let agent = work.state.store().agent(&id, AgentVersion::Current).await;
    let agent = agent.map_err(named_by(AGENT_ID)).map_err(refused)?;
    let settings = Definition::of(&agent.definition).map_err(refused)?.body.settings;
    let cost = cost.max(parsing_cost(&agent.definition.body));
    let (model, terms) = (Arc::clone(&work.model), work.terms.clone());
    let call = off_thread(&work.state, cost, move || {
        let body = merged(&text, &settings)?;
        chat::parse(&body, &model, &terms).map_err(|error| {
            if matches!(error, ApiError::Guardrail(_)) {
                return error;
            }
            // The request's own mistakes are told by the places that its author knows.
            let plain = Settings { instructions: None, completion_args: serde_json::Map::new(), ..settings };
            // They have been judged.
            let terms = Terms::unguarded(terms.deadline);
            match merged(&text, &plain).and_then(|body| chat::parse(&body, &model, &terms)) {
                Err(own) => own,
                Ok(_) => ApiError::invalid(AGENT_ID, format!("With the settings of the agent: {error}")),
            }
        })
    })
    .await
    .map_err(refused)?;
    chat::answer(work, call).await
}

/// Who is asked; all other fields are the chat's to check.
fn agent_id(text: &str) -> Result<String, ApiError> {
    let mut fields = Fields::parse(text, &fields::AGENT_COMPLETIONS)?;
    fields.check_names()?;
    if let Some(model) = fields.take("model") {
        return Err(wrong("model", "left out, as it is the agent's", &model));
    }
    fields.string(AGENT_ID)?.ok_or_else(|| wrong(AGENT_ID, "the id of an agent", &Value::Null))
}

/// The chat's body, with every number and key of the request as it was spelled.
fn merged(text: &str, settings: &Settings) -> Result<String, ApiError> {
    let request = json::Value::parse(text).map_err(PromptError::from)?;
    let mut body = json::Object::new();
    for (key, value) in request.as_object().into_iter().flat_map(json::Object::iter) {
        if key != AGENT_ID && !value.is_null() {
            body.insert(key, value.clone());
        }
    }
    let has = |body: &json::Object, name: &str| body.get(name).is_some();
    for (name, value) in &settings.completion_args {
        let is_said = has(&body, name) || SAME.iter().any(|(ours, theirs)| ours == name && has(&body, theirs));
        if !is_said {
            body.insert(name, json::Value::from(value));
        }
    }
    body.insert("model", settings.model.as_str());
    if !settings.tools.is_empty() {
        let own = settings.tools.iter().map(json::Value::from);
        match body.get("tools").map(json::Value::as_array) {
            None => body.insert("tools", own.collect::<Vec<_>>()),
            Some(Some(theirs)) => body.insert("tools", own.chain(theirs.iter().cloned()).collect::<Vec<_>>()),
            Some(None) => {} // the chat refuses it
        }
    }
    if let (Some(text), Some(messages)) = (&settings.instructions, body.get("messages").and_then(json::Value::as_array))
    {
        body.insert("messages", instructed(text, messages));
    }
    Ok(json::Value::Object(body).to_json())
}

/// Messages behind instructions. A system message that is there already goes on after them, as some templates have room
/// for one only.
fn instructed(instructions: &str, messages: &[json::Value]) -> Vec<json::Value> {
    let (first, rest) = match messages.split_first() {
        Some((first, rest)) if is_system(first) => (Some(first), rest),
        Some(_) | None => (None, messages),
    };
    let text = match first {
        None => instructions.to_owned(),
        Some(message) => match message.get("content").and_then(json::Value::as_str) {
            Some(content) => format!("{instructions}\n\n{content}"),
            None => return std::iter::once(system(instructions)).chain(messages.iter().cloned()).collect(),
        },
    };
    std::iter::once(system(&text)).chain(rest.iter().cloned()).collect()
}

fn is_system(message: &json::Value) -> bool {
    message.get("role").and_then(json::Value::as_str) == Some("system")
}

fn system(text: &str) -> json::Value {
    let mut message = json::Object::new();
    message.insert("role", "system");
    message.insert("content", text);
    message.into()
}
