//! `/v1/conversations` as OpenAI has them: items that responses continue and extend.

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

use super::{
    batches::{metadata_object, take_metadata},
    body::{Fields, JsonText, wrong},
    error::ApiError,
    fields,
    query::{ObjectId, QueryFields},
    request::StorageWork,
    responses::{Given, MAX_CONVERSATION_ITEMS, OWNER, from_store, item_list, normalized, take_include, to_store},
    state::{AppState, unix_seconds},
    stored_error::named_by,
};
use crate::store::{Append, Conversation, ConversationChange, NewConversation, Page};

/// As OpenAI's.
const MAX_NEW_ITEMS: usize = 20;
const MOST_LISTED: u64 = 100;
const LISTED: u64 = 20;

/// What only OpenAI has below `/v1/conversations`.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/conversations/{id}/items", get(list_items).post(create_items))
        .route("/v1/conversations/{id}/items/{item}", get(get_item).delete(delete_item))
}

/// Begins a conversation.
pub(super) async fn create(work: StorageWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &fields::CONVERSATIONS)?;
    let items = take_items(&mut fields)?;
    let metadata = take_metadata(&mut fields)?;
    fields.finish()?;
    let created_at = unix_seconds();
    let expires_at = work.state.expiry(created_at);
    let new = NewConversation { prefix: "conv_", owner: OWNER, created_at, expires_at, metadata, details: None };
    let conversation = work.state.store().create_conversation(new, to_store(&items)).await?;
    Ok(Json(object(&conversation)))
}

pub(super) async fn get_one(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    Ok(Json(object(&work.state.store().conversation(OWNER, &id).await?)))
}

/// Changes the labels.
pub(super) async fn update(
    work: StorageWork,
    ObjectId(id): ObjectId,
    JsonText(text): JsonText,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &fields::CONVERSATION)?;
    if fields.peek("metadata").is_none() {
        return Err(wrong("metadata", "an object, or null to have none", &Value::Null));
    }
    let metadata = take_metadata(&mut fields)?;
    fields.finish()?;
    let change = ConversationChange { metadata: Some(metadata), details: None };
    let conversation = work.state.store().update_conversation(OWNER, &id, change, unix_seconds()).await?;
    Ok(Json(object(&conversation)))
}

/// Deletes a conversation with its items, which are gone when this answers.
pub(super) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    work.state.store().delete_conversation(OWNER, &id).await?;
    Ok(Json(json!({ "id": id, "object": "conversation.deleted", "deleted": true })))
}

/// Adds items at the end.
async fn create_items(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
    JsonText(text): JsonText,
) -> Result<Json<Value>, ApiError> {
    take_include(&mut query)?;
    query.finish()?;
    let mut fields = Fields::parse(&text, &fields::CONVERSATION_ITEMS)?;
    let items = take_items(&mut fields)?;
    fields.finish()?;
    if items.is_empty() {
        return Err(wrong("items", format_args!("1 to {MAX_NEW_ITEMS} items"), &Value::Null));
    }
    let at = unix_seconds();
    let append = Append {
        conversation: id,
        owner: OWNER,
        after: None,
        items: to_store(&items),
        at,
        expires_at: work.state.expiry(at),
        limit: MAX_CONVERSATION_ITEMS,
    };
    let items = work.state.store().append_items(append).await?;
    let total = items.len() as u64;
    Ok(Json(item_list(&Page { items, has_more: false, total })?))
}

/// Items, newest first.
async fn list_items(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    take_include(&mut query)?;
    let page = query.page(LISTED, MOST_LISTED)?;
    query.finish()?;
    let store = work.state.store();
    store.conversation(OWNER, &id).await?; // so that only the item can be what `after` lacks
    Ok(Json(item_list(&store.items(OWNER, &id, page).await.map_err(named_by("after"))?)?))
}

async fn get_item(
    work: StorageWork,
    ObjectId((id, item)): ObjectId<(String, String)>,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    take_include(&mut query)?;
    query.finish()?;
    let item = work.state.store().item(OWNER, &id, &item).await?;
    Ok(Json(from_store(&item.body)?))
}

/// Deletes one item; answers with the conversation.
async fn delete_item(
    work: StorageWork,
    ObjectId((id, item)): ObjectId<(String, String)>,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let conversation = work.state.store().delete_item(OWNER, &id, &item, unix_seconds()).await?;
    Ok(Json(object(&conversation)))
}

fn take_items(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let given = match fields.take("items") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_NEW_ITEMS => items,
        Some(other) => return Err(wrong("items", format_args!("a list of up to {MAX_NEW_ITEMS} items"), &other)),
    };
    let own = |given| match given {
        Given::Item(item) => Ok(item),
        Given::Reference { path, id } => {
            Err(wrong(&path, "an item itself: a conversation keeps no references", &id.into()))
        }
    };
    normalized(given, "items")?.into_iter().map(own).collect()
}

fn object(conversation: &Conversation) -> Value {
    json!({
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": metadata_object(conversation.metadata.as_ref()),
    })
}
