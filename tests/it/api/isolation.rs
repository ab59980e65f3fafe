//! One client's request never harms another's.

use std::time::{Duration, Instant};

use axum::routing::get;
use serde_json::{Value, json};
use tramontane::api::{HttpLimits, layers, routes};

use super::support::{Harness, MAX_MODEL_LEN, babbles, chat, eventually, merged, says, send, small_engine};

pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(50);

/// Bodies of every kind of refusal.
fn bad_requests() -> Vec<String> {
    let chat = |more| chat(more).to_string();
    vec![
        "{".to_owned(),
        "[".repeat(100_000),
        chat(json!({ "unknown": 1 })),
        chat(json!({ "model": "other" })),
        chat(json!({ "messages": "Hello" })),
        chat(json!({ "temperature": -1 })),
        chat(json!({ "max_tokens": 1_000_000 })),
        chat(json!({ "logit_bias": { "1": 1000 } })),
        chat(json!({ "messages": [{ "role": "user", "content": "x ".repeat(2 * MAX_MODEL_LEN) }] })),
    ]
}

#[tokio::test]
async fn bad_requests_do_not_harm_good_ones() {
    let harness = Harness::new(says("All is well, thank you."));
    let alone = harness.chat(json!({})).await.text();
    let good = async {
        let mut texts = Vec::new();
        for stream in [false, true, false, true] {
            let answer = harness.chat(json!({ "stream": stream })).await;
            texts.push(if stream { answer.streamed_text(0) } else { answer.text() });
        }
        texts
    };
    let bad = async {
        for body in bad_requests() {
            let answer = harness.post_text("/v1/chat/completions", body).await;
            assert!((400..500).contains(&answer.status), "{}", answer.body);
            answer.error();
        }
    };
    let (texts, ()) = tokio::join!(good, bad);
    assert!(texts.iter().all(|text| *text == alone), "{texts:?}");
    harness.idle().await;
}

