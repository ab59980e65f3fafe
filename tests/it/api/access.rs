//! Who is let in, and what of those who are not.

use axum::{
    body::Body,
    http::{
        HeaderValue, Request,
        header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
    },
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::{
    api::openapi,
    governance::{CreatedKey, DEFAULT_TENANT, Governance, Role, policy::Policies},
};

use super::support::{Answer, Harness, babbles, chat, command_line, eventually, new_key, says, send};

const MISTRAL: &str = "mistral-client-python/3.7.0";

fn key(governance: &Governance, name: &str) -> CreatedKey {
    key_of(governance, name, Role::Developer)
}

fn key_of(governance: &Governance, name: &str, role: Role) -> CreatedKey {
    new_key(governance, name, DEFAULT_TENANT, role)
}

/// A server with one key, and its secret.
fn governed() -> (Harness, Governance, String) {
    let governance = Governance::in_memory().expect("memory");
    let secret = key(&governance, "app").secret;
    (Harness::governed(says("Hi"), governance.clone()), governance, secret)
}

async fn ask(harness: &Harness, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_str(value).expect("a header"));
    }
    send(harness.app(), request.body(Body::from(chat(json!({})).to_string())).expect("a valid request")).await
}

async fn chat_with(harness: &Harness, token: &str) -> Answer {
    ask(harness, "POST", "/v1/chat/completions", &[("authorization", &format!("Bearer {token}"))]).await
}

