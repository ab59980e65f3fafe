//! Client certificates of connections that are open: what is read anew counts for their next request, for what is being answered,
//! and for what is left to be done later.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tramontane::{
    api::Tls,
    config::ClientAuth,
    governance::{Actor, DEFAULT_TENANT, Governance, Issuers, Role},
};

use super::{
    http2::Client,
    server::{Running, rest},
    support::{Harness, babbles, chat, eventually, new_key, soon},
    tenancy::{Bearer, id},
    tls::{Connected, client, connect},
};
use crate::authority::{Authority, Issued};

const URI: &str = "spiffe://acme.example/app";
const OTHER: &str = "spiffe://acme.example/other";
const SERIAL: u64 = 66;
const NOW: u64 = 1_800_000_000;

/// Two clients who may ask the model.
const IDENTITIES: &str = r#"
[[client_certificates]]
match = { uri = "spiffe://acme.example/app" }
name = "app"
roles = ["service"]

[[client_certificates]]
match = { uri = "spiffe://acme.example/other" }
name = "other"
roles = ["service"]
"#;

/// A server that believes in clients' certificates, whose model never ends and waits for the gate.
struct Server {
    running: Running,
    governance: Governance,
    tls: Tls,
    authority: Authority,
    directory: TempDir,
    /// The one that things are done to.
    app: Issued,
    other: Issued,
}

/// The code of a refusal, and what is done before to the certificate of `app`.
type Case = (&'static str, fn(&Server));

impl Server {
    async fn start() -> Self {
        let (directory, authority) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
        let path = |name: &str| directory.path().join(name);
        fs::write(path("identities.toml"), IDENTITIES).expect("it is written");
        fs::write(path("clients.crl"), authority.revokes(&[])).expect("it is written");
        let mut files = authority.server().files(directory.path(), Some((&authority, ClientAuth::Required)));
        files.clients.iter_mut().for_each(|clients| clients.crl = Some(path("clients.crl")));
        let tls = Tls::open(files).expect("they are right");
        let issuers = Issuers::open(&path("identities.toml"), None).expect("they are right");
        let governance = Governance::in_memory().expect("memory").with_issuers(issuers);
        let harness = Harness::governed(babbles(), governance.clone());
        let running = Running::start_with(harness, Some(tls.clone())).await;
        let (app, other) = (authority.client_with_serial(URI, SERIAL), authority.client_with_serial(OTHER, 67));
        Self { running, governance, tls, authority, directory, app, other }
    }

    async fn connect(&self, shown: &Issued, protocol: &str) -> Connected {
        connect(&self.running, client(&self.authority, Some(shown), &[protocol])).await.expect("a connection")
    }

    fn revoke(&self) {
        fs::write(self.directory.path().join("clients.crl"), self.authority.revokes(&[SERIAL])).expect("it is written");
        self.reload();
    }

    fn reload(&self) {
        let reloaded = self.tls.reload_as(&self.governance.administered_by(&Actor::Signal));
        assert!(reloaded.expect("they are right"), "they are others");
    }

    /// The certificate is nobody's.
    fn forget(&self) {
        self.map(&IDENTITIES.replace("acme.example/app", "acme.example/nobody"));
    }

    /// Its owner may read, and not ask the model.
    fn demote(&self) {
        self.map(&IDENTITIES.replacen("\"service\"", "\"auditor\"", 1));
    }

    fn map(&self, identities: &str) {
        fs::write(self.directory.path().join("identities.toml"), identities).expect("it is written");
        self.governance.administered_by(&Actor::Signal).reload_identities(NOW).expect("it is right");
    }
}

/// One request over a connection that stays open, and what is answered.
async fn ask(stream: &mut Connected, method: &str, path: &str, body: &Value) -> String {
    send(stream, method, path, body, "").await;
    answered(stream).await
}

/// The answer to a request, whose body has a length.
async fn answered(stream: &mut Connected) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("UTF-8").to_ascii_lowercase();
    let length = head.split_once("content-length: ").expect("a length").1.split("\r\n").next().expect("a line");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).await.expect("the body");
    head + &String::from_utf8(body).expect("UTF-8")
}

