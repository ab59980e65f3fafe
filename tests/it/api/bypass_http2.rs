//! Ways around the door in HTTP/2, frame by frame.

use futures_util::future::join_all;
use serde_json::json;

use super::{
    bypass::{SAID, start},
    http2::Client,
    server::Running,
    support::chat,
};

type Header<'a> = (&'a str, &'a str);

const METHOD: Header = (":method", "POST");
const SCHEME: Header = (":scheme", "http");
const PATH: Header = (":path", "/v1/chat/completions");

/// On a connection of its own: a wrong request may end it.
async fn check_refused(running: &Running, headers: &[Header<'_>], trailers: &[Header<'_>]) {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let mut client = Client::connect(running).await;
    client.ask(1, &headers, trailers, &chat(json!({})).to_string()).await;
    let text = client.rest().await.join("\n");
    assert!(client.statuses.iter().all(|status| status == "4"), "{headers:?}: {:?} {text}", client.statuses);
    assert!(!text.contains(SAID) && !text.contains("\"object\":\"list\""), "{headers:?}: {text}");
    assert_eq!(running.harness.metric("vllm:prompt_tokens_total") as u64, 0, "{headers:?}");
}

/// The control: a request of the same form, with the key where it belongs, is answered.
async fn check_answered(running: &Running, headers: &[Header<'_>], trailers: &[Header<'_>]) {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let mut client = Client::connect(running).await;
    client.ask(1, &headers, trailers, &chat(json!({})).to_string()).await;
    let (status, text) = client.answer(1).await;
    assert!(status == "2" && text.contains(SAID), "{headers:?} {trailers:?}: {status} {text}");
}

async fn all_are_refused(running: &Running, requests: &[Vec<Header<'_>>]) {
    join_all(requests.iter().map(|headers| check_refused(running, headers, &[]))).await;
}

#[tokio::test]
async fn targets_that_pretend() {
    let (running, key) = start().await;
    let paths = [
        "//v1/chat/completions",
        "v1/chat/completions",
        "",
        "*",
        "/v1/chat/completions/",
        "/health/../v1/chat/completions",
        "/%2e%2e/v1/chat/completions",
        "http://localhost/v1/chat/completions",
        "/v1/chat/completions#x",
        "/health/live",
        "/v1/chat/completions HTTP/1.1",
        "/v1/chat/completions\r\nauthorization: x",
        "/v1/models\0",
    ];
    let methods = ["CONNECT", "GET /v1/models HTTP/1.1\r\nx: ", "post", "", "PRI"];
    let schemes = ["https", "file", "", "http://localhost/v1/models?"];
    let with_paths = paths.map(|path| vec![METHOD, SCHEME, (":path", path)]);
    let with_methods = methods.map(|method| vec![(":method", method), SCHEME, PATH]);
    let with_schemes = schemes.map(|scheme| vec![METHOD, (":scheme", scheme), PATH]);
    let twice = [
        vec![METHOD, METHOD, SCHEME, PATH],
        vec![METHOD, (":method", "GET"), SCHEME, PATH],
        vec![METHOD, SCHEME, (":scheme", "https"), PATH],
        vec![METHOD, SCHEME, PATH, (":path", "/health/live")],
        vec![METHOD, SCHEME, PATH, (":authority", "localhost"), (":authority", "evil.example")],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, PATH],
        vec![METHOD, SCHEME, PATH, (":protocol", "websocket")],
        vec![METHOD, PATH],
        vec![METHOD, SCHEME],
    ];
    all_are_refused(&running, &[&with_paths[..], &with_methods, &with_schemes, &twice].concat()).await;
    let bearer = format!("Bearer {key}");
    for (scheme, path) in [("http", PATH.1), ("https", PATH.1), ("http", "/v1/chat/completions?x=/health/live")] {
        let head = [METHOD, (":scheme", scheme), (":path", path), ("authorization", &bearer)];
        check_answered(&running, &head, &[]).await;
    }
}

/// Nor does a connection remember whose it was: each stream has its own credential, or none.
#[tokio::test]
async fn streams_share_no_credential() {
    let (running, key) = start().await;
    let bearer = format!("Bearer {key}");
    let mut client = Client::connect(&running).await;
    let head = [(":method", "GET"), SCHEME, (":path", "/v1/models")];
    let with_key = [&head[..], &[("authorization", &bearer)]].concat();
    for (stream, head, expected) in [(1, &with_key[..], "2"), (3, &head, "4"), (5, &with_key, "2")] {
        client.ask(stream, head, &[], "").await;
        assert_eq!(client.answer(stream).await.0, expected, "stream {stream}");
    }
}

#[tokio::test]
async fn headers_that_pretend() {
    let (running, key) = start().await;
    let bearer = format!("Bearer {key}");
    let bearer = bearer.as_str();
    let requests: [&[Header]; 23] = [
        // Names that contradict each other, with a key that is right.
        &[(":authority", "localhost"), ("host", "evil.example"), ("authorization", bearer)],
        &[(":authority", "evil.example"), ("host", "localhost"), ("authorization", bearer)],
        &[(":authority", "localhost"), ("host", "localhost"), ("host", "localhost"), ("authorization", bearer)],
        &[(":authority", "me@localhost"), ("host", "localhost"), ("authorization", bearer)],
        &[("authorization", bearer), ("authorization", bearer)],
        &[("authorization", "Bearer x"), ("authorization", bearer)],
        &[("x-authorization", bearer), ("proxy-authorization", bearer), ("cookie", bearer)],
        &[("cookie", "authorization="), ("cookie", bearer)],
        &[("content-encoding", "gzip"), ("authorization", bearer)],
        &[("te", "gzip"), ("authorization", bearer)],
        &[("authorization\0", bearer)],
        &[("authorization", "Bearer"), ("authorization ", bearer)],
        // What HTTP/2 has no place for (RFC 9113, section 8.2).
        &[("Authorization", bearer)],
        &[("authorization ", bearer)],
        &[("connection", "close"), ("transfer-encoding", "chunked")],
        &[("x", "y\r\nauthorization: Bearer z")],
        &[("x\r\nauthorization", bearer)],
        &[("content-length", "5")],
        &[("content-length", "0")],
        &[PATH],
        &[("x", "y"), (":authority", "localhost"), ("authorization", bearer)],
        &[(":status", "200")],
        &[("x-forwarded-host", "localhost"), ("x-original-url", "/health/live")],
    ];
    let requests: Vec<Vec<Header>> = requests.iter().map(|more| [&[METHOD, SCHEME, PATH], *more].concat()).collect();
    all_are_refused(&running, &requests).await;
    let head = [METHOD, SCHEME, PATH];
    for trailers in [("authorization", bearer), (":path", "/health/live")] {
        check_refused(&running, &head, &[trailers]).await;
    }
    let with_key = [METHOD, SCHEME, PATH, ("authorization", bearer)];
    check_answered(&running, &with_key, &[]).await;
    check_answered(&running, &with_key, &[("x", "y")]).await;
    for more in [
        &[("host", "localhost")][..],
        &[("x", "y"), ("x-forwarded-host", "evil.example"), ("x-original-url", "/health/live")],
    ] {
        check_answered(&running, &[&with_key, more].concat(), &[]).await;
    }
    let with_authority =
        [METHOD, SCHEME, PATH, (":authority", "localhost"), ("host", "localhost"), ("authorization", bearer)];
    check_answered(&running, &with_authority, &[]).await;
}
