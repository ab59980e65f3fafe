//! `/v1/batch/jobs`: Mistral's view of the same batches.

use expect_test::expect;
use serde_json::{Value, json};

use super::{
    storage::line,
    support::{Harness, codec, continues, ids, mistral_error, says},
};

fn requests(count: usize) -> Value {
    let body = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 20 });
    (0..count).map(|index| json!({ "custom_id": format!("r{index}"), "body": body })).collect()
}

fn job(more: Value) -> Value {
    super::support::merged(json!({ "endpoint": "/v1/chat/completions", "model": "tiny" }), more)
}

fn path(job: &Value) -> String {
    format!("/v1/batch/jobs/{}", job["id"].as_str().unwrap_or_else(|| panic!("no id in {job}")))
}

#[tokio::test]
async fn inline_requests_are_answered() {
    let harness = Harness::new(says("All is well."));
    let body = job(json!({ "requests": requests(3), "metadata": { "a": "b" }, "timeout_hours": 2 }));
    let created = harness.post("/v1/batch/jobs", &body).await.json();
    assert_eq!((&created["status"], &created["total_requests"]), (&json!("QUEUED"), &json!(0)));
    let _worker = harness.worker();
    let mut ended = harness.batch_when(&path(&created), |job| job["status"] == "SUCCESS").await;
    let answers = harness.lines_of(&ended["output_file"]).await;
    let text = |line: &Value| line["response"]["body"]["choices"][0]["message"]["content"].clone();
    assert_eq!(answers.iter().map(|line| line["custom_id"].clone()).collect::<Vec<_>>(), ["r0", "r1", "r2"]);
    assert!(answers.iter().all(|line| text(line) == "All is well."), "{answers:?}");
    for key in ["id", "output_file", "created_at", "started_at", "completed_at"] {
        assert!(!ended[key].take().is_null(), "{key}");
    }
    expect![[r#"{"id":null,"object":"batch","input_files":[],"metadata":{"a":"b"},"endpoint":"/v1/chat/completions","model":"tiny","agent_id":null,"output_file":null,"error_file":null,"errors":[],"outputs":null,"status":"SUCCESS","created_at":null,"total_requests":3,"completed_requests":3,"succeeded_requests":3,"failed_requests":0,"started_at":null,"completed_at":null}"#]]
    .assert_eq(&ended.to_string());
    // OpenAI's view of the same.
    let id = created["id"].as_str().expect("an id");
    let batch = harness.get(&format!("/v1/batches/{id}")).await.json();
    assert_eq!((&batch["status"], &batch["completion_window"]), (&json!("completed"), &json!("2h")));
}

#[tokio::test]
async fn texts_are_filled_in() {
    let prompt = codec().encode_fim("Hello", Some("bye")).expect("it has the tokens");
    let harness = Harness::new(continues(prompt.len(), ids(" and good")));
    let _worker = harness.worker();
    let lines = json!([
        { "custom_id": "a", "body": { "prompt": "Hello", "suffix": "bye", "max_tokens": 20 } },
        { "custom_id": "b", "body": { "prompt": 1 } },
    ]);
    let created = job(json!({ "requests": lines, "endpoint": "/v1/fim/completions" }));
    let created = harness.post("/v1/batch/jobs", &created).await.json();
    let ended = harness.batch_when(&path(&created), |job| job["status"] == "SUCCESS").await;
    let answers = harness.lines_of(&ended["output_file"]).await;
    let answer = &answers[0]["response"]["body"]["choices"][0]["message"];
    assert_eq!((answers.len(), &answer["content"]), (1, &json!(" and good")));
    let errors = harness.lines_of(&ended["error_file"]).await;
    let detail = &errors[0]["response"]["body"]["detail"][0]["loc"];
    assert_eq!((errors.len(), detail), (1, &json!(["body", "prompt"])));
}

#[tokio::test]
async fn files_in_mistrals_form_are_answered_together() {
    let harness = Harness::new(says("All is well."));
    let mut files = Vec::new();
    for name in ["a", "b"] {
        let body = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 20 });
        files.push(harness.upload(json!({ "custom_id": name, "body": body }).to_string().as_bytes()).await);
    }
    files.push(harness.upload(format!("nonsense\n{}", line("a", "the second of its name")).as_bytes()).await);
    let created = harness.post("/v1/batch/jobs", &job(json!({ "input_files": files }))).await.json();
    let _worker = harness.worker();
    let ended = harness.batch_when(&path(&created), |job| job["status"] == "SUCCESS").await;
    let counts = ["total", "completed", "succeeded", "failed"].map(|key| ended[format!("{key}_requests")].clone());
    assert_eq!(counts, [4, 4, 2, 2]);
    let codes = harness.lines_of(&ended["error_file"]).await;
    let codes: Vec<&Value> = codes.iter().map(|line| &line["error"]["code"]).collect();
    assert_eq!(codes, ["invalid_json_line", "duplicate_custom_id"]);
}