async fn send(stream: &mut Connected, method: &str, path: &str, body: &Value, more: &str) {
    let body = body.to_string();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("the server reads");
}

#[track_caller]
fn check(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("http/1.1 {status}")) && answer.contains(code), "{answer}");
}

async fn models(stream: &mut Connected) -> String {
    ask(stream, "GET", "/v1/models", &json!({})).await
}

#[tokio::test]
async fn a_connection_is_not_good_for_longer_than_its_certificate() {
    let server = Server::start().await;
    let (mut open, mut other) =
        (server.connect(&server.app, "http/1.1").await, server.connect(&server.other, "http/1.1").await);
    check(&models(&mut open).await, 200, "tiny");
    server.forget();
    check(&models(&mut open).await, 401, "unknown_certificate");
    server.map(IDENTITIES);
    check(&models(&mut open).await, 200, "tiny");
    server.demote();
    check(&ask(&mut open, "POST", "/v1/chat/completions", &chat(json!({ "max_tokens": 1 }))).await, 403, "permission");
    server.map(IDENTITIES);
    check(&ask(&mut open, "POST", "/v1/chat/completions", &chat(json!({ "max_tokens": 1 }))).await, 200, "content");
    // What is wrong changes nothing.
    fs::write(server.directory.path().join("identities.toml"), "client_certificates = 1").expect("it is written");
    server.governance.administered_by(&Actor::Signal).reload_identities(NOW).expect_err("it is wrong");
    check(&models(&mut open).await, 200, "tiny");
    // It has only opened the connection for whoever has a key, and that it does no more either.
    let key = new_key(&server.governance, "app", DEFAULT_TENANT, Role::Developer).secret;
    let key = format!("Authorization: Bearer {key}\r\n");
    send(&mut open, "GET", "/v1/models", &json!({}), &key).await;
    check(&answered(&mut open).await, 200, "tiny");
    server.revoke();
    send(&mut open, "GET", "/v1/models", &json!({}), &key).await;
    check(&answered(&mut open).await, 401, "revoked_certificate");
    check(&models(&mut open).await, 401, "revoked_certificate");
    check(&models(&mut other).await, 200, "tiny");
}

#[tokio::test]
async fn an_authority_that_is_believed_no_more_takes_its_certificates_with_it() {
    let server = Server::start().await;
    let mut open = server.connect(&server.app, "http/1.1").await;
    check(&models(&mut open).await, 200, "tiny");
    let another = Authority::new("another");
    fs::write(server.directory.path().join("clients.pem"), &another.pem).expect("it is written");
    fs::write(server.directory.path().join("clients.crl"), another.revokes(&[])).expect("it is written");
    server.reload();
    check(&models(&mut open).await, 401, "unverified_certificate");
}

#[tokio::test]
async fn what_is_being_answered_ends_with_what_it_was_asked_by() {
    let cases: [Case; 3] = [
        ("revoked_certificate", Server::revoke),
        ("unknown_certificate", Server::forget),
        ("identity_changed", Server::demote),
    ];
    for (code, done) in cases {
        let server = Server::start().await;
        server.running.harness.gate.close();
        let mut asks = server.connect(&server.app, "http/1.1").await;
        let waits = chat(json!({ "max_tokens": 4000, "ignore_eos": true }));
        let changes = async {
            eventually("it is being answered", || server.running.harness.state.in_flight() == 1).await;
            done(&server);
        };
        let (answer, ()) = tokio::join!(ask(&mut asks, "POST", "/v1/chat/completions", &waits), changes);
        check(&answer, 401, code);
        server.running.harness.gate.open();
        server.running.harness.idle().await;
    }
    // A stream that has begun is broken off.
    let server = Server::start().await;
    let mut streams = server.connect(&server.app, "http/1.1").await;
    let long = chat(json!({ "max_tokens": 4000, "ignore_eos": true, "stream": true }));
    send(&mut streams, "POST", "/v1/chat/completions", &long, "").await;
    let mut first = [0; 64];
    streams.read_exact(&mut first).await.expect("it begins");
    server.revoke();
    let text = rest(&mut streams).await;
    assert!(first.starts_with(b"HTTP/1.1 200") && !text.contains("[DONE]"), "{text}");
    server.running.harness.idle().await;
}

