//! What is asked of whole texts: embeddings, similarities, classes and moderation.

use serde_json::{Value, json};

use super::{
    inputs::{MOST, integer_within, token_ids},
    operations::{Answer, Operation, post},
    schema::{constant, flag, integer, list, map_of, number, object, reference, text, words},
};
use crate::api::fields::{CHAT_MODERATIONS, CLASSIFY, EMBEDDINGS, MODERATIONS, RERANK, SCORE};

const TAG: &str = "Whole texts";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "createEmbeddings",
        tag: TAG,
        summary: "Texts as vectors, in either dialect.",
        required: &["input"],
        answer: Answer::Json("Embeddings"),
        ..post("/v1/embeddings", &EMBEDDINGS)
    },
    Operation {
        id: "classify",
        tag: TAG,
        summary: "The classes of texts, where the checkpoint has a head for them.",
        required: &["input"],
        answer: Answer::Json("Classes"),
        ..post("/classify", &CLASSIFY)
    },
    Operation { id: "score", ..score("/v1/score") },
    Operation { id: "scoreWithoutVersion", ..score("/score") },
    Operation { id: "rerank", ..rerank("/v1/rerank") },
    Operation { id: "rerankV2", ..rerank("/v2/rerank") },
    Operation { id: "rerankWithoutVersion", ..rerank("/rerank") },
    Operation {
        id: "moderate",
        tag: TAG,
        summary: "What the served model thinks of texts, by category.",
        required: &["input"],
        answer: Answer::Json("Moderation"),
        ..post("/v1/moderations", &MODERATIONS)
    },
    Operation {
        id: "moderateChats",
        tag: TAG,
        summary: "What the served model thinks of the last messages of conversations (Mistral's API).",
        required: &["input"],
        answer: Answer::Json("Moderation"),
        ..post("/v1/chat/moderations", &CHAT_MODERATIONS)
    },
];

const fn score(path: &'static str) -> Operation {
    Operation {
        tag: TAG,
        summary: "How similar texts are, or what a head of one class says of pairs.",
        answer: Answer::Json("Scores"),
        ..post(path, &SCORE)
    }
}

const fn rerank(path: &'static str) -> Operation {
    Operation {
        tag: TAG,
        summary: "Documents in the order in which they answer a query.",
        required: &["query", "documents"],
        answer: Answer::Json("Ranking"),
        ..post(path, &RERANK)
    }
}

/// Types of fields that other resources do not have, or that mean something else here.
pub(super) fn field(resource: &str, field: &str) -> Option<Value> {
    let one_or_more =
        || json!({ "anyOf": [text(), { "type": "array", "items": text(), "minItems": 1, "maxItems": 1024 }] });
    let schema = match (resource, field) {
        ("POST /v1/embeddings" | "POST /classify", "input") => json!({ "anyOf": [
            text(),
            { "type": "array", "items": text(), "minItems": 1, "maxItems": 2048 },
            token_ids(1),
            { "type": "array", "items": token_ids(1), "minItems": 1, "maxItems": 2048 },
        ]}),
        ("POST /v1/moderations", "input") => json!({ "anyOf": [
            text(),
            { "type": "array", "items": text(), "minItems": 1, "maxItems": 32 },
            { "type": "array", "items": object(&[("type", constant("text")), ("text", text())]), "minItems": 1 },
        ]}),
        ("POST /v1/chat/moderations", "input") => {
            json!({ "type": "array", "items": { "type": ["object", "array"] }, "minItems": 1 })
        }
        ("POST /v1/embeddings", "dimensions" | "output_dimension") => integer_within(1, MOST),
        ("POST /v1/embeddings", "encoding_format") => words(&["float", "base64"]),
        ("POST /v1/embeddings", "output_dtype") => words(&["float", "int8", "uint8", "binary", "ubinary"]),
        ("POST /v1/embeddings", "normalize") | ("POST /classify", "use_activation") => flag(),
        ("POST /v1/rerank", "query") => text(),
        ("POST /v1/rerank", "documents") => json!({
            "type": "array",
            "items": { "anyOf": [text(), object(&[("text", text())])] },
            "minItems": 1,
            "maxItems": 1024,
        }),
        ("POST /v1/rerank", "top_n") => integer_within(0, MOST),
        ("POST /v1/rerank", "return_documents") => flag(),
        ("POST /v1/score", "text_1" | "text_2" | "queries" | "documents") => one_or_more(),
        _ => return None,
    };
    Some(schema)
}

/// Answers.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let head = |data: Value| {
        [
            ("id", text()),
            ("object", constant("list")),
            ("created", integer()),
            ("model", text()),
            ("data", list(data)),
            ("usage", reference("Usage")),
        ]
    };
    let embedding = object(&[
        ("object", constant("embedding")),
        ("index", integer()),
        ("embedding", json!({ "anyOf": [list(number()), text()] })),
    ]);
    let class =
        object(&[("index", integer()), ("label", text()), ("probs", list(number())), ("num_classes", integer())]);
    let score = object(&[("index", integer()), ("object", constant("score")), ("score", number())]);
    let result =
        object(&[("index", integer()), ("relevance_score", number()), ("document?", object(&[("text", text())]))]);
    let judged = object(&[
        ("flagged?", flag()),
        ("categories", map_of(flag())),
        ("category_scores", map_of(number())),
        ("category_applied_input_types?", map_of(list(constant("text")))),
    ]);
    vec![
        ("Embeddings", object(&head(embedding))),
        ("Classes", object(&head(class))),
        ("Scores", object(&head(score))),
        (
            "Ranking",
            object(&[("id", text()), ("model", text()), ("results", list(result)), ("usage", reference("Usage"))]),
        ),
        ("Moderation", object(&[("id", text()), ("model", text()), ("results", list(judged))])),
    ]
}
