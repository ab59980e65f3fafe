//! What requests are for: which purposes there are, and what is kept under each.

use std::fs;

use axum::{
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tramontane::{
    api::{AppState, HttpLimits, LINES},
    governance::{Governance, Role, purposes::PurposeFile},
    store::{Store, Stores},
};

use super::{
    storage::{Part, form, line},
    support::{Answer, Harness, chat, command_line, mistral_error, new_key, says, send, soon},
};

const FILE: &str = r#"
    required = true

    [[purpose]]
    name = "support"
    retention = "7d"

    [[purpose]]
    name = "advice"
    consent = "required"

    [[purpose]]
    name = "chat"
    store = false

    [[purpose]]
    name = "research"
    tenants = ["lab"]
"#;
const WEEK: u64 = 7 * 24 * 60 * 60;
const SUPPORT: &[(&str, &str)] = &[("x-tramontane-purpose", "support")];
const ADVICE: &[(&str, &str)] =
    &[("x-tramontane-purpose", "advice"), ("x-tramontane-consent", "form 12"), ("x-tramontane-subject", "ada")];
const NOTHING: &[(&str, &str)] = &[("x-tramontane-purpose", "chat")];

struct Purposeful {
    harness: Harness,
    directory: TempDir,
    _file: NamedTempFile,
}

fn purposes() -> (NamedTempFile, Governance) {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), FILE).expect("it is written");
    let purposes = PurposeFile::open(file.path(), HttpLimits::default().storage.retention).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_purposes(purposes);
    (file, governance)
}

fn purposeful() -> Purposeful {
    let (file, governance) = purposes();
    let directory = tempfile::tempdir().expect("a directory");
    let stores = Stores::open(directory.path(), 64 << 20);
    let state = AppState::governed(HttpLimits::default(), stores, governance).expect("it is opened");
    Purposeful { harness: Harness::of_state(says("Hi"), state), directory, _file: file }
}

impl Purposeful {
    async fn ask(&self, headers: &[(&str, &str)], method: &str, path: &str, body: Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        send(self.harness.app(), request.body(body).expect("a valid request")).await
    }

