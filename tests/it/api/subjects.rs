//! Whom data is about: all of it is told, and all of it is deleted, wherever it is.

use std::{path::Path, pin::pin};

use axum::{
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramontane::{
    api::{HttpLimits, LINES},
    store::{Held, Store, StoreError},
};

use super::{
    storage::{Part, form, is_on_disk},
    support::{Answer, Harness, chat, says, send},
};

const MARKER: &str = "monday-marker-8151";
const OTHERS: &str = "others-marker-2342";

async fn held(store: &Store, subject: &str) -> Vec<Held> {
    let (sender, mut told) = mpsc::channel(1);
    let exporting = async move { store.export_subject(subject, LINES, &sender).await };
    let listening = async {
        let mut held = Vec::new();
        while let Some(next) = told.recv().await {
            held.push(next);
        }
        held
    };
    let (exported, held) = tokio::join!(exporting, listening);
    exported.expect("it is told");
    held
}

fn kinds(held: &[Held]) -> Vec<&'static str> {
    held.iter().map(|held| held.kind).collect()
}

/// A server, and a second look at its store.
fn server(directory: &Path) -> (Harness, Store) {
    let store = Store::open(directory, 64 << 20).expect("a store");
    let harness = Harness::storing(says("I see."), HttpLimits::default(), store);
    (harness, Store::open_beside(directory, 64 << 20).expect("it is there").expect("it is there"))
}

async fn post_about(harness: &Harness, subject: &str, path: &str, body: &Value) -> Answer {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json").header("x-tramontane-subject", subject);
    send(harness.app(), request.body(body.to_string().into()).expect("a valid request")).await
}

async fn made_about(harness: &Harness, subject: &str, path: &str, body: Value) -> Value {
    let answer = post_about(harness, subject, path, &body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// A line of a batch about somebody, as OpenAI's clients say it.
fn line(custom_id: &str, field: &str, subject: &str, text: &str) -> String {
    let mut body = chat(json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 20 }));
    body[field] = subject.into();
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
}

fn is_marked(directory: &Path) -> bool {
    is_on_disk(directory, MARKER.as_bytes())
}

