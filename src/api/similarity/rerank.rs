//! `POST /rerank`: documents in the order of how well they go with a query, as Jina, Cohere and vLLM have it.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{MAX_DOCUMENTS, Pairs, Text};
use crate::api::{
    body::{Fields, JsonText, unknown_key, wrong},
    error::ApiError,
    fields,
    guard::Terms,
    params::take_model,
    request::{Work, off_thread, set_request_id},
    state::ServedModel,
    texts::{TextOptions, check_count},
};

/// A rerank request, checked.
struct RerankCall {
    model_name: String,
    options: TextOptions,
    pairs: Pairs,
    top_n: usize,
    /// Their texts, if they are to be sent back.
    documents: Option<Vec<String>>,
}

/// Sorts documents.
pub(in crate::api) async fn rerank(work: Work, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let Work { state, model, in_flight: _in_flight, request_id, terms, share, .. } = work;
    let mut call = {
        let model = Arc::clone(&model);
        off_thread(&state, text.len(), move || RerankCall::parse(&text, &model, &terms)).await?
    };
    share.apply(&mut call.options.scheduling);
    let request_id = call.options.request_id.clone().unwrap_or(request_id);
    let (scores, usage) = call.pairs.scores(&model, &call.options.scheduling).await?;
    let body = json!({
        "id": format!("rerank-{request_id}"),
        "model": call.model_name,
        "results": call.results(&scores),
        "usage": usage.usage(),
    });
    let mut response = Json(body).into_response();
    set_request_id(&mut response, &request_id);
    Ok(response)
}

impl RerankCall {
    fn parse(text: &str, model: &ServedModel, terms: &Terms) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::RERANK)?;
        let model_name = take_model(&mut fields, model)?;
        let options = TextOptions::take(&mut fields, terms)?;
        let Some(query) = fields.string("query")? else { return Err(wrong("query", "a text", &Value::Null)) };
        let query = [Text { path: "query".to_owned(), text: query }];
        let documents = take_documents(&mut fields)?;
        // vLLM's default, 0, is all of them.
        let top_n = match fields.count("top_n", 0..=usize::MAX)? {
            Some(0) | None => usize::MAX,
            Some(top_n) => top_n,
        };
        let sends_back = fields.flag("return_documents")?.unwrap_or(true);
        fields.finish()?;
        let pairs = Pairs::new(&query, &documents, &options, model)?;
        let documents = sends_back.then(|| documents.into_iter().map(|document| document.text).collect());
        Ok(Self { model_name, options, pairs, top_n, documents })
    }

    /// The best first; of equals the one that came first.
    fn results(&self, scores: &[f32]) -> Vec<Value> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
        let result = |index: usize| {
            let mut result = json!({ "index": index, "relevance_score": scores[index] });
            if let Some(documents) = &self.documents {
                result["document"] = json!({ "text": documents[index] });
            }
            result
        };
        order.into_iter().take(self.top_n).map(result).collect()
    }
}

/// Texts, or objects that have nothing but a `text`.
fn take_documents(fields: &mut Fields) -> Result<Vec<Text>, ApiError> {
    const NAME: &str = "documents";
    let items = match fields.take(NAME) {
        Some(Value::Array(items)) => items,
        other => return Err(wrong(NAME, "a list of texts", &other.unwrap_or(Value::Null))),
    };
    check_count(NAME, items.len(), MAX_DOCUMENTS)?;
    let one = |(index, item): (usize, Value)| {
        let path = format!("{NAME}[{index}]");
        match item {
            Value::String(text) => Ok(Text { path, text }),
            Value::Object(mut members) => {
                let text = members.remove("text");
                if let Some(key) = members.keys().next() {
                    return Err(unknown_key(&path, key));
                }
                let path = format!("{path}.text");
                match text {
                    Some(Value::String(text)) => Ok(Text { path, text }),
                    other => Err(wrong(&path, "a text", &other.unwrap_or(Value::Null))),
                }
            }
            other => Err(wrong(&path, "a text or an object with a `text`", &other)),
        }
    };
    items.into_iter().enumerate().map(one).collect()
}
