//! Bytes of input files -> lines of a batch, each checked on its own.
//!
//! A line that cannot be asked becomes an entry of the error file; the others are not held up by it. What it holds of
//! a file is one line of bounded length and the names of all lines.

use std::collections::HashSet;

use memchr::memchr;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::results;
use crate::{
    api::{about::subject_of_body, body},
    store::{Line, NewLine},
};

/// As OpenAI's.
const MAX_LINES: u64 = 50_000;
const MAX_CUSTOM_ID_CHARACTERS: usize = 512;
/// Bad lines that are told in the batch itself, if it fails.
const MAX_TOLD: usize = 20;

/// The files of a batch as far as they have been read.
#[derive(Debug)]
pub(super) struct Reading {
    endpoint: String,
    /// Longest line in bytes.
    line_limit: usize,
    /// The beginning of the line that is being read, cut where it is too long.
    begun: Vec<u8>,
    too_long: bool,
    number: u64,
    custom_ids: HashSet<String>,
    to_do: u64,
    told: Vec<Value>,
}

/// No batch can be made of these files.
#[derive(Debug)]
pub(super) struct BadFile {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// A line as clients write it. `method` and `url` are OpenAI's, and may be left out as Mistral's clients do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    custom_id: Value,
    method: Option<Value>,
    url: Option<Value>,
    #[serde(borrow)]
    body: &'a RawValue,
}

struct BadLine {
    custom_id: Option<String>,
    code: &'static str,
    message: String,
    param: Option<String>,
}

impl Reading {
    pub(super) fn new(endpoint: String, line_limit: usize) -> Self {
        Self {
            endpoint,
            line_limit,
            begun: Vec::new(),
            too_long: false,
            number: 0,
            custom_ids: HashSet::new(),
            to_do: 0,
            told: Vec::new(),
        }
    }

    /// More of a file; gives the lines that end in it.
    pub(super) fn read(&mut self, mut data: &[u8]) -> Result<Vec<NewLine>, BadFile> {
        let mut lines = Vec::new();
        while let Some(end) = memchr(b'\n', data) {
            self.keep(&data[..end]);
            lines.extend(self.end_line()?);
            data = &data[end + 1..];
        }
        self.keep(data);
        Ok(lines)
    }

    /// A file ends; its last line may have no line break.
    pub(super) fn end_of_file(&mut self) -> Result<Option<NewLine>, BadFile> {
        self.end_line()
    }

    /// Lines that can be asked; if there are none, what is wrong with the first ones.
    pub(super) fn finish(self) -> Result<(), Vec<Value>> {
        match (self.to_do, self.number) {
            (0, 0) => Err(vec![json!({
                "code": "empty_file", "line": null, "param": null, "message": "The input has no lines.",
            })]),
            (0, _) => Err(self.told),
            (_, _) => Ok(()),
        }
    }

    fn keep(&mut self, data: &[u8]) {
        if self.too_long || self.begun.len() + data.len() > self.line_limit {
            self.too_long = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(data);
        }
    }

