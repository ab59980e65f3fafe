//! Quotas, as clients meet them.

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use tramontane::{
    governance::{
        Actor, DEFAULT_TENANT, Governance, Role,
        audit::{Audit, AuditOptions, Kind, query},
        quota::{Limits, Quota, Scope},
    },
    telemetry::AuditMetrics,
};

use super::{
    admin::Bearer,
    support::{Answer, Harness, chat, command_line, merged, new_key, says, send},
};

/// A server whose default tenant is limited, and the secret of one of its keys.
fn limited(limits: Limits) -> (Harness, String) {
    let governance = Governance::in_memory().expect("memory");
    let secret = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer).secret;
    let scope = Scope { tenant: Some(DEFAULT_TENANT.to_owned()), ..Scope::default() };
    governance.administered_by(&Actor::CommandLine).set_quota(&Quota { scope, limits }, 0).expect("it is set");
    (Harness::governed(says("Hi"), governance), secret)
}

async fn ask(harness: &Harness, secret: &str, more: Value) -> Answer {
    post(harness, secret, "/v1/chat/completions", &chat(more)).await
}

async fn post(harness: &Harness, secret: &str, path: &str, body: &Value) -> Answer {
    let request =
        Request::post(path).header(CONTENT_TYPE, "application/json").header(AUTHORIZATION, format!("Bearer {secret}"));
    send(harness.app(), request.body(Body::from(body.to_string())).expect("a valid request")).await
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

/// Else a client that does as it is told would use up the quota with requests that are never answered.
#[tokio::test]
async fn prompts_of_one_call_are_taken_together_or_not_at_all() {
    let (harness, secret) = limited(Limits { requests_per_minute: Some(2), ..Limits::default() });
    let complete = async |prompts: &[&str]| {
        let body = json!({ "model": "tiny", "prompt": prompts, "max_tokens": 1 });
        post(&harness, &secret, "/v1/completions", &body).await
    };
    let refused = complete(&["a", "b", "c"]).await;
    assert_eq!(refused.error(), r#"429 null "rate_limit_exceeded""#);
    assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), (Some("false"), None));
    assert!(refused.body.contains("ask for fewer prompts"), "{}", refused.body);
    let taken = complete(&["a", "b"]).await;
    assert_eq!((taken.status, taken.header("x-ratelimit-remaining-requests")), (200, Some("0")), "{}", taken.body);
}

