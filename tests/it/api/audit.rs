//! What is written down of requests.

use std::{fs, path::Path};

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tramontane::{
    governance::{
        Governance, GuardrailFile, Role,
        audit::{Audit, AuditOptions, Capture, Contents, Evidence, Kind, query, verify},
    },
    telemetry::AuditMetrics,
};

use super::support::{Answer, Harness, chat, command_line, ids, new_key, says, send};

const CHAT: &str = "/v1/chat/completions";

/// A server with keys of two tenants, whose log is in a folder.
struct Audited {
    harness: Harness,
    audit: Audit,
    key: String,
    folder: TempDir,
}

fn audited(options: AuditOptions, guardrails: Option<&str>) -> Audited {
    let folder = TempDir::new().expect("a folder");
    let audit = Audit::open(&folder.path().join("audit"), options, AuditMetrics::default()).expect("a log");
    let mut governance = Governance::in_memory().expect("memory").with_audit(audit.clone());
    if let Some(text) = guardrails {
        let file = folder.path().join("guardrails.toml");
        fs::write(&file, text).expect("it is written");
        governance = governance.with_guardrails(GuardrailFile::open(&file, Vec::new()).expect("they are right"));
    }
    command_line(&governance).create_tenant("acme", None, 1).expect("a tenant");
    let key = new_key(&governance, "app", "acme", Role::Developer).secret;
    Audited { harness: Harness::governed(says("Hi there."), governance), audit, key, folder }
}

impl Audited {
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header("x-request-id", "the-request")
            .header("x-tramontane-purpose", "support");
        send(self.harness.app(), request.body(Body::from(body.to_string())).expect("a valid request")).await
    }

    fn directory(&self) -> &Path {
        self.audit.directory().expect("there is one")
    }

    /// All records of requests and of refusals, once everything is written.
    fn records(&self) -> Vec<Value> {
        self.audit.close();
        verify(self.directory(), &Evidence::default()).expect("intact");
        let query = query::Query { kinds: vec![Kind::Begun, Kind::Ended, Kind::Refused], ..query::Query::default() };
        let found = query::find_last(self.directory(), &query, 1000).expect("records");
        found.into_iter().map(|record| Value::Object(record.members)).collect()
    }

    fn text(&self) -> String {
        let files = fs::read_dir(self.directory()).expect("a folder").map(|file| file.expect("a file").path());
        files.filter_map(|path| fs::read_to_string(path).ok()).collect()
    }
}

