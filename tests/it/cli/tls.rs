//! `tramontane serve` with TLS: certificates of the server and of clients, and how they are replaced.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tramontane::governance::audit::{
    Kind,
    query::{self, Query},
};

use super::{check_failure, checkpoint, run, serve::Server, tramontane, with_data, write};

type Authority = CertifiedIssuer<'static, KeyPair>;
type Connection = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key.
struct Identity {
    pem: String,
    der: Vec<u8>,
    key: KeyPair,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed(by: &Authority, name: &str, serial: u64) -> Identity {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::URI(format!("spiffe://acme.example/{name}").try_into().unwrap()));
    params.serial_number = Some(SerialNumber::from(serial));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Identity { pem: certificate.pem(), der: certificate.der().to_vec(), key }
}

/// Files of a server, with the flags that name them.
pub(super) struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    pub(super) fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), authority: authority("servers") };
        files.replace(1);
        write(files.directory.path(), "ca.pem", &files.authority.pem());
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) fn flags(&self) -> Vec<String> {
        vec!["--tls-cert".to_owned(), self.path("cert.pem"), "--tls-key".to_owned(), self.path("key.pem")]
    }

    /// With another certificate of the server; its DER.
    fn replace(&self, serial: u64) -> Vec<u8> {
        let server = signed(&self.authority, "server", serial);
        write(self.directory.path(), "cert.pem", &server.pem);
        self.write_key(&server.key.serialize_pem(), 0o600);
        server.der
    }

    fn write_key(&self, pem: &str, mode: u32) {
        write(self.directory.path(), "key.pem", pem);
        std::fs::set_permissions(self.path("key.pem"), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn start(&self, model: &Path, more: &[&str]) -> Server {
        let mut flags = self.flags();
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        Server::start(model, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A client that shows a certificate, if it has one.
    fn connect(&self, server: &Server, client: Option<&Identity>) -> Connection {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![client.der.clone().into()], key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(&server.address).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    /// What it answers to these bytes until it closes the connection.
    pub(super) fn request(&self, server: &Server, request: &str) -> String {
        let mut connection = self.connect(server, None);
        connection.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    }

    fn get(&self, server: &Server, path: &str, client: Option<&Identity>, more: &str) -> std::io::Result<String> {
        let mut connection = self.connect(server, client);
        write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn model() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::write(directory.path());
    directory
}

/// One request on a connection that stays open.
fn ask(connection: &mut Connection) -> String {
    write!(connection, "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.to_ascii_lowercase().split_once("content-length: ").unwrap().1.split("\r\n").next().unwrap().parse();
    let mut body = vec![0; length.unwrap()];
    connection.read_exact(&mut body).unwrap();
    head
}

fn certificate_of(connection: &Connection) -> Vec<u8> {
    connection.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_server_with_a_certificate_speaks_tls_and_nothing_else() {
    let (files, model) = (Files::new(), model());
    let server = files.start(model.path(), &[]);
    let models = files.get(&server, "/v1/models", None, "").unwrap();
    assert!(models.starts_with("HTTP/1.1 200"), "{models}");
    let health = ["health", "--bind", &server.address, "--tls-ca", &files.path("ca.pem")];
    let healthy = run(&mut tramontane(&health));
    assert_eq!((healthy.code, healthy.out.as_str()), (0, "ready\n"), "{}", healthy.err);

    // Plain HTTP is answered by an alert at most.
    let mut plain = TcpStream::connect(&server.address).unwrap();
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = Vec::new();
    let _ = plain.read_to_end(&mut text);
    assert!(!String::from_utf8_lossy(&text).contains("HTTP"));
    let metrics = files.get(&server, "/metrics", None, "").unwrap();
    assert!(metrics.contains("tramontane:tls_handshakes_failed_total 1"), "{metrics}");
}

#[test]
fn certificates_are_replaced_while_connections_go_on() {
    let (files, model) = (Files::new(), model());
    let log = files.directory.path().join("audit");
    let mut server = files.start(model.path(), &["--audit", "on", "--audit-dir", log.to_str().unwrap()]);
    let mut first = files.connect(&server, None);
    assert!(ask(&mut first).starts_with("HTTP/1.1 200"));
    let before = certificate_of(&first);

    let hang_up = |server: &Server| {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-HUP", &server.id()]).status().unwrap().success());
    };
    let after = files.replace(2);
    hang_up(&server);
    server.log_until("certificates were read again");
    let mut second = files.connect(&server, None);
    assert!(ask(&mut second).starts_with("HTTP/1.1 200"));
    assert_eq!(certificate_of(&second), after);
    assert_ne!(before, after);
    assert!(ask(&mut first).starts_with("HTTP/1.1 200"));

    // A key that belongs to another certificate.
    files.write_key(&KeyPair::generate().unwrap().serialize_pem(), 0o600);
    hang_up(&server);
    let error = server.log_until("certificates are wrong");
    assert!(error["error"].as_str().unwrap().contains("does not belong to the certificate"), "{error}");
    let mut third = files.connect(&server, None);
    ask(&mut third);
    assert_eq!(certificate_of(&third), after);
    let acts = Query { kinds: vec![Kind::Act], ..Query::default() };
    let acts = query::find_last(&log, &acts, 99).unwrap();
    let read = acts.iter().filter(|act| act.members["action"] == "certificates.reload").count();
    assert_eq!(read, 1, "those that were read are an act, and wrong ones are none: {acts:?}");
}

const IDENTITIES: &str = r#"
[[client_certificates]]
match = { uri = "spiffe://acme.example/app" }
name = "app"
roles = ["service"]

[[client_certificates]]
match = { common_name = "looker" }
name = "looker"
roles = ["auditor"]

[[client_certificates]]
match = { common_name = "stray" }
name = "stray"
tenant = "nowhere"
roles = ["service"]
"#;

#[test]
fn the_owner_of_a_certificate_is_who_the_file_says() {
    let (files, model) = (Files::new(), model());
    let clients = authority("clients");
    let revoked = signed(&clients, "app", 66);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2120, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(66),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    write(files.directory.path(), "clients.pem", &clients.pem());
    write(files.directory.path(), "clients.crl", &list.signed_by(&clients).unwrap().pem().unwrap());
    write(files.directory.path(), "identities.toml", IDENTITIES);
    let (ca, crl, identities) = (files.path("clients.pem"), files.path("clients.crl"), files.path("identities.toml"));
    let data = tempfile::tempdir().unwrap();
    let identity_flags =
        ["--identity-file", &identities, "--ephemeral=off", "--data-dir", data.path().to_str().unwrap()];
    let required = [&["--tls-client-ca", &ca, "--tls-client-crl", &crl][..], &identity_flags[..]].concat();
    let server = files.start(model.path(), &required);
    let get = |path: &str, client: &Identity| files.get(&server, path, Some(client), "");

    let app = signed(&clients, "app", 2);
    assert!(get("/v1/models", &app).unwrap().starts_with("HTTP/1.1 200"));
    assert!(get("/metrics", &app).unwrap().contains("permission_denied"));
    let looker = signed(&clients, "looker", 3);
    assert!(get("/metrics", &looker).unwrap().starts_with("HTTP/1.1 200"));
    let nobody = get("/v1/models", &signed(&clients, "nobody", 4)).unwrap();
    assert!(nobody.starts_with("HTTP/1.1 401") && nobody.contains("unknown_certificate"), "{nobody}");
    let stray = get("/v1/models", &signed(&clients, "stray", 5)).unwrap();
    assert!(stray.starts_with("HTTP/1.1 401") && stray.contains("token_unknown_tenant"), "{stray}");
    // One that another authority has signed, one that was revoked, and none at all cannot even ask.
    assert!(get("/v1/models", &signed(&authority("clients"), "app", 6)).is_err());
    assert!(get("/v1/models", &revoked).is_err());
    assert!(files.get(&server, "/v1/models", None, "").is_err());
    // A token says who asks, also where there is a certificate.
    let key = run(&mut with_data(data.path(), &["keys", "create", "auditor", "--role", "auditor"])).out;
    let with_key = format!("Authorization: Bearer {}\r\n", key.trim());
    assert!(files.get(&server, "/metrics", Some(&app), &with_key).unwrap().starts_with("HTTP/1.1 200"));
    let wrong_key = files.get(&server, "/v1/models", Some(&app), "Authorization: Bearer tmk_wrong\r\n").unwrap();
    assert!(wrong_key.starts_with("HTTP/1.1 401"), "{wrong_key}");
    drop(server);

    let optional = [&["--tls-client-ca", &ca, "--tls-client-auth", "optional"][..], &identity_flags[..]].concat();
    let mut server = files.start(model.path(), &optional);
    let anonymous = files.get(&server, "/v1/models", None, "").unwrap();
    assert!(anonymous.starts_with("HTTP/1.1 401"), "{anonymous}");
    assert!(files.get(&server, "/metrics", None, &with_key).unwrap().starts_with("HTTP/1.1 200"));
    assert!(files.get(&server, "/v1/models", Some(&app), "").unwrap().starts_with("HTTP/1.1 200"));

    // Whoever is nobody any more is refused on the connection that he has.
    let mut open = files.connect(&server, Some(&looker));
    assert!(ask(&mut open).starts_with("HTTP/1.1 200"));
    write(files.directory.path(), "identities.toml", &IDENTITIES.replace("\"looker\" }", "\"another\" }"));
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-HUP", &server.id()]).status().unwrap().success());
    server.log_until("the identities were read again");
    assert!(ask(&mut open).starts_with("HTTP/1.1 401"));
}

#[test]
fn files_that_are_wrong_are_told_before_the_port_opens() {
    let (files, model) = (Files::new(), model());
    let check = |expected: &[&str], more: &[&str]| {
        let flags = files.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let serve = [&["serve", model.path().to_str().unwrap(), "--ephemeral"][..], &flags].concat();
        check_failure(&mut tramontane(&serve), 2, expected);
    };
    let ca = files.path("ca.pem");
    check(&["tls_client_ca", "no certificate"], &["--tls-client-ca", &files.path("key.pem")]);
    check(&["tls_client_crl", "no revocation list"], &["--tls-client-ca", &ca, "--tls-client-crl", &ca]);
    write(files.directory.path(), "identities.toml", IDENTITIES);
    check(&["client_certificates", "tls_client_ca"], &["--identity-file", &files.path("identities.toml")]);
    let key = std::fs::read_to_string(files.path("key.pem")).unwrap();
    files.write_key(&key, 0o604);
    check(&["tls_key", "everybody may use it (mode 604)"], &[]);
    files.write_key(&KeyPair::generate().unwrap().serialize_pem(), 0o600);
    check(&["tls_key", "does not belong to the certificate"], &[]);
    files.write_key("", 0o600);
    check(&["tls_key", "no private key"], &[]);
}

/// A page that a browser on this machine shows may send requests here, and none is answered.
#[test]
fn an_open_server_answers_no_web_page() {
    let model = model();
    let server = Server::start(model.path(), &["--ephemeral", "--allowed-host", "llm.example"]);
    let get = |head: &str| server.request(&format!("GET /v1/models HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n"));
    for own in ["Host: localhost", "Host: llm.example:80", "Host: localhost\r\nOrigin: http://localhost:3000"] {
        assert!(get(own).starts_with("HTTP/1.1 200"), "{own}");
    }
    for foreign in
        ["Host: evil.example", "Host: localhost\r\nOrigin: https://evil.example", "Host: localhost\r\nOrigin: null"]
    {
        let answer = get(foreign);
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("host_not_allowed"), "{answer}");
    }
}
