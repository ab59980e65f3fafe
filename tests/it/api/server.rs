//! Connections: slow clients, greedy clients, clients that leave, and shutdown.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tramontane::api::{Door, Drained, HttpLimits, Tls, serve};

use super::support::{Harness, babbles, chat, eventually, says, small_engine};

const MOMENT: Duration = Duration::from_millis(150);
pub(super) const LONG: Duration = Duration::from_secs(20);

/// A server on a loopback port.
pub(super) struct Running {
    pub(super) harness: Harness,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Drained>,
}

impl Running {
    pub(super) async fn start(harness: Harness) -> Self {
        Self::start_with(harness, None).await
    }

    pub(super) async fn start_with(harness: Harness, tls: Option<Tls>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(8192).expect("a buffer"); // so that a client that does not read soon shows
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener: TcpListener = socket.listen(64).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let served = tokio::spawn(serve(Door { listener, tls }, harness.state.clone(), shutdown));
        Self { harness, address, stop: Some(stop), served }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(8192).expect("a buffer");
        socket.connect(self.address).await.expect("the server accepts")
    }

    async fn post_chat(&self, more: Value) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(post(&chat(more)).as_bytes()).await.expect("the server reads");
        stream
    }

    pub(super) fn shut_down(&mut self) {
        self.stop.take().expect("not stopped yet").send(()).expect("the server runs");
    }

    pub(super) async fn ended(self) -> Drained {
        tokio::time::timeout(LONG, self.served).await.expect("the server ends").expect("no panic")
    }
}

fn post(body: &Value) -> String {
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Everything until the server closes the connection, which it must do.
pub(super) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    drop(read); // a reset ends the connection too
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn quick(more: impl FnOnce(&mut HttpLimits)) -> HttpLimits {
    let mut limits = HttpLimits::default();
    more(&mut limits);
    limits
}

fn harness(limits: HttpLimits) -> Harness {
    let harness = Harness::with(says("All is well."), small_engine(), limits);
    harness.gate.open();
    harness
}

#[tokio::test]
async fn an_answer_arrives_over_a_socket() {
    let mut running = Running::start(harness(HttpLimits::default())).await;
    let text = rest(&mut running.post_chat(json!({})).await).await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("All is well."), "{text}");
    let text = rest(&mut running.post_chat(json!({ "stream": true })).await).await;
    assert!(text.contains("text/event-stream") && text.contains("data: [DONE]"), "{text}");
    running.shut_down();
    assert_eq!(running.ended().await, Drained::Complete);
}

#[tokio::test]
async fn clients_that_send_slowly_are_let_go() {
    let running = Running::start(harness(quick(|limits| limits.header_timeout = MOMENT))).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "POST /v1/chat/completions HTTP/1.1\r\nHost: t"] {
        let mut slow = running.connect().await;
        slow.write_all(begun.as_bytes()).await.expect("the server reads");
        let text = rest(&mut slow).await;
        assert!(!text.contains("200 OK"), "{begun:?}: {text}");
    }
    assert!(rest(&mut running.post_chat(json!({})).await).await.contains("All is well."));
}

#[tokio::test]
async fn a_body_that_does_not_come_answers_408() {
    let running = Running::start(harness(quick(|limits| limits.body_timeout = MOMENT))).await;
    let mut slow = running.connect().await;
    let request = post(&chat(json!({})));
    slow.write_all(&request.as_bytes()[..request.len() - 5]).await.expect("the server reads");
    let text = rest(&mut slow).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("body_timeout"), "{text}");
    running.harness.idle().await;
}

#[tokio::test]
async fn heads_and_bodies_that_are_too_large_are_refused() {
    let running =
        Running::start(harness(quick(|limits| (limits.header_bytes, limits.body_bytes) = (8192, 1000)))).await;
    let mut large = running.connect().await;
    let head = format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n", "a".repeat(20_000));
    let _ = large.write_all(head.as_bytes()).await; // the server may have closed already
    let text = rest(&mut large).await;
    assert!(text.starts_with("HTTP/1.1 431") || text.is_empty(), "{text}");

    let mut large = running.post_chat(json!({ "user": "a".repeat(2000) })).await;
    let text = rest(&mut large).await;
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("body_too_large"), "{text}");
    assert!(rest(&mut running.post_chat(json!({})).await).await.contains("All is well."));
}