#[tokio::test]
async fn a_panic_in_one_request_is_its_own() {
    async fn panics() -> String {
        panic!("on purpose")
    }
    let harness = Harness::new(says("Hi"));
    let app = layers(routes().route("/panic", get(panics)), harness.state.clone());
    let request = |path: &str| axum::http::Request::get(path).body(axum::body::Body::empty()).expect("a valid request");
    let panicked = send(app.clone(), request("/panic")).await;
    assert_eq!(panicked.error(), r#"500 null "internal_error""#);
    assert!(panicked.header("x-request-id").is_some());
    assert_eq!(send(app, request("/health/ready")).await.status, 200);
    assert_eq!(harness.chat(json!({})).await.text(), "Hi");
}

#[tokio::test]
async fn a_full_queue_answers_429() {
    let engine = tramontane::engine::EngineConfig { max_running: 1, max_waiting: 1, ..small_engine() };
    let harness = Harness::with(says("Hi"), engine, HttpLimits::default());
    let filling: Vec<_> = (0..2)
        .map(|_| {
            let (app, body) = (harness.app(), chat(json!({})).to_string());
            let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
            tokio::spawn(send(app, request.body(axum::body::Body::from(body)).expect("a valid request")))
        })
        .collect();
    let model = harness.state.loaded_model().expect("a model is set").clone();
    eventually("the queue is full", || {
        let load = model.engine.snapshot();
        load.running + load.waiting == 2
    })
    .await;
    let refused = harness.chat(json!({})).await;
    assert_eq!(refused.error(), r#"429 null "busy""#);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let streamed = harness.chat(json!({ "stream": true })).await;
    assert_eq!(streamed.status, 429, "the status is not 200 yet: {}", streamed.body);
    harness.gate.open();
    for request in filling {
        assert_eq!(request.await.expect("no panic").text(), "Hi");
    }
    harness.idle().await;
    assert_eq!(harness.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn choices_that_do_not_all_fit_are_refused_together() {
    let engine = tramontane::engine::EngineConfig { max_running: 1, max_waiting: 2, ..small_engine() };
    let harness = Harness::with(says("Hi"), engine, HttpLimits::default());
    let (app, body) = (harness.app(), chat(json!({ "n": 2 })).to_string());
    let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let first = tokio::spawn(send(app, request.body(axum::body::Body::from(body)).expect("a valid request")));
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    eventually("two are under way", || engine.snapshot().running + engine.snapshot().waiting == 2).await;
    assert_eq!(harness.chat(json!({ "n": 2 })).await.status, 429);
    harness.gate.open();
    assert_eq!(first.await.expect("no panic").status, 200);
    harness.idle().await;
    assert_eq!(harness.chat(json!({ "n": 3 })).await.status, 200);
    let never = harness.chat(json!({ "n": 4 })).await;
    assert_eq!(never.error(), r#"400 "n" null"#, "no use in trying again: {}", never.body);
}

#[tokio::test]
async fn too_many_requests_at_once_answer_429() {
    let limits = HttpLimits { max_requests: 1, ..HttpLimits::default() };
    let harness = Harness::with(says("Hi"), small_engine(), limits);
    let app = harness.app();
    let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let body = axum::body::Body::from(chat(json!({})).to_string());
    let first = tokio::spawn(send(app, request.body(body).expect("a valid request")));
    eventually("the first request is in flight", || harness.state.in_flight() == 1).await;
    let refused = harness.chat(json!({})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(harness.get("/health/ready").await.status, 200);
    assert_eq!(harness.get("/metrics").await.status, 200);
    harness.gate.open();
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(harness.chat(json!({})).await.status, 200);
}

/// Lets the engine go on once the time of the request that runs is over.
pub async fn open_after_the_deadline(harness: &Harness) {
    eventually("the request has begun", || harness.state.in_flight() == 1).await;
    let begun = Instant::now();
    eventually("its time is over", || begun.elapsed() > REQUEST_TIMEOUT).await;
    harness.gate.allow(100);
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends() {
    let limits = HttpLimits { request_timeout: REQUEST_TIMEOUT, ..HttpLimits::default() };
    let harness = Harness::with(babbles(), small_engine(), limits);
    harness.gate.allow(2);
    let open_later = open_after_the_deadline(&harness);
    let (answer, ()) = tokio::join!(harness.chat(json!({ "max_tokens": 2000 })), open_later);
    assert_eq!(answer.error(), r#"504 null "deadline_exceeded""#);
    harness.gate.open();
    harness.idle().await;
}

#[tokio::test]
async fn a_stream_that_fails_says_so_and_has_no_done() {
    let limits = HttpLimits { request_timeout: REQUEST_TIMEOUT, ..HttpLimits::default() };
    let harness = Harness::with(babbles(), small_engine(), limits);
    harness.gate.allow(2);
    let open_later = open_after_the_deadline(&harness);
    let more = json!({ "max_tokens": 2000, "stream": true });
    let (answer, ()) = tokio::join!(harness.chat(more), open_later);
    assert_eq!(answer.status, 200);
    let last = answer.body.trim_end().rsplit("\n\n").next().expect("an event");
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(last["error"]["code"], "deadline_exceeded", "{}", answer.body);
    assert!(!answer.body.contains("[DONE]"));
    harness.gate.open();
    harness.idle().await;
}

#[tokio::test]
async fn a_response_that_is_dropped_frees_its_request() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    harness.gate.allow(3);
    let more = merged(chat(json!({})), json!({ "stream": true, "n": 2, "max_tokens": 2000 }));
    let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let request = request.body(axum::body::Body::from(more.to_string())).expect("a valid request");
    let response = tower::ServiceExt::oneshot(harness.app(), request).await.expect("infallible");
    assert_eq!(harness.state.in_flight(), 1);
    drop(response);
    eventually("the request is gone", || harness.state.in_flight() == 0).await;
    harness.gate.open();
    harness.idle().await;
    assert!(harness.metric("vllm:generation_tokens_total") < 100.0);
}
