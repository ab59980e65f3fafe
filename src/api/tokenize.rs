//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use axum::Json;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    body::{Fields, JsonText, wrong},
    chat::{chat_request, check_conversation},
    error::ApiError,
    fields,
    params::take_model,
    request::{TokenizerWork, off_thread},
    state::ServedModel,
};
use crate::prompt::{SpecialTokens, ToolsOffered};

#[derive(Debug, Serialize)]
pub(super) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// A text or a conversation to token ids.
pub(super) async fn tokenize(work: TokenizerWork, JsonText(text): JsonText) -> Result<Json<Tokenized>, ApiError> {
    let TokenizerWork { state, model, in_flight } = work;
    let body_len = text.len();
    let encoded = move || {
        let _in_flight = in_flight;
        encode(&text, &model)
    };
    off_thread(&state, body_len, encoded).await.map(Json)
}

/// Token ids to text, control tokens included.
pub(super) async fn detokenize(work: TokenizerWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let TokenizerWork { state, model, in_flight } = work;
    let body_len = text.len();
    let decoded = move || {
        let _in_flight = in_flight;
        decode(&text, &model)
    };
    off_thread(&state, body_len, decoded).await.map(|prompt| Json(json!({ "prompt": prompt })))
}

fn encode(text: &str, model: &ServedModel) -> Result<Tokenized, ApiError> {
    let mut fields = Fields::parse(text, &fields::TOKENIZE)?;
    let model_name = take_model(&mut fields, model)?;
    let (messages, tools) = (fields.take("messages"), fields.take("tools"));
    check_conversation(messages.as_ref(), tools.as_ref())?;
    let (is_chat, offers_tools) = (messages.is_some(), tools.is_some());
    let prompt = fields.string("prompt")?;
    let add_bos = fields.flag("add_special_tokens")?;
    let show_texts = fields.flag("return_token_strs")?.unwrap_or(false);
    fields.finish()?;
    let tokens = match (prompt, is_chat) {
        (Some(_), true) => return Err(ApiError::invalid("messages", "Give `prompt` or `messages`, not both.")),
        (None, false) => return Err(wrong("prompt", "a text (or give `messages`)", &Value::Null)),
        (Some(_), false) if offers_tools => return Err(ApiError::invalid("tools", "`tools` needs `messages`.")),
        (None, true) if add_bos == Some(true) => {
            return Err(ApiError::invalid("add_special_tokens", "The template of `messages` writes them."));
        }
        (Some(prompt), false) => model.codec.encode_text(&prompt, add_bos.unwrap_or(true)),
        (None, true) => model.codec.encode_chat(&chat_request(text, &model_name, ToolsOffered::Yes, &model.codec)?)?,
    };
    let token_text = |&id: &u32| String::from_utf8_lossy(&model.codec.token_bytes(id)).into_owned();
    let token_strs = show_texts.then(|| tokens.iter().map(token_text).collect());
    Ok(Tokenized { count: tokens.len(), max_model_len: model.max_model_len, tokens, token_strs })
}

fn decode(text: &str, model: &ServedModel) -> Result<String, ApiError> {
    let mut fields = Fields::parse(text, &fields::DETOKENIZE)?;
    take_model(&mut fields, model)?;
    let ids = fields.token_ids("tokens", model.codec.vocab_size())?;
    fields.finish()?;
    let Some(ids) = ids else { return Err(wrong("tokens", "an array of token ids", &Value::Null)) };
    Ok(model.codec.decode(&ids, SpecialTokens::Keep))
}
