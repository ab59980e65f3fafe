//! TLS: protocols, clients that are slow or read nothing, and what ends with a certificate. Who a certificate's owner is, and how
//! files are replaced, is tried in `cli::tls`.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tramontane::{
    api::{HttpLimits, Tls},
    config::ClientAuth,
    governance::{Governance, Issuers},
};

use super::{
    server::{LONG, Running, quick, rest},
    support::{Harness, babbles, chat, says, small_engine, soon},
};
use crate::authority::{Authority, Issued};

const BILLING: &str = "spiffe://acme.example/ns/prod/sa/billing";

const IDENTITIES: &str = r#"
[[client_certificates]]
match = { uri = "spiffe://acme.example/ns/prod/sa/billing" }
name = "billing"
roles = ["service"]
"#;

pub(super) type Connected = TlsStream<TcpStream>;

/// What a client believes, speaks and shows.
pub(super) fn client(authority: &Authority, shown: Option<&Issued>, protocols: &[&str]) -> ClientConfig {
    client_of(&[&version::TLS12, &version::TLS13], authority, shown, protocols)
}

fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    authority: &Authority,
    shown: Option<&Issued>,
    protocols: &[&str],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let chain = vec![CertificateDer::from_pem_slice(shown.cert.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

pub(super) async fn connect(running: &Running, config: ClientConfig) -> std::io::Result<Connected> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, running.connect().await).await
}

/// What a server answers over a connection of its own; nothing if there is none.
async fn ask(running: &Running, config: ClientConfig, request: &str) -> String {
    let Ok(mut stream) = connect(running, config).await else { return String::new() };
    if stream.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    rest(&mut stream).await
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

fn post_chat(more: serde_json::Value) -> String {
    let body = chat(more).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn open_harness(limits: HttpLimits) -> Harness {
    let harness = Harness::with(says("All is well."), small_engine(), limits);
    harness.gate.open();
    harness
}

fn governed(directory: &Path) -> Governance {
    let file = directory.join("identities.toml");
    fs::write(&file, IDENTITIES).expect("it can be written");
    let issuers = Issuers::open(&file, None).expect("they are right");
    Governance::in_memory().expect("memory").with_issuers(issuers)
}

/// How many handshakes have failed, asked over one that does not.
async fn failed(running: &Running, authority: &Authority) -> u64 {
    let text = ask(running, client(authority, None, &[]), &get("/metrics", "")).await;
    let line = text.lines().find_map(|line| line.strip_prefix("tramontane:tls_handshakes_failed_total "));
    line.unwrap_or_else(|| panic!("it is not in {text}")).parse().expect("a number")
}

#[tokio::test]
async fn answers_come_over_tls_in_both_versions_and_protocols() {
    let (directory, authority) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
    let tls = Tls::open(authority.server().files(directory.path(), None)).expect("they are right");
    let running = Running::start_with(open_harness(HttpLimits::default()), Some(tls)).await;
    for protocols in [&["http/1.1"][..], &[]] {
        let text = ask(&running, client(&authority, None, protocols), &post_chat(serde_json::json!({}))).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("All is well."), "{protocols:?}: {text}");
    }
    let both = connect(&running, client(&authority, None, &["http/1.1", "h2"])).await.expect("a connection");
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(connect(&running, client(&authority, None, &["spdy/3"])).await.is_err());
    for version in [&version::TLS12, &version::TLS13] {
        let spoken = client_of(&[version], &authority, None, &[]);
        assert!(ask(&running, spoken, &get("/health/live", "")).await.starts_with("HTTP/1.1 200"), "{version:?}");
    }
    let of_others = client(&Authority::new("another"), None, &[]);
    assert!(connect(&running, of_others).await.is_err(), "an authority that the client does not know");
}

#[tokio::test]
async fn whoever_does_not_shake_hands_is_let_go() {
    let (directory, authority) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
    let tls = Tls::open(authority.server().files(directory.path(), None)).expect("they are right");
    let limits = quick(|limits| limits.header_timeout = Duration::from_secs(1));
    let running = Running::start_with(open_harness(limits), Some(tls)).await;
    let mut plain = running.connect().await;
    plain.write_all(get("/health/live", "").as_bytes()).await.expect("the server reads");
    assert!(!rest(&mut plain).await.contains("HTTP"));
    // Nothing at all, the beginning of a handshake, and one that is whole but is followed by nothing.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut slow = running.connect().await;
        slow.write_all(begun).await.expect("the server reads");
        rest(&mut slow).await;
    }
    let mut silent = connect(&running, client(&authority, None, &[])).await.expect("a connection");
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(failed(&running, &authority).await, 3);
}

