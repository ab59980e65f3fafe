//! Two tenants at one server: what one asks for does not hold the other.

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        Request, Response,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::{
    api::{AppState, HttpLimits},
    governance::{Governance, Role},
    store::Stores,
};

use super::support::{Harness, babbles, chat, command_line, new_key};

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
        let governance = Governance::in_memory().unwrap();
        let [heavy, light] = ["heavy", "light"].map(|tenant| {
            command_line(&governance).create_tenant(tenant, None, 1).unwrap();
            new_key(&governance, "app", tenant, Role::Developer).secret
        });
        let limits = HttpLimits { max_requests, ..HttpLimits::default() };
        let state = AppState::governed(limits, Stores::in_memory(64 << 20), governance).unwrap();
        let harness = Harness::of_state(babbles(), state);
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
