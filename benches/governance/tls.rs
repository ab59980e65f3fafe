//! What TLS costs: requests on connections that are kept, and connections that are new for each.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tramontane::{
    api::{Door, Tls, serve},
    governance::Governance,
};

use super::{authority::Authority, model};

const MEASURED: Duration = Duration::from_secs(4);
const CLIENTS: usize = 16;
const ROUNDS: usize = 3;

/// How long a connection is used.
#[derive(Clone, Copy)]
enum Connections {
    Kept,
    New,
}

/// Where a client connects, and how.
#[derive(Clone)]
struct Target {
    port: u16,
    tls: Option<TlsConnector>,
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub fn measure(folder: &Path, runtime: &Runtime) {
    println!("| {CLIENTS} clients | connections | requests/s |\n|---|---|---:|");
    let authority = Authority::new("bench");
    let files = authority.server().files(folder, None);
    for _ in 0..ROUNDS {
        for (name, tls) in [("plain", None), ("TLS 1.3", Some(Tls::open(files.clone()).expect("files")))] {
            let connector = tls.is_some().then(|| connector(&authority));
            for (how, connections) in [("kept", Connections::Kept), ("new for each request", Connections::New)] {
                let rate = runtime.block_on(rate(tls.clone(), connector.clone(), connections));
                println!("| {name} | {how} | {rate:.0} |");
            }
        }
    }
}

/// A client that believes the authority and keeps nothing of a session, so that each connection has a whole handshake.
fn connector(authority: &Authority) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

async fn rate(tls: Option<Tls>, connector: Option<TlsConnector>, connections: Connections) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target { port: listener.local_addr().expect("an address").port(), tls: connector };
    let (stop, stopped) = oneshot::channel::<()>();
    let state = model::state(Governance::in_memory().expect("memory"));
    let server = tokio::spawn(serve(Door { listener, tls }, state, async {
        stopped.await.ok();
    }));
    let until = Instant::now() + MEASURED;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(target.clone().ask_until(until, connections));
    }
    let answered: usize = clients.join_all().await.into_iter().sum();
    stop.send(()).ok();
    server.await.expect("it ends");
    answered as f64 / MEASURED.as_secs_f64()
}

impl Target {
    async fn connect(&self) -> Box<dyn Stream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let Some(connector) = &self.tls else { return Box::new(stream) };
        let name = ServerName::try_from("localhost").expect("a name");
        Box::new(connector.connect(name, stream).await.expect("a handshake"))
    }

    /// How many requests were answered.
    async fn ask_until(self, until: Instant, connections: Connections) -> usize {
        let mut answered = 0;
        let mut stream = self.connect().await;
        while Instant::now() < until {
            ask(&mut stream).await;
            answered += 1;
            if matches!(connections, Connections::New) {
                stream = self.connect().await;
            }
        }
        answered
    }
}

async fn ask(stream: &mut Box<dyn Stream>) {
    let body = json!({ "model": "none", "prompt": "The quick brown fox jumps over the lazy dog.", "max_tokens": 1 });
    let body = body.to_string();
    let length = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        let read = stream.read_buf(&mut answer).await.expect("it answers");
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// Is an answer with a `content-length` all there?
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    answer.len() >= head + 4 + length.expect("the length of an answer that is no stream")
}
