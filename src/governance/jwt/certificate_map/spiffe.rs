//! The form of SPIFFE ids: "The SPIFFE Identity and Verifiable Identity Document", §2.
//!
//! Only ids of this form are compared by a part, so that no `..`, `%2e` or empty segment leads out of it.

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3.
const LONGEST_BYTES: usize = 2048;
const LONGEST_DOMAIN_BYTES: usize = 255;

/// Is this an id of a workload: a trust domain and a path?
pub(super) fn is_id(uri: &str) -> bool {
    uri.len() <= LONGEST_BYTES
        && parts(uri).is_some_and(|(domain, path)| is_domain(domain) && path.split('/').all(is_segment))
}

/// Is this the beginning of ids up to and with a `/`?
pub(super) fn is_prefix(text: &str) -> bool {
    let Some((domain, path)) = parts(text) else { return false };
    is_domain(domain) && (path.is_empty() || path.strip_suffix('/').is_some_and(|path| path.split('/').all(is_segment)))
}

fn parts(uri: &str) -> Option<(&str, &str)> {
    uri.strip_prefix(SCHEME)?.split_once('/')
}

fn is_domain(domain: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    (1..=LONGEST_DOMAIN_BYTES).contains(&domain.len()) && domain.bytes().all(is_letter)
}

fn is_segment(segment: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_letter)
}