    /// Blank lines count as none.
    fn end_line(&mut self) -> Result<Option<NewLine>, BadFile> {
        let (text, too_long) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.too_long));
        if text.trim_ascii().is_empty() && !too_long {
            return Ok(None);
        }
        self.number += 1;
        if self.number > MAX_LINES {
            let message = format!("A batch may have {MAX_LINES} lines.");
            return Err(BadFile { code: "too_many_lines", message });
        }
        let checked = if too_long {
            let message = format!("it is longer than {} bytes", self.line_limit);
            Err(BadLine { custom_id: None, code: "line_too_long", message, param: None })
        } else {
            self.check(&text)
        };
        Ok(Some(match checked {
            Ok(line) => {
                self.to_do += 1;
                NewLine::ToDo(line)
            }
            Err(bad) => self.bad_line(bad),
        }))
    }

    fn bad_line(&mut self, bad: BadLine) -> NewLine {
        let BadLine { custom_id, code, message, param } = bad;
        let number = self.number;
        let message = format!("Line {number} cannot be asked: {message}.");
        if self.told.len() < MAX_TOLD {
            self.told.push(json!({ "code": code, "line": number, "message": message, "param": param }));
        }
        let result = results::unanswered(custom_id.as_deref(), code, &message);
        NewLine::Bad { number, custom_id, result }
    }

    fn check(&mut self, text: &[u8]) -> Result<Line, BadLine> {
        let bad = |custom_id: Option<&str>, code, message: String, param: Option<&str>| BadLine {
            custom_id: custom_id.map(str::to_owned),
            code,
            message,
            param: param.map(str::to_owned),
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(bad(None, "invalid_utf8", "it is not UTF-8".to_owned(), None));
        };
        if !text.trim_start().starts_with('{') {
            return Err(bad(None, "invalid_json_line", "it is not a JSON object".to_owned(), None));
        }
        let request: Request =
            serde_json::from_str(text).map_err(|error| bad(None, "invalid_json_line", format!("{error}"), None))?;
        let custom_id = match request.custom_id {
            Value::String(id) if (1..=MAX_CUSTOM_ID_CHARACTERS).contains(&id.chars().count()) => id,
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                let message = format!("`custom_id` must be a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters");
                return Err(bad(None, "invalid_custom_id", message, Some("custom_id")));
            }
        };
        let id = Some(custom_id.as_str());
        if request.method.is_some_and(|method| method != "POST") {
            return Err(bad(id, "invalid_method", "`method` must be POST".to_owned(), Some("method")));
        }
        if request.url.is_some_and(|url| url != self.endpoint.as_str()) {
            let message = format!("`url` must be the batch's endpoint, {}", self.endpoint);
            return Err(bad(id, "invalid_url", message, Some("url")));
        }
        if let Err((param, message)) = check_body(request.body.get()) {
            return Err(bad(id, "invalid_body", message, Some(param)));
        }
        if !self.custom_ids.insert(custom_id.clone()) {
            let message = "an earlier line has the same `custom_id`".to_owned();
            return Err(bad(id, "duplicate_custom_id", message, Some("custom_id")));
        }
        let request = request.body.get().to_owned();
        Ok(Line { number: self.number, custom_id, subject: subject_of_body(&request), request })
    }
}

