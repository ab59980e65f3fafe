//! Quotas, as clients meet them.

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use tramontane::governance::{
    DEFAULT_TENANT, Governance, Role,
    quota::{Limits, Quota, Scope},
};

use super::support::{Answer, Harness, chat, new_key, says, send};

/// A server whose default tenant is limited, and the secret of one of its keys.
fn limited(limits: Limits) -> (Harness, String) {
    let governance = Governance::in_memory().expect("memory");
    let secret = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer).secret;
    let scope = Scope { tenant: Some(DEFAULT_TENANT.to_owned()), ..Scope::default() };
    governance.set_quota(&Quota { scope, limits }).expect("it is set");
    (Harness::governed(says("Hi"), governance), secret)
}

async fn ask(harness: &Harness, secret: &str, more: Value) -> Answer {
    let request = Request::post("/v1/chat/completions")
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {secret}"));
    send(harness.app(), request.body(Body::from(chat(more).to_string())).expect("a valid request")).await
}

#[tokio::test]
async fn requests_of_a_minute() {
    let (harness, secret) = limited(Limits { requests_per_minute: Some(1), ..Limits::default() });
    let first = ask(&harness, &secret, json!({})).await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-requests")), (200, Some("1")));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("0"));
    let second = ask(&harness, &secret, json!({})).await;
    assert_eq!(second.error(), r#"429 null "rate_limit_exceeded""#);
    let seconds: u64 = second.header("retry-after").expect("it says when").parse().expect("seconds");
    assert!((1..=61).contains(&seconds), "{seconds}");
    assert!(second.body.contains("requests_per_minute of tenant default is limited to 1"), "{}", second.body);
}

#[tokio::test]
async fn a_budget_is_no_reason_to_try_again() {
    let (harness, secret) = limited(Limits { tokens_per_day: Some(5), ..Limits::default() });
    let refused = ask(&harness, &secret, json!({ "max_tokens": 10 })).await;
    assert_eq!(refused.error(), r#"429 null "insufficient_quota""#);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(harness.metric("vllm:prompt_tokens_total") as u64, 0);
}
