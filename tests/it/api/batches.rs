//! `/v1/batches`: every line is answered once, after everybody else, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;
use serde_json::{Value, json};
use tramontane::{
    api::{Drained, HttpLimits, StorageLimits},
    store::Store,
};

use super::{
    batch_storage::request,
    server::Running,
    storage::{is_on_disk, line, lines, reopened},
    support::{Harness, babbles, chat, eventually, memory, mistral_error, says, small_engine, soon},
};

fn a_few_at_once() -> HttpLimits {
    HttpLimits { storage: StorageLimits { answers_at_once: 4, ..StorageLimits::default() }, ..HttpLimits::default() }
}

/// With an open gate.
fn harness(store: Store) -> Harness {
    Harness::storing(says("All is well."), a_few_at_once(), store)
}

/// With a model that computes only as many steps as a test allows.
fn gated() -> Harness {
    Harness::with(says("All is well."), small_engine(), a_few_at_once())
}

fn custom_ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["custom_id"].as_str().expect("an id")).collect()
}

fn counts(batch: &Value) -> [u64; 3] {
    ["total", "completed", "failed"].map(|key| batch["request_counts"][key].as_u64().expect("a count"))
}

#[tokio::test]
async fn two_hundred_lines_are_answered_in_their_order() {
    let harness = harness(memory());
    let _worker = harness.worker();
    let lines = lines(200);
    let created = harness.batch(&lines).await;
    assert_eq!((&created["status"], &created["object"]), (&json!("validating"), &json!("batch")));
    let batch = harness.ended(&created, "completed").await;
    assert_eq!(counts(&batch), [200, 200, 0]);
    assert_eq!(batch["error_file_id"], Value::Null);
    let answers = harness.lines_of(&batch["output_file_id"]).await;
    let expected: Vec<String> = (0..200).map(|index| format!("line-{index}")).collect();
    assert_eq!(custom_ids(&answers), expected);

    let mut first = answers[0].clone();
    for path in ["/id", "/response/request_id", "/response/body"] {
        let value = first.pointer_mut(path).expect(path).take();
        assert!(!value.is_null(), "{path}");
    }
    expect![[
        r#"{"id":null,"custom_id":"line-0","response":{"status_code":200,"request_id":null,"body":null},"error":null}"#
    ]]
    .assert_eq(&first.to_string());
    // The body is what the same request answers at once.
    let at_once =
        harness.chat(json!({ "messages": [{ "role": "user", "content": "Hello 0" }], "max_tokens": 20 })).await;
    for key in ["object", "model", "choices", "usage", "system_fingerprint"] {
        let mut expected = at_once.json()[key].clone();
        expected.as_object_mut().and_then(|usage| usage.remove("prompt_tokens_details"));
        let mut got = answers[0]["response"]["body"][key].clone();
        got.as_object_mut().and_then(|usage| usage.remove("prompt_tokens_details"));
        assert_eq!(got, expected, "{key}");
    }
    let file = harness.get(&format!("/v1/files/{}", batch["output_file_id"].as_str().expect("an id"))).await.json();
    assert_eq!((&file["purpose"], &file["sample_type"]), (&json!("batch_output"), &json!("batch_result")));
    harness.idle().await;
}

