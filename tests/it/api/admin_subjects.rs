//! `/admin/v1/subjects`: what is told and deleted over HTTP, to whom, and that it is written down first.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::{Body, Bytes},
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::{
    api::{AppState, HttpLimits, SubjectData, SubjectError},
    governance::{
        Act, ActKind, ActLog, Actor, DEFAULT_TENANT, Governance, Role,
        audit::{Audit, AuditOptions, Capture, Contents, Kind, query},
    },
    store::{Store, StoreError, Stores},
    telemetry::AuditMetrics,
};

use super::{
    admin::{Bearer, governance},
    storage::is_on_disk,
    support::{Harness, chat, command_line, eventually, merged, new_key, says, send, soon},
};

const MARKER: &str = "friday-marker-6021";
const OF_ACME: &str = "/admin/v1/subjects?subject=ada&tenant=acme";

/// A server with a log and stores in a directory, which captures what it is asked.
fn audited(directory: &Path) -> (Harness, Governance, Stores) {
    let options = AuditOptions { capture: Capture::Content, ..AuditOptions::default() };
    let audit = Audit::open(&directory.join("audit"), options, AuditMetrics::default()).expect("it opens");
    let governance = governance().with_audit(audit);
    let stores = Stores::open(&directory.join("data"), 64 << 20);
    (Harness::governed_storing(says("I see."), governance.clone(), stores.clone()), governance, stores)
}

/// Something that is stored and something that is captured, both about ada.
async fn is_asked_about_ada(bearer: &Bearer<'_>) {
    let stored = json!({ "model": "tiny", "input": MARKER, "user": "ada" });
    bearer.does("POST", "/v1/responses", stored).await;
    let messages = json!([{ "role": "user", "content": MARKER }]);
    bearer
        .does("POST", "/v1/chat/completions", merged(chat(json!({ "user": "ada" })), json!({ "messages": messages })))
        .await;
}

/// Stores so many responses about ada in the tenant `acme`.
async fn stores_about_ada(bearer: &Bearer<'_>, count: usize) {
    for number in 0..count {
        let body = json!({ "model": "tiny", "input": format!("{MARKER} {number}"), "user": "ada" });
        bearer.does("POST", "/v1/responses", body).await;
    }
}

/// An export about ada of which the first thing was read, and nothing more.
async fn begun(harness: &Harness, bearer: &Bearer<'_>) -> (Bytes, Body) {
    let request = Request::get(OF_ACME).header(AUTHORIZATION, format!("Bearer {}", bearer.secret));
    let request = request.body(Body::empty()).expect("a valid request");
    let mut told = harness.app().oneshot(request).await.expect("the router is infallible").into_body();
    let first = told.frame().await.expect("a frame").expect("it is whole").into_data().expect("data");
    (first, told)
}

fn of_kind(log: &Path, kind: Kind) -> Vec<Value> {
    let query = query::Query { kinds: vec![kind], ..query::Query::default() };
    let found = query::find_last(log, &query, 100).expect("records");
    found.into_iter().map(|record| Value::Object(record.members)).collect()
}

fn kinds(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().map(|held| held["kind"].as_str().expect("a kind")).collect()
}

