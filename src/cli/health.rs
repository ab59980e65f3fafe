//! `tramontane health`: asks a running server whether it is ready; for container health checks, which have
//! no HTTP client of their own. Exit code 0 is ready, 1 is not.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

/// A key that may ask this, for a server that has keys.
const API_KEY: &str = "TRAMONTANE_API_KEY";
const TIMEOUT: Duration = Duration::from_secs(3);

/// Ask a running server whether it is ready
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Address of the server
    #[arg(long, env = "TRAMONTANE_BIND", hide_env = true, default_value = "127.0.0.1:8000", value_name = "ADDR:PORT")]
    bind: SocketAddr,
    /// PEM file of the authority that signed the server's certificate; turns TLS on
    #[arg(long, env = "TRAMONTANE_HEALTH_CA", hide_env = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Name that the server's certificate is for [default: the address]
    #[arg(long, requires = "tls_ca", value_name = "NAME")]
    tls_name: Option<String>,
}

/// What is asked, before it is known how.
struct Question<'a> {
    address: SocketAddr,
    key: Option<&'a str>,
}

impl HealthArgs {
    pub(super) fn run(&self) -> Result<()> {
        // Not an argument, which every process of the machine could read.
        let key = std::env::var(API_KEY).ok();
        let question = Question { address: reachable(self.bind), key: key.as_deref() };
        let asked = match &self.tls_ca {
            None => question.ask(question.connect()?),
            Some(authority) => question.ask_with_tls(authority, self.tls_name.as_deref()),
        };
        let status = asked.with_context(|| format!("no answer from {}", self.bind))?;
        if status.contains(" 401 ") {
            bail!("{} lets nobody in without a key: set {API_KEY} to one that may ask this", self.bind);
        }
        if !status.contains(" 200 ") {
            bail!("{} is not ready: {status}", self.bind);
        }
        super::print("ready\n")
    }
}

/// A server that listens on all addresses is asked on the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        address => address,
    }
}

impl Question<'_> {
    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, TIMEOUT)
            .with_context(|| format!("no answer from {}", self.address))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    fn ask_with_tls(&self, authority: &Path, name: Option<&str>) -> Result<String> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(authority)
            .with_context(|| format!("--tls-ca {}: it cannot be read", authority.display()))?;
        for certificate in certificates {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = match name {
            Some(name) => ServerName::try_from(name.to_owned())?,
            None => self.address.ip().into(),
        };
        self.ask(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, self.connect()?))
    }

    /// The status line of `GET /health/ready`.
    fn ask(&self, mut stream: impl Read + Write) -> Result<String> {
        let Self { address, key } = self;
        let credential = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        write!(stream, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\n{credential}Connection: close\r\n\r\n")?;
        let mut head = String::new();
        stream.take(64 * 1024).read_to_string(&mut head)?;
        Ok(head.lines().next().unwrap_or_default().to_owned())
    }
}
