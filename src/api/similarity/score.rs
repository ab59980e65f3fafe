//! `POST /score`: a number per pair of texts.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{MAX_DOCUMENTS, Pairs, Text};
use crate::api::{
    body::{Fields, JsonText, wrong},
    error::ApiError,
    fields,
    guard::Terms,
    params::take_model,
    request::{Work, off_thread, set_request_id},
    state::{ServedModel, unix_seconds},
    texts::{TextOptions, check_count},
};

/// Two names of either side.
const QUERIES: [&str; 2] = ["queries", "text_1"];
const DOCUMENTS: [&str; 2] = ["documents", "text_2"];

/// Scores pairs.
pub(in crate::api) async fn score(work: Work, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let Work { state, model, in_flight: _in_flight, request_id, terms, share, .. } = work;
    let (model_name, pairs, mut options) = {
        let model = Arc::clone(&model);
        off_thread(&state, text.len(), move || parse(&text, &model, &terms)).await?
    };
    share.apply(&mut options.scheduling);
    let request_id = options.request_id.unwrap_or(request_id);
    let (scores, usage) = pairs.scores(&model, &options.scheduling).await?;
    let item = |(index, score): (usize, &f32)| json!({ "index": index, "object": "score", "score": score });
    let body = json!({
        "id": format!("score-{request_id}"),
        "object": "list",
        "created": unix_seconds(),
        "model": model_name,
        "data": scores.iter().enumerate().map(item).collect::<Vec<_>>(),
        "usage": usage.usage(),
    });
    let mut response = Json(body).into_response();
    set_request_id(&mut response, &request_id);
    Ok(response)
}

fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<(String, Pairs, TextOptions), ApiError> {
    let mut fields = Fields::parse(text, &fields::SCORE)?;
    let model_name = take_model(&mut fields, model)?;
    let options = TextOptions::take(&mut fields, terms)?;
    let queries = take_side(&mut fields, QUERIES)?;
    let documents = take_side(&mut fields, DOCUMENTS)?;
    if queries.texts.len() != 1 && queries.texts.len() != documents.texts.len() {
        let message = format!(
            "`{}` must have one text, or as many as `{}` ({}), got {}.",
            queries.name,
            documents.name,
            documents.texts.len(),
            queries.texts.len(),
        );
        return Err(ApiError::invalid(queries.name, message));
    }
    fields.finish()?;
    Ok((model_name, Pairs::new(&queries.texts, &documents.texts, &options, model)?, options))
}

/// The texts of one side.
struct Side {
    name: &'static str,
    texts: Vec<Text>,
}

fn take_side(fields: &mut Fields, names: [&'static str; 2]) -> Result<Side, ApiError> {
    let [name, alias] = names;
    let (name, value) = match (fields.take(name), fields.take(alias)) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(alias, format!("`{name}` and `{alias}` are the same; give one of them.")));
        }
        (Some(value), None) => (name, value),
        (None, Some(value)) => (alias, value),
        (None, None) => {
            return Err(wrong(name, format_args!("a text or a list of texts (or give `{alias}`)"), &Value::Null));
        }
    };
    let texts = match value {
        Value::String(text) => vec![Text { path: name.to_owned(), text }],
        Value::Array(items) => {
            check_count(name, items.len(), MAX_DOCUMENTS)?;
            let one = |(index, item)| {
                let path = format!("{name}[{index}]");
                match item {
                    Value::String(text) => Ok(Text { path, text }),
                    other => Err(wrong(&path, "a text", &other)),
                }
            };
            items.into_iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
        other => return Err(wrong(name, "a text or a list of texts", &other)),
    };
    Ok(Side { name, texts })
}