#[tokio::test]
async fn all_that_is_held_is_told_to_an_auditor_and_deleted_by_an_admin() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, governance, stores) = audited(directory.path());
    let [admin, auditor] =
        [Role::Admin, Role::Auditor].map(|role| Bearer::of(&harness, &governance, DEFAULT_TENANT, role));
    let app = Bearer::of(&harness, &governance, "acme", Role::Developer);
    assert_eq!(kinds(&auditor.does("GET", OF_ACME, Value::Null).await), [""; 0], "nobody has stored anything");
    is_asked_about_ada(&app).await;
    let log = governance.log_directory().expect("there is one").to_owned();
    eventually("it is captured", || of_kind(&log, Kind::Ended).len() == 2).await;
    let other = json!({ "model": "tiny", "input": "Hello", "user": "bob" });
    let kept = app.does("POST", "/v1/responses", other).await;

    let told = auditor.get(OF_ACME).await;
    assert_eq!((told.status, told.header("content-type")), (200, Some("application/json")), "{}", told.body);
    let told = told.json();
    assert_eq!(kinds(&told), ["response", "audit record", "audit record"]);
    assert_eq!(told["data"][0]["content"]["items"][0]["body"]["content"][0]["text"], MARKER);
    assert!(told["data"][2]["content"]["captured"]["prompts"][0].is_array(), "{told}");
    assert_eq!(told["data"][2]["content"]["record"]["route"], "/v1/chat/completions");
    // Of the caller's own tenant there is nothing.
    assert_eq!(kinds(&auditor.does("GET", "/admin/v1/subjects?subject=ada", Value::Null).await), [""; 0]);
    assert_eq!(auditor.ask("DELETE", OF_ACME, Value::Null).await.error(), r#"403 null "permission_denied""#);
    assert_eq!(auditor.does("GET", OF_ACME, Value::Null).await, told, "nothing is changed");

    let deleted = admin.does("DELETE", OF_ACME, Value::Null).await;
    let expected = json!({
        "object": "admin.subject.deleted", "subject": "ada", "tenant": "acme",
        "deleted": { "response": 1, "captured content": 2 }, "being_read": [],
    });
    assert_eq!(deleted, expected);
    let place = governance.place("acme").expect("it can be read").expect("it is there").id;
    assert!(!is_on_disk(&directory.path().join("data/tenants").join(&place), MARKER.as_bytes()), "it is overwritten");
    let left = auditor.does("GET", OF_ACME, Value::Null).await;
    assert_eq!(kinds(&left), ["audit record"; 2], "records stay");
    assert_eq!(left["data"][0]["content"]["captured"], Value::Null);
    let kept = format!("/v1/responses/{}", kept["id"].as_str().expect("an id"));
    assert_eq!(app.get(&kept).await.status, 200);
    assert_eq!(kinds(&auditor.does("GET", "/admin/v1/subjects?subject=bob&tenant=acme", Value::Null).await).len(), 2);
    drop(stores);

    // Each act is in the log, with a hash in place of the name.
    let acts = of_kind(&log, Kind::Act);
    let count = |action: &str| acts.iter().filter(|act| act["action"] == action).count();
    assert_eq!((count("subjects.export"), count("subjects.delete")), (6, 1), "what was refused is none of them");
    assert!(!fs::read_to_string(log.join("00000001.jsonl")).expect("a log").contains(r#""ada""#));
}

/// What is captured does not go unfound because nothing more is written down.
#[tokio::test]
async fn what_was_captured_is_told_and_deleted_while_the_log_is_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, governance, _) = audited(directory.path());
    let app = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Developer);
    is_asked_about_ada(&app).await;
    governance.audit().close();
    let contents = Contents::of(governance.log_directory().expect("there is one"));
    let off = Governance::in_memory().expect("memory").with_captured(contents, None);
    let harness = Harness::governed(says("I see."), off.clone());
    let admin = Bearer::of(&harness, &off, DEFAULT_TENANT, Role::Admin);
    let path = "/admin/v1/subjects?subject=ada";
    let told = admin.does("GET", path, Value::Null).await;
    assert_eq!(kinds(&told), ["audit record"; 2]);
    assert!(told["data"][0]["content"]["captured"]["prompts"][0].is_array(), "{told}");
    assert_eq!(admin.does("DELETE", path, Value::Null).await["deleted"], json!({ "captured content": 2 }));
    assert_eq!(admin.does("GET", path, Value::Null).await["data"][0]["content"]["captured"], Value::Null);
}

/// Without records nobody knows whose it is that was captured. What is stored is told and deleted for all that.
#[tokio::test]
async fn what_is_stored_goes_also_beside_a_log_that_was_emptied() {
    let directory = tempfile::tempdir().expect("a directory");
    let left = directory.path().join("content/acme");
    fs::create_dir_all(&left).and_then(|()| fs::write(left.join("left.json"), "{}")).expect("it is written");
    let governance = governance().with_captured(Contents::of(directory.path()), None);
    let harness = Harness::governed(says("I see."), governance.clone());
    let admin = Bearer::of(&harness, &governance, "acme", Role::Admin);
    let stored = admin.does("POST", "/v1/responses", json!({ "model": "tiny", "input": MARKER, "user": "ada" })).await;
    let request = Request::get(OF_ACME).header(AUTHORIZATION, format!("Bearer {}", admin.secret));
    let request = request.body(Body::empty()).expect("a valid request");
    let mut told = harness.app().oneshot(request).await.expect("the router is infallible").into_body();
    let first = told.frame().await.expect("a frame").expect("it is whole").into_data().expect("data");
    assert!(first.starts_with(br#"{"object":"list","data":[{"kind":"response""#), "{first:?}");
    assert!(told.collect().await.is_err(), "that is not all there is");
    let deleted = admin.ask("DELETE", OF_ACME, Value::Null).await;
    assert!(deleted.status == 500 && deleted.body.contains("What is stored was deleted"), "{}", deleted.body);
    assert!(!deleted.body.contains(directory.path().to_str().expect("UTF-8")), "files are the operator's business");
    let stored = format!("/v1/responses/{}", stored["id"].as_str().expect("an id"));
    assert_eq!(admin.get(&stored).await.status, 404);
    assert!(left.join("left.json").exists());
}

/// Bodies name whomever they like, so everybody whom they name can be told and deleted.
#[tokio::test]
async fn whoever_has_a_long_or_strange_name_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, governance, _stores) = audited(directory.path());
    let developer = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Developer);
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    for (name, in_query) in [("a".repeat(300), "a".repeat(300)), ("a\tb".to_owned(), "a%09b".to_owned())] {
        developer.does("POST", "/v1/chat/completions", chat(json!({ "user": name }))).await;
        let deleted = admin.does("DELETE", &format!("/admin/v1/subjects?subject={in_query}"), Value::Null).await;
        assert_eq!(deleted["deleted"], json!({ "captured content": 1 }), "{name:?}");
    }
}

