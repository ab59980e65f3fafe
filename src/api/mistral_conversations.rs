//! Conversations as Mistral has them: `/v1/conversations`, where each request is answered by a model or an agent, and
//! what was said and done is kept as entries.
//!
//! `request` reads what is asked for, `entry` and `messages` are the entries and the chat that they make, `speaker` is
//! who answers, `run` and `answer` make a response, `resource` shows what is stored. OpenAI's conversations have the same
//! path and are something else; `conversation_routes` tells them apart.

mod answer;
mod entry;
mod messages;
mod request;
mod resource;
mod run;
mod speaker;

use axum::{
    Json,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::Value;

pub(super) use self::run::OWNER;
use self::{
    entry::{Entry, Recorded},
    request::{Delivery, Restart, Start, Wishes, parse_append},
    run::{Listener, PREFIX, Place, Plan, Run, place},
    speaker::Who,
};
use super::{
    body::{JsonText, wrong},
    dialect::{Dialect, Refusal},
    error::ApiError,
    query::{ObjectId, QueryFields},
    request::{StorageWork, Work, off_thread},
    sse::{self, Broken, Framing},
    state::unix_seconds,
};
use crate::store::new_id;

/// Begins a conversation.
pub(super) async fn create(work: StorageWork, parts: Parts, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let cost = text.len();
    let begun = async {
        let storing = work.state.storing().clone();
        let read = move || Start::parse(&text, unix_seconds(), &storing);
        let Start { wishes, details, metadata } = off_thread(&work.state, cost, read).await?;
        let work = work.with_engine(&parts)?;
        let metadata = metadata.map(|labels| Value::Object(labels).to_string());
        let plan = Plan {
            conversation_id: new_id(PREFIX),
            entries: wishes.inputs,
            details,
            completion_args: wishes.completion_args,
            handoffs: wishes.handoffs,
            place: place(wishes.storage, Place::New { metadata }),
        };
        respond(work, plan, wishes.delivery).await
    };
    mistrals(begun.await)
}

/// Continues a conversation.
pub(super) async fn append(
    work: StorageWork,
    ObjectId(id): ObjectId,
    parts: Parts,
    JsonText(text): JsonText,
) -> Result<Response, Refusal> {
    let cost = text.len();
    let continued = async {
        let storing = work.state.storing().clone();
        let read = move || parse_append(&text, unix_seconds(), &storing);
        let Wishes { inputs, completion_args, delivery, storage, handoffs } =
            off_thread(&work.state, cost, read).await?;
        let (conversation, known) = resource::whole(&work.state, &id).await?;
        let details = resource::details(&conversation)?;
        let kept = Place::Behind { position: conversation.last_position, known: known.len() };
        let entries = continued(known, inputs)?;
        let plan =
            Plan { conversation_id: id, entries, details, completion_args, handoffs, place: place(storage, kept) };
        respond(work.with_engine(&parts)?, plan, delivery).await
    };
    mistrals(continued.await)
}

/// Begins a new conversation with an old one's entries, up to one of them.
pub(super) async fn restart(
    work: StorageWork,
    ObjectId(id): ObjectId,
    parts: Parts,
    JsonText(text): JsonText,
) -> Result<Response, Refusal> {
    let cost = text.len();
    let restarted = async {
        let storing = work.state.storing().clone();
        let read = move || Restart::parse(&text, unix_seconds(), &storing);
        let Restart { wishes, from_entry_id, metadata, agent_version } = off_thread(&work.state, cost, read).await?;
        let (conversation, mut known) = resource::whole(&work.state, &id).await?;
        let mut details = resource::details(&conversation)?;
        let names_version = agent_version.is_some();
        if let Some(wanted) = agent_version {
            match &mut details.who {
                Who::Agent { version, .. } => *version = Some(wanted),
                Who::Model(_) => {
                    return Err(ApiError::invalid("agent_version", "`agent_version`: the conversation has no agent."));
                }
            }
        }
        let Some(last) = known.iter().position(|recorded| recorded.id == from_entry_id) else {
            let expected = "the id of an entry of this conversation";
            return Err(wrong("from_entry_id", expected, &from_entry_id.into()));
        };
        known.truncate(last + 1);
        let entries = continued(known, wishes.inputs)?;
        // Whoever was handed the conversation answers in its current version.
        if names_version && entries.iter().any(|recorded| recorded.entry.is_handoff()) {
            let message = "`agent_version`: these entries hand the conversation over, and who then has the word \
                           answers in its current version.";
            return Err(ApiError::invalid("agent_version", message));
        }
        let metadata = metadata.map(|labels| Value::Object(labels).to_string()).or(conversation.metadata);
        let plan = Plan {
            conversation_id: new_id(PREFIX),
            entries,
            details,
            completion_args: wishes.completion_args,
            handoffs: wishes.handoffs,
            place: place(wishes.storage, Place::New { metadata }),
        };
        respond(work.with_engine(&parts)?, plan, wishes.delivery).await
    };
    mistrals(restarted.await)
}

/// Conversations, newest first.
pub(super) async fn list(work: StorageWork, query: QueryFields) -> Result<Json<Value>, Refusal> {
    mistrals(resource::list(&work.state, query).await)
}

/// One conversation without its entries.
pub(super) async fn get(work: StorageWork, ObjectId(id): ObjectId, query: QueryFields) -> Result<Json<Value>, Refusal> {
    mistrals(resource::get(&work.state, &id, query).await)
}

/// Deletes a conversation with its entries.
pub(super) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<StatusCode, Refusal> {
    mistrals(resource::delete(&work.state, &id, query).await)
}

/// All entries.
pub(super) async fn history(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, Refusal> {
    mistrals(resource::history(&work.state, &id, query).await)
}

/// The entries that are messages.
pub(super) async fn messages(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, Refusal> {
    mistrals(resource::messages(&work.state, &id, query).await)
}

/// What is there is Mistral's, so its errors are.
fn mistrals<T>(outcome: Result<T, ApiError>) -> Result<T, Refusal> {
    outcome.map_err(|error| Dialect::Mistral.refuse(error))
}

/// Entries with new ones behind them. Without new ones, there must be something that waits for an answer.
fn continued(mut known: Vec<Recorded>, inputs: Vec<Recorded>) -> Result<Vec<Recorded>, ApiError> {
    let waits = known.last().is_some_and(|recorded| match recorded.entry {
        Entry::Input { .. } | Entry::Result { .. } | Entry::Handoff { .. } => true,
        Entry::Output { .. } | Entry::Call { .. } => false,
    });
    if inputs.is_empty() && !waits {
        return Err(wrong("inputs", "a text, or at least one entry: nothing waits for an answer", &Value::Null));
    }
    known.extend(inputs);
    Ok(known)
}

/// Answers at once, or as a stream.
async fn respond(work: Work, plan: Plan, delivery: Delivery) -> Result<Response, ApiError> {
    let state = work.state.clone();
    let (run, first) = Run::begin(work, plan).await?;
    match delivery {
        // The run has its place among the requests itself.
        Delivery::Streamed => Ok(sse::respond(Framing::Conversation, state.limits(), (), async move |sender| {
            run.finish(first, &Listener(Some(sender))).await.map(drop)
        })),
        Delivery::Whole => match run.finish(first, &Listener(None)).await {
            Ok(response) => Ok(Json(response).into_response()),
            Err(Broken::Failed(error)) => Err(error),
            Err(Broken::Disconnected) => Err(ApiError::Internal { message: "Nobody listens.".to_owned() }),
        },
    }
}
