//! What requests may hold at once: memory for bodies, and places at the tokenizer.

use std::pin::Pin;

use axum::{
    body::{Body, Bytes},
    http::{Request, header::CONTENT_TYPE},
};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;
use tramontane::api::HttpLimits;

use super::support::{Answer, Harness, says, send, small_engine};

const ROUTES: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"];
const SENT: usize = 10 << 10;

fn harness(limits: HttpLimits) -> Harness {
    let harness = Harness::with(says("Hi"), small_engine(), limits);
    harness.gate.open();
    harness
}

/// A request whose body does not end. As far as the server reads it when polled once.
async fn half_sent(harness: &Harness, path: &str) -> Result<Answer, Pin<Box<impl Future<Output = Answer>>>> {
    let sent = stream::once(async { Ok::<_, std::io::Error>(Bytes::from(vec![b' '; SENT])) });
    let body = Body::from_stream(sent.chain(stream::pending()));
    let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(body).expect("a valid request");
    let mut answer = Box::pin(send(harness.app(), request));
    answer.as_mut().now_or_never().ok_or(answer)
}

#[tokio::test]
async fn unfinished_bodies_have_a_limit_together() {
    let harness = harness(HttpLimits { all_bodies_bytes: 4 * SENT, ..HttpLimits::default() });
    let mut held = Vec::new();
    let mut refused = Vec::new();
    for path in ROUTES.iter().cycle().take(40) {
        match half_sent(&harness, path).await {
            Ok(answer) => refused.push(answer),
            Err(waiting) => held.push(waiting),
        }
    }
    assert!((1..=4).contains(&held.len()), "{} bodies are held", held.len());
    for answer in &refused {
        assert_eq!(answer.error(), r#"429 null "busy""#);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    drop(held);
    for path in ROUTES {
        let waiting = half_sent(&harness, path).await;
        assert!(waiting.is_err(), "{path}: the memory is free again");
    }
    assert_eq!(harness.chat(json!({})).await.text(), "Hi");
    harness.idle().await;
}

#[tokio::test]
async fn a_body_may_take_all_the_memory_that_there_is() {
    let limits = HttpLimits { all_bodies_bytes: 1 << 20, body_bytes: 1 << 20, ..HttpLimits::default() };
    let harness = harness(limits);
    let body = json!({ "prompt": "la ".repeat(100_000) });
    assert_eq!(harness.post("/tokenize", &body).await.status, 200);
    let body = json!({ "prompt": "la ".repeat(100_000), "user": "x".repeat(500_000) });
    assert_eq!(harness.post("/tokenize", &body).await.error(), r#"400 "user" "unknown_parameter""#);
}

#[tokio::test]
async fn the_tokenizer_has_places_too() {
    let harness = harness(HttpLimits { max_requests: 1, ..HttpLimits::default() });
    for path in ["/tokenize", "/detokenize"] {
        let waiting = half_sent(&harness, path).await;
        assert!(waiting.is_err() && harness.state.in_flight() == 1);
        for other in ["/tokenize", "/detokenize"] {
            assert_eq!(harness.post(other, &json!({})).await.error(), r#"429 null "busy""#);
        }
        drop(waiting);
        assert_eq!(harness.state.in_flight(), 0);
    }
    harness.state.start_draining();
    assert_eq!(harness.post("/tokenize", &json!({ "prompt": "Hi" })).await.status, 200, "it needs no engine");
}

#[tokio::test]
async fn whoever_downloads_takes_no_place_from_those_who_chat() {
    let harness = harness(HttpLimits { max_requests: 1, ..HttpLimits::default() });
    let file = harness.upload(b"{}").await;
    let path = format!("/v1/files/{file}/content");
    let request = Request::get(&path).body(Body::empty()).expect("a valid request");
    let unread = tower::ServiceExt::oneshot(harness.app(), request).await.expect("infallible");
    assert_eq!(harness.get("/v1/files").await.error(), r#"429 null "busy""#, "stored things have one place too");
    assert_eq!(harness.chat(json!({})).await.text(), "Hi");
    drop(unread);
    assert_eq!(harness.get("/v1/files").await.status, 200);
}
