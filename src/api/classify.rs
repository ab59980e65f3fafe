//! `POST /classify`, as vLLM has it: texts in, probabilities of a classification head's labels out.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{
    body::{Fields, JsonText},
    error::ApiError,
    fields,
    guard::Terms,
    params::take_model,
    pooling::{Answers, Question, compute},
    request::{Work, off_thread, set_request_id},
    state::{ServedModel, unix_seconds},
    texts::TextOptions,
};
use crate::types::{Activation, Pooling};

/// A classification request, checked.
struct ClassifyCall {
    model_name: String,
    labels: Vec<String>,
    activation: Activation,
    options: TextOptions,
    inputs: Vec<Vec<u32>>,
}

#[derive(Serialize)]
struct Classified {
    index: usize,
    /// Of the likeliest class.
    label: String,
    probs: Vec<f32>,
    num_classes: usize,
}

/// Classifies texts.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let Work { state, model, in_flight: _in_flight, request_id, terms, share, .. } = work;
    let mut call = {
        let model = Arc::clone(&model);
        off_thread(&state, text.len(), move || ClassifyCall::parse(&text, &model, &terms)).await?
    };
    share.apply(&mut call.options.scheduling);
    let request_id = call.options.request_id.clone().unwrap_or(request_id);
    let questions: Vec<Question> = std::mem::take(&mut call.inputs).into_iter().map(Question::pool).collect();
    let Answers { values, usage } = compute(&model, &call.options.scheduling, &questions).await?;
    let data: Vec<Classified> = values.iter().enumerate().map(|(index, scores)| call.read(index, scores)).collect();
    let body = json!({
        "id": format!("classify-{request_id}"),
        "object": "list",
        "created": unix_seconds(),
        "model": call.model_name,
        "data": data,
        "usage": usage.usage(),
    });
    let mut response = Json(body).into_response();
    set_request_id(&mut response, &request_id);
    Ok(response)
}

impl ClassifyCall {
    fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::CLASSIFY)?;
        let model_name = take_model(&mut fields, model)?;
        let Pooling::Classes { labels, activation } = &model.pooling else {
            let message = "This model has no classification head: it cannot classify texts.";
            return Err(ApiError::invalid("model", message));
        };
        let activation = match fields.flag("use_activation")? {
            Some(false) => Activation::Identity,
            Some(true) | None => *activation,
        };
        let options = TextOptions::take(&mut fields, terms)?;
        let inputs = options.take_inputs(&mut fields, "input", model)?;
        fields.finish()?;
        Ok(Self { model_name, labels: labels.clone(), activation, options, inputs })
    }

    fn read(&self, index: usize, scores: &[f32]) -> Classified {
        let larger = |best: usize, class: usize| if scores[class] > scores[best] { class } else { best };
        let best = (0..scores.len()).reduce(larger).unwrap_or_default();
        Classified {
            index,
            label: self.labels[best].clone(),
            probs: self.activation.apply(scores),
            num_classes: self.labels.len(),
        }
    }
}
