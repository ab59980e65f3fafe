//! What the public APIs of OpenAI and Mistral have and this server has not: one table, which answers 501 with a sentence
//! and which `docs/api.md` repeats.
//!
//! Main item: [`UNSERVED`]. It is asked only for paths that have no route, so a route that is added wins; the row is
//! then to be removed, which a test notices. What is not in the table is unknown, and answers 404.

use super::error::ApiError;

/// A part of a public API.
#[derive(Debug)]
pub struct Unserved {
    /// Paths; all below them is meant too. A part in braces is any.
    pub paths: &'static [&'static str],
    /// What it would be: completes "This server does not serve ...".
    pub what: &'static str,
}

/// Everything that is known and not served.
pub const UNSERVED: &[Unserved] = &[
    Unserved { paths: &["/v1/audio", "/v2/audio"], what: "speech, transcription and voices" },
    Unserved { paths: &["/v1/images"], what: "images" },
    Unserved { paths: &["/v1/videos"], what: "videos" },
    Unserved { paths: &["/v1/ocr"], what: "text recognition" },
    Unserved { paths: &["/v1/realtime", "/v1/live"], what: "realtime sessions" },
    Unserved { paths: &["/v1/fine_tuning"], what: "fine-tuning" },
    Unserved { paths: &["/v1/classifications", "/v1/chat/classifications"], what: "classifiers" },
    // `store` is refused, so there is nothing to list or to delete.
    Unserved { paths: &["/v1/chat/completions"], what: "stored chat completions" },
    Unserved { paths: &["/v1/assistants", "/v1/threads"], what: "assistants and threads" },
    Unserved { paths: &["/v1/chatkit"], what: "ChatKit" },
    Unserved { paths: &["/v1/vector_stores", "/v1/libraries"], what: "vector stores and document libraries" },
    Unserved { paths: &["/v1/context", "/v1/rag"], what: "search indexes and ingestion" },
    Unserved {
        paths: &["/v1/files/{id}/url"],
        what: "signed URLs of files, which are read at `/v1/files/{id}/content`",
    },
    Unserved { paths: &["/v1/uploads"], what: "uploads in parts" },
    Unserved { paths: &["/v1/containers"], what: "code containers" },
    Unserved { paths: &["/v1/connectors", "/v1/vaults"], what: "connectors and their credentials" },
    Unserved { paths: &["/v1/skills", "/v2/skills", "/v2/prompts"], what: "stored skills and prompts" },
    Unserved { paths: &["/v1/workflows", "/v1/triggers"], what: "workflows" },
    Unserved { paths: &["/v1/webhooks", "/v1/webhook_endpoints", "/v1/webhook_event_types"], what: "webhooks" },
    Unserved { paths: &["/v1/evals", "/v1/observability"], what: "evaluations and observability" },
    Unserved { paths: &["/v1/safety", "/v1/content_provenance_checks", "/v1/decisions"], what: "content checks" },
    Unserved {
        paths: &["/v1/organization", "/v1/projects", "/v1/users", "/v1/service-accounts", "/v1/whoami", "/v1/client"],
        what: "the administration of accounts",
    },
];

/// The answer to a path that has no route.
pub(super) fn no_route(path: &str) -> ApiError {
    let is_meant = |part: &&Unserved| part.paths.iter().any(|pattern| is_below(path, pattern));
    match UNSERVED.iter().find(is_meant) {
        Some(part) => ApiError::NotServed { what: part.what },
        None => ApiError::RouteNotFound { path: path.to_owned() },
    }
}

fn is_below(path: &str, pattern: &str) -> bool {
    let mut parts = path.split('/');
    let is_same = |wanted: &str| parts.next().is_some_and(|part| part == wanted || wanted.starts_with('{'));
    pattern.split('/').all(is_same)
}

/// The answer to `DELETE /v1/models/{name}`.
pub(super) async fn delete_model() -> ApiError {
    ApiError::NotServed { what: "the deletion of models: what is served is decided when the server starts" }
}

/// The table as Markdown: a generated part of `docs/api.md`.
pub fn markdown() -> String {
    let code = |paths: &[&str]| paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    UNSERVED.iter().map(|part| format!("| {} | {} |\n", code(part.paths), part.what)).collect()
}
