//! Tokens that were believed when a request began: what ends them ends what is being answered, and what is left to be done later.

use std::fs;

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use tramontane::governance::{DEFAULT_TENANT, Governance, Role};

use super::{
    support::{Harness, babbles, chat, eventually, new_key, soon},
    tenancy::{Bearer, id},
    tokens::{Issuer, change, governed_saying, now},
};

/// What a token of a key that is there no more is told.
const WITHDRAWN: &str = "none of the issuer's keys";

/// A server that believes two keys of one issuer, whose model never ends.
struct Server {
    harness: Harness,
    governance: Governance,
    directory: TempDir,
    one: Issuer,
    two: Issuer,
}

/// What is told of the end, and what is done before to the key `one`.
type Case = (&'static str, fn(&Server));

impl Server {
    fn start() -> Self {
        let (directory, one, two) = (tempfile::tempdir().expect("a directory"), Issuer::new(), Issuer::new());
        let (harness, governance) = governed_saying(babbles(), &set(&[(&one, "one"), (&two, "two")]), directory.path());
        Self { harness, governance, directory, one, two }
    }

    /// The issuer has these keys now, which is heard.
    fn publish(&self, keys: &[(&Issuer, &str)]) {
        self.write("keys.json", keys);
        self.governance.refresh_issuers(now() + 100);
    }

    fn write(&self, name: &str, keys: &[(&Issuer, &str)]) {
        fs::write(self.directory.path().join(name), set(keys).to_string()).expect("it can be written");
    }

    fn change(&self, from: &str, to: &str) {
        change(&self.governance, self.directory.path(), from, to).expect("it is right");
    }

    fn remove(&self) {
        self.publish(&[(&self.two, "two")]);
    }

    fn replace(&self) {
        self.publish(&[(&Issuer::new(), "one"), (&self.two, "two")]);
    }

    fn rename(&self) {
        self.publish(&[(&self.one, "three"), (&self.two, "two")]);
    }

    /// The file of identities names another file of keys.
    fn lead_elsewhere(&self) {
        self.write("others.json", &[(&self.two, "two")]);
        self.change("keys.json", "others.json");
    }

    /// The file of identities knows another issuer only.
    fn forget(&self) {
        self.change("https://id.example.org", "https://id.example.com");
    }

    fn token(&self, more: Value) -> String {
        self.one.token(more)
    }

    /// Of the other key.
    fn other_token(&self) -> String {
        self.two.token_with(json!({ "alg": "ES256", "kid": "two" }), json!({}))
    }

    /// A stream that has begun.
    async fn stream(&self, token: &str) -> Body {
        let body = chat(json!({ "stream": true, "max_tokens": 4000, "ignore_eos": true })).to_string();
        let request = Request::post("/v1/chat/completions").header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(Body::from(body));
        let response = self.harness.app().oneshot(request.expect("a valid request")).await.expect("it is infallible");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert!(body.frame().await.expect("a frame").is_ok());
        body
    }
}

fn set(keys: &[(&Issuer, &str)]) -> Value {
    let keys = keys.iter().map(|(issuer, id)| {
        let mut key = issuer.key_set()["keys"][0].take();
        key["kid"] = (*id).into();
        key
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

async fn cut(stream: Body) -> String {
    stream.collect().await.expect_err("the stream is cut").to_string()
}

async fn is_whole(stream: Body) {
    let whole = stream.collect().await.expect("it goes on").to_bytes();
    assert!(whole.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_stream_ends_when_the_key_of_its_token_is_withdrawn() {
    let cases: [Case; 4] = [
        (WITHDRAWN, Server::remove),
        (WITHDRAWN, Server::replace),
        (WITHDRAWN, Server::rename),
        (WITHDRAWN, Server::lead_elsewhere),
    ];
    for (expected, done) in cases {
        let server = Server::start();
        let token = server.token(json!({}));
        let (stream, untouched) = (server.stream(&token).await, server.stream(&server.other_token()).await);
        done(&server);
        let told = cut(stream).await;
        assert!(told.contains(expected), "{told}");
        is_whole(untouched).await;
        server.harness.idle().await;
    }
    let server = Server::start();
    let streams = [server.token(json!({})), server.other_token()];
    let streams = [server.stream(&streams[0]).await, server.stream(&streams[1]).await];
    server.forget();
    for stream in streams {
        let told = cut(stream).await;
        assert!(told.contains("not from the issuer"), "{told}");
    }
}

/// Keys that are read anew, and in which nothing is withdrawn, end nothing; nor does what is no key set.
#[tokio::test]
async fn a_stream_goes_on_while_its_key_is_there() {
    let server = Server::start();
    let stream = server.stream(&server.token(json!({}))).await;
    server.publish(&[(&Issuer::new(), "three"), (&server.one, "one")]);
    server.publish(&[]);
    fs::write(server.directory.path().join("keys.json"), "{ half of a fi").expect("it can be written");
    server.governance.refresh_issuers(now() + 200);
    server.write("others.json", &[(&server.one, "one")]);
    server.change("keys.json", "others.json");
    server.change("audiences", "refresh_seconds = 60\naudiences");
    is_whole(stream).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_time_of_its_token() {
    let server = Server::start();
    server.change("audiences", "leeway_seconds = 0\naudiences");
    server.harness.gate.close();
    let [long, short] = [json!({}), json!({ "exp": now() + 5 })].map(|more| server.token(more));
    let engine = server.harness.state.loaded_model().expect("a model").engine.clone();
    let begin = async {
        let num_asked = || engine.snapshot().running + engine.snapshot().waiting;
        eventually("both are asked", || num_asked() == 2).await;
        // Enough for both to begin, and far from enough for one to end.
        server.harness.gate.allow(8);
    };
    let (long, short, ()) = tokio::join!(server.stream(&long), server.stream(&short), begin);
    let told = cut(short).await;
    assert!(told.contains("has expired"), "{told}");
    server.harness.gate.open();
    is_whole(long).await;
}

#[tokio::test]
async fn a_request_that_waits_is_refused_when_its_key_is_withdrawn() {
    let server = Server::start();
    server.harness.gate.close();
    let token = server.token(json!({}));
    let bearer = Bearer::with(&server.harness, token);
    let body = chat(json!({ "max_tokens": 4000, "ignore_eos": true }));
    let withdrawn = async {
        eventually("it is being answered", || server.harness.state.in_flight() == 1).await;
        server.remove();
    };
    let (answer, ()) = tokio::join!(bearer.ask("POST", "/v1/chat/completions", body), withdrawn);
    assert_eq!(answer.error(), r#"401 null "token_unknown_key""#);
    server.harness.gate.open();
    server.harness.idle().await;
}

#[tokio::test]
async fn what_is_left_to_be_done_is_not_done_for_a_key_that_is_withdrawn() {
    let server = Server::start();
    let ours = json!({ "tenant": "default" });
    let gone = Bearer::with(&server.harness, server.token(ours.clone()));
    let stays = Bearer::with(&server.harness, server.two.token_with(json!({ "alg": "ES256", "kid": "two" }), ours));
    let looks = new_key(&server.governance, "looks", DEFAULT_TENANT, Role::Developer).secret;
    let looks = Bearer::with(&server.harness, looks);
    let body = json!({ "model": "tiny", "input": "Hello", "background": true, "max_output_tokens": 4 });
    let queued = [gone.post("/v1/responses", body.clone()).await, stays.post("/v1/responses", body).await];
    server.remove();
    let _worker = server.harness.background();
    let mut ended = Vec::new();
    for response in &queued {
        let path = format!("/v1/responses/{}", id(response));
        let is_over = |it: &Value| it["status"] != "queued" && it["status"] != "in_progress";
        ended.push(soon("it ends", async || Some(looks.get(&path).await).filter(is_over)).await);
    }
    assert_eq!((&ended[0]["status"], &ended[1]["status"]), (&json!("failed"), &json!("incomplete")), "{ended:?}");
    let message = ended[0]["error"]["message"].as_str().expect("a message");
    assert!(message.contains(WITHDRAWN), "{message}");
}
