//! Ways around the door, tried over sockets against a server that has identities: whatever is sent, nobody without a
//! credential is answered anything but a refusal, and no request becomes two. Those in HTTP/2 are in `bypass_http2`, those with tokens of
//! issuers in `bypass_tokens`; a stream
//! whose key is revoked is in `access`, one whose certificate is in `tls_standing`, and one whose
//! token's key is withdrawn in `tokens_standing`; what is wrong with a token, code by code,
//! in `tokens`. That the time of a refusal tells nothing of a key is shown beside the keys (`governance/tests/many.rs`).
//!
//! What is refused proves nothing where everything is: after each list its control, requests of the same form which have the
//! credential where it belongs, is answered.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tramontane::{
    api::HttpLimits,
    governance::{DEFAULT_TENANT, Governance, Role, policy::Policies},
};

use super::{
    server::{Running, quick, rest},
    support::{Harness, chat, new_key, says, small_engine},
};

/// As many as the model answers without a queue.
const AT_ONCE: usize = 8;
/// How long a connection may be silent here.
const IDLE: Duration = Duration::from_millis(400);
pub(super) const SAID: &str = "All is well.";

pub(super) fn limits() -> HttpLimits {
    quick(|limits| (limits.header_timeout, limits.body_timeout) = (IDLE, IDLE))
}

/// A server with one key, and the key.
pub(super) async fn start() -> (Running, String) {
    let governance = Governance::in_memory().expect("memory");
    let key = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer).secret;
    (Running::start(Harness::governed_within(says(SAID), governance, limits())).await, key)
}

/// Everything that is answered to these bytes, until the connection ends.
pub(super) async fn said(running: &Running, bytes: &[u8]) -> String {
    let mut stream = running.connect().await;
    drop(stream.write_all(bytes).await); // a server that has had enough may close before the end
    rest(&mut stream).await
}

pub(super) fn statuses(text: &str) -> Vec<&str> {
    let is_status = |status: &&str| status.len() == 3 && status.bytes().all(|figure| figure.is_ascii_digit());
    text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)).filter(is_status).collect()
}

#[track_caller]
fn check_refused(what: &str, text: &str) {
    assert!(statuses(text).iter().all(|status| status.starts_with('4')), "{what:?}: {text}");
    assert!(!text.contains(SAID) && !text.contains("\"object\":\"list\""), "{what:?}: {text}");
}

pub(super) async fn all_are_refused(running: &Running, requests: Vec<Vec<u8>>) {
    let answers = join_all(requests.iter().map(|request| said(running, request))).await;
    for (request, answer) in requests.iter().zip(answers) {
        check_refused(&String::from_utf8_lossy(request), &answer);
    }
    assert_eq!(running.harness.metric("vllm:prompt_tokens_total") as u64, 0, "the model was asked nothing");
}

/// The control of what is refused: each of these is answered, with so many answers.
pub(super) async fn all_are_answered(running: &Running, answers: usize, requests: Vec<Vec<u8>>) {
    let answered = join_all(requests.iter().map(|request| said(running, request))).await;
    for (request, answer) in requests.iter().zip(answered) {
        assert_eq!(statuses(&answer), vec!["200"; answers], "{}: {answer}", String::from_utf8_lossy(request));
    }
}