#[tokio::test]
async fn jobs_are_listed_and_cancelled() {
    let harness = Harness::new(says("All is well."));
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(harness.post("/v1/batch/jobs", &job(json!({ "requests": requests(1) }))).await.json());
    }
    let cancelled = harness.post(&format!("{}/cancel", path(&jobs[1])), &json!({})).await.json();
    assert_eq!(cancelled["status"], "CANCELLATION_REQUESTED");
    let _worker = harness.worker();
    harness.batch_when(&path(&jobs[1]), |job| job["status"] == "CANCELLED").await;
    harness.batch_when(&path(&jobs[2]), |job| job["status"] == "SUCCESS").await;
    let bad =
        harness.post("/v1/batch/jobs", &job(json!({ "requests": [{ "custom_id": "", "body": {} }] }))).await.json();
    let failed = harness.batch_when(&path(&bad), |job| job["status"] == "FAILED").await;
    assert!(failed["errors"][0]["message"].as_str().is_some_and(|message| message.contains("custom_id")), "{failed}");

    let listed = async |query: &str| {
        let answer = harness.get(&format!("/v1/batch/jobs?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let list = answer.json();
        let ids = list["data"].as_array().expect("a list").iter().map(|job| job["id"].clone()).collect::<Vec<_>>();
        (ids, list["total"].as_u64().expect("a count"))
    };
    let ids = |indices: &[usize]| indices.iter().map(|index| jobs[*index]["id"].clone()).collect::<Vec<_>>();
    // What the client sends unless told otherwise.
    let all = listed("page=0&page_size=100&created_by_me=false&order_by=-created").await;
    assert_eq!((all.0[1..].to_vec(), all.1), (ids(&[2, 1, 0]), 4));
    assert_eq!(listed("page=1&page_size=2&order_by=created").await.0[..1], ids(&[2]));
    assert_eq!(listed("status=SUCCESS&status=CANCELLED").await, (ids(&[2, 1, 0]), 3));
    assert_eq!(listed("status=RUNNING").await, (Vec::new(), 0));
    assert_eq!(listed("model=huge").await.1, 0);
    assert_eq!(listed("created_after=2001-01-01T00:00:00%2B00:00&model=tiny").await.1, 4);
    assert_eq!(listed("created_after=2999-01-01T00:00:00Z").await.1, 0);
    for (query, param) in [
        ("status=DONE", "status"),
        ("created_after=yesterday", "created_after"),
        ("created_by_me=true", "created_by_me"),
        ("order_by=size", "order_by"),
        ("agent_id=a", "agent_id"),
        ("metadata=a", "metadata"),
    ] {
        let answer = harness.get(&format!("/v1/batch/jobs?{query}")).await;
        assert_eq!((answer.status, &answer.json()["detail"][0]["loc"][1]), (422, &json!(param)), "{query}");
    }
}

#[tokio::test]
async fn results_come_with_the_job_if_they_are_asked_for() {
    let harness = Harness::new(says("All is well."));
    let created = harness.post("/v1/batch/jobs", &job(json!({ "requests": requests(3) }))).await.json();
    let inline = format!("{}?inline=true", path(&created));
    assert_eq!(harness.get(&inline).await.json()["outputs"], Value::Null, "there are none yet");
    let _worker = harness.worker();
    let ended = harness.batch_when(&path(&created), |job| job["status"] == "SUCCESS").await;
    assert_eq!(ended["outputs"], Value::Null);
    let outputs = harness.get(&inline).await.json()["outputs"].clone();
    assert_eq!(outputs, Value::from(harness.lines_of(&ended["output_file"]).await));
    assert_eq!(outputs[2]["custom_id"], "r2");
    let file = ended["output_file"].as_str().expect("a file");
    harness.delete(&format!("/v1/files/{file}")).await;
    assert_eq!(mistral_error(&harness.get(&inline).await), r#"422 ["query","inline"] "value_error""#);
}

#[tokio::test]
async fn a_job_that_has_ended_can_be_deleted() {
    let harness = Harness::new(says("All is well."));
    let created = harness.post("/v1/batch/jobs", &job(json!({ "requests": requests(1) }))).await.json();
    let early = harness.delete(&path(&created)).await;
    assert_eq!(mistral_error(&early), r#"409 "invalid_request_error" null "unfinished""#);
    let _worker = harness.worker();
    let ended = harness.batch_when(&path(&created), |job| job["status"] == "SUCCESS").await;
    let deleted = harness.delete(&path(&created)).await.json();
    assert_eq!(deleted, json!({ "id": created["id"], "object": "batch", "deleted": true }));
    assert_eq!(harness.get(&path(&created)).await.status, 404);
    assert_eq!(harness.delete(&path(&created)).await.status, 404);
    assert_eq!(harness.lines_of(&ended["output_file"]).await.len(), 1, "its files stay");
}

#[tokio::test]
async fn requests_for_jobs_are_checked() {
    let harness = Harness::new(says("All is well."));
    let file = harness.upload(b"{}").await;
    for (more, error) in [
        (json!({}), r#"422 ["body","input_files"] "value_error""#),
        (json!({ "input_files": [] }), r#"422 ["body","input_files"] "value_error""#),
        (json!({ "input_files": [file, "file-x"] }), r#"422 ["body","input_files",1] "value_error""#),
        (json!({ "input_files": [file], "requests": requests(1) }), r#"422 ["body","requests"] "value_error""#),
        (json!({ "requests": [] }), r#"422 ["body","requests"] "value_error""#),
        (json!({ "requests": [{ "custom_id": "a" }] }), r#"422 ["body","requests",0,"body"] "value_error""#),
        (json!({ "requests": [{ "body": {}, "url": "/" }] }), r#"422 ["body","requests",0,"url"] "value_error""#),
        (json!({ "requests": requests(1), "model": "huge" }), r#"404 "invalid_model" "model" "model_not_found""#),
        (json!({ "requests": requests(1), "agent_id": "a" }), r#"422 ["body","agent_id"] "value_error""#),
        (json!({ "requests": requests(1), "timeout_hours": 169 }), r#"422 ["body","timeout_hours"] "value_error""#),
    ] {
        let refused = harness.post("/v1/batch/jobs", &job(more.clone())).await;
        assert_eq!(mistral_error(&refused), error, "{more}");
    }
}
