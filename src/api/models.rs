//! `GET /v1/models`: what is served, with OpenAI's keys, Mistral's and vLLM's.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    moderations, origin,
    state::{AppState, ServedModel},
};
use crate::{
    prompt::{Codec, TokenizerVersion},
    types::Pooling,
};

/// All served names. While the model loads there are none.
pub(super) async fn list(State(state): State<AppState>) -> Json<Value> {
    let cards: Vec<Value> = match state.loaded_model() {
        None => Vec::new(),
        Some(model) => model.names.iter().map(|name| card(model, name, state.model_since())).collect(),
    };
    Json(json!({ "object": "list", "data": cards }))
}

/// One served name.
pub(super) async fn get(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let Some(model) = state.loaded_model() else {
        return Err(ApiError::Unavailable { reason: "the model is loading" });
    };
    if !model.names.contains(&name) {
        return Err(ApiError::ModelNotFound { model: name, served: model.names.join(", ") });
    }
    Ok(Json(card(model, &name, state.model_since())))
}

fn card(model: &ServedModel, name: &str, created: u64) -> Value {
    let aliases: Vec<&String> = model.names.iter().filter(|other| *other != name).collect();
    let version = model.codec.version();
    let generates = model.engine.outputs().logits;
    let chat = generates && (version.is_some() || model.codec.uses_jinja());
    let calls = chat && (version != Some(TokenizerVersion::V1) || model.codec.uses_jinja());
    json!({
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "tramontane",
        "root": model.name(),
        "parent": null,
        "max_model_len": model.max_model_len,
        "name": name,
        "description": null,
        "max_context_length": model.max_model_len,
        "aliases": aliases,
        "deprecation": null,
        "deprecation_replacement_model": null,
        "default_model_temperature": model.defaults.temperature,
        "type": "base",
        "provenance": origin::card(model),
        "capabilities": {
            "completion_chat": chat,
            "function_calling": calls,
            "reasoning": generates && reasons(&model.codec),
            "completion_fim": generates && model.codec.encode_fim("", Some("")).is_ok(),
            "fine_tuning": false,
            "vision": false,
            "ocr": false,
            "classification": matches!(model.pooling, Pooling::Classes { .. }),
            "moderation": moderations::can_judge(model),
            "audio": false,
        },
    })
}

/// Does the tokenizer have a form for thinking?
fn reasons(codec: &Codec) -> bool {
    match codec.version() {
        Some(TokenizerVersion::V13 | TokenizerVersion::V15) => {
            let writes = |id: u32, name: &str| codec.is_control(id) && codec.token_bytes(id) == name.as_bytes();
            let end = u32::try_from(codec.vocab_size()).unwrap_or(u32::MAX);
            ["[THINK]", "[/THINK]"].iter().all(|name| (0..end).any(|id| writes(id, name)))
        }
        Some(
            TokenizerVersion::V1
            | TokenizerVersion::V2
            | TokenizerVersion::V3
            | TokenizerVersion::V7
            | TokenizerVersion::V11,
        )
        | None => false,
    }
}