pub(super) fn post(target: &str, more: &str) -> Vec<u8> {
    let body = chat(json!({})).to_string();
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(super) const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn headers_that_pretend() {
    let (running, key) = start().await;
    let mut requests = Vec::new();
    for more in [
        format!("Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n"),
        format!("Authorization: Bearer x\r\nAuthorization: Bearer {key}\r\n"),
        format!("Authorization: Bearer {key}, Bearer {key}\r\n"),
        format!("Authorization:\r\n Bearer {key}\r\n"),
        format!("Authorization: Bearer\r\n\t{key}\r\n"),
        format!("Authorization : Bearer {key}\r\n"),
        format!(" Authorization: Bearer {key}\r\n"),
        format!("Authorization\x0b: Bearer {key}\r\n"),
        format!("Authorization: Bearer {key}\0\r\n"),
        format!("Authorization: Bearer \u{a0}{key}\r\n"),
        format!("Authorization: Basic {key}\r\n"),
        format!("Authorization: Bearer {}\r\n", key.to_uppercase()),
        format!("Authorization: Bearer {}\r\n", &key[..key.len() - 1]),
        format!("Authorization: Bearer {key}x\r\n"),
        format!("Proxy-Authorization: Bearer {key}\r\nX-Api-Key: {key}\r\nApi-Key: {key}\r\nCookie: key={key}\r\n"),
        format!("X-A: b\nAuthorization: Bearer {key}x\r\n"),
        format!("X: a\rAuthorization: Bearer {key}\r\n"),
        format!("Authorization: Bearer  {key}\r\n"),
        format!("Authorization: Bearer\t{key}\r\n"),
        format!("Authorization: Bearer{key}\r\n"),
        format!("Authorization: Bearer={key}\r\n"),
        format!("Authorization: Bearer \"{key}\"\r\n"),
        format!("Authorization: \"Bearer {key}\"\r\n"),
        format!("Authorization: Bearer {key} x\r\n"),
        format!("Authorization: Bearer x {key}\r\n"),
        format!("Authorization: Bearer {key}\x7f\r\n"),
        format!("Authorization: Bearer %{:x}{}\r\n", key.as_bytes()[0], &key[1..]),
        format!("Authorization: Bearer {}\r\n", &key[..key.rfind('_').expect("an id and a secret")]),
        "Authorization: Bearer ' OR '1'='1\r\n".to_owned(),
        format!("Authorization: Bearer {}\r\n", "a".repeat(9000)),
        format!("Authorization: Token {key}\r\n"),
        format!("Authorization: ApiKey {key}\r\n"),
        format!("Authorization_: Bearer {key}\r\nX-Authorization: Bearer {key}\r\n"),
        format!("Authorization\u{a0}: Bearer {key}\r\n"),
        format!("Authoriz\u{131}tion: Bearer {key}\r\n"),
        format!("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{key}\r\n"),
        "Expect: 100-continue\r\n".to_owned(),
        format!("X-Long: {}\r\nAuthorization: Bearer {key}\r\n", "a".repeat(200_000)),
        format!("{}Authorization: Bearer {key}\r\n", "A: b\r\n".repeat(2000)),
    ] {
        requests.push(post(CHAT, &more));
    }
    // A form may bring a token (RFC 6750, section 2.2); not here.
    let form = format!("access_token={key}&api_key={key}");
    let head = "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close";
    let length = form.len();
    requests.push(format!("POST {CHAT} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{form}").into_bytes());
    let key = format!("Authorization: Bearer {key}\r\n");
    // What a proxy might believe neither lets anybody in nor keeps anybody out.
    let mut controls = vec![post(CHAT, &key), post(CHAT, &key.replace("Bearer", "bearer"))];
    for more in [
        "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1;host=localhost\r\n",
        "X-Forwarded-User: admin\r\nX-Remote-User: admin\r\nRemote-User: admin\r\nX-Tenant: default\r\n",
        "X-Forwarded-Client-Cert: Hash=00;URI=spiffe://acme.example/a\r\nX-SSL-Client-Verify: SUCCESS\r\n",
        "X-Original-URL: /health/live\r\nX-Rewrite-URL: /health/live\r\nX-Forwarded-Prefix: /health\r\n",
        "X-HTTP-Method-Override: GET\r\nX-Method-Override: OPTIONS\r\n_method: GET\r\n",
        "Connection: Authorization, close\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        "Expect: 200-maybe\r\n",
    ] {
        requests.push(post(CHAT, more));
        controls.push(post(CHAT, &format!("{more}{key}")));
    }
    all_are_refused(&running, requests).await;
    for group in controls.chunks(AT_ONCE) {
        all_are_answered(&running, 1, group.to_vec()).await;
    }
}

#[tokio::test]
async fn targets_that_pretend() {
    let (running, key) = start().await;
    let mut requests = Vec::new();
    let with_key = [
        format!("/v1/models?api_key={key}&access_token={key}&key={key}"),
        format!("/{key}/v1/models"),
        format!("http://{key}@localhost/v1/models"),
        format!("http://user:{key}@localhost/v1/models"),
    ];
    for target in with_key.iter().map(String::as_str).chain([
        "//v1/chat/completions",
        "//localhost/v1/chat/completions",
        "/v1/chat/completions.",
        "/v1/chat/completions..",
        "/v1/chat/completions/.",
        "/v1/chat%252fcompletions",
        "/%c0%ae%c0%ae/v1/chat/completions",
        "/v1/chat/completions\x7f",
        "/v1/chat/completions\u{ff0e}",
        "http:///v1/chat/completions",
        "/%61dmin/v1/keys",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions//",
        "/health/../v1/chat/completions",
        "/health/live/../../v1/chat/completions",
        "/./v1/chat/completions",
        "/%2e%2e/v1/chat/completions",
        "/health/%2e%2e/v1/chat/completions",
        "/v1%2fchat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x=/health/live",
        "/health/live;/v1/chat/completions",
        "/V1/CHAT/COMPLETIONS",
        "/v1/chat/completions?/health/live",
        "/v1/chat/completions#/health/live",
        "/v1\\chat\\completions",
        "/%76%31/chat/completions",
        "/v1/chat/completions%20",
        "/v1/chat/completions.json",
        "/health/live",
        "/version",
        "/metrics",
        "/openapi.json",
        "/admin",
        "/v1/../admin",
        "/admin/v1/keys",
        "*",
        "",
        "v1/chat/completions",
        "/v1/chat/completions\0",
        "http://localhost/v1/chat/completions",
        "http://localhost:80@localhost/v1/chat/completions",
        "http://127.0.0.1/health/live",
        "https://localhost/v1/chat/completions",
        "file:///etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/files/..%2f..%2ftramontane.sqlite/content",
    ]) {
        requests.push(post(target, "Connection: close\r\n"));
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            requests.push(request.into_bytes());
        }
    }
    for line in [
        "CONNECT localhost:80 HTTP/1.1",
        "CONNECT /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.0",
        "GET /v1/models",
        "GET /v1/models HTTP/0.9",
        "GET /v1/models HTTP/2.0",
        "GET  /v1/models HTTP/1.1",
        "get /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.1 HTTP/1.1",
        "GET\t/v1/models\tHTTP/1.1",
        "\r\n\r\nGET /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.1\rX: y",
        "PRI * HTTP/2.0",
    ] {
        requests.push(format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes());
    }
    let bare_line_ends = "GET /v1/models HTTP/1.1\nHost: localhost\nConnection: close\n";
    requests.push(format!("{bare_line_ends}\n").into_bytes());
    for group in requests.chunks(64) {
        all_are_refused(&running, group.to_vec()).await;
    }
    let own = format!("{bare_line_ends}Authorization: Bearer {key}\n\n").into_bytes();
    all_are_answered(&running, 1, vec![own]).await;
    let key = format!("Connection: close\r\nAuthorization: Bearer {key}\r\n");
    let controls =
        ["/v1/chat/completions", "/v1/chat/completions?/health/live", "http://localhost/v1/chat/completions"];
    all_are_answered(&running, 1, controls.map(|target| post(target, &key)).into()).await;
    let controls = [
        "GET /v1/models HTTP/1.1",
        "HEAD /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.0",
        "\r\n\r\nGET /v1/models HTTP/1.1",
    ];
    let controls = controls.map(|line| format!("{line}\r\nHost: localhost\r\n{key}\r\n").into_bytes());
    all_are_answered(&running, 1, controls.into()).await;
}

