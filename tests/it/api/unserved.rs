//! What the public APIs have and this server has not is said in a sentence, whatever the method.

use axum::{
    body::Body,
    http::{Method, Request, header::USER_AGENT},
};
use tramontane::api::unserved::UNSERVED;

use super::support::{Answer, Harness, mistral_error, says, send};

async fn ask(harness: &Harness, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).body(Body::empty());
    send(harness.app(), request.expect("a valid request")).await
}

/// A row whose path has a route would be an error in the table, and is one here.
#[tokio::test]
async fn every_row_of_the_table_is_answered_with_its_sentence() {
    let harness = Harness::new(says("Hi"));
    for part in UNSERVED {
        for path in part.paths {
            // Chats themselves are served, those that were stored are not.
            let paths = [(*path).to_owned(), format!("{path}/some-id"), format!("{path}/some-id/items")];
            for path in paths.iter().filter(|path| *path != "/v1/chat/completions") {
                for method in [Method::GET, Method::POST, Method::DELETE] {
                    let answer = ask(&harness, method, path).await;
                    assert_eq!(answer.status, 501, "{path}");
                    assert!(answer.body.contains(r#""code":"not_served""#), "{path}: {}", answer.body);
                    assert!(answer.body.contains(part.what), "{path}: {}", answer.body);
                    assert_eq!(answer.header("x-should-retry"), Some("false"), "{path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_the_official_clients_ask_for_is_known() {
    let harness = Harness::new(says("Hi"));
    for path in [
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/images/generations",
        "/v1/ocr",
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/models/tiny/archive",
        "/v1/realtime/client_secrets",
        "/v1/assistants",
        "/v1/threads/a/runs",
        "/v1/vector_stores/a/search",
        "/v1/libraries/a/documents",
        "/v1/uploads/a/parts",
        "/v1/files/a/url",
        "/v1/containers/a/files",
        "/v1/evals/a/runs",
        "/v1/chat/completions/a/messages",
        "/v1/classifications",
        "/v1/organization/projects",
        "/v2/prompts",
    ] {
        assert_eq!(ask(&harness, Method::POST, path).await.status, 501, "{path}");
    }
    // Only whole parts of a path count.
    for path in ["/v1/audiobooks", "/v1/evaluations", "/audio/speech", "/v1"] {
        assert_eq!(ask(&harness, Method::POST, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn models_cannot_be_deleted() {
    let harness = Harness::new(says("Hi"));
    for path in ["/v1/models/tiny", "/v1/models/mistralai/Mistral-7B-Instruct-v0.3"] {
        let answer = ask(&harness, Method::DELETE, path).await;
        assert_eq!(answer.error(), r#"501 null "not_served""#, "{path}");
        assert!(answer.body.contains("deletion of models"), "{}", answer.body);
    }
    let request = Request::delete("/v1/models/tiny").header(USER_AGENT, "mistral-client-python/3.7.0");
    let answer = send(harness.app(), request.body(Body::empty()).expect("a valid request")).await;
    assert_eq!(mistral_error(&answer), r#"501 "invalid_request_error" null "not_served""#);
}