/// Every method of every path that there is, with something in place of its parameters.
fn operations() -> Vec<(String, String)> {
    let document = openapi::document();
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, methods): (&String, &Value)| {
        let path: Vec<&str> = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let path = path.join("/");
        let methods = methods.as_object().expect("methods").keys().map(|method| method.to_uppercase());
        methods.map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

#[tokio::test]
async fn every_route_refuses_whoever_has_no_key() {
    let (harness, _, _) = governed();
    let mut asked = operations();
    assert!(asked.len() > 60, "{} operations", asked.len());
    // Nor is there a way around in what does not exist, or in another method.
    for path in
        ["/", "/v1/nothing", "/admin/v1/keys", "//v1/models", "/v1/../v1/models", "/v1/models/", "/%2e%2e/metrics"]
    {
        asked.extend(["GET", "POST", "HEAD", "OPTIONS", "TRACE"].map(|method| (method.to_owned(), path.to_owned())));
    }
    asked.extend(["HEAD", "PUT", "OPTIONS", "BREW"].map(|method| (method.to_owned(), "/v1/models".to_owned())));
    for (method, path) in asked {
        let answer = ask(&harness, &method, &path, &[]).await;
        assert_eq!(answer.status, 401, "{method} {path}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
    }
    assert_eq!(harness.metric("vllm:prompt_tokens_total") as u64, 0);
}

#[tokio::test]
async fn whoever_has_a_key_is_let_in() {
    let (harness, _, secret) = governed();
    assert_eq!(chat_with(&harness, &secret).await.status, 200);
    let models = ask(&harness, "GET", "/v1/models", &[("authorization", &format!("bearer {secret}"))]).await;
    assert_eq!(models.status, 200);
    let nothing = ask(&harness, "GET", "/v1/nothing", &[("authorization", &format!("Bearer {secret}"))]).await;
    assert_eq!(nothing.status, 404);
}

/// What each role is denied, of all that there is.
#[tokio::test]
async fn a_role_may_do_what_policies_allow_it() {
    let governance = Governance::in_memory().expect("memory");
    let keys = Role::ALL.map(|role| (role, key_of(&governance, role.name(), role).secret));
    let harness = Harness::governed(says("Hi"), governance);
    let reads = |method: &str| method == "GET";
    let is_status = |path: &str| {
        ["/health", "/load", "/version", "/metrics", "/openapi.json"].iter().any(|status| path.starts_with(status))
    };
    for (method, path) in operations() {
        let is_model = path.starts_with("/v1/models");
        for (role, secret) in &keys {
            let answer = ask(&harness, &method, &path, &[("authorization", &format!("Bearer {secret}"))]).await;
            if path.starts_with("/admin/") {
                continue; // `admin` has a table of its own
            }
            let allowed = match role {
                Role::Admin => true,
                Role::Operator => reads(&method) && (is_status(&path) || is_model),
                Role::Auditor => reads(&method),
                Role::Developer => reads(&method) || !is_model,
                Role::Service => !is_status(&path) && (reads(&method) || !is_model),
            };
            assert_eq!(answer.status != 403, allowed, "{role:?} {method} {path}: {}", answer.body);
            if !allowed {
                assert!(answer.body.contains("permission"), "{}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn an_operators_policies_hear_what_a_request_says_of_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("own.cedar");
    let permit = r#"permit (principal, action, resource);"#;
    let forbid = r#"@id("purpose") forbid (principal, action == Tramontane::Action::"infer", resource)
                    unless { context has purpose && ["support", "test"].contains(context.purpose) };"#;
    std::fs::write(&file, format!("{permit}\n{forbid}")).expect("it can be written");
    let policies = Policies::open(directory.path()).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_policies(policies.clone());
    let secret = format!("Bearer {}", key(&governance, "app").secret);
    let harness = Harness::governed(says("Hi"), governance);
    let purpose = async |values: &[&str]| {
        let mut headers = vec![("authorization", secret.as_str())];
        headers.extend(values.iter().map(|value| ("x-tramontane-purpose", *value)));
        ask(&harness, "POST", "/v1/chat/completions", &headers).await
    };
    assert_eq!(purpose(&["support"]).await.status, 200);
    let denied = purpose(&["training"]).await;
    assert_eq!(denied.error(), r#"403 null "permission_denied""#);
    assert!(denied.body.contains("infer is forbidden by policy purpose"), "{}", denied.body);
    assert_eq!(purpose(&[]).await.status, 403);
    let long = "x".repeat(257);
    for values in [&["support", "training"][..], &["training", "support"], &[""], &["a\tb"], &[&long]] {
        assert_eq!(purpose(values).await.error(), r#"400 null "invalid_header""#, "{values:?}");
    }
    // Policies that are wrong change nothing, and right ones apply to the next request.
    std::fs::write(&file, "permit (").expect("it can be written");
    assert!(policies.reload().is_err());
    assert_eq!((purpose(&["support"]).await.status, purpose(&[]).await.status), (200, 403));
    std::fs::write(&file, permit).expect("it can be written");
    policies.reload().expect("they are right");
    assert_eq!(purpose(&[]).await.status, 200);
}

#[tokio::test]
async fn refusals_have_the_form_that_the_client_expects() {
    let (harness, governance, secret) = governed();
    assert_eq!(chat_with(&harness, "tmk_x_y").await.error(), r#"401 null "invalid_api_key""#);
    let answer = ask(&harness, "POST", "/v1/chat/completions", &[]).await;
    assert_eq!(answer.error(), r#"401 null "invalid_api_key""#);
    let of_mistral = ask(&harness, "GET", "/v1/models", &[(USER_AGENT.as_str(), MISTRAL)]).await;
    assert_eq!(of_mistral.json()["object"], "error");
    assert_eq!((of_mistral.status, &of_mistral.json()["type"]), (401, &json!("authentication_error")));
    command_line(&governance).revoke_key("app", 2).expect("it is there");
    assert_eq!(chat_with(&harness, &secret).await.error(), r#"401 null "revoked_api_key""#);
}

#[tokio::test]
async fn no_trick_with_headers_lets_anybody_in() {
    let (harness, _, secret) = governed();
    let good = format!("Bearer {secret}");
    let twice = [(AUTHORIZATION.as_str(), good.as_str()), (AUTHORIZATION.as_str(), "Bearer x")];
    let swapped = [twice[1], twice[0]];
    let both = format!("{good}, Bearer x");
    let basic = format!("Basic {secret}");
    for headers in [
        &twice[..],
        &swapped,
        &[("authorization", both.as_str())],
        &[("authorization", basic.as_str())],
        &[("authorization", secret.as_str())],
        &[("proxy-authorization", good.as_str())],
        &[("x-forwarded-user", "admin"), ("x-forwarded-for", "127.0.0.1"), ("host", "localhost")],
        &[("x-original-url", "/health/live"), ("x-rewrite-url", "/health/live")],
        &[("cookie", good.as_str()), ("x-api-key", secret.as_str())],
    ] {
        let answer = ask(&harness, "GET", "/v1/models", headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert!(!answer.body.contains(&secret), "{headers:?}");
    }
    let in_query = ask(&harness, "GET", &format!("/v1/models?api_key={secret}&access_token={secret}"), &[]).await;
    assert_eq!(in_query.status, 401);
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked() {
    let governance = Governance::in_memory().expect("memory");
    let (mine, other) = (key(&governance, "mine"), key(&governance, "other"));
    let harness = Harness::governed(babbles(), governance.clone());
    let begin = async |secret: &str| {
        let body = chat(json!({ "stream": true, "max_tokens": 4000, "ignore_eos": true })).to_string();
        let request = Request::post("/v1/chat/completions").header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {secret}")).body(Body::from(body));
        let response =
            harness.app().oneshot(request.expect("a valid request")).await.expect("the router is infallible");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert!(body.frame().await.expect("a frame").is_ok());
        body
    };
    let (stream, untouched) = (begin(&mine.secret).await, begin(&other.secret).await);
    command_line(&governance).revoke_key("mine", 2).expect("it is there");
    let cut = stream.collect().await.expect_err("the stream is cut");
    assert!(cut.to_string().contains("revoked"), "{cut}");
    let running = || harness.state.loaded_model().expect("a model").engine.snapshot().running;
    eventually("its request is cancelled", || running() == 1).await;
    let whole = untouched.collect().await.expect("the other goes on").to_bytes();
    assert!(whole.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_request_that_waits_is_refused_when_its_key_is_revoked() {
    let governance = Governance::in_memory().expect("memory");
    let secret = key(&governance, "app").secret;
    let harness = Harness::governed(babbles(), governance.clone());
    let whole = ask_long(&harness, &secret);
    let revoked = async {
        let running = || harness.state.loaded_model().expect("a model").engine.snapshot().running;
        eventually("it is being answered", || running() == 1).await;
        command_line(&governance).revoke_key("app", 2).expect("it is there");
    };
    let (answer, ()) = tokio::join!(whole, revoked);
    assert_eq!(answer.error(), r#"401 null "revoked_api_key""#);
    harness.idle().await;
}

async fn ask_long(harness: &Harness, secret: &str) -> Answer {
    let body = chat(json!({ "max_tokens": 4000, "ignore_eos": true })).to_string();
    let request = Request::post("/v1/chat/completions").header(CONTENT_TYPE, "application/json");
    let request = request.header(AUTHORIZATION, format!("Bearer {secret}")).body(Body::from(body));
    send(harness.app(), request.expect("a valid request")).await
}
