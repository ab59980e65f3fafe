//! Mistral's agents: `/v1/agents` and below.
//!
//! `definition` is what an agent is, `settings` the part of it that a conversation without an agent has too, `resource`
//! the routes of stored agents, `completions` asks one, `handoff` lets one hand over to another. An agent is checked when
//! it is made, against the model that is served then, and read as a chat whenever it is asked: nothing of it is ignored.
//!
//! OpenAI's API has agents too, which are something else and not served: its clients are told so.

mod completions;
mod definition;
pub(super) mod handoff;
mod resource;
pub(super) mod settings;

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};

pub(super) use self::{
    definition::Definition,
    resource::{take_labels, version_named},
};
use super::{dialect::Dialect, error::ApiError, state::AppState};

/// All routes of agents.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/agents", get(resource::list).post(resource::create))
        .route("/v1/agents/pages", get(resource::pages))
        .route("/v1/agents/completions", post(completions::create))
        .route("/v1/agents/{id}", get(resource::get).patch(resource::change).delete(resource::delete))
        .route("/v1/agents/{id}/version", patch(resource::set_version))
        .route("/v1/agents/{id}/versions", get(resource::versions))
        .route("/v1/agents/{id}/versions/{version}", get(resource::version))
        .route(
            "/v1/agents/{id}/aliases",
            get(resource::aliases).put(resource::set_alias).delete(resource::delete_alias),
        )
        .route_layer(middleware::from_fn(not_openais))
}

async fn not_openais(request: Request, next: Next) -> Response {
    match Dialect::of_head(request.uri().path(), request.headers()) {
        Some(Dialect::OpenAi) => {
            ApiError::NotServed { what: "OpenAI's agents; those that it has are Mistral's" }.into_response()
        }
        Some(Dialect::Mistral) | None => next.run(request).await,
    }
}