#[tokio::test]
async fn a_chat_is_begun_before_and_ended_after() {
    let audited = audited(AuditOptions::default(), None);
    let body =
        chat(json!({ "messages": [{ "role": "user", "content": "a secret question" }], "stop": ["secret stop"] }));
    let answer = audited.post(CHAT, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // It is there although nobody has closed the log.
    let query = query::Query { id: Some("the-request".to_owned()), ..query::Query::default() };
    let (found, _) = query::find(audited.directory(), &query, 9).expect("records");
    assert_eq!(found[0].kind, Kind::Begun);
    let records = audited.records();
    let [begun, ended] = records.as_slice() else { panic!("{records:#?}") };
    assert_eq!(
        (&begun["kind"], &begun["request"], &begun["tenant"]),
        (&json!("begun"), &json!("the-request"), &json!("acme"))
    );
    assert_eq!(
        (&begun["route"], &begun["purpose"], &begun["task"]),
        (&json!(CHAT), &json!("support"), &json!("generate"))
    );
    assert_eq!((&begun["principal"]["name"], &begun["principal"]["roles"]), (&json!("app"), &json!(["developer"])));
    assert_eq!(begun["model"]["weights"], "sha256:0123456789abcdef");
    assert_eq!(begun["server"]["policies"].as_str().map(str::len), Some(64));
    assert!(begun["parameters"]["seed"].is_i64() && begun["parameters"]["stop_strings"] == 1, "{begun}");
    assert_eq!(begun["prompt_tokens"], answer.json()["usage"]["prompt_tokens"]);
    assert_eq!(
        (&ended["begun"], &ended["request"], &ended["outcome"]),
        (&begun["seq"], &json!("the-request"), &json!("complete"))
    );
    assert_eq!(ended["completion_tokens"], answer.json()["usage"]["completion_tokens"]);
    assert_eq!(ended["choices"][0]["finish"], "stop");
    assert!(ended["ms"]["all"].as_f64() >= ended["ms"]["first_token"].as_f64(), "{ended}");
    let text = audited.text();
    assert!(!text.contains("secret") && !text.contains("Hi there"), "no text is in the log");
}

#[tokio::test]
async fn every_way_to_ask_the_model_is_written_down() {
    let audited = audited(AuditOptions::default(), None);
    let asked = [
        (CHAT, chat(json!({ "stream": true, "n": 2 })), "generate", 1),
        ("/v1/completions", json!({ "model": "tiny", "prompt": ["a", "b"], "max_tokens": 2 }), "generate", 2),
        (
            "/v1/fim/completions",
            json!({ "model": "tiny", "prompt": "a", "suffix": "b", "max_tokens": 2 }),
            "generate",
            1,
        ),
        ("/v1/embeddings", json!({ "model": "tiny", "input": ["a", "b", "c"] }), "pool", 1),
        ("/v1/score", json!({ "model": "tiny", "text_1": "a", "text_2": "b" }), "pool", 1),
        ("/v1/rerank", json!({ "model": "tiny", "query": "a", "documents": ["b"] }), "pool", 1),
        ("/v1/responses", json!({ "model": "tiny", "input": "a" }), "generate", 1),
        ("/v1/conversations", json!({ "model": "tiny", "inputs": "a" }), "generate", 1),
    ];
    let mut expected = Vec::new();
    for (path, body, task, count) in asked {
        let answer = audited.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        expected.extend((0..count).map(|_| (path.to_owned(), task.to_owned())));
    }
    let records = audited.records();
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).cloned().collect::<Vec<_>>();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let begun: Vec<_> = of("begun").iter().map(|record| (text(&record["route"]), text(&record["task"]))).collect();
    assert_eq!(begun, expected);
    let ended = of("ended");
    assert_eq!(ended.len(), begun.len());
    assert!(ended.iter().all(|record| record["outcome"] == "complete"), "{ended:#?}");
    assert_eq!(ended[0]["choices"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn who_is_refused_is_written_down_and_so_is_what_guardrails_find() {
    let guardrails = r#"
        [[guardrail]]
        name = "names"
        stage = "input"
        words = ["crane"]
        action = "block"
        [[guardrail]]
        name = "greetings"
        stage = "output"
        words = ["there"]
        action = "flag"
    "#;
    let audited = audited(AuditOptions::default(), Some(guardrails));
    let stranger = Request::post(CHAT).body(Body::empty()).expect("a valid request");
    assert_eq!(send(audited.harness.app(), stranger).await.status, 401);
    let deleting = Request::delete("/v1/models/tiny").header(AUTHORIZATION, format!("Bearer {}", audited.key));
    let deleting = deleting.body(Body::empty()).expect("a valid request");
    assert_eq!(send(audited.harness.app(), deleting).await.status, 403);
    let blocked = chat(json!({ "messages": [{ "role": "user", "content": "a crane" }] }));
    assert_eq!(audited.post(CHAT, &blocked).await.status, 400);
    assert_eq!(audited.post(CHAT, &chat(json!({}))).await.status, 200);
    let records = audited.records();
    let told: Vec<_> = records
        .iter()
        .map(|record| (record["kind"].clone(), record["status"].clone(), record["code"].clone()))
        .collect();
    assert_eq!(told[0], (json!("refused"), json!(401), json!("invalid_api_key")));
    assert_eq!(told[1], (json!("refused"), json!(403), json!("permission_denied")));
    assert_eq!(told[2], (json!("refused"), json!(400), json!("content_filter")));
    assert_eq!(records[1]["principal"]["source"], "key");
    assert_eq!(
        records[2]["findings"],
        json!([{ "guardrail": "names", "detector": "words", "action": "block", "stage": "input", "count": 1 }])
    );
    let found =
        json!([{ "guardrail": "greetings", "detector": "words", "action": "flag", "stage": "output", "count": 1 }]);
    assert_eq!((&records[4]["kind"], &records[4]["findings"]), (&json!("ended"), &found));
}

#[tokio::test]
async fn what_was_asked_and_answered_is_kept_if_it_is_to_be() {
    let options = AuditOptions { capture: Capture::Content, ..AuditOptions::default() };
    let audited = audited(options, None);
    let body =
        json!({ "model": "tiny", "prompt": "A question", "max_tokens": 3, "seed": -7, "logit_bias": { "9": 1 } });
    assert_eq!(audited.post("/v1/completions", &body).await.status, 200);
    let records = audited.records();
    let id = records[0]["content"].as_str().expect("it is kept");
    let content = Contents::of(audited.directory()).read(id).expect("a file").expect("it is there");
    assert_eq!(content.prompts[0][1..], ids("A question"));
    assert_eq!(content.answers[0].len() as u64, records[1]["completion_tokens"].as_u64().expect("a count"));
    let parameters: Value = serde_json::from_str(content.parameters.expect("they are kept").text()).expect("JSON");
    assert_eq!((&parameters["seed"], &parameters["logit_bias"]), (&json!(-7), &json!([[9, 1.0]])));
    assert!(audited.folder.path().exists());
}

/// The disk is not full here, but the log is closed: nothing can be written down.
#[tokio::test]
async fn nobody_is_answered_while_it_cannot_be_written_down() {
    let refusing = audited(AuditOptions::default(), None);
    refusing.audit.close();
    for body in [chat(json!({})), chat(json!({ "stream": true }))] {
        let answer = refusing.post(CHAT, &body).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{}", answer.body);
        assert!(answer.body.contains("audit log"), "{}", answer.body);
    }
    let options =
        AuditOptions { on_failure: tramontane::governance::audit::OnFailure::Continue, ..AuditOptions::default() };
    let going_on = audited(options, None);
    going_on.audit.close();
    assert_eq!(going_on.post(CHAT, &chat(json!({}))).await.status, 200);
}
