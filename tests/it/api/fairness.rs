//! Two tenants at one server: what one asks for does not hold the other.

use std::{pin::Pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        Request, Response,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::{
    api::{AppState, HttpLimits},
    engine::EngineConfig,
    governance::{Governance, Role},
    store::Stores,
};

use super::support::{Harness, babbles, chat, command_line, eventually, new_key, small_engine};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// As many as the engine of a test has places for, running and waiting.
const PLACES: usize = 16;

/// Steps in which the light tenant's three tokens must have come: one is under way when it asks. The flood's answers take
/// two thousand.
const STEPS: usize = 12;

struct Server {
    harness: Harness,
    heavy: String,
    light: String,
}

impl Server {
    /// With so many places at the door, and a closed gate.
    fn new(max_requests: usize) -> Self {
        Self::of(HttpLimits { max_requests, ..HttpLimits::default() })
    }

    fn of(limits: HttpLimits) -> Self {
        Self::with(limits, small_engine())
    }

    fn with(limits: HttpLimits, engine: EngineConfig) -> Self {
        let governance = Governance::in_memory().unwrap();
        let [heavy, light] = ["heavy", "light"].map(|tenant| {
            command_line(&governance).create_tenant(tenant, None, 1).unwrap();
            new_key(&governance, "app", tenant, Role::Developer).secret
        });
        let state = AppState::governed(limits, Stores::in_memory(64 << 20), governance).unwrap();
        let harness = Harness::of_state_in(babbles(), state, engine);
        harness.gate.close();
        Self { harness, heavy, light }
    }

    /// The head of the answer, whose body comes as the engine computes it.
    async fn ask(&self, secret: &str, more: Value) -> Response<Body> {
        let request = Request::post("/v1/chat/completions")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {secret}"));
        let request = request.body(Body::from(chat(more).to_string())).unwrap();
        self.harness.app().oneshot(request).await.unwrap()
    }

    /// All the heavy tenant can have under way.
    async fn flood(&self) -> Vec<Body> {
        let mut answers = Vec::new();
        loop {
            let answer = self.ask(&self.heavy, json!({ "max_tokens": 2000, "stream": true })).await;
            match answer.status().as_u16() {
                200 => answers.push(answer.into_body()),
                429 => return answers,
                status => panic!("status {status}"),
            }
        }
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

#[tokio::test]
async fn a_flood_of_one_tenant_holds_nobody_elses_answer() {
    // Once the queue of the engine is what is full, and once that at the door.
    for (max_requests, full) in [(320, PLACES), (10, 10)] {
        let server = Server::new(max_requests);
        let flood = server.flood().await;
        assert_eq!(flood.len(), full);
        for _ in 0..3 {
            let answer = server.ask(&server.light, json!({ "max_tokens": 3, "stream": true })).await;
            assert_eq!(answer.status(), 200, "the other has filled its own places");
            server.harness.gate.allow(STEPS);
            let answered = tokio::time::timeout(PATIENCE, text(answer)).await;
            let text = answered.expect("a few steps are enough");
            assert!(text.contains("\"length\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
        }
        drop(flood);
        server.harness.gate.open();
        server.harness.idle().await;
    }
}

#[tokio::test]
async fn a_request_for_most_of_the_cache_goes_for_anothers_and_comes_to_its_end() {
    // 4,096 tokens, of which each of two tenants has half.
    let server = Server::with(HttpLimits::default(), EngineConfig { num_blocks: 1024, ..small_engine() });
    let asked = |words: usize, max_tokens: usize| {
        let messages = json!([{ "role": "user", "content": " la".repeat(words) }]);
        json!({ "messages": messages, "max_tokens": max_tokens, "stream": true })
    };
    let long = server.ask(&server.heavy, asked(3200, 400)).await;
    assert_eq!(long.status(), 200);
    server.harness.gate.allow(12);
    let engine = server.harness.state.loaded_model().unwrap().engine.clone();
    eventually("the long one runs", || engine.snapshot().held_blocks > 800).await;
    let answer = server.ask(&server.light, asked(1500, 3)).await;
    // Alone it takes three steps for its prompt, and two more tokens.
    server.harness.gate.allow(2 * 5 + 3);
    let text_of_light = tokio::time::timeout(PATIENCE, text(answer)).await.expect("a few steps are enough");
    assert!(text_of_light.contains("\"length\""), "{text_of_light}");
    server.harness.gate.open();
    let text_of_long = tokio::time::timeout(PATIENCE, text(long)).await.expect("it goes on");
    assert!(text_of_long.contains("\"length\""), "{text_of_long}");
    server.harness.idle().await;
}

/// A body of so many bytes that does not end. Its answer, if it is refused at once.
async fn half_sent(
    server: &Server,
    secret: &str,
    len: usize,
) -> Result<Response<Body>, Pin<Box<impl Future<Output = Response<Body>>>>> {
    let sent = stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(vec![b' '; len])) });
    let request = Request::post("/tokenize")
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {secret}"));
    let request = request.body(Body::from_stream(sent.chain(stream::pending()))).unwrap();
    let mut answer = Box::pin(server.harness.app().oneshot(request).map(Result::unwrap));
    answer.as_mut().now_or_never().ok_or(answer)
}

#[tokio::test]
async fn a_flood_of_bodies_leaves_another_tenant_its_part_of_their_memory() {
    const BODY: usize = 60 << 10;
    // Each body takes 68 KiB: with what its buffer has to spare, in whole pieces.
    let server = Server::of(HttpLimits { all_bodies_bytes: 16 * (68 << 10), ..HttpLimits::default() });
    for secret in [&server.heavy, &server.light] {
        assert_eq!(server.ask(secret, json!({ "max_tokens": 0 })).await.status(), 400, "its data is open now");
    }
    let mut heavy = Vec::new();
    let refused = loop {
        match half_sent(&server, &server.heavy, BODY).await {
            Ok(answer) => break answer,
            Err(held) => heavy.push(held),
        }
    };
    assert_eq!((refused.status().as_u16(), heavy.len()), (429, 16), "all of it");
    let mut light = Vec::new();
    for _ in 0..8 {
        let held = half_sent(&server, &server.light, BODY).await;
        light.push(held.expect_err("the other has filled its own memory"));
    }
    for secret in [&server.light, &server.heavy] {
        let refused = half_sent(&server, secret, BODY).await.ok().expect("each has its part");
        assert_eq!(refused.status(), 429);
        assert!(text(refused).await.contains("its tenant's part"));
    }
    // What is free is for anybody: eight of sixteen are taken.
    heavy.clear();
    for _ in 0..8 {
        light.push(half_sent(&server, &server.light, BODY).await.expect_err("nobody else wants it"));
    }
    assert!(
        half_sent(&server, &server.light, BODY).await.is_ok() && half_sent(&server, &server.heavy, BODY).await.is_err()
    );
}
