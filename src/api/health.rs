//! What operators ask: is it alive, is it ready, how busy is it, what is it.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::state::{AppState, Readiness};

/// Always 200: the process runs and answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// 200 if the server takes work; else 503 with the reason.
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Value>) {
    let readiness = state.readiness();
    let code = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "status": readiness.name() })))
}

/// Requests being handled.
pub(super) async fn load(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "server_load": state.in_flight() }))
}

/// What is running.
pub(super) async fn version(State(state): State<AppState>) -> Json<Value> {
    let model = state.loaded_model();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": model.map(|model| model.name()),
        "model_digest": model.map(|model| model.digest.as_str()),
    }))
}

/// Prometheus' text format.
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let mut text = state.http_metrics().render();
    if let Some(model) = state.loaded_model() {
        text.push_str(&model.metrics.render());
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
