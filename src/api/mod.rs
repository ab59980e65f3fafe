//! The only layer that knows HTTP, JSON and server-sent events.
//!
//! [`app`] is the router; one file per resource has its handler and its data; [`error`] is the single map to
//! status and body; [`fields`] says what becomes of every request field; [`generation`] is the one place where
//! engine updates become text. A request's life: `request` (id, admission) -> `body` (limits, JSON, fields)
//! -> a checked job -> [`generation`] -> one JSON object, or a stream through `sse`.
//!
//! Invariants: no request can harm another, whatever it sends or fails to read; and no field is ignored: it is
//! honoured, asks for nothing, or is refused by name.

mod about;
mod access;
mod access_error;
mod actions;
mod admin;
mod administration_error;
mod agents;
mod answer;
mod answer_guard;
mod assembler;
mod audit;
mod batches;
mod behalf;
mod body;
mod chat;
mod chunks;
mod classify;
mod codings;
mod completions;
mod conversation_routes;
mod conversations;
mod dialect;
mod embeddings;
pub mod error;
pub mod fields;
mod files;
mod form;
pub mod generation;
mod guard;
mod guarded;
mod guarded_chat;
mod guarded_json;
mod guardrail_error;
mod health;
mod hosts;
mod http_limits;
mod idle;
mod logprobs;
mod long_bodies;
mod mistral_conversations;
mod models;
mod moderations;
mod multipart;
pub mod openapi;
mod origin;
mod params;
mod pooling;
mod query;
mod quota;
mod request;
mod responses;
mod server;
mod similarity;
mod sse;
mod state;
mod stop_strings;
mod stored_error;
mod subjects;
mod tenancy;
mod texts;
mod timestamp;
mod tls;
mod tokenize;
mod tool_access;
mod turn;
pub mod unserved;
mod updates;

use axum::{
    Router,
    extract::Request,
    routing::{get, post},
};

use self::error::ApiError;
pub use self::{
    about::LINES,
    access_error::AccessError,
    administration_error::AdministrationError,
    answer_guard::AnswerGuard,
    audit::AuditScope,
    batches::run as run_batches,
    guardrail_error::GuardrailError,
    hosts::Hosts,
    http_limits::{HttpLimits, StorageLimits},
    params::{GenerationParams, Scheduling, Stopping},
    request::layers,
    responses::run as run_background_responses,
    server::{Door, Drained, serve},
    state::{AppState, GenerationDefaults, Readiness, ServedModel},
    stored_error::StoredError,
    subjects::{SubjectData, SubjectError},
    tls::{Tls, TlsError},
};

/// The whole HTTP interface.
pub fn app(state: AppState) -> Router {
    layers(routes(), state)
}

/// The routes without what every request passes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/models", get(models::list))
        // Names may contain slashes, as those of the Hugging Face hub do.
        .route("/v1/models/{*model}", get(models::get).delete(unserved::delete_model))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/fim/completions", post(chat::fim::create))
        .merge(whole_texts())
        .merge(stored_objects())
        .merge(agents::routes())
        .merge(responses::routes())
        .merge(conversation_routes::routes())
        .merge(admin::routes())
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/load", get(health::load))
        .route("/version", get(health::version))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::get))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
}

/// The routes of [`app`], with their parameters in braces.
pub fn paths() -> Vec<&'static str> {
    let mut paths = openapi::paths();
    paths.dedup();
    paths
}

/// What is asked of whole texts; vLLM's routes have several names.
fn whole_texts() -> Router<AppState> {
    Router::new()
        .route("/v1/embeddings", post(embeddings::create))
        .route("/classify", post(classify::create))
        .route("/score", post(similarity::score))
        .route("/v1/score", post(similarity::score))
        .route("/rerank", post(similarity::rerank))
        .route("/v1/rerank", post(similarity::rerank))
        .route("/v2/rerank", post(similarity::rerank))
        .route("/v1/moderations", post(moderations::create))
        .route("/v1/chat/moderations", post(moderations::create_for_chats))
}

/// What is kept between requests. These need no model.
fn stored_objects() -> Router<AppState> {
    Router::new()
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::get))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/batch/jobs", get(batches::list_jobs).post(batches::create_job))
        .route("/v1/batch/jobs/{id}", get(batches::get_job).delete(batches::delete_job))
        .route("/v1/batch/jobs/{id}/cancel", post(batches::cancel_job))
}

async fn not_found(request: Request) -> ApiError {
    unserved::no_route(request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().to_string(), path: request.uri().path().to_owned() }
}
