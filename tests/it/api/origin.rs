//! Digests of the model: on its card, and in every answer to whoever is let in once it is loaded.

use axum::{
    body::Body,
    http::{
        Method, Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::json;
use tramontane::{
    api::{AppState, HttpLimits, app},
    governance::{DEFAULT_TENANT, Governance, Role},
    store::Store,
};

use super::support::{Answer, Harness, chat, new_key, says, send};

#[track_caller]
fn check_headers(answer: &Answer) {
    let headers = ["model-digest", "tokenizer-digest", "model-provenance"].map(|name| format!("x-tramontane-{name}"));
    let values = headers.each_ref().map(|name| answer.header(name));
    let expected = [Some("sha256:0123456789abcdef"), Some("fedcba9876543210"), Some("unlocked")];
    assert_eq!(values, expected, "{}", answer.status);
}

#[tokio::test]
async fn every_answer_tells_the_model() {
    let harness = Harness::new(says("Hi"));
    for (body, status) in [
        (chat(json!({})), 200),
        (chat(json!({ "stream": true })), 200),
        (chat(json!({ "model": "other" })), 404),
        (chat(json!({ "colour": "red" })), 422),
    ] {
        let answer = harness.post("/v1/chat/completions", &body).await;
        assert!(answer.status == status || answer.status == 400, "{}", answer.body);
        check_headers(&answer);
    }
    for path in ["/v1/models", "/health/live", "/metrics", "/nowhere", "/v1/files"] {
        check_headers(&harness.get(path).await);
    }
    let wrong_method = Request::builder().method(Method::PUT).uri("/v1/models").header(CONTENT_TYPE, "text/plain");
    let answer = send(harness.app(), wrong_method.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.status, 405);
    check_headers(&answer);
}

/// Strangers and others' pages learn nothing of what is served, wherever they knock.
#[tokio::test]
async fn whoever_is_not_let_in_is_told_nothing() {
    let governance = Governance::in_memory().expect("memory");
    let key = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer);
    let auditor = new_key(&governance, "auditor", DEFAULT_TENANT, Role::Auditor);
    let harness = Harness::governed(says("Hi"), governance);
    let ask = async |path: &str, token: Option<&str>| {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let request =
            authorization.iter().fold(Request::get(path), |request, value| request.header(AUTHORIZATION, value));
        send(harness.app(), request.body(Body::empty()).expect("a request")).await
    };
    let check_silent = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.body);
        let told = answer
            .headers
            .keys()
            .filter(|name| name.as_str().contains("digest") || name.as_str().contains("provenance"));
        assert_eq!(told.count(), 0, "{:?}", answer.headers);
        assert!(
            !answer.body.contains("0123456789abcdef") && !answer.body.contains("fedcba9876543210"),
            "{}",
            answer.body
        );
    };
    for path in ["/v1/models", "/health/live", "/health/ready", "/version", "/metrics", "/openapi.json", "/nowhere"] {
        check_silent(&ask(path, None).await, 401);
        check_silent(&ask(path, Some("tmk_wrong")).await, 401);
    }
    check_headers(&ask("/v1/models", Some(&key.secret)).await);
    // Nor does one whom policies refuse.
    let infer = Request::post("/v1/chat/completions").header(AUTHORIZATION, format!("Bearer {}", auditor.secret));
    let infer = infer.header(CONTENT_TYPE, "application/json").body(Body::from(chat(json!({})).to_string()));
    check_silent(&send(harness.app(), infer.expect("a request")).await, 403);

    let page = Request::get("/v1/models").header("host", "evil.example").body(Body::empty()).expect("a request");
    check_silent(&send(Harness::new(says("Hi")).app(), page).await, 403);
}

#[tokio::test]
async fn nothing_is_told_before_the_model_is_there() {
    let state = AppState::new(HttpLimits::default(), Store::in_memory(1 << 20).expect("memory"));
    let answer = send(app(state), Request::get("/health/live").body(Body::empty()).expect("a request")).await;
    assert_eq!((answer.status, answer.header("x-tramontane-model-digest")), (200, None));
}

#[tokio::test]
async fn the_card_tells_where_the_model_comes_from() {
    let card = Harness::new(says("Hi")).get("/v1/models/tiny").await.json();
    let expected = json!({
        "state": "unlocked", "weights_digest": "sha256:0123456789abcdef", "tokenizer_digest": "fedcba9876543210",
        "signer": null, "source": null, "revision": null, "licence": null,
    });
    assert_eq!(card["provenance"], expected);
}
