//! What clients are told of where the model comes from: on its card, and in headers of every answer to
//! whoever was let in.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::state::ServedModel;

/// Of the weights.
const MODEL_DIGEST: HeaderName = HeaderName::from_static("x-tramontane-model-digest");
/// Of the tokenizer's file.
const TOKENIZER_DIGEST: HeaderName = HeaderName::from_static("x-tramontane-tokenizer-digest");
/// `signed`, `locked` or `unlocked`.
const PROVENANCE: HeaderName = HeaderName::from_static("x-tramontane-model-provenance");

/// What every such answer says, made once.
pub(super) fn model_headers(model: &ServedModel) -> HeaderMap {
    let values = [
        (MODEL_DIGEST, model.digest.as_str()),
        (TOKENIZER_DIGEST, model.provenance.tokenizer_digest.as_str()),
        (PROVENANCE, model.provenance.state()),
    ];
    // What is not known is not said.
    let known = values.into_iter().filter(|(_, value)| !value.is_empty());
    known.filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?))).collect()
}

/// A part of the model's card.
pub(super) fn card(model: &ServedModel) -> Value {
    let provenance = &model.provenance;
    let locked = provenance.locked.as_ref();
    json!({
        "state": provenance.state(),
        "weights_digest": model.digest,
        "tokenizer_digest": provenance.tokenizer_digest,
        "signer": provenance.signer,
        "source": locked.map(|origin| &origin.source),
        "revision": locked.map(|origin| &origin.revision),
        "licence": locked.map(|origin| &origin.licence),
    })
}