#[tokio::test]
async fn a_request_says_whom_it_is_about() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, store) = server(directory.path());
    let asks = |field: &str| json!({ "model": "tiny", "input": "Hello", field: "ada" });
    for field in ["user", "safety_identifier"] {
        assert_eq!(harness.post("/v1/responses", &asks(field)).await.status, 200);
    }
    made_about(&harness, "ada", "/v1/responses", json!({ "model": "tiny", "input": "Hello", "user": "bob" })).await;
    let both = json!({ "model": "tiny", "input": "Hello", "user": "bob", "safety_identifier": "ada" });
    assert_eq!(harness.post("/v1/responses", &both).await.status, 200);
    assert_eq!(held(&store, "ada").await.len(), 4);
    assert!(held(&store, "bob").await.is_empty(), "the header wins, then OpenAI's newer field");
    for wrong in ["", "a\nb", &"x".repeat(257)] {
        let body = json!({ "model": "tiny", "input": "Hello", "user": wrong });
        assert_eq!(harness.post("/v1/responses", &body).await.error(), r#"400 "user" null"#, "{wrong:?}");
    }
    let long = post_about(&harness, &"x".repeat(257), "/v1/responses", &asks("user")).await;
    assert_eq!(long.error(), r#"400 null "invalid_header""#);
}

#[tokio::test]
async fn all_that_is_held_about_somebody_is_told_and_deleted_beside_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let (harness, store) = server(path);
    let input = |text: &str| json!({ "model": "tiny", "input": text });
    let first = made_about(&harness, "ada", "/v1/responses", input(MARKER)).await;
    let items = json!({ "items": [{ "role": "user", "content": MARKER }], "metadata": { "a": MARKER } });
    made_about(&harness, "ada", "/v1/conversations", items).await;
    let talk = json!({ "model": "tiny", "inputs": MARKER, "stream": false });
    made_about(&harness, "ada", "/v1/conversations", talk).await;
    let agent = json!({ "model": "tiny", "name": "Poet", "instructions": MARKER });
    made_about(&harness, "ada", "/v1/agents", agent).await;
    let parts: [Part; 2] = [("purpose", None, b"batch"), ("file", Some("input.jsonl"), MARKER.as_bytes())];
    let request = Request::post("/v1/files").header(CONTENT_TYPE, "multipart/form-data; boundary=XX");
    let request = request.header("x-tramontane-subject", "ada").body(Body::from(form(&parts)));
    assert_eq!(send(harness.app(), request.expect("a valid request")).await.status, 200);
    // Others', in which something is about the same subject, and one that is nobody's.
    let shared = harness.post("/v1/conversations", &json!({ "items": [{ "role": "user", "content": OTHERS }] })).await;
    let shared = shared.json()["id"].clone();
    let about = json!({ "model": "tiny", "input": MARKER, "conversation": shared, "user": "ada" });
    assert_eq!(harness.post("/v1/responses", &about).await.status, 200);
    let kept = harness.post("/v1/responses", &input(OTHERS)).await.json();

    let told = held(&store, "ada").await;
    let expected = ["response", "response", "conversation", "conversation", "agent", "item", "item", "file"];
    assert_eq!(kinds(&told), expected);
    let marked = |held: &Held| held.content.to_string().contains(MARKER);
    assert_eq!(told.iter().filter(|held| marked(held)).count(), 7, "all but the item that answers");
    assert_eq!(told[0].content["items"][0]["body"]["content"][0]["text"], MARKER);
    assert!(is_marked(path));

    let deletion = store.delete_subject("ada", LINES).await.expect("it is deleted");
    let counts = [("response", 2), ("conversation", 2), ("item", 2), ("file", 1), ("agent", 1)];
    assert_eq!((deletion.deleted.as_slice(), deletion.being_read.len()), (&counts[..], 0));
    assert!(!is_marked(path), "it is overwritten");
    assert!(held(&store, "ada").await.is_empty());
    let gone = format!("/v1/responses/{}", first["id"].as_str().expect("an id"));
    assert_eq!(harness.get(&gone).await.status, 404);
    let kept = format!("/v1/responses/{}", kept["id"].as_str().expect("an id"));
    assert_eq!(harness.get(&kept).await.status, 200);
    let left = format!("/v1/conversations/{}/items", shared.as_str().expect("an id"));
    assert_eq!(harness.get(&left).await.json()["data"].as_array().expect("items").len(), 1);
    let again = store.delete_subject("ada", LINES).await.expect("there is nothing");
    assert!(again.deleted.is_empty());
    // The server goes on to write.
    assert_eq!(harness.post("/v1/responses", &input("Hello")).await.status, 200);
}

#[tokio::test]
async fn lines_about_somebody_are_taken_out_of_batches_of_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, store) = server(directory.path());
    let _worker = harness.worker();
    let filler = "and so on ".repeat(9000); // lines that begin in one part of a file and end in another
    let mut lines: Vec<String> = (0..12)
        .map(|index| match index % 4 {
            1 => line(&format!("line-{index}"), "user", "ada", &format!("{MARKER} {filler}")),
            3 => line(&format!("line-{index}"), "safety_identifier", "ada", MARKER),
            _ => line(&format!("line-{index}"), "user", "bob", &format!("{OTHERS} {filler}")),
        })
        .collect();
    lines.push(line("too-long", "user", "ada", &format!("{MARKER} {}", filler.repeat(3))));
    let batch = harness.batch(&lines).await;
    let batch = harness.ended(&batch, "completed").await;
    let told = held(&store, "ada").await;
    assert_eq!(kinds(&told), ["file line"; 14], "7 of the input, 7 of the results");
    let deletion = store.delete_subject("ada", LINES).await.expect("it is deleted");
    assert_eq!(deletion.deleted, [("file line", 14)]);
    assert!(!is_marked(directory.path()));
    assert!(held(&store, "ada").await.is_empty());
    let ids = |lines: &[Value]| lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    let left: Vec<String> = ids(&harness.lines_of(&batch["input_file_id"]).await);
    assert_eq!(left, ["line-0", "line-2", "line-4", "line-6", "line-8", "line-10"]);
    let file = format!("/v1/files/{}", batch["input_file_id"].as_str().expect("an id"));
    let length = harness.get(&format!("{file}/content")).await.body.len();
    assert_eq!(harness.get(&file).await.json()["bytes"], length);
    for (key, results) in [("output_file_id", 0), ("error_file_id", 6)] {
        if !batch[key].is_null() {
            let left: Vec<String> = ids(&harness.lines_of(&batch[key]).await);
            assert_eq!(left.len(), results, "{key}: {left:?}");
        }
    }
    assert_eq!(held(&store, "bob").await.len(), 12);
}