#[tokio::test]
async fn a_certificate_is_good_for_its_purpose_and_its_time() {
    let (directory, ours) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
    let tls = Tls::open(ours.server().files(directory.path(), Some((&ours, ClientAuth::Required))));
    let harness = Harness::governed(says("All is well."), governed(directory.path()));
    let running = Running::start_with(harness, Some(tls.expect("they are right"))).await;
    let models = get("/v1/models", "");
    let said = async |shown: Issued| ask(&running, client(&ours, Some(&shown), &[]), &models).await;
    assert!(said(ours.client(BILLING)).await.starts_with("HTTP/1.1 200"));
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    for shown in [ours.client_for_another_purpose(BILLING), ours.client_until(BILLING, yesterday)] {
        assert_eq!(said(shown).await, "");
    }
}

/// What TLS has taken and cannot send is not sent: a client that does not read it keeps nobody's place.
#[tokio::test]
async fn a_client_that_stops_reading_loses_its_connection() {
    let (directory, authority) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
    let tls = Tls::open(authority.server().files(directory.path(), None)).expect("they are right");
    let limits = quick(|limits| {
        limits.max_connections = 1;
        limits.stall_timeout = Duration::from_millis(200);
        limits.header_timeout = Duration::from_millis(600);
    });
    let running = Running::start_with(open_harness(limits), Some(tls)).await;
    let mut stalled = connect(&running, client(&authority, None, &[])).await.expect("a connection");
    // An answer that its sockets do not hold, and that TLS does.
    let body = serde_json::json!({ "model": "tiny", "input": vec!["Hello"; 300] }).to_string();
    let head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stalled.write_all(request.as_bytes()).await.expect("the server reads");
    let live = get("/health/live", "");
    let answer = tokio::time::timeout(LONG, ask(&running, client(&authority, None, &[]), &live)).await;
    let answer = answer.expect("its place is free again");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn what_is_being_answered_ends_with_the_certificate() {
    let (directory, ours) = (tempfile::tempdir().expect("a directory"), Authority::new("ours"));
    let tls = Tls::open(ours.server().files(directory.path(), Some((&ours, ClientAuth::Required))));
    let harness = Harness::governed(babbles(), governed(directory.path()));
    harness.gate.close();
    let running = Running::start_with(harness, Some(tls.expect("they are right"))).await;
    let soon_over = ours.client_until(BILLING, SystemTime::now() + Duration::from_secs(4));
    let request = post_chat(serde_json::json!({ "max_tokens": 4000, "ignore_eos": true }));
    let answer = ask(&running, client(&ours, Some(&soon_over), &[]), &request).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("expired"), "{answer}");
    running.harness.gate.open();
    running.harness.idle().await;
}

#[tokio::test]
async fn files_that_change_are_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = Tls::open(old.server().files(directory.path(), None)).expect("they are right");
    let running = Running::start_with(open_harness(HttpLimits::default()), Some(tls)).await;
    let is_answered = async |authority: &Authority| {
        ask(&running, client(authority, None, &[]), &get("/health/live", "")).await.starts_with("HTTP/1.1 200")
    };
    assert!(is_answered(&old).await && !is_answered(&new).await);
    new.server().write(directory.path());
    soon("the files are read", async || is_answered(&new).await.then_some(())).await;
    assert!(!is_answered(&old).await);
}
