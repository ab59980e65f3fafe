//! What became of a line -> a line of a file, in OpenAI's JSONL.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::Outcome;

/// A line of an output or error file.
#[derive(Serialize)]
struct ResultLine<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: &'a RawValue,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
}

/// A line that was asked.
pub(super) struct Answered<'a> {
    pub(super) custom_id: &'a str,
    pub(super) status_code: u16,
    pub(super) request_id: &'a str,
    /// JSON.
    pub(super) body: &'a str,
}

impl Answered<'_> {
    /// Which file it belongs to, and its line there.
    pub(super) fn result(&self) -> Result<(Outcome, String), serde_json::Error> {
        let Self { custom_id, status_code, request_id, .. } = *self;
        let response = Response { status_code, request_id, body: serde_json::from_str(self.body)? };
        let line = ResultLine { id: new_id(), custom_id: Some(custom_id), response: Some(response), error: None };
        let outcome = if status_code == 200 { Outcome::Completed } else { Outcome::Failed };
        Ok((outcome, serde_json::to_string(&line)?))
    }
}

/// A line that was not.
pub(super) fn unanswered(custom_id: Option<&str>, code: &str, message: &str) -> String {
    let line = ResultLine { id: new_id(), custom_id, response: None, error: Some(Error { code, message }) };
    serde_json::to_string(&line).expect("texts and nothing else")
}

fn new_id() -> String {
    format!("batch_req_{}", uuid::Uuid::new_v4().simple())
}
