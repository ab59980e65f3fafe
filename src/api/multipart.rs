//! Forms with files (`multipart/form-data`, RFC 7578), read piece by piece within a fixed amount of memory.
//!
//! [`Multipart`] yields the head of each part, then its content in pieces. What it holds at any time is one frame of
//! the body and, between parts, one head of bounded length, whatever a client sends.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use http_body_util::BodyExt;
use memchr::memmem;

use super::{error::ApiError, stored_error::StoredError};

/// Longest head of one part, and the longest text before the first.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Most parts of one form.
const MAX_PARTS: usize = 16;
/// RFC 2046, section 5.1.1.
const MAX_BOUNDARY_BYTES: usize = 70;

/// A form being read.
pub(super) struct Multipart {
    body: Body,
    /// Line break, two dashes, the boundary.
    delimiter: Vec<u8>,
    /// Read and not yet handed out. Begins with a line break that no body has, so that the first boundary is like all
    /// others.
    unread: Vec<u8>,
    /// Longest silence of the client.
    timeout: Duration,
    parts: usize,
}

/// What precedes the content of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartHead {
    pub(super) name: String,
    pub(super) filename: Option<String>,
}

impl Multipart {
    /// A form with the boundary that its head declares; between two pieces of the body `timeout` may pass.
    pub(super) fn new(headers: &HeaderMap, body: Body, timeout: Duration) -> Result<Self, ApiError> {
        let declared = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let boundary = boundary(declared.as_deref().unwrap_or_default())
            .map_err(|reason| StoredError::NotMultipart { reason: reason.to_owned() })?;
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Ok(Self { body, delimiter, unread: b"\r\n".to_vec(), timeout, parts: 0 })
    }

    /// The next part; what was not read of the one before is skipped. `None` at the end of the form.
    pub(super) async fn next_part(&mut self) -> Result<Option<PartHead>, ApiError> {
        let mut skipped = 0;
        while let Some(piece) = self.next_piece().await? {
            skipped += piece.len();
            if self.parts == 0 && skipped > MAX_HEAD_BYTES {
                return Err(malformed("too much comes before its first part"));
            }
        }
        self.unread.drain(..self.delimiter.len());
        while self.unread.len() < 2 {
            self.read_more().await?;
        }
        if self.unread.starts_with(b"--") {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(malformed(&format!("it has more than {MAX_PARTS} parts")));
        }
        // The head's lines end with an empty one; the first line break is the boundary's own.
        let end = loop {
            match memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) if end <= MAX_HEAD_BYTES => break end,
                None if self.unread.len() <= MAX_HEAD_BYTES => self.read_more().await?,
                Some(_) | None => return Err(malformed("the head of a part is too long")),
            }
        };
        let head = self.unread.drain(..end + 4).collect::<Vec<u8>>();
        let text = std::str::from_utf8(&head).map_err(|_| malformed("the head of a part is not UTF-8"))?;
        part_head(text).map(Some)
    }

    /// The next bytes of the current part; `None` at its end.
    pub(super) async fn next_piece(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            // The last bytes may be the beginning of a delimiter.
            let surely_content = self.unread.len().saturating_sub(self.delimiter.len() - 1);
            match memmem::find(&self.unread, &self.delimiter) {
                Some(0) => return Ok(None),
                Some(end) => return Ok(Some(self.unread.drain(..end).collect())),
                None if surely_content > 0 => return Ok(Some(self.unread.drain(..surely_content).collect())),
                None => self.read_more().await?,
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), ApiError> {
        let data = self.next_data().await?;
        self.unread.extend_from_slice(&data);
        Ok(())
    }

    async fn next_data(&mut self) -> Result<Bytes, ApiError> {
        loop {
            let Ok(frame) = tokio::time::timeout(self.timeout, self.body.frame()).await else {
                return Err(ApiError::BodyTimeout { seconds: self.timeout.as_secs() });
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(data);
                    }
                }
                Some(Err(error)) => return Err(malformed(&format!("it broke off: {error}"))),
                None => return Err(malformed("it ends before its last boundary")),
            }
        }
    }
}

fn boundary(content_type: &str) -> Result<&str, &'static str> {
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err("it is another type");
    }
    for parameter in parameters.split(';') {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("boundary") {
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            let allowed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
            let valid = (1..=MAX_BOUNDARY_BYTES).contains(&value.len()) && value.bytes().all(allowed);
            return if valid { Ok(value) } else { Err("its boundary is none") };
        }
    }
    Err("it has no boundary")
}

fn part_head(text: &str) -> Result<PartHead, ApiError> {
    let (mut name, mut filename) = (None, None);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Some((key, value)) = line.split_once(':') else { return Err(malformed("a part has a broken header")) };
        if key.trim().eq_ignore_ascii_case("content-disposition") {
            let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
            if !kind.trim().eq_ignore_ascii_case("form-data") {
                return Err(malformed("a part is not form-data"));
            }
            for (key, value) in disposition(parameters) {
                match key.to_ascii_lowercase().as_str() {
                    "name" => name = Some(value),
                    "filename" => filename = Some(value),
                    _ => {} // RFC 7578, section 4.2: other parameters say nothing
                }
            }
        } else if key.trim().eq_ignore_ascii_case("content-transfer-encoding")
            && !["7bit", "8bit", "binary"].contains(&value.trim().to_ascii_lowercase().as_str())
        {
            return Err(malformed("a part has a content-transfer-encoding"));
        }
    }
    match name {
        Some(name) => Ok(PartHead { name, filename }),
        None => Err(malformed("a part has no name")),
    }
}

