//! HTTP/2 connections: how long an idle one is kept, and that no request is cut when one is closed.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tramontane::api::{Drained, HttpLimits};

use super::{
    server::{LONG, Running, quick},
    support::{Harness, chat, eventually, says, small_engine},
};

// Types and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How long an idle connection is kept here: longer than a loopback connection takes to send its request.
const IDLE: Duration = Duration::from_millis(300);

/// What a server says first when it closes a connection in an orderly way; then it says which streams it knows.
const NO_NEW_STREAMS: &str = "goaway 2147483647, error 0";

/// A client that writes frames by hand, so that a test sees those of the server.
pub(super) struct Client<S = TcpStream> {
    stream: S,
    /// The first figure of each status that came, or what stood in its place.
    pub(super) statuses: Vec<String>,
}

pub(super) struct Frame {
    kind: u8,
    flags: u8,
    stream_id: u32,
    payload: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(running: &Running) -> Self {
        Self::over(running.connect().await).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) async fn over(stream: S) -> Self {
        let mut client = Self { stream, statuses: Vec::new() };
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("the server reads");
        client.send(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream_id: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let head = [&len[1..], &[kind, flags], &stream_id.to_be_bytes()].concat();
        // A server that has had enough may have closed.
        drop(self.stream.write_all(&[&head, payload].concat()).await);
    }

    /// A request with these headers, in this order, and a body; any of them may be wrong. With trailers if there are some.
    pub(super) async fn ask(
        &mut self,
        stream_id: u32,
        headers: &[(&str, &str)],
        trailers: &[(&str, &str)],
        body: &str,
    ) {
        let block = |headers: &[(&str, &str)]| {
            let named =
                |(name, value): &(&str, &str)| [&[0x00], &literal(&[], name)[..], &literal(&[], value)].concat();
            headers.iter().flat_map(named).collect::<Vec<u8>>()
        };
        self.send(HEADERS, END_HEADERS, stream_id, &block(headers)).await;
        let end = if trailers.is_empty() { END_STREAM } else { 0 };
        self.send(DATA, end, stream_id, body.as_bytes()).await;
        if !trailers.is_empty() {
            self.send(HEADERS, END_HEADERS | END_STREAM, stream_id, &block(trailers)).await;
        }
    }

    pub(super) async fn get(&mut self, stream_id: u32, path: &str) {
        let (method, scheme) = (0x82, 0x86); // GET and http in HPACK's static table (RFC 7541, appendix A)
        let headers = [&[method, scheme], &literal(&[0x04], path)[..]].concat();
        self.send(HEADERS, END_HEADERS | END_STREAM, stream_id, &headers).await;
    }

    pub(super) async fn post_chat(&mut self, stream_id: u32, more: Value) {
        let (method, scheme) = (0x83, 0x86); // POST and http
        let path = literal(&[0x04], "/v1/chat/completions");
        let content_type = literal(&[0x0f, 0x10], "application/json");
        let headers = [&[method, scheme], &path[..], &content_type[..]].concat();
        self.send(HEADERS, END_HEADERS, stream_id, &headers).await;
        self.send(DATA, END_STREAM, stream_id, chat(more).to_string().as_bytes()).await;
    }

    /// The next frame that says something; settings and pings are answered. `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                DATA | HEADERS | RST_STREAM | GOAWAY => {
                    return Some(Frame { kind, flags, stream_id: u32::from_be_bytes(id), payload });
                }
                _ => {}
            }
        }
    }

    /// The first figure of the status of the next answer, and its body, which may be broken off.
    pub(super) async fn answer(&mut self, stream_id: u32) -> (String, String) {
        let (mut status, mut data) = (String::new(), String::new());
        while let Some(frame) = timeout(LONG, self.next()).await.expect("the server answers") {
            if frame.stream_id != stream_id {
                continue;
            }
            match frame.kind {
                HEADERS => status = status_class(&frame.payload),
                DATA => data.push_str(&String::from_utf8_lossy(&frame.payload)),
                _ => {}
            }
            if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
                break;
            }
        }
        (status, data)
    }

    /// What the server says until it closes the connection, which it must do: the end of each stream with its
    /// data, and each GOAWAY.
    pub(super) async fn rest(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        let mut data = String::new();
        while let Some(frame) = timeout(LONG, self.next()).await.expect("the server closes") {
            if frame.kind == GOAWAY {
                let number = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().expect("4 bytes"));
                said.push(format!("goaway {}, error {}", number(0), number(4)));
                continue;
            }
            if frame.kind == HEADERS {
                self.statuses.push(status_class(&frame.payload));
            }
            if frame.kind == DATA {
                data.push_str(&String::from_utf8_lossy(&frame.payload));
            }
            if frame.kind != RST_STREAM && frame.flags & END_STREAM != 0 {
                said.push(format!("stream {}: {}", frame.stream_id, std::mem::take(&mut data)));
            }
        }
        said
    }
}