    async fn post(&self, headers: &[(&str, &str)], path: &str, body: Value) -> Value {
        let answer = self.ask(headers, "POST", path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// `status param code` of a request that is refused.
    async fn refused(&self, headers: &[(&str, &str)], path: &str, body: Value) -> String {
        self.ask(headers, "POST", path, body).await.error()
    }

    async fn upload(&self, headers: &[(&str, &str)]) -> Answer {
        let line = line("one", "Hello");
        let parts: [Part; 2] = [("purpose", None, b"batch"), ("file", Some("input.jsonl"), line.as_bytes())];
        let request = Request::post("/v1/files").header(CONTENT_TYPE, "multipart/form-data; boundary=XX");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        send(self.harness.app(), request.body(form(&parts).into()).expect("a valid request")).await
    }

    /// A second look at what is stored.
    fn store(&self) -> Store {
        Store::open_beside(self.directory.path(), 64 << 20).expect("it is there").expect("it is there")
    }

    async fn held(&self, subject: &str) -> Vec<(&'static str, Value)> {
        // As much as there can be in these tests.
        let (sender, mut told) = tokio::sync::mpsc::channel(100);
        self.store().export_subject(subject, LINES, &sender).await.expect("it is told");
        std::iter::from_fn(|| told.try_recv().ok()).map(|held| (held.kind, held.content)).collect()
    }
}

fn asks(text: &str) -> Value {
    json!({ "model": "tiny", "input": text })
}

#[tokio::test]
async fn a_request_has_a_purpose_that_is_known() {
    let server = purposeful();
    let chats = "/v1/chat/completions";
    let answer = server.ask(&[], "POST", chats, chat(json!({}))).await;
    assert_eq!(answer.error(), r#"400 null "purpose_required""#);
    let said = "The request says no purpose: expected one of support, advice, chat. The headers are";
    assert!(answer.json()["error"]["message"].as_str().expect("a text").starts_with(said), "{}", answer.body);
    for (name, code) in [("sales", "unknown_purpose"), ("research", "unknown_purpose"), ("advice", "consent_required")]
    {
        let refused = server.refused(&[("x-tramontane-purpose", name)], chats, chat(json!({}))).await;
        assert_eq!(refused, format!(r#"400 null "{code}""#), "{name}");
    }
    server.post(SUPPORT, chats, chat(json!({}))).await;
    server.post(ADVICE, chats, chat(json!({}))).await;
    let twice = [SUPPORT, SUPPORT].concat();
    assert_eq!(server.refused(&twice, chats, chat(json!({}))).await, r#"400 null "invalid_header""#);
    // What brings no data needs none, but does not state one that there is not.
    assert_eq!(server.ask(&[], "GET", "/v1/models", Value::Null).await.status, 200);
    assert_eq!(server.ask(&[("x-tramontane-purpose", "sales")], "GET", "/v1/models", Value::Null).await.status, 400);
    for (path, body) in [
        ("/v1/responses", asks("Hi")),
        ("/v1/embeddings", json!({ "model": "tiny", "input": "Hi" })),
        ("/v1/conversations", json!({})),
        ("/v1/conversations/conv_1/items", json!({})),
        ("/v1/batches", json!({})),
        ("/score", json!({})),
    ] {
        assert_eq!(server.refused(&[], path, body).await, r#"400 null "purpose_required""#, "{path}");
    }
    assert_eq!(server.upload(&[]).await.error(), r#"400 null "purpose_required""#);
}

#[tokio::test]
async fn purposes_are_those_of_a_tenant_and_told_to_nobody_else() {
    let (_file, governance) = purposes();
    command_line(&governance).create_tenant("lab", None, 1).expect("it is made");
    let key = |tenant| format!("Bearer {}", new_key(&governance, "app", tenant, Role::Developer).secret);
    let (lab, other) = (key("lab"), key("default"));
    let harness = Harness::governed(says("Hi"), governance);
    let ask = async |key: &str, purpose: &str| {
        let request = Request::post("/v1/chat/completions").header(CONTENT_TYPE, "application/json");
        let request = request.header("authorization", key).header("x-tramontane-purpose", purpose);
        send(harness.app(), request.body(chat(json!({})).to_string().into()).expect("a valid request")).await
    };
    assert_eq!(ask(&lab, "research").await.status, 200);
    let refused = ask(&other, "research").await;
    assert_eq!(refused.status, 400);
    assert!(!refused.body.contains("chat, research"), "{}", refused.body);
    let nobody = ask("Bearer tmk_a_b", "sales").await;
    assert!(nobody.status == 401 && !nobody.body.contains("support"), "{}", nobody.body);
}

#[tokio::test]
async fn nothing_is_stored_where_the_purpose_says_so() {
    let server = purposeful();
    let response = server.post(NOTHING, "/v1/responses", asks("Hello")).await;
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(server.ask(&[], "GET", &path, Value::Null).await.status, 404);
    let talk = json!({ "model": "tiny", "inputs": "Hello", "stream": false });
    let talk = server.post(NOTHING, "/v1/conversations", talk).await;
    let path = format!("/v1/conversations/{}", talk["conversation_id"].as_str().expect("an id"));
    assert_eq!(server.ask(&[], "GET", &path, Value::Null).await.status, 404);
    let explicit = json!({ "model": "tiny", "input": "Hello", "store": true });
    let refused = server.refused(NOTHING, "/v1/responses", explicit).await;
    assert_eq!(refused, r#"400 "store" "purpose_stores_nothing""#);
    let refused = r#"400 null "purpose_stores_nothing""#;
    assert_eq!(server.refused(NOTHING, "/v1/conversations", json!({ "metadata": { "a": "b" } })).await, refused);
    let agent = server.ask(NOTHING, "POST", "/v1/agents", json!({ "model": "tiny", "name": "Poet" })).await;
    assert_eq!(mistral_error(&agent), r#"400 "invalid_request_error" null "purpose_stores_nothing""#);
    assert_eq!(server.upload(NOTHING).await.error(), refused);
    let later = json!({ "model": "tiny", "input": "Hello", "background": true });
    assert_eq!(server.refused(NOTHING, "/v1/responses", later).await, r#"400 "background" null"#);
    let file = server.upload(SUPPORT).await.json();
    let batch = json!({ "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    assert_eq!(server.refused(NOTHING, "/v1/batches", batch).await, refused);
}

#[tokio::test]
async fn what_is_stored_is_kept_for_as_long_as_its_purpose_says() {
    let server = purposeful();
    let about = [SUPPORT, &[("x-tramontane-subject", "ada")]].concat();
    let file = server.upload(&about).await.json();
    assert_eq!(file["expires_at"], file["created_at"].as_u64().expect("a time") + WEEK);
    let later = server.upload(ADVICE).await.json();
    assert_eq!(later["expires_at"], later["created_at"].as_u64().expect("a time") + 30 * 24 * 60 * 60);
    server.post(&about, "/v1/responses", asks("Hello")).await;
    let conversation = server.post(&about, "/v1/conversations", json!({})).await;
    let continued = json!({ "model": "tiny", "input": "Hello", "conversation": conversation["id"] });
    server.post(SUPPORT, "/v1/responses", continued).await;
    let held = server.held("ada").await;
    let of_support = |held: &[(&str, Value)]| -> Vec<String> {
        let kept = held.iter().filter(|(_, content)| content["kept_for"] == "support");
        kept.map(|(kind, _)| (*kind).to_owned()).collect()
    };
    assert_eq!(of_support(&held), ["response", "conversation", "file"]);
    for (kind, content) in &held {
        let (begun, expires) = (content["created_at"].as_u64(), content["expires_at"].as_u64());
        let age = expires.expect("a time") - begun.expect("a time");
        let most = if content["kept_for"] == "support" { WEEK + 60 } else { 30 * 24 * 60 * 60 };
        assert!(age <= most, "{kind} is kept for {age} s");
    }
    let consent = held.iter().find(|(_, content)| content["kept_for"] == "advice").expect("the other file");
    assert_eq!(consent.1["consent"], "form 12");
    let in_eight_days = file["created_at"].as_u64().expect("a time") + 8 * 24 * 60 * 60;
    server.store().sweep(in_eight_days, 0).await.expect("it is swept");
    let left = server.held("ada").await;
    assert_eq!((of_support(&left).len(), left.len()), (0, 1));
}

#[tokio::test]
async fn results_of_a_batch_are_kept_as_its_purpose_says() {
    let server = purposeful();
    let _worker = server.harness.worker();
    let file = server.upload(SUPPORT).await.json();
    let batch = json!({ "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    assert_eq!(server.refused(ADVICE, "/v1/batches", batch.clone()).await, r#"403 null "other_purpose""#);
    let batch = server.post(SUPPORT, "/v1/batches", batch).await;
    let batch = server.harness.ended(&batch, "completed").await;
    let output = format!("/v1/files/{}", batch["output_file_id"].as_str().expect("an id"));
    let output = server.ask(&[], "GET", &output, Value::Null).await.json();
    assert_eq!(output["expires_at"], batch["completed_at"].as_u64().expect("a time") + WEEK);
}

#[tokio::test]
async fn what_is_kept_for_one_purpose_is_not_gone_on_with_for_another() {
    let server = purposeful();
    let refused = r#"403 null "other_purpose""#;
    let response = server.post(SUPPORT, "/v1/responses", asks("Hello")).await;
    let mut next = asks("And now?");
    next["previous_response_id"] = response["id"].clone();
    assert_eq!(server.refused(ADVICE, "/v1/responses", next.clone()).await, refused);
    server.post(SUPPORT, "/v1/responses", next).await;
    let conversation = server.post(SUPPORT, "/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}/items", conversation["id"].as_str().expect("an id"));
    let items = json!({ "items": [{ "role": "user", "content": "Hello" }] });
    assert_eq!(server.refused(ADVICE, &path, items.clone()).await, refused);
    server.post(SUPPORT, &path, items).await;
    let mut next = asks("And now?");
    next["conversation"] = conversation["id"].clone();
    assert_eq!(server.refused(ADVICE, "/v1/responses", next.clone()).await, refused);
    assert_eq!(server.refused(NOTHING, "/v1/responses", next).await, r#"400 "conversation" null"#);
    let item = response["output"][0]["id"].clone();
    let refers = json!({ "model": "tiny", "input": [
        { "role": "user", "content": "Hello" }, { "type": "item_reference", "id": item }, { "role": "user", "content": "So?" },
    ] });
    assert!(server.refused(ADVICE, "/v1/responses", refers.clone()).await.contains("not_found"));
    server.post(SUPPORT, "/v1/responses", refers).await;
}

#[tokio::test]
async fn a_response_in_the_background_keeps_its_purpose() {
    let server = purposeful();
    let _worker = server.harness.background();
    let conversation = server.post(SUPPORT, "/v1/conversations", json!({})).await;
    let mut later = asks("Hello");
    later["background"] = true.into();
    later["conversation"] = conversation["id"].clone();
    later["user"] = "bob".into();
    let response = server.post(SUPPORT, "/v1/responses", later).await;
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    soon("it is answered", async || {
        let response = server.ask(&[], "GET", &path, Value::Null).await.json();
        (response["status"] == "completed").then_some(())
    })
    .await;
    let held = server.held("bob").await;
    let kinds: Vec<_> = held.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["response", "item", "item"]);
    assert_eq!(held[0].1["kept_for"], "support");
}