/// Behind the line that somebody has heard there are only others'.
#[tokio::test]
async fn an_export_that_nobody_hears_does_not_read_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, store) = server(directory.path());
    for subject in ["ada"].into_iter().chain(["bob"; 8]) {
        let line = line("one", "user", subject, MARKER);
        let parts: [Part; 2] = [("purpose", None, b"batch"), ("file", Some("input.jsonl"), line.as_bytes())];
        let request = Request::post("/v1/files").header(CONTENT_TYPE, "multipart/form-data; boundary=XX");
        let sent = send(harness.app(), request.body(Body::from(form(&parts))).expect("a valid request")).await;
        assert_eq!(sent.status, 200, "{}", sent.body);
    }
    let (sender, mut told) = mpsc::channel(1);
    let mut exporting = pin!(store.export_subject("ada", LINES, &sender));
    let heard = tokio::select! {
        biased;
        heard = told.recv() => heard.expect("a line"),
        over = &mut exporting => panic!("it is over before anybody has heard of it: {over:?}"),
    };
    assert_eq!(heard.kind, "file line");
    drop(told);
    let ended = exporting.await;
    assert!(matches!(ended, Err(StoreError::Closed)), "{ended:?}");
}

#[tokio::test]
async fn a_batch_that_is_being_answered_loses_its_lines_and_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path(), 64 << 20).expect("a store");
    let harness = Harness::storing_gated(says("I see."), HttpLimits::default(), store);
    let store = Store::open_beside(directory.path(), 64 << 20).expect("it is there").expect("it is there");
    let _worker = harness.worker();
    let lines = [line("mine", "user", "ada", MARKER), line("other", "user", "bob", OTHERS)];
    let batch = harness.batch(&lines).await;
    harness.ended(&batch, "in_progress").await;
    assert_eq!(kinds(&held(&store, "ada").await), ["batch line", "file line"]);
    let deletion = store.delete_subject("ada", LINES).await.expect("it is deleted");
    assert_eq!(deletion.deleted, [("batch line", 1), ("file line", 1)]);
    assert!(!is_marked(directory.path()));
    harness.gate.open();
    let batch = harness.ended(&batch, "completed").await;
    assert_eq!(batch["request_counts"], json!({ "total": 1, "completed": 1, "failed": 0 }));
    assert_eq!(harness.lines_of(&batch["output_file_id"]).await.len(), 1);
}

#[tokio::test]
async fn a_batch_of_somebody_is_deleted_while_it_is_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path(), 64 << 20).expect("a store");
    let harness = Harness::storing_gated(says("I see."), HttpLimits::default(), store);
    let store = Store::open_beside(directory.path(), 64 << 20).expect("it is there").expect("it is there");
    let _worker = harness.worker();
    let body = chat(json!({ "messages": [{ "role": "user", "content": MARKER }], "max_tokens": 20 }));
    let job = json!({ "endpoint": "/v1/chat/completions", "requests": [{ "custom_id": "one", "body": body }] });
    let job = made_about(&harness, "ada", "/v1/batch/jobs", job).await;
    let path = format!("/v1/batch/jobs/{}", job["id"].as_str().expect("an id"));
    harness.batch_when(&path, |job| job["status"] == "RUNNING").await;
    let other = harness.batch(&[line("other", "user", "bob", OTHERS)]).await;
    let deletion = store.delete_subject("ada", LINES).await.expect("it is deleted");
    assert_eq!(deletion.deleted[0], ("batch", 1));
    assert!(!is_marked(directory.path()));
    harness.gate.open();
    assert_eq!(harness.get(&path).await.status, 404);
    harness.ended(&other, "completed").await;
    assert!(held(&store, "ada").await.is_empty() && !is_marked(directory.path()));
}