/// The first figure of a status, as the server writes it: from the static table, or with Huffman's code (RFC 7541, appendices A
/// and B).
fn status_class(block: &[u8]) -> String {
    match block {
        [0x88..=0x8a, ..] => "2".to_owned(),
        [0x8b, ..] => "3".to_owned(),
        [0x8c | 0x8d, ..] => "4".to_owned(),
        [0x8e, ..] => "5".to_owned(),
        // Literal with the name :status and a value in Huffman's code, whose figures 3 to 9 have six bits: 3 is 011001.
        [0x48, 0x82 | 0x83, first, ..] => (i32::from(first >> 2) - 0b01_1001 + 3).to_string(),
        // A change of the table's size may stand before.
        [size, rest @ ..] if size >> 5 == 1 => status_class(rest),
        other => format!("{other:x?}"),
    }
}

/// A header that is in no table afterwards: the index of its name, its value (RFC 7541, section 6.2.2).
fn literal(name: &[u8], value: &str) -> Vec<u8> {
    [name, &[u8::try_from(value.len()).expect("a short value")], value.as_bytes()].concat()
}

/// A server that does not keep idle connections for long. The gate is closed.
async fn start() -> Running {
    let limits = quick(|limits| limits.header_timeout = IDLE);
    Running::start(Harness::with(says("All is well."), small_engine(), limits)).await
}

#[tokio::test]
async fn a_connection_without_streams_is_closed() {
    let running = start().await;
    assert_eq!(Client::connect(&running).await.rest().await, [NO_NEW_STREAMS, "goaway 0, error 0"]);

    let mut served = Client::connect(&running).await;
    served.get(1, "/health/live").await;
    served.get(3, "/version").await;
    let said = served.rest().await;
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[..2].iter().all(|said| said.starts_with("stream ")), "{said:?}");
    assert_eq!(said[2..], [NO_NEW_STREAMS, "goaway 3, error 0"]);
}

#[tokio::test]
async fn a_connection_with_a_stream_is_not_idle_however_long_it_takes() {
    for (more, answer) in [(json!({}), "All is well."), (json!({ "stream": true }), "data: [DONE]")] {
        let running = start().await;
        let mut busy = Client::connect(&running).await;
        busy.post_chat(1, more).await;
        eventually("the request runs", || running.harness.state.in_flight() == 1).await;
        // That another connection has been closed meanwhile says that the time is over.
        assert_eq!(Client::connect(&running).await.rest().await.len(), 2);
        running.harness.gate.open();
        let said = busy.rest().await;
        assert!(said[0].starts_with("stream 1: ") && said[0].contains(answer), "{said:?}");
        assert_eq!(said[1..], [NO_NEW_STREAMS, "goaway 1, error 0"]);
    }
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_lets_streams_finish() {
    let mut running = Running::start(Harness::with(says("All is well."), small_engine(), HttpLimits::default())).await;
    let mut idle = Client::connect(&running).await;
    idle.get(1, "/health/live").await;
    while idle.next().await.expect("an answer").flags & END_STREAM == 0 {}
    let mut busy = Client::connect(&running).await;
    busy.post_chat(1, json!({ "stream": true })).await;
    eventually("the request runs", || running.harness.state.in_flight() == 1).await;
    running.shut_down();
    assert_eq!(idle.rest().await, [NO_NEW_STREAMS, "goaway 1, error 0"]);
    assert_eq!(running.harness.chat(json!({})).await.status, 503);
    running.harness.gate.open();
    let said = busy.rest().await;
    assert_eq!(said[0], NO_NEW_STREAMS, "{said:?}");
    assert!(said.iter().any(|said| said.starts_with("stream 1: ") && said.contains("data: [DONE]")), "{said:?}");
    assert_eq!(running.ended().await, Drained::Complete);
}
