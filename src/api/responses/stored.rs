//! Responses that are there already: `GET`, `DELETE`, `cancel`, `input_items`.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{following::Following, items::from_store, object::shown, request::check_included};
use crate::{
    api::{
        error::ApiError,
        query::{ObjectId, QueryFields},
        request::{StorageWork, joined},
        state::AppState,
        stored_error::named_by,
    },
    store::{Item, Page, ResponseState},
};

const MOST_LISTED: u64 = 100;
const LISTED: u64 = 20;
/// Largest whole number that every reader of JSON has.
const LAST_NUMBER: u64 = (1 << 53) - 1;

/// A response as it is now, or the events of its stream.
pub(in crate::api) async fn get(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Response, ApiError> {
    take_include(&mut query)?;
    let is_streamed = query.flag("stream")?.unwrap_or(false);
    let starting_after = query.integer("starting_after", 0..=LAST_NUMBER)?;
    if starting_after.is_some() && !is_streamed {
        return Err(ApiError::invalid("starting_after", "`starting_after` needs `stream` to be true."));
    }
    if query.flag("include_obfuscation")? == Some(true) && is_streamed {
        return Err(ApiError::invalid("include_obfuscation", "`include_obfuscation` is not supported."));
    }
    query.finish()?;
    let StorageWork { state, in_flight, .. } = work;
    if is_streamed {
        // It may take long, and others want to look at what is stored.
        let place = state.admit_follower()?;
        drop(in_flight);
        return Ok(Following::resumed(state, id, starting_after).await?.respond(place));
    }
    let (response, output) = state.store().response(&id).await?;
    Ok(Json(shown(&response, &output)?).into_response())
}

/// Deletes a response; it is gone when this answers. One that is being answered will not be.
pub(in crate::api) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let state = work.state.clone();
    // To its end, also when the client leaves: half of it would be seen by others.
    joined(tokio::spawn(async move {
        let hidden = state.store().hide_response(&id).await?;
        state.responses_changed().notify_one();
        state.response_streams().ring(&id);
        state.store().remove_response(hidden).await?;
        Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
    }))
    .await
}

/// A response in the background that will not be answered.
pub(in crate::api) async fn cancel(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let state = work.state.clone();
    // To its end, also when the client leaves.
    joined(tokio::spawn(cancelled(state, id))).await
}

async fn cancelled(state: AppState, id: String) -> Result<Json<Value>, ApiError> {
    let (store, streams) = (state.store(), state.response_streams());
    store.cancel_response(&id).await?;
    let (response, output) = store.response(&id).await?;
    let object = shown(&response, &output)?;
    if response.state == ResponseState::Cancelled {
        // Those who follow it learn the end from the store, whose number is behind whatever they were told meanwhile.
        streams.stop(&id);
        streams.ring(&id);
        state.responses_changed().notify_one();
        return Ok(Json(object));
    }
    let message = match object["background"].as_bool() {
        Some(true) => format!("The response is {} and cannot be cancelled.", response.state.as_str()),
        Some(false) | None => "Only a response with `background` true can be cancelled.".to_owned(),
    };
    Err(ApiError::Invalid { message, param: Some("id".to_owned()), code: Some("not_cancellable") })
}

/// What a response was asked with, newest first.
pub(in crate::api) async fn input_items(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    take_include(&mut query)?;
    let page = query.page(LISTED, MOST_LISTED)?;
    query.finish()?;
    let store = work.state.store();
    store.response_state(&id).await?; // so that only the item can be what `after` lacks
    let items = store.response_input(&id, page).await.map_err(named_by("after"))?;
    Ok(Json(item_list(&items)?))
}

/// Takes `include`, in both spellings that clients have for lists.
pub(in crate::api) fn take_include(query: &mut QueryFields) -> Result<(), ApiError> {
    for name in ["include", "include[]"] {
        for word in query.all(name) {
            check_included(&word.into(), "include")?;
        }
    }
    Ok(())
}

/// A page of items.
pub(in crate::api) fn item_list(items: &Page<Item>) -> Result<Value, ApiError> {
    let data: Vec<Value> = items.items.iter().map(|item| from_store(&item.body)).collect::<Result<_, _>>()?;
    let id = |item: Option<&Item>| item.map(|item| item.id.clone());
    Ok(json!({
        "object": "list",
        "data": data,
        "first_id": id(items.items.first()),
        "last_id": id(items.items.last()),
        "has_more": items.has_more,
    }))
}