#[tokio::test]
async fn a_budget_is_no_reason_to_try_again() {
    let (harness, secret) = limited(Limits { tokens_per_day: Some(5), ..Limits::default() });
    let refused = ask(&harness, &secret, json!({ "max_tokens": 10 })).await;
    assert_eq!(refused.error(), r#"429 null "insufficient_quota""#);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(harness.metric("vllm:prompt_tokens_total") as u64, 0);
}

#[tokio::test]
async fn quotas_are_administered_and_what_is_used_is_told() {
    let governance = Governance::in_memory().expect("memory");
    command_line(&governance).create_tenant("acme", None, 1).expect("it is made");
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let app = new_key(&governance, "app", "acme", Role::Developer);
    let limits = json!({ "key": "app", "tokens_per_day": 40, "requests_per_minute": 100 });
    let set = admin.does("PUT", "/admin/v1/quotas", limits).await;
    let expected = json!({
        "key": app.key.id, "tenant": null, "model": null, "requests_per_minute": 100, "tokens_per_minute": null,
        "concurrent_requests": null, "tokens_per_day": 40, "tokens_per_month": null, "object": "admin.quota",
    });
    assert_eq!(set, expected);
    assert_eq!(admin.does("GET", "/admin/v1/quotas?key=app", Value::Null).await["data"], json!([expected]));
    assert_eq!(admin.does("GET", "/admin/v1/quotas?model=tiny", Value::Null).await["data"], json!([]));

    let answered = ask(&harness, &app.secret, json!({ "max_tokens": 4 })).await;
    assert_eq!(answered.status, 200, "{}", answered.body);
    let used = &admin.does("GET", "/admin/v1/usage?key=app", Value::Null).await["data"][0];
    assert_eq!((&used["key"], &used["tokens"]), (&json!(app.key.id), &answered.json()["usage"]["total_tokens"]));

    let gone = admin.does("DELETE", "/admin/v1/quotas?key=app", Value::Null).await;
    assert_eq!((&gone["object"], &gone["deleted"]), (&json!("admin.quota.deleted"), &json!(true)));
    assert_eq!(admin.ask("DELETE", "/admin/v1/quotas?key=app", Value::Null).await.status, 404);
    for (body, named) in [
        (json!({ "tokens_per_day": 1 }), "scope"),
        (json!({ "tenant": "acme" }), "limits"),
        (json!({ "tenant": "nobody", "tokens_per_day": 1 }), "tenant"),
        (json!({ "tenant": "acme", "tokens_per_day": -1 }), "tokens_per_day"),
        (json!({ "tenant": "acme", "tokens_per_year": 1 }), "tokens_per_year"),
    ] {
        let refused = admin.ask("PUT", "/admin/v1/quotas", body.clone()).await;
        assert!((400..423).contains(&refused.status) && refused.body.contains(named), "{body}: {}", refused.body);
    }
}

/// Else it could give itself more.
#[tokio::test]
async fn a_tenants_admin_sees_its_quotas_and_changes_none() {
    let governance = Governance::in_memory().expect("memory");
    for tenant in ["acme", "other"] {
        command_line(&governance).create_tenant(tenant, None, 1).expect("it is made");
    }
    let harness = Harness::governed(says("Hi"), governance.clone());
    let [admin, own] = [DEFAULT_TENANT, "acme"].map(|tenant| Bearer::of(&harness, &governance, tenant, Role::Admin));
    for scope in [json!({ "tenant": "acme" }), json!({ "tenant": "other" }), json!({ "model": "tiny" })] {
        let quota = merged(scope, json!({ "tokens_per_day": 1000 }));
        admin.does("PUT", "/admin/v1/quotas", quota).await;
    }
    let seen = own.does("GET", "/admin/v1/quotas", Value::Null).await;
    let tenants: Vec<&Value> = seen["data"].as_array().expect("a list").iter().map(|quota| &quota["tenant"]).collect();
    assert_eq!(tenants, [&json!("acme")]);
    let more = own.ask("PUT", "/admin/v1/quotas", json!({ "tenant": "acme", "tokens_per_day": 9999 })).await;
    assert_eq!(more.status, 403, "{}", more.body);
    assert_eq!(own.ask("DELETE", "/admin/v1/quotas?tenant=acme", Value::Null).await.status, 403);
}

#[tokio::test]
async fn who_asks_for_more_than_a_quota_is_written_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = Audit::open(folder.path(), AuditOptions::default(), AuditMetrics::default()).expect("a log");
    let governance = Governance::in_memory().expect("memory").with_audit(audit.clone());
    let key = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer);
    let quota = Quota {
        scope: Scope { key: Some(key.key.id.clone()), ..Scope::default() },
        limits: Limits { requests_per_minute: Some(0), ..Limits::default() },
    };
    governance.administered_by(&Actor::CommandLine).set_quota(&quota, 0).expect("it is set");
    let harness = Harness::governed(says("Hi"), governance);
    assert_eq!(ask(&harness, &key.secret, json!({})).await.status, 429);
    audit.close();
    let query = query::Query { kinds: vec![Kind::Act, Kind::Refused, Kind::Begun], ..query::Query::default() };
    let records = query::find_last(folder.path(), &query, 10).expect("records");
    let kinds: Vec<&str> = records.iter().map(|record| record.members["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["act", "act", "refused"], "the key, the quota, and no inference");
    let refused = &records[2].members;
    assert_eq!((&refused["status"], &refused["code"]), (&json!(429), &json!("rate_limit_exceeded")));
    assert_eq!(refused["principal"]["id"], key.key.id.as_str());
}
