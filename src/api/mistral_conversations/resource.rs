//! Stored conversations: the routes that list, show and delete them.

use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

use super::{entry::Recorded, request::Details, run::OWNER, speaker::Who};
use crate::{
    api::{agents::take_labels, error::ApiError, query::QueryFields, state::AppState, timestamp::timestamp},
    store::Conversation,
};

const LISTED: u64 = 100;

/// Conversations, newest first.
pub(super) async fn list(state: &AppState, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let page = query.numbered_page(LISTED)?;
    let labels = take_labels(&mut query)?;
    query.finish()?;
    let found = state.store().conversations(OWNER, labels, page).await?;
    Ok(Json(found.items.iter().map(object).collect::<Result<_, _>>()?))
}

/// One conversation without its entries.
pub(super) async fn get(state: &AppState, id: &str, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    Ok(Json(object(&state.store().conversation(OWNER, id).await?)?))
}

/// Deletes a conversation with its entries.
pub(super) async fn delete(state: &AppState, id: &str, query: QueryFields) -> Result<StatusCode, ApiError> {
    query.finish()?;
    state.store().delete_conversation(OWNER, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All entries, oldest first.
pub(super) async fn history(state: &AppState, id: &str, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let (_, entries) = whole(state, id).await?;
    let entries: Vec<Value> = entries.iter().map(Recorded::object).collect();
    Ok(Json(json!({ "object": "conversation.history", "conversation_id": id, "entries": entries })))
}

/// What was said, oldest first.
pub(super) async fn messages(state: &AppState, id: &str, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let (_, entries) = whole(state, id).await?;
    let said = entries.iter().filter(|recorded| recorded.entry.is_message());
    let messages: Vec<Value> = said.map(Recorded::object).collect();
    Ok(Json(json!({ "object": "conversation.messages", "conversation_id": id, "messages": messages })))
}

/// A conversation with all its entries, oldest first.
pub(super) async fn whole(state: &AppState, id: &str) -> Result<(Conversation, Vec<Recorded>), ApiError> {
    let (conversation, items) = state.store().whole_conversation(OWNER, id, usize::MAX).await?;
    Ok((conversation, items.into_iter().map(Recorded::stored).collect::<Result<_, _>>()?))
}

/// What is known of a conversation beside its entries.
pub(super) fn details(conversation: &Conversation) -> Result<Details, ApiError> {
    let text = conversation.details.as_deref().unwrap_or_default();
    serde_json::from_str(text)
        .map_err(|error| ApiError::Internal { message: format!("A stored conversation: {error}.") })
}

/// Mistral's `ModelConversation` or `AgentConversation`.
fn object(conversation: &Conversation) -> Result<Value, ApiError> {
    let Details { name, description, who } = details(conversation)?;
    let metadata: Option<Value> = conversation.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut object = json!({
        "object": "conversation",
        "id": conversation.id,
        "created_at": timestamp(conversation.created_at),
        "updated_at": timestamp(conversation.updated_at),
        "name": name,
        "description": description,
        "metadata": metadata,
    });
    match who {
        Who::Model(settings) => {
            object["model"] = settings.model.into();
            object["instructions"] = settings.instructions.into();
            object["tools"] = settings.tools.into();
            object["completion_args"] = settings.completion_args.into();
            object["guardrails"] = Value::Null;
        }
        Who::Agent { id, version, .. } => {
            object["agent_id"] = id.into();
            object["agent_version"] = version.map_or(Value::Null, |version| {
                version.parse::<u64>().map_or_else(|_| version.as_str().into(), Value::from)
            });
        }
    }
    Ok(object)
}
