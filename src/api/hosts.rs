//! Under which names the server may be asked for.
//!
//! A server that lets in whoever is on this machine would let in every web page that a browser on it shows: a page may send
//! requests to this machine, and one whose own name is made to lead here (DNS rebinding) may read the answers. Both say
//! under which name they ask, in `Host` or `Origin`, which a page cannot change. So where that decides who is let in, both
//! must be names of this machine. Main type: [`Hosts`]. Knows nothing of identities.

use std::net::{IpAddr, SocketAddr};

use axum::http::{
    HeaderMap, HeaderValue,
    header::{HOST, ORIGIN},
    request::Parts,
    uri::Authority,
};

use super::access_error::AccessError;

/// Names that are this server's.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// In lower case.
    named: Vec<String>,
    /// Where it listens, if others than this machine's users may be there.
    bound: Option<IpAddr>,
}

/// Whom a server lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Openness {
    /// Whoever has a credential.
    Credentials,
    /// Whoever reaches it.
    Everybody,
}

impl Hosts {
    /// Those of a server at an address, and those that its operator has named.
    pub fn new(bind: SocketAddr, named: &[String]) -> Self {
        let named = named.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect();
        Self { named, bound: (!bind.ip().is_loopback()).then(|| bind.ip()) }
    }

    /// Fails if a request asks for another server, or for two, or is a page's of another.
    pub(super) fn check(&self, head: &Parts, openness: Openness) -> Result<(), AccessError> {
        check_there_is_one(head)?;
        let is_open_to_machine = openness == Openness::Everybody && self.bound.is_none();
        if self.named.is_empty() && !is_open_to_machine {
            return Ok(());
        }
        if let Some(authority) = head.uri.authority() {
            self.check_authority("Host", authority.as_str(), authority.as_str())?;
        }
        for value in head.headers.get_all(HOST) {
            let text = text(value);
            self.check_authority("Host", &text, &text)?;
        }
        if is_open_to_machine { self.check_origins(&head.headers) } else { Ok(()) }
    }

    fn check_origins(&self, headers: &HeaderMap) -> Result<(), AccessError> {
        for value in headers.get_all(ORIGIN) {
            let text = text(value);
            let authority = text.split_once("://").map_or("", |(_, authority)| authority);
            self.check_authority("Origin", &text, authority)?;
        }
        Ok(())
    }

    fn check_authority(&self, name: &'static str, value: &str, authority: &str) -> Result<(), AccessError> {
        let is_ours = authority
            .parse::<Authority>()
            .is_ok_and(|authority| !authority.as_str().contains('@') && self.is_ours(authority.host()));
        if is_ours { Ok(()) } else { Err(AccessError::Host { name, value: value.chars().take(100).collect() }) }
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if self.named.contains(&host) {
            return true;
        }
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback() || self.bound == Some(address),
            // RFC 6761, section 6.3: these lead nowhere else.
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

/// Fails if a request names two servers: a proxy in front may have gone by the other (RFC 9110, section 7.2; RFC 9113, section
/// 8.3.1).
fn check_there_is_one(head: &Parts) -> Result<(), AccessError> {
    let target = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut headers = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let is_one = match (target, headers.next()) {
        (Some(target), Some(header)) => target.eq_ignore_ascii_case(header),
        (Some(_), None) | (None, _) => true,
    };
    if is_one && headers.next().is_none() { Ok(()) } else { Err(AccessError::SeveralHosts) }
}

/// What is no text is shown as far as it is.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn is_let_in(hosts: &Hosts, openness: Openness, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        hosts.check(&request.body(()).expect("a request").into_parts().0, openness).is_ok()
    }

    fn loopback(named: &[&str]) -> Hosts {
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        Hosts::new(SocketAddr::from(([127, 0, 0, 1], 8000)), &named)
    }

    #[test]
    fn an_open_server_is_asked_under_names_of_this_machine() {
        let check = |value: &str| is_let_in(&loopback(&[]), Openness::Everybody, "/", &[("host", value)]);
        for own in
            ["localhost", "LOCALHOST:8000", "localhost.", "a.localhost:1", "127.0.0.1:8000", "127.9.9.9", "[::1]:80"]
        {
            assert!(check(own), "{own}");
        }
        for other in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "",
            "localhost@evil.example",
            "a b",
        ] {
            assert!(!check(other), "{other}");
        }
    }

    #[test]
    fn every_name_in_a_request_counts() {
        let check = |uri: &str, headers: &[(&str, &str)]| is_let_in(&loopback(&[]), Openness::Everybody, uri, headers);
        assert!(check("/", &[]));
        assert!(check("http://localhost/v1", &[("host", "localhost")]));
        assert!(!check("http://evil.example/v1", &[("host", "localhost")]));
        assert!(!check("http://localhost/v1", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(check("/", &[("host", "localhost"), ("origin", "http://127.0.0.1:3000")]));
        for origin in ["null", "https://evil.example", "http://localhost.evil.example", "localhost", ""] {
            assert!(!check("/", &[("host", "localhost"), ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn names_that_contradict_each_other_are_refused_whoever_asks() {
        for openness in [Openness::Everybody, Openness::Credentials] {
            let check = |uri: &str, headers: &[(&str, &str)]| is_let_in(&loopback(&[]), openness, uri, headers);
            assert!(check("http://localhost:80/", &[("host", "LocalHost:80")]));
            assert!(!check("http://localhost/", &[("host", "127.0.0.1")]));
            assert!(!check("/", &[("host", "localhost"), ("host", "localhost")]));
        }
    }

    #[test]
    fn where_credentials_decide_only_named_hosts_do() {
        let foreign: &[(&str, &str)] = &[("host", "evil.example"), ("origin", "https://evil.example")];
        assert!(is_let_in(&loopback(&[]), Openness::Credentials, "/", foreign));
        let named = loopback(&["LLM.example"]);
        assert!(!is_let_in(&named, Openness::Credentials, "/", foreign));
        let own: &[(&str, &str)] = &[("host", "llm.example:443"), ("origin", "https://app.example")];
        assert!(is_let_in(&named, Openness::Credentials, "/", own));
        // One that everybody may reach is no worse off.
        let everywhere = Hosts::new(SocketAddr::from(([0, 0, 0, 0], 8000)), &[]);
        assert!(is_let_in(&everywhere, Openness::Everybody, "/", foreign));
    }
}
