//! `/v1/conversations`, which OpenAI's API and Mistral's both have: who is meant.
//!
//! A new conversation is the one that the request's head asks for, or Mistral's if it has one of the fields that only
//! those have. A stored one is what it was made as, whoever asks; what is not there, is not there in the client's dialect.

use axum::{
    Router,
    http::request::Parts,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::Value;

use super::{
    body::{JsonText, parse},
    conversations as openais,
    dialect::Dialect,
    error::ApiError,
    mistral_conversations as mistrals,
    query::{ObjectId, QueryFields},
    request::{StorageWork, off_thread},
    state::AppState,
};

/// Fields of a new conversation that only Mistral has.
const MISTRAL_FIELDS: [&str; 4] = ["inputs", "agent_id", "model", "completion_args"];

/// All routes of conversations.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/conversations", get(mistrals::list).post(create))
        .route("/v1/conversations/{id}", get(get_one).post(post_one).delete(delete))
        .route("/v1/conversations/{id}/history", get(mistrals::history))
        .route("/v1/conversations/{id}/messages", get(mistrals::messages))
        .route("/v1/conversations/{id}/restart", post(mistrals::restart))
        .merge(openais::routes())
}

async fn create(work: StorageWork, parts: Parts, text: JsonText) -> Result<Response, ApiError> {
    let (dialect, text) = match Dialect::of_head(parts.uri.path(), &parts.headers) {
        Some(dialect) => (dialect, text),
        None => {
            let cost = text.0.len();
            let read = move || Ok::<_, ApiError>((of_fields(&text.0), text));
            off_thread(&work.state, cost, read).await?
        }
    };
    Ok(match dialect {
        Dialect::OpenAi => openais::create(work, text).await.into_response(),
        Dialect::Mistral => mistrals::create(work, parts, text).await.into_response(),
    })
}

async fn get_one(work: StorageWork, id: ObjectId, parts: Parts, query: QueryFields) -> Result<Response, ApiError> {
    Ok(match of_stored(&work, &id, &parts).await? {
        Dialect::OpenAi => openais::get_one(work, id, query).await.into_response(),
        Dialect::Mistral => mistrals::get(work, id, query).await.into_response(),
    })
}

/// OpenAI's changes the labels, Mistral's continues the conversation.
async fn post_one(work: StorageWork, id: ObjectId, parts: Parts, text: JsonText) -> Result<Response, ApiError> {
    Ok(match of_stored(&work, &id, &parts).await? {
        Dialect::OpenAi => openais::update(work, id, text).await.into_response(),
        Dialect::Mistral => mistrals::append(work, id, parts, text).await.into_response(),
    })
}

async fn delete(work: StorageWork, id: ObjectId, parts: Parts, query: QueryFields) -> Result<Response, ApiError> {
    Ok(match of_stored(&work, &id, &parts).await? {
        Dialect::OpenAi => openais::delete(work, id, query).await.into_response(),
        Dialect::Mistral => mistrals::delete(work, id, query).await.into_response(),
    })
}

/// Whoever reads the body then says what is wrong with it, if something is.
fn of_fields(text: &str) -> Dialect {
    let has = |body: &Value| MISTRAL_FIELDS.iter().any(|name| body.get(name).is_some_and(|value| !value.is_null()));
    if parse(text).is_ok_and(|body| has(&body)) { Dialect::Mistral } else { Dialect::OpenAi }
}

async fn of_stored(work: &StorageWork, ObjectId(id): &ObjectId, parts: &Parts) -> Result<Dialect, ApiError> {
    let owner = work.state.store().conversation_owner(id).await?;
    Ok(match owner.as_deref() {
        Some(mistrals::OWNER) => Dialect::Mistral,
        Some(_) => Dialect::OpenAi,
        None => Dialect::of_head(parts.uri.path(), &parts.headers).unwrap_or(Dialect::OpenAi),
    })
}