/// The connection is open, nothing is read anew, and the list says itself that it is too old.
#[tokio::test]
async fn a_list_that_ends_lets_nobody_go_on() {
    let server = Server::start().await;
    let (mut streams, mut open) =
        (server.connect(&server.app, "http/1.1").await, server.connect(&server.other, "http/1.1").await);
    let list = server.authority.revokes_until(&[], SystemTime::now() + Duration::from_secs(5));
    fs::write(server.directory.path().join("clients.crl"), list).expect("it is written");
    server.reload();
    check(&models(&mut open).await, 200, "tiny");
    server.running.harness.gate.close();
    let long = chat(json!({ "max_tokens": 4000, "ignore_eos": true }));
    check(&ask(&mut streams, "POST", "/v1/chat/completions", &long).await, 401, "unverified_certificate");
    server.running.harness.gate.open();
    check(&models(&mut open).await, 401, "unverified_certificate");
    let refused = connect(&server.running, client(&server.authority, Some(&server.app), &["http/1.1"])).await;
    if let Ok(mut refused) = refused {
        // A client of TLS 1.3 is through before the server has judged it.
        assert!(refused.read_u8().await.is_err(), "nor is there a new one");
    }
    server.running.harness.idle().await;
    // A list that is good lets everybody go on.
    fs::write(server.directory.path().join("clients.crl"), server.authority.revokes(&[])).expect("it is written");
    server.reload();
    check(&models(&mut open).await, 200, "tiny");
}

#[tokio::test]
async fn streams_of_http2_are_judged_one_by_one() {
    let server = Server::start().await;
    let mut open = Client::over(server.connect(&server.app, "h2").await).await;
    open.get(1, "/v1/models").await;
    assert_eq!(open.answer(1).await.0, "2");
    open.post_chat(3, json!({ "max_tokens": 4000, "ignore_eos": true, "stream": true })).await;
    let engine = server.running.harness.state.loaded_model().expect("a model").engine.clone();
    eventually("it is being answered", || engine.snapshot().running == 1).await;
    server.revoke();
    let (status, text) = open.answer(3).await;
    assert!(status != "5" && !text.contains("[DONE]"), "{status} {text}");
    open.get(5, "/v1/models").await;
    let (status, text) = open.answer(5).await;
    assert!(status == "4" && text.contains("revoked_certificate"), "{status} {text}");
    server.running.harness.idle().await;
}

#[tokio::test]
async fn what_is_left_to_be_done_is_done_for_who_its_asker_is_then() {
    let cases: [Case; 3] = [
        ("the client certificate was revoked", Server::revoke),
        ("nobody's of this server", Server::forget),
        ("may not do this", Server::demote),
    ];
    for (expected, done) in cases {
        let server = Server::start().await;
        server.running.harness.gate.close();
        let mut asks = server.connect(&server.app, "http/1.1").await;
        let body = json!({ "model": "tiny", "input": "Hello", "background": true, "max_output_tokens": 4 });
        let queued = ask(&mut asks, "POST", "/v1/responses", &body).await;
        check(&queued, 200, "queued");
        let queued: Value = serde_json::from_str(queued.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
        done(&server);
        server.running.harness.gate.open();
        let key = new_key(&server.governance, "looks", DEFAULT_TENANT, Role::Developer).secret;
        let looks = Bearer::with(&server.running.harness, key);
        let path = format!("/v1/responses/{}", id(&queued));
        let is_over = |it: &Value| it["status"] != "queued" && it["status"] != "in_progress";
        let over = soon("it ends", async || Some(looks.get(&path).await).filter(is_over)).await;
        assert_eq!(over["status"], "failed", "{over}");
        let message = over["error"]["message"].as_str().expect("a message");
        assert!(message.contains(expected), "{message}");
        server.running.harness.idle().await;
    }
}