/// `; name="a"; filename="b \"c\".txt"` as pairs.
fn disposition(mut text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([' ', '\t', ';']).to_owned();
        let Some(quoted) = rest.trim_start().strip_prefix('"') else {
            let (value, rest) = rest.split_once(';').unwrap_or((rest, ""));
            pairs.push((key, value.trim().to_owned()));
            text = rest;
            continue;
        };
        let (mut value, mut end) = (String::new(), quoted.len());
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                // Some clients escape, some write the character as it is or in percents.
                '\\' if quoted[at + 1..].starts_with(['"', '\\']) => value.extend(characters.next().map(|(_, c)| c)),
                _ => value.push(c),
            }
        }
        pairs.push((key, value.replace("%22", "\"")));
        text = &quoted[end..];
    }
    pairs
}

fn malformed(reason: &str) -> ApiError {
    let message = format!("The form is not valid multipart/form-data: {reason}.");
    ApiError::Invalid { message, param: None, code: Some("invalid_form") }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use expect_test::{Expect, expect};
    use futures_util::stream;

    use super::*;

    /// The form in frames of so many bytes.
    async fn read(content_type: &str, text: &str, frame_len: usize) -> Result<String, ApiError> {
        let frames: Vec<_> =
            text.as_bytes().chunks(frame_len).map(|frame| Ok::<_, Infallible>(Bytes::copy_from_slice(frame))).collect();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().expect("a header"))]);
        let body = Body::from_stream(stream::iter(frames));
        let mut form = Multipart::new(&headers, body, Duration::from_secs(1))?;
        let mut shown = String::new();
        while let Some(head) = form.next_part().await? {
            let mut content = Vec::new();
            while let Some(piece) = form.next_piece().await? {
                content.extend(piece);
            }
            shown.push_str(&format!("{} {:?} {:?}\n", head.name, head.filename, String::from_utf8_lossy(&content)));
        }
        Ok(shown)
    }

    async fn check(text: &str, expected: Expect) {
        let text = text.replace('\n', "\r\n");
        let whole = read("multipart/form-data; boundary=b", &text, 1 << 20).await;
        for frame_len in [1, 2, 3, 7] {
            assert_eq!(read("multipart/form-data; boundary=b", &text, frame_len).await, whole, "{frame_len}");
        }
        expected.assert_eq(&whole.unwrap_or_else(|error| error.to_string()));
    }

    #[tokio::test]
    async fn parts_come_out_as_they_went_in() {
        check(
            "--b\nContent-Disposition: form-data; name=\"purpose\"\n\nbatch\n--b\ncontent-disposition: form-data; \
             filename=\"a \\\"b\\\".jsonl\"; name=file\nContent-Type: text/plain\n\n--\n-b\n\n--c\n--b--\nrest",
            expect![[r#"
                purpose None "batch"
                file Some("a \"b\".jsonl") "--\r\n-b\r\n\r\n--c"
            "#]],
        )
        .await;
        check(
            "preamble\n--b\nContent-Disposition: form-data; name=a\n\n\n--b\nContent-Disposition: form-data; name=b\n\n\n\n--b--",
            expect![[r#"
                a None ""
                b None "\r\n"
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_no_form_is_refused() {
        let refused = "The form is not valid multipart/form-data: ";
        for (text, reason) in [
            ("", "it ends before its last boundary."),
            ("--b\nContent-Disposition: form-data; name=a\n\nx", "it ends before its last boundary."),
            ("--b\nContent-Type: text/plain\n\nx\n--b--", "a part has no name."),
            ("--b\nContent-Disposition: attachment; name=a\n\nx\n--b--", "a part is not form-data."),
            ("--b\nnonsense\n\nx\n--b--", "a part has a broken header."),
            (
                "--b\nContent-Disposition: form-data; name=a\nContent-Transfer-Encoding: base64\n\nx\n--b--",
                "a part has a content-transfer-encoding.",
            ),
            (&format!("--b\n{}", "x".repeat(9000)), "the head of a part is too long."),
            (&"x".repeat(9000), "too much comes before its first part."),
            (
                &format!("{}--b--", "--b\nContent-Disposition: form-data; name=a\n\nx\n".repeat(17)),
                "it has more than 16 parts.",
            ),
        ] {
            let text = text.replace('\n', "\r\n");
            let error = read("multipart/form-data; boundary=b", &text, 5).await.expect_err(&text);
            assert_eq!(error.to_string(), format!("{refused}{reason}"), "{text}");
        }
        for content_type in
            ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b"]
        {
            assert_eq!(read(content_type, "", 1).await.expect_err(content_type).status().as_u16(), 415);
        }
    }
}
