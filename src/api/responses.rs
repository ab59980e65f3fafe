//! `/v1/responses`: OpenAI's newer form of a chat, whose turns the server keeps.
//!
//! A request becomes an [`exchange`](self::exchange) (its items and all that they continue), that a turn of a chat
//! (`thread`), whose pieces become items and events again (`output`) and a response (`object`). What waits is answered
//! by [`run`] (`background`), and can be watched meanwhile (`following`). Templates, tools and forms are the chat's; here is nothing but the other form.

mod background;
mod create;
mod exchange;
mod following;
mod items;
mod object;
mod output;
mod request;
mod stored;
mod streams;
mod thread;
mod tools;

use axum::{
    Router,
    routing::{get, post},
};

pub use self::background::run;
pub(super) use self::{
    items::{Given, from_store, normalized, to_store},
    stored::{item_list, take_include},
    streams::Streams,
};
use super::{error::ApiError, state::AppState};

/// Whose conversations these are in the store.
pub(super) const OWNER: &str = "openai";
/// Longest conversation.
pub(super) const MAX_CONVERSATION_ITEMS: u64 = 10_000;
/// Responses in the background that are not answered yet; one more is refused.
const MAX_WAITING: u64 = 1000;

/// Everything below `/v1/responses`.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/responses", post(create::create))
        .route("/v1/responses/input_tokens", post(create::count_input))
        .route("/v1/responses/compact", post(compact))
        .route("/v1/responses/{id}", get(stored::get).delete(stored::delete))
        .route("/v1/responses/{id}/cancel", post(stored::cancel))
        .route("/v1/responses/{id}/input_items", get(stored::input_items))
}

async fn compact() -> ApiError {
    ApiError::NotServed { what: "the compaction of conversations: `truncation` can be auto" }
}
