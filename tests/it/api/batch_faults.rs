//! Batches when something goes wrong: each fails alone, says why, and leaves nothing behind.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Request, header::CONTENT_TYPE},
};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use tramontane::{
    api::{HttpLimits, StorageLimits},
    store::Store,
};

use super::{
    batch_storage::request,
    storage::{form, lines},
    support::{Harness, chat, memory, merged, mistral_error, says, send},
};

const BATCHES: &str = "/v1/batches";

fn path(batch: &Value) -> String {
    format!("{BATCHES}/{}", batch["id"].as_str().expect("an id"))
}

/// A server without a worker, with a closed gate.
fn harness(store: Store) -> Harness {
    let storage = StorageLimits { answers_at_once: 4, ..StorageLimits::default() };
    Harness::storing_gated(says("All is well."), HttpLimits { storage, ..HttpLimits::default() }, store)
}

/// Uploads until nothing more fits; gives the files.
async fn fill(harness: &Harness) -> Vec<String> {
    let mut files = Vec::new();
    for size in [64 << 10, 1 << 10, 100] {
        loop {
            let content = vec![b'x'; size];
            let parts = form(&[("purpose", None, b"batch"), ("file", Some("filler"), &content)]);
            let answer = harness.post_form("/v1/files", parts).await;
            match answer.status {
                200 => files.push(answer.json()["id"].as_str().expect("an id").to_owned()),
                507 => break,
                _ => panic!("{}", answer.body),
            }
        }
    }
    files
}

#[tokio::test]
async fn a_storage_that_fills_fails_the_batch_and_not_the_next() {
    let harness = harness(Store::in_memory(2 << 20).expect("memory"));
    let _worker = harness.worker();
    let (first, second) = (harness.batch(&lines(300)).await, harness.batch(&lines(3)).await);
    for batch in [&first, &second] {
        harness.batch_when(&path(batch), |batch| batch["status"] == "in_progress").await;
    }
    let fillers = fill(&harness).await;
    harness.gate.open();
    let failed = harness.ended(&first, "failed").await;
    assert_eq!(failed["errors"]["data"][0]["code"], "storage_full", "{failed}");
    let completed = failed["request_counts"]["completed"].as_u64().expect("a count");
    let mut ids = Vec::new();
    for key in ["output_file_id", "error_file_id"] {
        let lines = if failed[key].is_null() { Vec::new() } else { harness.lines_of(&failed[key]).await };
        if key == "output_file_id" {
            assert_eq!(lines.len() as u64, completed);
        }
        ids.extend(lines.into_iter().map(|line| line["custom_id"].as_str().expect("an id").to_owned()));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 300, "every line is told what became of it");
    // It needed what the first has given back, or has failed as well; it does not wait for ever.
    harness.batch_when(&path(&second), |batch| batch["status"] == "completed" || batch["status"] == "failed").await;
    for file in fillers {
        assert_eq!(harness.delete(&format!("/v1/files/{file}")).await.status, 200);
    }
    let third = harness.batch(&lines(3)).await;
    harness.ended(&third, "completed").await;
}

#[tokio::test]
async fn a_batch_that_waits_expires_in_time() {
    let store = memory();
    let harness = harness(store.clone());
    let _worker = harness.worker();
    let first = harness.batch(&lines(5)).await;
    harness.batch_when(&path(&first), |batch| batch["status"] == "in_progress").await;
    let file = harness.upload(lines(3).join("\n").as_bytes()).await;
    let id = store.create_batch(request(vec![file], 2), 10).await.expect("a batch").id;
    // Whoever creates one over HTTP rings.
    harness.batch(&lines(1)).await;
    let expired = harness.ended(&json!({ "id": id }), "expired").await;
    assert_eq!(expired["request_counts"]["total"], 3);
    assert_eq!(harness.get(&path(&first)).await.json()["status"], "in_progress");
}

