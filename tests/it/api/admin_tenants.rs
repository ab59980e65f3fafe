//! Tenants that come, share and go, and what is left of those that are gone: nothing.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tramontane::{
    governance::{
        DEFAULT_TENANT, Governance, Role,
        audit::{Audit, AuditOptions},
        quota::{Amount, Limits, Quota, QuotaFilter, Scope, Subject},
    },
    store::Stores,
    telemetry::AuditMetrics,
    types::unix_seconds,
};

use super::{
    admin::{Bearer, governance},
    server::Running,
    support::{Harness, babbles, chat, command_line, eventually, says, soon},
};

const MARKER: &str = "thursday-marker-4713";

/// A server whose tenants store in a directory.
fn storing(directory: &Path, governance: &Governance) -> Harness {
    Harness::governed_storing(says("Hi"), governance.clone(), Stores::open(directory, 64 << 20))
}

/// Something of the tenant's, and the path that it is at.
async fn stores_something(bearer: &Bearer<'_>) -> String {
    let made = bearer.does("POST", "/v1/conversations", json!({ "metadata": { "mark": MARKER } })).await;
    format!("/v1/conversations/{}", made["id"].as_str().expect("an id"))
}

fn homes(directory: &Path) -> usize {
    fs::read_dir(directory.join("tenants")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_tenant_is_made_shared_and_deleted_with_all_that_is_its() {
    let (governance, directory) = (governance(), tempfile::tempdir().expect("a directory"));
    let harness = storing(directory.path(), &governance);
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let made = admin.does("POST", "/admin/v1/tenants", json!({ "name": "new", "share_group": "friends" })).await;
    assert_eq!((&made["share_group"], &made["keys"]), (&json!("friends"), &json!(0)));
    let twice = admin.ask("POST", "/admin/v1/tenants", json!({ "name": "new" })).await;
    assert_eq!(twice.error(), r#"409 null "conflict""#);
    let alone = admin.does("DELETE", "/admin/v1/tenants/new/share_group", Value::Null).await;
    assert_eq!(alone["share_group"], Value::Null);
    let bearer = Bearer::of(&harness, &governance, "new", Role::Developer);
    let stored = stores_something(&bearer).await;
    assert_eq!((bearer.get(&stored).await.status, homes(directory.path())), (200, 1));

    let deleted = admin.does("DELETE", "/admin/v1/tenants/new", Value::Null).await;
    assert_eq!((&deleted["revoked_keys"], &deleted["erased"]), (&json!(1), &json!(true)));
    assert_eq!(homes(directory.path()), 0, "it is erased before the answer");
    assert_eq!(bearer.get(&stored).await.error(), r#"401 null "revoked_api_key""#);
    assert_eq!(admin.ask("DELETE", "/admin/v1/tenants/new", Value::Null).await.status, 404);
    let default = admin.ask("DELETE", "/admin/v1/tenants/default", Value::Null).await;
    assert_eq!(default.status, 400, "{}", default.body);
    // One of the same name has nothing of it.
    admin.does("POST", "/admin/v1/tenants", json!({ "name": "new" })).await;
    let next = Bearer::of(&harness, &governance, "new", Role::Developer);
    assert_eq!(next.get(&stored).await.status, 404);
}

/// Records and quotas know a tenant by its name.
#[tokio::test]
async fn whoever_has_the_name_of_another_has_neither_its_records_nor_its_limits() {
    let directory = tempfile::tempdir().expect("a directory");
    let audit = Audit::open(&directory.path().join("audit"), AuditOptions::default(), AuditMetrics::default());
    let governance = governance().with_audit(audit.expect("it opens"));
    let command = command_line(&governance);
    command.create_tenant("new", None, 1).expect("it is made");
    let limits = Limits { tokens_per_month: Some(5000), ..Limits::default() };
    let scope = Scope { tenant: Some("new".to_owned()), ..Scope::default() };
    command.set_quota(&Quota { scope: scope.clone(), limits }, 1).expect("it is set");
    let harness = storing(directory.path(), &governance);
    let before = Bearer::of(&harness, &governance, "new", Role::Developer);
    before.does("POST", "/v1/chat/completions", chat(json!({ "user": "ada" }))).await;
    harness.idle().await;
    governance.write_quota_usage().expect("it is written");
    let used = |governance: &Governance| {
        let usage = command_line(governance).quota_usage(&QuotaFilter(scope.clone())).expect("it is read");
        usage.iter().map(|usage| usage.tokens).sum::<u64>()
    };
    assert!(used(&governance) > 0);
    let auditor = Bearer::of(&harness, &governance, "new", Role::Auditor);
    let list = auditor.get("/admin/v1/audit").await.json();
    assert!(list["data"].as_array().is_some_and(|records| !records.is_empty()), "{list}");

    command.delete_tenant("new", 2).expect("it is there");
    let in_an_hour = unix_seconds() + 3600;
    command.create_tenant("new", None, in_an_hour).expect("it is made");
    assert_eq!(used(&governance), 0);
    command.set_quota(&Quota { scope: scope.clone(), limits }, 2).expect("it is set");
    let subject = Subject { key: None, tenant: "new".to_owned(), model: "tiny".to_owned() };
    let all = Amount { requests: 1, tokens: 5000 };
    assert!(governance.quotas().reserve(&subject, all, in_an_hour * 1000).is_ok(), "nothing of its month is used");
    let auditor = Bearer::of(&harness, &governance, "new", Role::Auditor);
    let list = auditor.get("/admin/v1/audit").await.json();
    assert_eq!(list["data"], json!([]), "{list}");
}

#[tokio::test]
async fn prefixes_are_shared_from_when_it_is_said_until_it_is_unsaid() {
    let governance = governance();
    command_line(&governance).create_tenant("other", Some("friends"), 1).expect("it is made");
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let [acme, other] = ["acme", "other"].map(|tenant| Bearer::of(&harness, &governance, tenant, Role::Service));
    let cached = async |bearer: &Bearer<'_>, text: &str| {
        let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": text.repeat(9) }] });
        let usage = bearer.does("POST", "/v1/chat/completions", body).await["usage"].take();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count") > 0
    };
    assert!(!cached(&other, "What is the answer? ").await);
    assert!(!cached(&acme, "What is the answer? ").await);
    admin.does("PUT", "/admin/v1/tenants/acme/share_group", json!({ "share_group": "friends" })).await;
    assert!(cached(&acme, "What is the answer? ").await);
    admin.does("DELETE", "/admin/v1/tenants/acme/share_group", Value::Null).await;
    assert!(!cached(&other, "And what is the question? ").await);
    assert!(!cached(&acme, "And what is the question? ").await);
}

/// The command line deletes it; the server, which has it open, erases it, works for it no more, and ends what it answers.
#[tokio::test]
async fn a_tenant_that_is_deleted_beside_the_server_is_erased_by_it() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Governance::open(data.path()).expect("it opens");
    let command = Governance::open(data.path()).expect("it opens beside");
    command_line(&command).create_tenant("acme", None, 1).expect("it is made");
    let stores = Stores::open(data.path(), 64 << 20);
    let running = Running::start(Harness::governed_storing(babbles(), server.clone(), stores.clone())).await;
    let bearer = Bearer::of(&running.harness, &command, "acme", Role::Developer);
    let stored = stores_something(&bearer).await;
    let endless = json!({ "model": "tiny", "input": "Hello", "background": true, "max_output_tokens": 4000 });
    bearer.does("POST", "/v1/responses", endless).await;
    let engine = running.harness.state.loaded_model().expect("a model").engine.clone();
    eventually("it is worked for", || engine.snapshot().running == 1).await;

    let deleted = command_line(&command).delete_tenant("acme", 2).expect("it is there");
    assert!(stores.destroy(&deleted.place).is_err(), "the server has it open");
    assert_eq!(bearer.get(&stored).await.status, 401);
    soon("it is erased", async || (homes(data.path()) == 0).then_some(())).await;
    soon("and noted", async || command.leaving().expect("it can be read").is_empty().then_some(())).await;
    running.harness.idle().await;
    assert_eq!(bearer.ask("POST", "/v1/chat/completions", chat(json!({}))).await.status, 401);
}

/// What a process that ended has not erased is erased by the next one, and never opened.
#[tokio::test]
async fn what_was_not_erased_is_erased_at_the_next_start() {
    let data = tempfile::tempdir().expect("a directory");
    let governance = Governance::open(data.path()).expect("it opens");
    for tenant in ["acme", "other"] {
        command_line(&governance).create_tenant(tenant, None, 1).expect("it is made");
        let harness = storing(data.path(), &governance);
        stores_something(&Bearer::of(&harness, &governance, tenant, Role::Developer)).await;
        drop(harness);
    }
    assert_eq!(homes(data.path()), 2);
    command_line(&governance).delete_tenant("acme", 2).expect("it is there");
    let harness = storing(data.path(), &governance);
    assert_eq!((homes(data.path()), governance.leaving().expect("it can be read").len()), (1, 0));
    drop(harness);
}