#[tokio::test]
async fn a_batch_tells_how_far_it_is() {
    let harness = harness(memory());
    let _worker = harness.worker();
    let created = harness.batch(&lines(1)).await;
    let mut batch = harness.ended(&created, "completed").await;
    let times = ["created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at"];
    let times = times.map(|key| batch[key].take().as_u64().expect(key));
    assert!(times.is_sorted() && times[4] == times[0] + 24 * 60 * 60, "{times:?}");
    for key in ["id", "input_file_id", "output_file_id"] {
        assert!(batch[key].take().is_string(), "{key}");
    }
    expect![[r#"{"id":null,"object":"batch","endpoint":"/v1/chat/completions","model":null,"errors":null,"input_file_id":null,"completion_window":"24h","status":"completed","output_file_id":null,"error_file_id":null,"created_at":null,"in_progress_at":null,"expires_at":null,"finalizing_at":null,"completed_at":null,"failed_at":null,"expired_at":null,"cancelling_at":null,"cancelled_at":null,"request_counts":{"total":1,"completed":1,"failed":0},"metadata":null}"#]]
    .assert_eq(&batch.to_string());

    let file = harness.upload(lines(1).join("").as_bytes()).await;
    let body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": { "b": "1", "a": "2" },
    });
    let second = harness.post("/v1/batches", &body).await.json();
    assert_eq!(second["metadata"].to_string(), r#"{"b":"1","a":"2"}"#);
    let page = harness.get("/v1/batches?limit=1").await.json();
    let newest = (&page["data"][0]["id"], &page["has_more"], &page["last_id"]);
    assert_eq!(newest, (&second["id"], &json!(true), &second["id"]));
    let rest = harness.get(&format!("/v1/batches?after={}", second["id"].as_str().expect("an id"))).await.json();
    assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (&created["id"], &json!(false)));
    assert_eq!(harness.get("/v1/batches/batch_x").await.error(), r#"404 "id" "not_found""#);
    assert_eq!(harness.post("/v1/batches/batch_x/cancel", &json!({})).await.error(), r#"404 "id" "not_found""#);
    let expected = r#"404 "invalid_request_error" "id" "not_found""#;
    assert_eq!(mistral_error(&harness.get("/v1/batch/jobs/batch_x").await), expected);
    assert_eq!(mistral_error(&harness.post("/v1/batch/jobs/batch_x/cancel", &json!({})).await), expected);
}

#[tokio::test]
async fn bad_lines_are_in_the_error_file_and_hold_up_no_other() {
    let harness = harness(memory());
    let _worker = harness.worker();
    let refused = line("refused", "Hello").replace("\"max_tokens\":20", "\"max_tokens\":0");
    let other_model = line("other-model", "Hello").replace("\"model\":\"tiny\"", "\"model\":\"huge\"");
    let streamed = line("streamed", "Hello").replace("\"max_tokens\":20", "\"stream\":true");
    let text = [line("good", "Hello"), "nonsense".to_owned(), refused, other_model, streamed, line("good", "Again")];
    let batch = harness.batch(&text).await;
    let batch = harness.ended(&batch, "completed").await;
    assert_eq!(counts(&batch), [6, 1, 5]);
    assert_eq!(custom_ids(&harness.lines_of(&batch["output_file_id"]).await), ["good"]);
    let errors = harness.lines_of(&batch["error_file_id"]).await;
    let shown: Vec<String> = errors
        .iter()
        .map(|line| {
            let response = &line["response"];
            let inner = &response["body"]["error"];
            let error = if inner.is_object() {
                (&inner["param"], &inner["code"])
            } else {
                (&line["error"]["message"], &line["error"]["code"])
            };
            format!("{} {} {} {}\n", line["custom_id"], response["status_code"], error.0, error.1)
        })
        .collect();
    expect![[r#"
        null null "Line 2 cannot be asked: it is not a JSON object." "invalid_json_line"
        "refused" 400 "max_tokens" null
        "other-model" 404 "model" "model_not_found"
        "streamed" null "Line 5 cannot be asked: `body.stream` is not available in a batch." "invalid_body"
        "good" null "Line 6 cannot be asked: an earlier line has the same `custom_id`." "duplicate_custom_id"
    "#]]
    .assert_eq(&shown.concat());
}

#[tokio::test]
async fn a_batch_of_nothing_that_could_be_asked_fails() {
    let harness = harness(memory());
    let _worker = harness.worker();
    for (text, code, line) in [
        ("\n", "empty_file", Value::Null),
        ("nonsense\n[]", "invalid_json_line", json!(1)),
        (line("a", "Hello").replace("chat/", "").as_str(), "invalid_url", json!(1)),
    ] {
        let batch = harness.batch(&[text.to_owned()]).await;
        let batch = harness.ended(&batch, "failed").await;
        let error = &batch["errors"]["data"][0];
        assert_eq!((&error["code"], &error["line"]), (&json!(code), &line), "{text}");
        assert!(error["message"].is_string() && batch["failed_at"].is_u64(), "{batch}");
        assert_eq!((&batch["output_file_id"], &batch["error_file_id"]), (&Value::Null, &Value::Null));
        let cancel = format!("/v1/batches/{}/cancel", batch["id"].as_str().expect("an id"));
        assert_eq!(harness.post(&cancel, &json!({})).await.error(), r#"409 null "not_cancellable""#);
    }
}

#[tokio::test]
async fn a_cancelled_batch_keeps_what_it_has() {
    let harness = gated();
    let _worker = harness.worker();
    let (running, waiting) = (harness.batch(&lines(20)).await, harness.batch(&lines(3)).await);
    let path = |batch: &Value| format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    // Not all of it: no line is done in fewer steps than its answer has tokens.
    soon("a line is done", async || {
        harness.gate.allow(1);
        (counts(&harness.get(&path(&running)).await.json())[1] > 0).then_some(())
    })
    .await;
    // The one that waits is cancelled while the other runs.
    for batch in [&waiting, &running] {
        let cancelling = harness.post(&format!("{}/cancel", path(batch)), &json!({})).await;
        assert_eq!((cancelling.status, &cancelling.json()["status"]), (200, &json!("cancelling")));
        let cancelled = harness.ended(batch, "cancelled").await;
        assert!(cancelled["cancelling_at"].is_u64() && cancelled["cancelled_at"].is_u64(), "{cancelled}");
        let again = harness.post(&format!("{}/cancel", path(batch)), &json!({})).await;
        assert_eq!((again.status, &again.json()["status"]), (200, &json!("cancelled")));
    }
    let cancelled = harness.get(&path(&running)).await.json();
    let [total, completed, failed] = counts(&cancelled);
    assert!(total == 20 && (1..20).contains(&completed) && failed == 0, "{cancelled}");
    let done = harness.lines_of(&cancelled["output_file_id"]).await;
    let given_up = harness.lines_of(&cancelled["error_file_id"]).await;
    assert_eq!(done.len() as u64, completed);
    assert!(given_up.iter().all(|line| line["error"]["code"] == "batch_cancelled"), "{given_up:?}");
    let ids: BTreeSet<&str> = [custom_ids(&done), custom_ids(&given_up)].concat().into_iter().collect();
    assert_eq!((ids.len(), done.len() + given_up.len()), (20, 20));
    harness.gate.open();
    harness.idle().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_the_server_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let lines = lines(100);
    let mut batch = Value::Null;
    let mut done_before = 0;
    // Each server gets a little further, and is stopped in the middle of lines.
    for start in 0..4 {
        let store = reopened(directory.path()).await;
        let harness = Harness::storing_gated(says("All is well."), a_few_at_once(), store);
        if start == 0 {
            batch = harness.batch(&lines).await;
        }
        let worker = harness.worker();
        let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
        let at_start = counts(&harness.get(&path).await.json())[1];
        assert!(at_start >= done_before, "what was done stays done");
        soon("two more lines are done", async || {
            harness.gate.allow(1);
            (counts(&harness.get(&path).await.json())[1] >= at_start + 2).then_some(())
        })
        .await;
        done_before = at_start + 2;
        drop(worker);
        harness.gate.open();
        harness.idle().await;
    }
    let harness = harness(reopened(directory.path()).await);
    let _worker = harness.worker();
    let batch = harness.ended(&batch, "completed").await;
    assert_eq!(counts(&batch), [100, 100, 0]);
    let answers = harness.lines_of(&batch["output_file_id"]).await;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for id in custom_ids(&answers) {
        *times.entry(id).or_default() += 1;
    }
    assert!(times.len() == 100 && times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn whoever_waits_for_an_answer_comes_before_a_batch() {
    let mut engine = small_engine();
    (engine.max_running, engine.max_waiting) = (1, 15);
    let limits = HttpLimits {
        storage: StorageLimits { answers_at_once: 8, ..StorageLimits::default() },
        ..HttpLimits::default()
    };
    let harness = Harness::with(says("All is well."), engine, limits);
    let _worker = harness.worker();
    let batch = harness.batch(&lines(40)).await;
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    let asked_of_engine = || engine.snapshot().running + engine.snapshot().waiting;
    eventually("a line runs and seven wait", || asked_of_engine() == 8).await;
    let app = harness.app();
    let asked = tokio::spawn(async move {
        let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
        let body = axum::body::Body::from(chat(json!({})).to_string());
        super::support::send(app, request.body(body).expect("a valid request")).await
    });
    eventually("the client waits too", || asked_of_engine() == 9).await;
    eventually("the client has its answer", || {
        harness.gate.allow(1);
        asked.is_finished()
    })
    .await;
    assert_eq!(asked.await.expect("no panic").text(), "All is well.");
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    let completed = counts(&harness.get(&path).await.json())[1];
    // The one that ran when the client came, and perhaps one that began after it.
    assert!(completed <= 2, "{completed} lines came before the client");
    harness.gate.open();
    harness.ended(&batch, "completed").await;
}

#[tokio::test]
async fn lines_of_many_choices_take_no_place_from_whoever_waits() {
    let mut engine = small_engine();
    (engine.max_running, engine.max_waiting) = (4, 4);
    let limits = HttpLimits { max_requests: 4, ..a_few_at_once() };
    let harness = Harness::with(babbles(), engine, limits);
    let _worker = harness.worker();
    let many = |index: usize| {
        let more = json!({ "n": 8, "max_tokens": 1000, "ignore_eos": true });
        json!({ "custom_id": index.to_string(), "body": chat(more) }).to_string()
    };
    let batch = harness.batch(&(0..4).map(many).collect::<Vec<_>>()).await;
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    eventually("a line has all places that lines may have", || engine.snapshot().waiting >= 7).await;
    harness.gate.allow(3);
    let asked = tokio::spawn({
        let app = harness.app();
        let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
        let body = axum::body::Body::from(chat(json!({ "n": 8, "max_tokens": 5 })).to_string());
        super::support::send(app, request.body(body).expect("a valid request"))
    });
    let mut steps = 0;
    eventually("the client has its answer", || {
        harness.gate.allow(1);
        steps += 1;
        assert!(steps < 500, "the client waits for the batch");
        asked.is_finished()
    })
    .await;
    let answer = asked.await.expect("no panic");
    assert_eq!((answer.status, answer.json()["choices"].as_array().map(Vec::len)), (200, Some(8)));
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    assert_eq!(harness.post(&format!("{path}/cancel"), &json!({})).await.status, 200);
    harness.gate.open();
    harness.ended(&batch, "cancelled").await;
}

#[tokio::test]
async fn a_line_that_no_server_could_take_is_refused() {
    let harness = harness(memory());
    let _worker = harness.worker();
    let asked = |more| json!({ "custom_id": "many", "body": chat(more) }).to_string();
    let batch = harness.batch(&[asked(json!({ "n": 17 }))]).await;
    let batch = harness.ended(&batch, "completed").await;
    let error = &harness.lines_of(&batch["error_file_id"]).await[0]["response"];
    assert_eq!((&error["status_code"], &error["body"]["error"]["param"]), (&json!(400), &json!("n")));
    assert_eq!(harness.chat(json!({ "n": 17 })).await.error(), r#"400 "n" null"#);
    let prompts = json!({ "prompt": vec!["Hello"; 9], "n": 2 });
    assert_eq!(harness.post("/v1/completions", &prompts).await.error(), r#"400 "prompt" null"#);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_batch() {
    let mut running = Running::start(gated()).await;
    let batch = running.harness.batch(&lines(50)).await;
    eventually("lines are asked", || running.harness.state.in_flight() == 4).await;
    running.shut_down();
    eventually("lines are dropped", || running.harness.state.in_flight() == 0).await;
    running.harness.gate.open();
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    assert_eq!(running.harness.get(&path).await.json()["status"], "in_progress");
    assert_eq!(running.ended().await, Drained::Complete);
}

#[tokio::test]
async fn a_batch_whose_time_is_over_is_given_up() {
    let store = memory();
    let harness = harness(store.clone());
    let file = harness.upload(lines(3).join("\n").as_bytes()).await;
    let request = request(vec![file], 2);
    let id = store.create_batch(request, 10).await.expect("a batch").id;
    let _worker = harness.worker();
    let batch = harness.ended(&json!({ "id": id }), "expired").await;
    assert_eq!(counts(&batch), [3, 0, 0]);
    assert!(batch["expired_at"].is_u64() && batch["output_file_id"].is_null(), "{batch}");
    let errors = harness.lines_of(&batch["error_file_id"]).await;
    assert!(errors.len() == 3 && errors.iter().all(|line| line["error"]["code"] == "batch_expired"), "{errors:?}");
}

#[tokio::test]
async fn no_line_stays_behind_when_its_batch_has_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let marker = "thursday-marker-1147";
    let harness = harness(Store::open(directory.path(), 64 << 20).expect("a store"));
    let created = harness.batch(&[line("a", marker)]).await;
    let worker = harness.worker();
    let batch = harness.ended(&created, "completed").await;
    assert!(is_on_disk(directory.path(), marker.as_bytes()), "the input file has it");
    for key in ["input_file_id", "output_file_id"] {
        let path = format!("/v1/files/{}", batch[key].as_str().expect("an id"));
        assert_eq!(harness.delete(&path).await.status, 200);
    }
    assert!(!is_on_disk(directory.path(), marker.as_bytes()));
    drop(worker);
}

#[tokio::test]
async fn requests_for_batches_are_checked() {
    let harness = harness(memory());
    let file = harness.upload(b"{}").await;
    let good = json!({ "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h" });
    for (key, value, error) in [
        ("input_file_id", Value::Null, r#"400 "input_file_id" null"#),
        ("input_file_id", json!("file-x"), r#"400 "input_file_id" "not_found""#),
        ("endpoint", Value::Null, r#"400 "endpoint" null"#),
        ("endpoint", json!("/v1/rerank"), r#"400 "endpoint" null"#),
        ("completion_window", Value::Null, r#"400 "completion_window" null"#),
        ("metadata", json!({ "a": 1 }), r#"400 "metadata.a" null"#),
        ("colour", json!("red"), r#"400 "colour" "unknown_parameter""#),
    ] {
        let mut body = good.clone();
        body[key] = value;
        assert_eq!(harness.post("/v1/batches", &body).await.error(), error, "{key}");
    }
    assert_eq!(harness.post("/v1/batches", &good).await.status, 200);
    assert_eq!(harness.get("/v1/batches?status=x").await.error(), r#"400 "status" "unknown_parameter""#);
}
