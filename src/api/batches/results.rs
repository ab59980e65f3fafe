//! What became of lines -> files in OpenAI's JSONL.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    api::{
        files::{BATCH_OUTPUT, PART_BYTES},
        state::unix_seconds,
    },
    store::{FileDetails, Outcome, Store, StoreError},
};

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

/// A file being written; there is none until it has a line.
pub(super) struct ResultFile<'a> {
    store: &'a Store,
    filename: String,
    id: Option<String>,
    buffer: Vec<u8>,
}

impl<'a> ResultFile<'a> {
    pub(super) fn new(store: &'a Store, filename: String) -> Self {
        Self { store, filename, id: None, buffer: Vec::new() }
    }

    pub(super) async fn push(&mut self, line: &str) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        if self.buffer.len() >= PART_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes the rest. The file is shown when its batch ends.
    pub(super) async fn finish(&mut self, expires_at: u64) -> Result<Option<(String, FileDetails)>, StoreError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let details = || FileDetails { filename: self.filename.clone(), purpose: BATCH_OUTPUT.to_owned(), expires_at };
        Ok(self.id.clone().map(|id| (id, details())))
    }

    /// Deletes what was written.
    pub(super) async fn abandon(&mut self) {
        let Some(id) = self.id.take() else { return };
        if let Err(error) = self.store.delete_file(&id).await {
            tracing::warn!(%error, "a file of results stays until the next sweep");
        }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.id.insert(self.store.begin_file(unix_seconds()).await?).clone(),
        };
        self.store.append_to_file(&id, std::mem::take(&mut self.buffer)).await
    }
}
