//! Health, metrics, models, version, tokenize.

use serde_json::{Value, json};
use tramontane::api::{AppState, HttpLimits, app};

use super::support::{Harness, codec, ids, memory, says, send, small_engine};

async fn get(state: &AppState, path: &str) -> super::support::Answer {
    send(app(state.clone()), axum::http::Request::get(path).body(axum::body::Body::empty()).expect("valid")).await
}

#[tokio::test]
async fn while_the_model_loads_the_server_lives_but_is_not_ready() {
    let state = AppState::new(HttpLimits::default(), memory());
    assert_eq!(get(&state, "/health/live").await.status, 200);
    for path in ["/health", "/health/ready"] {
        let ready = get(&state, path).await;
        assert_eq!((ready.status, ready.json()), (503, json!({ "status": "loading" })));
    }
    assert_eq!(get(&state, "/v1/models").await.json()["data"], json!([]));
    assert!(get(&state, "/metrics").await.body.contains("tramontane:http_requests_total"));
    assert_eq!(get(&state, "/version").await.json()["model"], Value::Null);
    let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let work = send(app(state), request.body(axum::body::Body::from("{}")).expect("valid")).await;
    assert_eq!(work.error(), r#"503 null "unavailable""#);
    assert!(work.header("retry-after").is_some());
}

#[tokio::test]
async fn readiness_follows_the_server_and_the_engine() {
    let harness = Harness::new(says("Hi"));
    assert_eq!(harness.get("/health/ready").await.json(), json!({ "status": "ready" }));
    harness.state.start_draining();
    let draining = harness.get("/health/ready").await;
    assert_eq!((draining.status, draining.json()), (503, json!({ "status": "draining" })));
    let refused = harness.chat(json!({})).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(harness.get("/health/live").await.status, 200);
}

#[tokio::test]
async fn a_wedged_engine_is_not_ready() {
    let engine = tramontane::engine::EngineConfig { max_step_ms: 20, ..small_engine() };
    let harness = Harness::with(says("Hi"), engine, HttpLimits::default());
    let app = harness.app();
    let request = axum::http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let body = axum::body::Body::from(super::support::chat(json!({})).to_string());
    let stuck = tokio::spawn(send(app, request.body(body).expect("valid")));
    let model = harness.state.loaded_model().expect("a model is set").clone();
    let wedged = || model.engine.health() == tramontane::engine::Health::Wedged;
    super::support::eventually("the step takes too long", wedged).await;
    let ready = harness.get("/health/ready").await;
    assert_eq!((ready.status, ready.json()), (503, json!({ "status": "wedged" })));
    assert_eq!(harness.chat(json!({})).await.status, 503);
    harness.gate.open();
    assert_eq!(stuck.await.expect("no panic").status, 200);
    assert_eq!(harness.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn model_cards() {
    let harness = Harness::new(says("Hi"));
    let list = harness.get("/v1/models").await.json();
    let cards = list["data"].as_array().expect("cards");
    let names: Vec<&Value> = cards.iter().map(|card| &card["id"]).collect();
    assert_eq!(names, ["tiny", "alias"]);
    let card = harness.get("/v1/models/tiny").await.json();
    assert_eq!(card, cards[0]);
    assert_eq!(card["object"], "model");
    assert_eq!(card["max_model_len"], 4096);
    assert_eq!(card["aliases"], json!(["alias"]));
    assert_eq!(card["capabilities"]["completion_chat"], true);
}

#[tokio::test]
async fn tokenize_and_back() {
    let harness = Harness::new(says("Hi"));
    let text = "Hello, naïve 🦀";
    let options = json!({ "model": "tiny", "prompt": text, "add_special_tokens": false, "return_token_strs": true });
    let answer = harness.post("/tokenize", &options).await.json();
    assert_eq!(answer["tokens"], json!(ids(text)));
    assert_eq!(answer["count"], ids(text).len());
    assert_eq!(answer["max_model_len"], 4096);
    assert_eq!(answer["token_strs"].as_array().map(Vec::len), Some(ids(text).len()));
    let back = harness.post("/detokenize", &json!({ "model": "tiny", "tokens": answer["tokens"] })).await;
    assert_eq!(back.json(), json!({ "prompt": text }));
    let with_bos = harness.post("/tokenize", &json!({ "prompt": text })).await.json();
    assert_eq!(with_bos["tokens"], json!(codec().encode_text(text, true)));
    assert_eq!(with_bos["token_strs"], Value::Null);

    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let conversation = harness.post("/tokenize", &json!({ "messages": messages })).await.json();
    let chat = harness.chat(json!({ "return_token_ids": true })).await.json();
    assert_eq!(conversation["tokens"], chat["prompt_token_ids"]);
}

#[tokio::test]
async fn metrics_have_vllms_names() {
    let harness = Harness::new(says("Hi"));
    harness.chat(json!({ "n": 2, "max_tokens": 50 })).await;
    harness.chat(json!({ "stop": "H" })).await;
    harness.chat(json!({ "unknown": 1 })).await;
    harness.get("/some/client's/path").await;
    harness.idle().await;
    let answer = harness.get("/metrics").await;
    assert!(answer.header("content-type").expect("a type").starts_with("text/plain; version=0.0.4"));
    for line in [
        r#"tramontane:http_requests_total{route="/v1/chat/completions",status="200"} 2"#,
        r#"tramontane:http_requests_total{route="/v1/chat/completions",status="400"} 1"#,
        r#"tramontane:http_requests_total{route="unmatched",status="404"} 1"#,
        r#"vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 3"#,
        r#"vllm:request_params_n_sum{engine="0",model_name="tiny"} 3"#,
        r#"vllm:request_params_max_tokens_bucket{engine="0",model_name="tiny",le="50"} 1"#,
        r#"vllm:num_requests_running{engine="0",model_name="tiny"} 0"#,
        "# TYPE vllm:time_to_first_token_seconds histogram",
        "# TYPE vllm:generation_tokens_total counter",
        "# TYPE vllm:kv_cache_usage_perc gauge",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is not in\n{}", answer.body);
    }
}

#[tokio::test]
async fn version_and_load() {
    let harness = Harness::new(says("Hi"));
    let version = harness.get("/version").await.json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["model"], "tiny");
    assert_eq!(harness.get("/load").await.json(), json!({ "server_load": 0 }));
}
