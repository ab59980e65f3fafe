//! `tramontane health`: asks a running server whether it is ready; for container health checks, which have
//! no HTTP client of their own. Exit code 0 is ready, 1 is not.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// A key that may ask this, for a server that has keys.
const API_KEY: &str = "TRAMONTANE_API_KEY";
const TIMEOUT: Duration = Duration::from_secs(3);

/// Ask a running server whether it is ready
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Address of the server
    #[arg(long, env = "TRAMONTANE_BIND", hide_env = true, default_value = "127.0.0.1:8000", value_name = "ADDR:PORT")]
    bind: SocketAddr,
}

impl HealthArgs {
    pub(super) fn run(&self) -> Result<()> {
        // Not an argument, which every process of the machine could read.
        let key = std::env::var(API_KEY).ok();
        let status =
            ask(reachable(self.bind), key.as_deref()).with_context(|| format!("no answer from {}", self.bind))?;
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

/// The status line of `GET /health/ready`.
fn ask(address: SocketAddr, key: Option<&str>) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let credential = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
    write!(stream, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\n{credential}Connection: close\r\n\r\n")?;
    let mut head = String::new();
    stream.take(64 * 1024).read_to_string(&mut head)?;
    Ok(head.lines().next().unwrap_or_default().to_owned())
}
