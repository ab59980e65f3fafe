//! `POST /v1/embeddings`, for both dialects: texts or token ids in, vectors out.

mod encoding;
mod request;

use std::sync::Arc;

use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde::Serialize;

pub(super) use self::encoding::cosine;
use self::{
    encoding::Vector,
    request::{EmbeddingCall, VectorForm},
};
use super::{
    answer::Usage,
    body::JsonText,
    dialect::Refusal,
    error::ApiError,
    pooling::{Answers, Question, compute},
    request::{Work, off_thread, set_request_id},
    state::unix_seconds,
};

#[derive(Serialize)]
struct Embeddings<'a> {
    id: String,
    object: &'static str,
    created: u64, // Unix seconds
    model: &'a str,
    data: Vec<Embedding>,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// About so many bytes of JSON per value.
const VALUE_BYTES: usize = 12;

/// Embeds texts.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let (mut call, form) = {
        let (model, head, terms) = (Arc::clone(&work.model), work.dialect, work.terms.clone());
        off_thread(&work.state, text.len(), move || EmbeddingCall::parse(&text, head, &model, &terms)).await?
    };
    work.share.apply(&mut call.options.scheduling);
    let dialect = call.dialect;
    answer(work, call, form).await.map_err(|error| dialect.refuse(error))
}

async fn answer(work: Work, call: EmbeddingCall, form: VectorForm) -> Result<Response, ApiError> {
    let Work { state, model, in_flight, request_id, .. } = work;
    let request_id = call.options.request_id.unwrap_or(request_id);
    let questions: Vec<Question> = call.inputs.into_iter().map(Question::pool).collect();
    let Answers { values, usage } = compute(&model, &call.options.scheduling, &questions).await?;
    let id = format!("embd-{request_id}");
    let cost = values.iter().map(Vec::len).sum::<usize>() * VALUE_BYTES;
    let written = move || {
        let _in_flight = in_flight;
        let embedding = |(index, vector)| Embedding { object: "embedding", index, embedding: form.write(vector) };
        let body = Embeddings {
            id,
            object: "list",
            created: unix_seconds(),
            model: &call.model_name,
            data: values.into_iter().enumerate().map(embedding).collect(),
            usage: usage.usage(),
        };
        serde_json::to_vec(&body).map_err(|error| ApiError::Internal { message: error.to_string() })
    };
    let body = off_thread(&state, cost, written).await?;
    let mut response = ([(CONTENT_TYPE, "application/json")], Body::from(body)).into_response();
    set_request_id(&mut response, &request_id);
    Ok(response)
}