/// A chat that goes on and on, read until its first token.
async fn endless(running: &Running) -> TcpStream {
    let mut stream = running.post_chat(json!({ "stream": true, "max_tokens": 3000 })).await;
    let mut text = String::new();
    while !text.contains("\" la\"") {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(LONG, stream.read(&mut buffer)).await.expect("a token comes");
        text.push_str(&String::from_utf8_lossy(&buffer[..read.expect("the connection stands")]));
    }
    stream
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_request() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    harness.gate.allow(3);
    let running = Running::start(harness).await;
    drop(endless(&running).await);
    running.harness.gate.allow(1); // what it writes next tells the server
    eventually("the server notices", || running.harness.state.in_flight() == 0).await;
    running.harness.gate.open();
    running.harness.idle().await;
    assert!(running.harness.metric("vllm:generation_tokens_total") < 100.0);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_frees_its_request() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    harness.gate.allow(3);
    let running = Running::start(harness).await;
    let stream = running.post_chat(json!({ "max_tokens": 3000 })).await;
    eventually("the request is in flight", || running.harness.state.in_flight() == 1).await;
    drop(stream);
    eventually("the server notices", || running.harness.state.in_flight() == 0).await;
    running.harness.gate.open();
    running.harness.idle().await;
    assert!(running.harness.metric("vllm:generation_tokens_total") < 100.0);
}

#[tokio::test]
async fn a_client_that_stops_reading_loses_its_connection_and_nobody_else_notices() {
    let limits = quick(|limits| limits.stall_timeout = MOMENT);
    let running = Running::start(Harness::with(babbles(), small_engine(), limits)).await;
    running.harness.gate.allow(2500);
    let mut stalled = endless(&running).await;
    let other = async {
        let text = rest(&mut running.post_chat(json!({ "stream": true, "max_tokens": 20 })).await).await;
        assert_eq!(text.matches("\" la\"").count(), 20, "{text}");
    };
    let gone = eventually("the stalled request is dropped", || running.harness.state.in_flight() == 0);
    tokio::join!(other, gone);
    let text = rest(&mut stalled).await;
    assert!(!text.contains("[DONE]"), "it was cut, not finished");
    running.harness.gate.open();
    running.harness.idle().await;
    assert!(rest(&mut running.post_chat(json!({ "max_tokens": 2 })).await).await.contains(" la la"));
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish() {
    let harness = Harness::with(says("All is well."), small_engine(), HttpLimits::default());
    let mut running = Running::start(harness).await;
    let mut idle = running.connect().await;
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the server reads");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("an answer");
    let mut whole = running.post_chat(json!({})).await;
    let mut streamed = running.post_chat(json!({ "stream": true })).await;
    eventually("both requests run", || running.harness.state.in_flight() == 2).await;
    running.shut_down();
    rest(&mut idle).await; // closed at once
    eventually("no new connection is taken", || std::net::TcpStream::connect(running.address).is_err()).await;
    assert_eq!(running.harness.chat(json!({})).await.status, 503);
    assert!(!running.served.is_finished());
    running.harness.gate.open();
    assert!(rest(&mut whole).await.contains("All is well."));
    assert!(rest(&mut streamed).await.contains("[DONE]"));
    assert_eq!(running.ended().await, Drained::Complete);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let limits = quick(|limits| limits.drain_timeout = MOMENT);
    let mut running = Running::start(Harness::with(babbles(), small_engine(), limits)).await;
    let mut stuck = running.post_chat(json!({})).await;
    eventually("the request runs", || running.harness.state.in_flight() == 1).await;
    running.shut_down();
    rest(&mut stuck).await;
    assert_eq!(running.ended().await, Drained::TimedOut { connections: 1 });
}

#[tokio::test]
async fn pipelined_and_broken_requests_do_not_disturb_other_connections() {
    let running = Running::start(harness(HttpLimits::default())).await;
    let mut broken = Vec::new();
    for bytes in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ] {
        let mut stream = running.connect().await;
        stream.write_all(bytes).await.expect("the server reads");
        broken.push(stream);
    }
    assert!(rest(&mut running.post_chat(json!({})).await).await.contains("All is well."));
    for mut stream in broken {
        assert!(!rest(&mut stream).await.contains("200 OK"));
    }
}
