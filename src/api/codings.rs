//! How a request says that its body is coded. Nothing is decoded here but chunks, and those by the HTTP parser.
//!
//! Invariant: what says that it has another coding is refused, as whoever takes it at its word has another body. Knows no
//! body.

use axum::http::{
    HeaderMap,
    header::{CONTENT_ENCODING, HeaderName, TRANSFER_ENCODING},
};

use super::access_error::AccessError;

/// What each header may say, once. HTTP/2 has no `Transfer-Encoding`.
const UNDERSTOOD: [(HeaderName, &str, &str); 2] = [
    (TRANSFER_ENCODING, "Transfer-Encoding", "chunked"), // RFC 9112, section 6.1
    (CONTENT_ENCODING, "Content-Encoding", "identity"),  // RFC 9110, section 8.4
];

/// Fails if a body has a coding that is not understood, or one twice.
pub(super) fn check(headers: &HeaderMap) -> Result<(), AccessError> {
    for (header, name, understood) in UNDERSTOOD {
        let mut values = headers.get_all(header).iter();
        let (Some(first), second) = (values.next(), values.next()) else { continue };
        let is_understood = first.to_str().is_ok_and(|text| text.trim().eq_ignore_ascii_case(understood));
        if !is_understood || second.is_some() {
            return Err(AccessError::Coding { name, understood });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn is_let_in(name: HeaderName, values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).expect("a header"));
        }
        check(&headers).is_ok()
    }

    #[test]
    fn what_is_not_decoded_is_refused() {
        for values in [&[][..], &["chunked"], &["Chunked"]] {
            assert!(is_let_in(TRANSFER_ENCODING, values), "{values:?}");
        }
        assert!(is_let_in(CONTENT_ENCODING, &["Identity"]));
        for values in [
            &[""][..],
            &["gzip"],
            &["gzip, chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["identity"],
            &["é"],
        ] {
            assert!(!is_let_in(TRANSFER_ENCODING, values), "{values:?}");
        }
        for values in [&[""][..], &["gzip"], &["identity, gzip"], &["identity", "br"], &["chunked"]] {
            assert!(!is_let_in(CONTENT_ENCODING, values), "{values:?}");
        }
    }
}