/// What is hidden in a request is never taken for another request of the same bearer.
#[tokio::test]
async fn no_request_becomes_two() {
    let (running, key) = start().await;
    let hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let head =
        |more: &str| format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}\r\n");
    let auth = format!("Authorization: Bearer {key}\r\n");
    let body = chat(json!({})).to_string();
    let mut requests = Vec::new();
    // With nobody's key, and with one on the first request: what is behind it has none of its own.
    for auth in ["", &auth] {
        for (more, body) in [
            ("Content-Length: 0\r\n", hidden.to_owned()),
            ("Content-Length: 3\r\n", format!("{{}}\n{hidden}")),
            ("Content-Length: 9999\r\n", format!("{{}}{hidden}")),
            ("Content-Length: 4\r\nContent-Length: 5\r\n", format!("{{}}\n\n{hidden}")),
            ("Content-Length: +4\r\n", format!("{{}}\n\n{hidden}")),
            ("Content-Length: 4, 4\r\n", format!("{{}}\n\n{hidden}")),
            ("Content-Length: 0x4\r\n", format!("{{}}\n\n{hidden}")),
            ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk("{}") + hidden),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: xchunked\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding : chunked\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding:\r\n chunked\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked, identity\r\n", format!("0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("0;x=\"\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("0\n\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("-1\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("fffffffffffffffff\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("2;a={}\r\n{{}}\r\n0\r\n\r\n{hidden}", "b".repeat(100_000))),
            ("Transfer-Encoding: chunked\r\n", format!("0\r\nHost: x\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("0x2\r\n{{}}\r\n0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("2\n{{}}\n0\n\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("2\r{{}}\r0\r\r{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("2\r\n{{}}XX0\r\n\r\n{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("2\r\n{{}}{hidden}")),
            ("Transfer-Encoding: chunked\r\n", format!("0;\n\r\n\r\n{hidden}")),
            ("Transfer-Encoding: \"chunked\"\r\n", format!("0\r\n\r\n{hidden}")),
            ("X: y\rTransfer-Encoding: chunked\r\n", format!("0\r\n\r\n{hidden}")),
            ("Content-Length: 0\r\nContent-Length: 0\r\n", hidden.to_owned()),
            ("Content-Length: 18446744073709551616\r\n", hidden.to_owned()),
            ("Content-Length: -1\r\n", hidden.to_owned()),
            ("Content-Length : 0\r\n", hidden.to_owned()),
            ("Content-Length:\r\n", hidden.to_owned()),
            // Codings that nothing here decodes: who reads them otherwise has another body.
            ("Transfer-Encoding: gzip, chunked\r\n", chunk(&body) + hidden),
            ("Transfer-Encoding: chunked, chunked\r\n", chunk(&body) + hidden),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunk(&body) + hidden),
            ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n", chunk(&body) + hidden),
            ("Transfer-Encoding: chunked\r\nContent-Encoding: identity, br\r\n", chunk(&body) + hidden),
        ] {
            requests.push((head(&format!("{auth}{more}")) + &body).into_bytes());
        }
    }
    // Trailers are no headers.
    let trailers = format!("{:x}\r\n{body}\r\n0\r\nAuthorization: Bearer {key}\r\n\r\n", body.len());
    let chunked = "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\nTE: trailers\r\n";
    requests.push((head(chunked) + &trailers).into_bytes());
    // Nor does a connection remember whose it was.
    let first = format!("GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n{auth}\r\n");
    requests.push((first + hidden).into_bytes());
    all_are_refused(&running, requests).await;
    // Two requests that are two, each with its key, are two.
    let own = format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{auth}\r\n");
    let controls = [
        (format!("Content-Length: {}\r\n", body.len()), body.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunk(&body)),
        ("Transfer-Encoding:  Chunked \r\nContent-Encoding: Identity\r\n".to_owned(), chunk(&body)),
        (
            "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n".to_owned(),
            chunk(&body).replace("0\r\n\r\n", "0\r\nX-A: b\r\n\r\n"),
        ),
    ];
    let controls = controls.map(|(more, body)| (head(&format!("{auth}{more}")) + &body + &own).into_bytes());
    all_are_answered(&running, 2, controls.into()).await;
}

/// Without identities, a server on the loopback address is asked by its own names, and by no page of others.
#[tokio::test]
async fn pages_of_others_cannot_ask_an_open_server() {
    let harness = Harness::with(says(SAID), small_engine(), limits());
    harness.gate.open();
    let running = Running::start(harness).await;
    let with = |host: &str, more: &str| {
        let request = String::from_utf8(post(CHAT, &format!("Connection: close\r\n{more}"))).expect("UTF-8");
        request.replace("Host: localhost\r\n", host).into_bytes()
    };
    let mut requests = Vec::new();
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.nip.example",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "10.0.0.1",
        "localhost@evil.example",
        "evil.example#localhost",
        "[::ffff:10.0.0.1]",
        "",
    ] {
        requests.push(with(&format!("Host: {host}\r\n"), ""));
        requests.push(with(&format!("Host: localhost\r\nHost: {host}\r\n"), ""));
        requests.push(with(&format!("Host: {host}\r\nHost: localhost\r\n"), ""));
    }
    for origin in
        ["https://evil.example", "http://localhost.evil.example", "null", "http://evil.example:8000", "file://"]
    {
        requests.push(with("Host: localhost\r\n", &format!("Origin: {origin}\r\n")));
    }
    requests.push(with("Host: localhost\r\n", "Origin: http://localhost\r\nOrigin: https://evil.example\r\n"));
    requests.push(post("http://evil.example/v1/chat/completions", "Connection: close\r\n"));
    all_are_refused(&running, requests).await;
    let refused = said(&running, &with("Host: evil.example\r\n", "")).await;
    assert!(refused.contains("403") && refused.contains("--allowed-host NAME"), "{refused}");
    for (host, more) in [
        ("Host: localhost:8000\r\n", ""),
        ("Host: 127.0.0.1\r\n", "Origin: http://localhost:3000\r\n"),
        ("Host: [::1]\r\n", ""),
    ] {
        assert!(said(&running, &with(host, more)).await.contains(SAID), "{host}");
    }
}

/// Each decision is one of the old policies or of the new ones, and none is old once the new ones were read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn policies_are_replaced_as_a_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |path: &Path, set: &str| {
        let forbid = |id: &str| format!("@id(\"{set}-{id}\") forbid (principal, action, resource);\n");
        fs::write(path.join("one.cedar"), forbid("one") + "permit (principal, action, resource);").expect("written");
        fs::write(path.join("two.cedar"), forbid("two")).expect("written");
    };
    write(directory.path(), "set0");
    let policies = Policies::open(directory.path()).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_policies(policies.clone());
    let key = new_key(&governance, "app", DEFAULT_TENANT, Role::Developer).secret;
    let harness = Harness::governed(says(SAID), governance);
    let (read, over, asked) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let ask = async || {
        let request = axum::http::Request::get("/v1/models").header("authorization", format!("Bearer {key}"));
        let request = request.body(axum::body::Body::empty()).expect("a valid request");
        let at_least = read.load(Ordering::SeqCst);
        let answer = super::support::send(harness.app(), request).await;
        asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(answer.status, 403, "{}", answer.body);
        let sets: Vec<u64> =
            answer.body.split("set").skip(1).filter_map(|rest| rest.split('-').next()?.parse().ok()).collect();
        assert!(sets.len() == 2 && sets[0] == sets[1], "one set alone: {}", answer.body);
        assert!(sets[0] >= at_least, "{} came before {at_least}: {}", sets[0], answer.body);
    };
    let asking = async {
        let _over = SetAtEnd(&over); // a test that fails must end too
        while !over.load(Ordering::SeqCst) {
            ask().await;
        }
    };
    let replacing = || {
        let _over = SetAtEnd(&over);
        for set in 1..=60 {
            let seen = asked.load(Ordering::SeqCst);
            write(directory.path(), &format!("set{set}"));
            policies.reload().expect("they are right");
            read.store(set, Ordering::SeqCst);
            while asked.load(Ordering::SeqCst) < seen + 3 && !over.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(replacing);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asking));
    });
    assert!(asked.load(Ordering::SeqCst) >= 180);
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