#[tokio::test]
async fn what_was_captured_goes_also_if_the_store_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, governance, _stores) = audited(directory.path());
    is_asked_about_ada(&Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Developer)).await;
    let log = governance.log_directory().expect("there is one").to_owned();
    eventually("it is captured", || of_kind(&log, Kind::Ended).len() == 2).await;
    let store = Store::in_memory(1 << 20).expect("memory");
    store.destroy().await.expect("it goes");
    let administration = governance.administered_by(&Actor::CommandLine);
    let about = administration.about_subject(ActKind::DeleteSubject, (DEFAULT_TENANT, "ada"), 1).expect("it is there");
    let records = about.records.clone().expect("it can be read").expect("there is a log");
    let failed = SubjectData::new(about, Some(store)).delete().await;
    assert!(matches!(failed, Err(SubjectError::Store(StoreError::Closed))), "{failed:?}");
    assert_eq!(records.erase().expect("it can be read"), 0, "nothing was left");
}

#[tokio::test]
async fn whoever_is_of_a_tenant_reaches_its_subjects_alone() {
    let governance = governance();
    governance.administered_by(&Actor::CommandLine).create_tenant("other", None, 1).expect("it is made");
    let harness = Harness::governed(says("I see."), governance.clone());
    let [own, others] = ["acme", "other"].map(|tenant| Bearer::of(&harness, &governance, tenant, Role::Admin));
    let operator = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Operator);
    own.does("POST", "/v1/responses", json!({ "model": "tiny", "input": "Hello", "user": "ada" })).await;
    for method in ["GET", "DELETE"] {
        assert_eq!(others.ask(method, OF_ACME, Value::Null).await.error(), r#"404 "id" "not_found""#, "{method}");
        assert_eq!(operator.ask(method, OF_ACME, Value::Null).await.error(), r#"403 null "permission_denied""#);
        let missing = "/admin/v1/subjects?subject=ada&tenant=nobody";
        assert_eq!(own.ask(method, missing, Value::Null).await.status, 404, "as if it were another's");
        for (path, error) in [
            ("/admin/v1/subjects", r#"400 "subject" null"#),
            ("/admin/v1/subjects?subject=", r#"400 "subject" null"#),
            ("/admin/v1/subjects?subject=a&subject=b", r#"400 "subject" null"#),
            ("/admin/v1/subjects?subject=ada&colour=red", r#"400 "colour" "unknown_parameter""#),
        ] {
            assert_eq!(own.ask(method, path, Value::Null).await.error(), error, "{method} {path}");
        }
    }
    let mine = "/admin/v1/subjects?subject=ada";
    assert_eq!(kinds(&others.does("GET", mine, Value::Null).await), [""; 0]);
    assert_eq!(others.does("DELETE", mine, Value::Null).await["deleted"], json!({}));
    assert_eq!(kinds(&own.does("GET", mine, Value::Null).await), ["response"]);
    assert_eq!(own.does("DELETE", mine, Value::Null).await["deleted"], json!({ "response": 1 }));
}

/// Writes nothing down once it is full.
#[derive(Default)]
struct Full(AtomicBool);

impl ActLog for Full {
    fn record(&self, _: &Act) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::Error::other("the disk is full")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn what_cannot_be_written_down_is_neither_told_nor_deleted() {
    let full = Arc::new(Full::default());
    let governance = governance().with_act_log(Arc::clone(&full) as Arc<dyn ActLog>);
    let harness = Harness::governed(says("I see."), governance.clone());
    let admin = Bearer::of(&harness, &governance, "acme", Role::Admin);
    admin.does("POST", "/v1/responses", json!({ "model": "tiny", "input": MARKER, "user": "ada" })).await;
    full.0.store(true, Ordering::Relaxed);
    for method in ["GET", "DELETE"] {
        let answer = admin.ask(method, OF_ACME, Value::Null).await;
        assert!(answer.status == 503 && !answer.body.contains(MARKER), "{method}: {}", answer.body);
    }
    full.0.store(false, Ordering::Relaxed);
    assert_eq!(kinds(&admin.does("GET", OF_ACME, Value::Null).await), ["response"]);
}

/// Nor is more in memory than a few things: what is told next is read when there is room for it.
#[tokio::test]
async fn whoever_listens_slowly_holds_nobody_up() {
    let governance = governance();
    let harness = Harness::governed(says("I see."), governance.clone());
    let admin = Bearer::of(&harness, &governance, "acme", Role::Admin);
    stores_about_ada(&admin, 8).await;
    let (first, told) = begun(&harness, &admin).await;
    assert!(first.starts_with(br#"{"object":"list","data":[{"kind":"response""#), "{first:?}");
    // Nobody has read the rest yet. What is deleted meanwhile is not told, but for what had been read already.
    let deleted = admin.does("DELETE", OF_ACME, Value::Null).await;
    assert_eq!(deleted["deleted"], json!({ "response": 8 }));
    stores_about_ada(&admin, 1).await;
    let rest = told.collect().await.expect("it is whole").to_bytes();
    let whole: Value = serde_json::from_slice(&[&first[..], &rest].concat()).expect("JSON");
    assert!((1..5).contains(&kinds(&whole).len()), "{whole}");
    harness.idle().await;
}

#[tokio::test]
async fn whoever_loses_his_key_is_told_no_further() {
    let governance = governance();
    let harness = Harness::governed(says("I see."), governance.clone());
    let [admin, auditor] = [Role::Admin, Role::Auditor].map(|role| Bearer::of(&harness, &governance, "acme", role));
    stores_about_ada(&admin, 8).await;
    let ((_, cut), (first, whole)) = (begun(&harness, &auditor).await, begun(&harness, &admin).await);
    command_line(&governance).revoke_key(Role::Auditor.name(), 2).expect("it is there");
    let error = cut.collect().await.expect_err("it is broken off").to_string();
    assert!(error.contains("revoked"), "{error}");
    let rest = whole.collect().await.expect("another's goes on").to_bytes();
    let whole: Value = serde_json::from_slice(&[&first[..], &rest].concat()).expect("JSON");
    assert_eq!(kinds(&whole).len(), 8);
    harness.idle().await;
}

/// Each takes a thread while its reader is slow, here in the middle of the log's records.
#[tokio::test]
async fn exports_at_once_are_few_and_end_when_nobody_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, governance, _) = audited(directory.path());
    let app = Bearer::of(&harness, &governance, "acme", Role::Developer);
    let [auditor, admin] = [Role::Auditor, Role::Admin].map(|role| Bearer::of(&harness, &governance, "acme", role));
    is_asked_about_ada(&app).await;
    let (one, two) = (begun(&harness, &auditor).await, begun(&harness, &auditor).await);
    let refused = admin.get(OF_ACME).await;
    assert_eq!(refused.error(), r#"429 null "busy""#);
    assert!(refused.body.contains("2 exports of subjects") && refused.header("retry-after").is_some(), "{refused:?}");
    let log = governance.log_directory().expect("there is one").to_owned();
    assert_eq!(of_kind(&log, Kind::Act).iter().filter(|act| act["action"] == "subjects.export").count(), 2);
    // Whose tenant has none is not kept out by others.
    let boss = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Auditor);
    assert_eq!(kinds(&boss.does("GET", OF_ACME, Value::Null).await).len(), 3);
    drop(one);
    let told = soon("there is room", async || Some(admin.get(OF_ACME).await).filter(|told| told.status == 200)).await;
    assert_eq!(kinds(&told.json()).len(), 3);
    drop(two);
    harness.idle().await;

    // Also where nothing would be told, which is when a message to nobody would show it.
    let administration = governance.administered_by(&Actor::CommandLine);
    let about = administration.about_subject(ActKind::ExportSubject, ("acme", "nobody"), 1).expect("it is there");
    let (sender, told) = tokio::sync::mpsc::channel(1);
    drop(told);
    let failed = SubjectData::new(about, None).export(sender).await;
    assert!(matches!(failed, Err(SubjectError::Store(StoreError::Closed))), "{failed:?}");
}

#[tokio::test]
async fn what_breaks_on_its_way_is_no_list() {
    let governance = governance();
    let state = AppState::governed(HttpLimits::default(), Stores::in_memory(64 << 20), governance.clone());
    let harness = Harness::of_state(says("I see."), state.expect("memory"));
    let admin = Bearer::of(&harness, &governance, "acme", Role::Admin);
    stores_about_ada(&admin, 8).await;
    let boss = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let (_, told) = begun(&harness, &boss).await;
    // Its store is closed and destroyed with its tenant.
    boss.does("DELETE", "/admin/v1/tenants/acme", Value::Null).await;
    assert!(told.collect().await.is_err(), "whoever reads it must not take it for all there is");

    // The same for whoever is told without HTTP.
    let store = Store::in_memory(1 << 20).expect("memory");
    store.destroy().await.expect("it goes");
    let administration = governance.administered_by(&Actor::CommandLine);
    let about = administration.about_subject(ActKind::ExportSubject, (DEFAULT_TENANT, "ada"), 1).expect("it is there");
    let (sender, _told) = tokio::sync::mpsc::channel(1);
    let failed = SubjectData::new(about, Some(store)).export(sender).await;
    assert!(matches!(failed, Err(SubjectError::Store(StoreError::Closed))), "{failed:?}");
}

/// A line of a batch, of which the batch's request says another subject than the line.
#[tokio::test]
async fn what_is_captured_of_a_line_is_the_batchs_subjects_and_the_lines() {
    for deleted_for in ["ada", "bob"] {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut harness, governance, _stores) = audited(directory.path());
        let secret = new_key(&governance, "admin", DEFAULT_TENANT, Role::Admin).secret;
        harness.credential = Some(format!("Bearer {secret}"));
        let admin = Bearer::with(&harness, &secret);
        let _worker = harness.worker();
        let body = |user: &str| chat(json!({ "max_tokens": 20, "user": user }));
        let requests =
            json!([{ "custom_id": "own", "body": body("bob") }, { "custom_id": "same", "body": body("ada") }]);
        let job = json!({ "model": "tiny", "endpoint": "/v1/chat/completions", "requests": requests });
        let request = Request::post("/v1/batch/jobs")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {secret}"))
            .header("x-tramontane-subject", "ada");
        let made = send(harness.app(), request.body(Body::from(job.to_string())).expect("a valid request")).await;
        assert_eq!(made.status, 200, "{}", made.body);
        let path = format!("/v1/batch/jobs/{}", made.json()["id"].as_str().expect("an id"));
        harness.batch_when(&path, |job| job["status"] == "SUCCESS").await;
        let log = governance.log_directory().expect("there is one").to_owned();
        eventually("it is captured", || of_kind(&log, Kind::Ended).len() == 2).await;

        let captured = async |subject: &str| {
            let told = admin.does("GET", &format!("/admin/v1/subjects?subject={subject}"), Value::Null).await;
            let records = told["data"].as_array().expect("a list").iter().filter(|held| held["kind"] == "audit record");
            let lines = records.filter(|held| !held["content"]["captured"].is_null());
            let mut lines: Vec<String> = lines
                .map(|held| held["content"]["record"]["cause"]["batch"]["line"].as_str().expect("a line").to_owned())
                .collect();
            lines.sort();
            lines.join(" ")
        };
        assert_eq!((captured("ada").await, captured("bob").await), ("own same".to_owned(), "own".to_owned()));
        let begun = of_kind(&log, Kind::Begun);
        assert_eq!(
            begun.iter().filter(|begun| begun.get("line_subject").is_some()).count(),
            1,
            "only where it is another"
        );
        let path = format!("/admin/v1/subjects?subject={deleted_for}");
        let deleted = admin.does("DELETE", &path, Value::Null).await;
        let left = if deleted_for == "ada" { ("", "") } else { ("same", "") };
        assert_eq!(deleted["deleted"]["captured content"], if deleted_for == "ada" { 2 } else { 1 }, "{deleted}");
        assert_eq!((captured("ada").await.as_str(), captured("bob").await.as_str()), left);
    }
}
