//! The audit log over HTTP: what an auditor reads of it, and what one of a tenant does not.

use serde_json::{Value, json};
use tramontane::{
    governance::{
        DEFAULT_TENANT, Role,
        audit::{Audit, AuditOptions},
    },
    telemetry::AuditMetrics,
};

use super::{
    admin::{Bearer, governance},
    support::{Harness, command_line, says},
};

/// An auditor reads the log over HTTP; one of a tenant reads that tenant's records alone.
#[tokio::test]
async fn the_audit_log_is_read_and_verified() {
    let directory = tempfile::tempdir().expect("a directory");
    let audit = Audit::open(directory.path(), AuditOptions::default(), AuditMetrics::default()).expect("it opens");
    let governance = governance().with_audit(audit);
    let harness = Harness::governed(says("Hi"), governance.clone());
    let auditor = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Auditor);
    let theirs = Bearer::of(&harness, &governance, "acme", Role::Auditor);
    command_line(&governance).revoke_key(&theirs.secret[..14], 2).expect("it is there");
    let theirs = Bearer::of(&harness, &governance, "acme", Role::Auditor);
    let acts = async |bearer: &Bearer<'_>, query: &str| {
        let list = bearer.does("GET", &format!("/admin/v1/audit?kind=act&{query}"), Value::Null).await;
        assert_eq!(list["recording"], true);
        let acts = list["data"].as_array().expect("a list").iter();
        let acts: Vec<String> = acts.map(|act| act["action"].as_str().expect("an action").to_owned()).collect();
        (acts.join(" "), list)
    };
    assert_eq!(acts(&auditor, "").await.0, "keys.create keys.create keys.revoke keys.create");
    assert_eq!(acts(&auditor, "tenant=acme").await.0, "keys.create keys.revoke keys.create");
    let (first, list) = acts(&auditor, "limit=3").await;
    assert_eq!((first.as_str(), &list["has_more"]), ("keys.create keys.create keys.revoke", &json!(true)));
    assert_eq!(acts(&auditor, &format!("after={}", list["next"])).await.0, "keys.create");
    assert_eq!(acts(&theirs, "").await.0, "keys.create keys.revoke keys.create", "nothing of another's");
    assert_eq!(acts(&theirs, "tenant=default").await.0, "");
    for (query, error) in [
        ("kind=rumour", r#"400 "kind" null"#),
        ("from=yesterday", r#"400 "from" null"#),
        ("after=-1", r#"400 "after" null"#),
        ("colour=red", r#"400 "colour" "unknown_parameter""#),
    ] {
        assert_eq!(auditor.get(&format!("/admin/v1/audit?{query}")).await.error(), error, "{query}");
    }
    let verified = auditor.does("GET", "/admin/v1/audit/verify", Value::Null).await;
    assert_eq!((&verified["intact"], &verified["break"]), (&json!(true), &Value::Null));
    assert_eq!(theirs.get("/admin/v1/audit/verify").await.status, 403);
    // One letter of one act.
    let changed = std::fs::read_dir(directory.path()).expect("a directory").filter_map(|entry| {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("keys.revoke").then(|| std::fs::write(&path, text.replacen("keys.revoke", "keys.rewoke", 1)))
    });
    assert_eq!(changed.filter(Result::is_ok).count(), 1);
    let verified = auditor.does("GET", "/admin/v1/audit/verify", Value::Null).await;
    assert_eq!((&verified["intact"], &verified["report"]), (&json!(false), &Value::Null));
    assert!(verified["break"]["sequence"].is_u64(), "{verified}");
}