#[tokio::test]
async fn a_batch_whose_file_is_gone_says_so() {
    let harness = harness(memory());
    let file = harness.upload(lines(3).join("\n").as_bytes()).await;
    let body = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch = harness.post(BATCHES, &body).await.json();
    assert_eq!(harness.delete(&format!("/v1/files/{file}")).await.status, 200);
    let _worker = harness.worker();
    let failed = harness.ended(&batch, "failed").await;
    assert_eq!(failed["errors"]["data"][0]["code"], "file_not_found");
}

#[tokio::test]
async fn lines_of_a_job_are_answered_in_mistrals_dialect() {
    let harness = harness(memory());
    harness.gate.open();
    let _worker = harness.worker();
    let hot = chat(json!({ "temperature": 9 }));
    let asked = |endpoint: &str, requests: Value| json!({ "endpoint": endpoint, "requests": requests });
    let requests = json!([{ "custom_id": "hot", "body": hot }, { "custom_id": "good", "body": chat(json!({})) }]);
    let job = harness.post("/v1/batch/jobs", &asked("/v1/chat/completions", requests)).await.json();
    let job_path = |job: &Value| format!("/v1/batch/jobs/{}", job["id"].as_str().expect("an id"));
    let ended = harness.batch_when(&job_path(&job), |job| job["status"] == "SUCCESS").await;
    let refused = &harness.lines_of(&ended["error_file"]).await[0]["response"];
    assert_eq!(
        (&refused["status_code"], &refused["body"]["detail"][0]["loc"][1]),
        (&json!(422), &json!("temperature"))
    );
    assert!(refused["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{refused}");
    let file = |id: &Value| format!("/v1/files/{}", id.as_str().expect("an id"));
    assert_eq!(harness.get(&file(&ended["error_file"])).await.json()["sample_type"], "batch_error");
    assert_eq!(harness.get(&file(&ended["output_file"])).await.json()["sample_type"], "batch_result");

    // The same from OpenAI's client stays OpenAI's.
    let line = json!({ "custom_id": "hot", "body": chat(json!({ "temperature": 9 })) }).to_string();
    let batch = harness.batch(&[line]).await;
    let ended = harness.ended(&batch, "completed").await;
    let refused = &harness.lines_of(&ended["error_file_id"]).await[0]["response"];
    assert_eq!((&refused["status_code"], &refused["body"]["error"]["param"]), (&json!(400), &json!("temperature")));

    let gap = json!([{ "body": { "model": "tiny", "prompt": "fn", "suffix": "}", "max_tokens": 4 } }]);
    let job = harness.post("/v1/batch/jobs", &asked("/v1/fim/completions", gap)).await.json();
    let ended = harness.batch_when(&job_path(&job), |job| job["status"] == "SUCCESS").await;
    assert_eq!(ended["succeeded_requests"], 1, "{ended}");
}

#[tokio::test]
async fn a_batch_may_ask_whatever_answers_at_once() {
    let harness = harness(memory());
    harness.gate.open();
    let _worker = harness.worker();
    let input = json!({ "model": "tiny", "input": "Hello" });
    let conversation = json!({ "model": "tiny", "input": [{ "role": "user", "content": "Hello" }] });
    for (endpoint, body) in [
        ("/v1/embeddings", json!({ "model": "tiny", "input": ["Hello", "you"] })),
        ("/v1/moderations", input.clone()),
        ("/v1/chat/moderations", conversation),
        ("/v1/responses", input),
    ] {
        let alone = harness.post(endpoint, &body).await.status;
        let job = json!({ "endpoint": endpoint, "requests": [{ "body": body }] });
        let created = harness.post("/v1/batch/jobs", &job).await.json();
        let path = format!("/v1/batch/jobs/{}", created["id"].as_str().expect("an id"));
        let ended = harness.batch_when(&path, |job| job["status"] == "SUCCESS").await;
        let file = if alone == 200 { &ended["output_file"] } else { &ended["error_file"] };
        let line = &harness.lines_of(file).await[0];
        assert_eq!(line["response"]["status_code"].as_u64().map(|status| status == 200), Some(alone == 200), "{line}");
    }
}

#[tokio::test]
async fn requests_that_come_with_a_job_leave_no_file() {
    let store = memory();
    let harness = harness(store.clone());
    let requests = json!([{ "body": chat(json!({})) }]);
    let job = json!({ "endpoint": "/v1/chat/completions", "requests": requests });
    let created = harness.post("/v1/batch/jobs", &job).await.json();
    let files = async || harness.get("/v1/files").await.json()["total"].clone();
    assert_eq!(created["input_files"], json!([]));
    for _ in 1..1000 {
        store.create_batch(request(Vec::new(), u64::MAX >> 1), 1000).await.expect("a batch");
    }
    let before = files().await;
    assert_eq!(mistral_error(&harness.post("/v1/batch/jobs", &job).await), r#"429 "rate_limit_error" null "busy""#);
    assert_eq!(files().await, before, "a job that is refused leaves nothing");
    let _worker = harness.worker();
    let path = format!("/v1/batch/jobs/{}", created["id"].as_str().expect("an id"));
    harness.batch_when(&path, |job| job["status"] == "RUNNING").await;
    harness.gate.open();
    harness.batch_when(&path, |job| job["status"] == "SUCCESS").await;
    let listed = harness.get("/v1/files").await.json();
    assert_eq!((&listed["total"], &listed["data"][0]["purpose"]), (&json!(1), &json!("batch_output")), "{listed}");
}

#[tokio::test]
async fn a_file_is_given_once() {
    let harness = harness(memory());
    let file = harness.upload(b"{}").await;
    let job = json!({ "endpoint": "/v1/chat/completions", "input_files": [file, file] });
    let refused = harness.post("/v1/batch/jobs", &job).await;
    assert_eq!(mistral_error(&refused), r#"422 ["body","input_files",1] "value_error""#);
}

#[tokio::test]
async fn result_files_may_be_kept_for_less_than_usual() {
    let harness = harness(memory());
    harness.gate.open();
    let _worker = harness.worker();
    let file = harness.upload(lines(1).join("\n").as_bytes()).await;
    let body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "output_expires_after": { "anchor": "created_at", "seconds": 3600 },
    });
    let batch = harness.post(BATCHES, &body).await.json();
    let ended = harness.ended(&batch, "completed").await;
    let output = format!("/v1/files/{}", ended["output_file_id"].as_str().expect("an id"));
    let expires_at = harness.get(&output).await.json()["expires_at"].as_u64();
    assert_eq!(expires_at, ended["completed_at"].as_u64().map(|at| at + 3600));
    let most = merged(body, json!({ "output_expires_after": { "anchor": "created_at", "seconds": 1_u64 << 40 } }));
    assert_eq!(harness.post(BATCHES, &most).await.error(), r#"400 "output_expires_after.seconds" null"#);
}

#[tokio::test]
async fn a_form_is_refused_as_soon_as_it_names_what_nothing_reads() {
    let harness = harness(memory());
    let head = "--XX\r\nContent-Disposition: form-data; name=\"colour\"\r\n\r\nre";
    let sent = stream::once(async move { Ok::<_, std::io::Error>(Bytes::from_static(head.as_bytes())) });
    let body = Body::from_stream(sent.chain(stream::pending()));
    let request = Request::post("/v1/files").header(CONTENT_TYPE, "multipart/form-data; boundary=XX").body(body);
    let answer = send(harness.app(), request.expect("a valid request"));
    let answer = tokio::time::timeout(Duration::from_secs(5), answer.boxed()).await.expect("it waits for no more");
    assert_eq!(answer.error(), r#"400 "colour" "unknown_parameter""#);
}