/// What the endpoint itself cannot know; all else it checks when the line is asked.
fn check_body(text: &str) -> Result<(), (&'static str, String)> {
    let body = body::parse(text).map_err(|error| ("body", error.to_string().trim_end_matches('.').to_owned()))?;
    let Some(members) = body.as_object() else { return Err(("body", "`body` must be an object".to_owned())) };
    let present = |name: &str| members.get(name).is_some_and(|value| !value.is_null());
    if members.get("stream").is_some_and(|stream| !stream.is_null() && *stream != false) {
        return Err(("body.stream", "`body.stream` is not available in a batch".to_owned()));
    }
    if members.get("background").is_some_and(|background| !background.is_null() && *background != false) {
        return Err(("body.background", "`body.background` is not available in a batch".to_owned()));
    }
    if present("priority") {
        return Err((
            "body.priority",
            "`body.priority` is not available in a batch: all its lines come last".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// The lines of a file that arrives in pieces of so many bytes.
    fn read(text: &[u8], piece_len: usize) -> Result<(String, String), BadFile> {
        let mut reading = Reading::new("/v1/chat/completions".to_owned(), 200);
        let mut lines = Vec::new();
        for piece in text.chunks(piece_len) {
            lines.extend(reading.read(piece)?);
        }
        lines.extend(reading.end_of_file()?);
        let shown = lines.into_iter().map(|line| match line {
            NewLine::ToDo(Line { number, custom_id, request, subject: _ }) => {
                format!("{number} {custom_id} {request}\n")
            }
            NewLine::Bad { number, custom_id, result } => {
                let result: Value = serde_json::from_str(&result).expect("JSON");
                assert_eq!((&result["custom_id"], &result["response"]), (&json!(custom_id), &Value::Null));
                let error = &result["error"];
                format!("{number} {} {} {}\n", json!(custom_id), error["code"], error["message"])
            }
        });
        let shown = shown.collect();
        let finished = reading.finish().map_or_else(|told| format!("{}\n", Value::from(told)), |()| String::new());
        Ok((shown, finished))
    }

    fn check(text: &[u8], expected: Expect) {
        let (whole, finished) = read(text, usize::MAX).expect("a batch");
        for piece_len in [1, 7, 100] {
            assert_eq!(read(text, piece_len).expect("a batch"), (whole.clone(), finished.clone()));
        }
        expected.assert_eq(&format!("{whole}{finished}"));
    }

    #[test]
    fn lines_come_with_their_body_as_it_was_written() {
        check(
            b"{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"n\":  1.0}}\r\n\n\
              {\"body\": {}, \"custom_id\": \"b\"}",
            expect![[r#"
                1 a {"n":  1.0}
                2 b {}
            "#]],
        );
    }

    #[test]
    fn a_bad_line_is_told_and_holds_up_no_other() {
        let long = format!("{{\"custom_id\": \"x\", \"body\": {{\"user\": \"{}\"}}}}", "u".repeat(200));
        let lines: [&[u8]; 15] = [
            b"nonsense",
            b"\xff",
            b"[]",
            b"{\"custom_id\": 1, \"body\": {}}",
            b"{\"custom_id\": \"\", \"body\": {}}",
            b"{\"custom_id\": \"a\"}",
            b"{\"custom_id\": \"a\", \"body\": []}",
            b"{\"custom_id\": \"a\", \"body\": {\"a\": 1, \"a\": 2}}",
            b"{\"custom_id\": \"a\", \"body\": {}, \"method\": \"GET\"}",
            b"{\"custom_id\": \"a\", \"body\": {}, \"url\": \"/v1/embeddings\"}",
            b"{\"custom_id\": \"a\", \"body\": {\"stream\": true}}",
            b"{\"custom_id\": \"a\", \"body\": {\"priority\": -1}}",
            b"{\"custom_id\": \"a\", \"body\": {\"background\": true}}",
            b"{\"custom_id\": \"a\", \"body\": {\"stream\": false}}",
            b"{\"custom_id\": \"a\", \"body\": {}}",
        ];
        let text = [lines.join(&b'\n'), b"\n".to_vec(), long.into_bytes()].concat();
        check(
            &text,
            expect![[r#"
                1 null "invalid_json_line" "Line 1 cannot be asked: it is not a JSON object."
                2 null "invalid_utf8" "Line 2 cannot be asked: it is not UTF-8."
                3 null "invalid_json_line" "Line 3 cannot be asked: it is not a JSON object."
                4 null "invalid_custom_id" "Line 4 cannot be asked: `custom_id` must be a string of 1 to 512 characters."
                5 null "invalid_custom_id" "Line 5 cannot be asked: `custom_id` must be a string of 1 to 512 characters."
                6 null "invalid_json_line" "Line 6 cannot be asked: missing field `body` at line 1 column 18."
                7 "a" "invalid_body" "Line 7 cannot be asked: `body` must be an object."
                8 "a" "invalid_body" "Line 8 cannot be asked: The body is not valid JSON: the key `a` appears twice at line 1 column 12."
                9 "a" "invalid_method" "Line 9 cannot be asked: `method` must be POST."
                10 "a" "invalid_url" "Line 10 cannot be asked: `url` must be the batch's endpoint, /v1/chat/completions."
                11 "a" "invalid_body" "Line 11 cannot be asked: `body.stream` is not available in a batch."
                12 "a" "invalid_body" "Line 12 cannot be asked: `body.priority` is not available in a batch: all its lines come last."
                13 "a" "invalid_body" "Line 13 cannot be asked: `body.background` is not available in a batch."
                14 a {"stream": false}
                15 "a" "duplicate_custom_id" "Line 15 cannot be asked: an earlier line has the same `custom_id`."
                16 null "line_too_long" "Line 16 cannot be asked: it is longer than 200 bytes."
            "#]],
        );
    }

    #[test]
    fn what_has_no_line_to_ask_is_no_batch() {
        check(
            b"\n \n",
            expect![[r#"
                [{"code":"empty_file","line":null,"param":null,"message":"The input has no lines."}]
            "#]],
        );
        check(
            b"nonsense",
            expect![[r#"
                1 null "invalid_json_line" "Line 1 cannot be asked: it is not a JSON object."
                [{"code":"invalid_json_line","line":1,"message":"Line 1 cannot be asked: it is not a JSON object.","param":null}]
            "#]],
        );
        let many = "{\n".repeat(50_001);
        assert_eq!(read(many.as_bytes(), 1 << 16).expect_err("too many").code, "too_many_lines");
    }
}
