//! The worker of the queue: one for the server, for as long as it serves.
//!
//! Batches are answered one after the other, a few lines at a time, each line by the routes that clients use, marked as
//! [`Background`]. Every step is written down before the next begins, so being stopped at any point loses at most the
//! computation of lines under way, which are asked again. A line that meets a server which is busy, loading or
//! stopping is not refused but waits.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{task::JoinError, time::sleep};
use tower::ServiceExt;

use super::{
    reading::{BadFile, Reading},
    results::{Answered, ResultFile, unanswered},
};
use crate::{
    api::{
        request::{Background, inner_layers},
        routes,
        state::{AppState, unix_seconds},
    },
    store::{Batch, BatchEnd, BatchState, Line, NewLine, Outcome, Store, StoreError},
};

/// After something that was not possible just now.
const RETRY: Duration = Duration::from_millis(500);
/// After the database failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Uploads that are not complete after this time never will be.
const ABANDONED_SECONDS: u64 = 24 * 60 * 60;
/// Lines of results read at once.
const WRITTEN_AT_ONCE: usize = 16;

/// States in which a batch needs something else than answers.
const TO_TEND: &[BatchState] = &[BatchState::Cancelling, BatchState::Finalizing, BatchState::Validating];

/// Works on batches and deletes what is past its time; never ends. What it was doing when it is dropped is taken up by
/// the next one.
pub async fn run(state: AppState) {
    let worker = Worker { router: inner_layers(routes(), state.clone()), state };
    tokio::join!(worker.sweep(), worker.work());
}

struct Worker {
    state: AppState,
    router: Router,
}

/// What was there to do.
enum Turn {
    Something,
    Nothing,
}

/// Why no batch can be made of its files.
enum Unreadable {
    Bad(BadFile),
    Store(StoreError),
}

impl From<StoreError> for Unreadable {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BadFile> for Unreadable {
    fn from(bad: BadFile) -> Self {
        Self::Bad(bad)
    }
}

impl Worker {
    async fn sweep(&self) {
        loop {
            let now = unix_seconds();
            if let Err(error) = self.store().sweep(now, now.saturating_sub(ABANDONED_SECONDS)).await {
                tracing::warn!(%error, "what is past its time could not be deleted");
            }
            sleep(SWEEP_INTERVAL).await;
        }
    }

    async fn work(&self) {
        loop {
            match self.turn().await {
                Ok(Turn::Something) => {}
                Ok(Turn::Nothing) => self.state.batches_changed().notified().await,
                Err(error) => {
                    tracing::warn!(%error, "batches have to wait");
                    sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    async fn turn(&self) -> Result<Turn, StoreError> {
        self.tend().await?;
        match self.store().oldest_batch(&[BatchState::InProgress]).await? {
            Some(batch) => self.answer_lines(&batch).await.map(|()| Turn::Something),
            None => Ok(Turn::Nothing),
        }
    }

    /// Everything that needs no answers: cheap beside them, so it never waits for the batch in progress.
    async fn tend(&self) -> Result<(), StoreError> {
        while let Some(batch) = self.store().oldest_batch(TO_TEND).await? {
            match batch.state {
                BatchState::Validating => self.validate(&batch).await?,
                BatchState::Cancelling | BatchState::Finalizing => self.finalize(&batch).await?,
                BatchState::InProgress
                | BatchState::Completed
                | BatchState::Failed
                | BatchState::Expired
                | BatchState::Cancelled => return Ok(()), // not asked for
            }
        }
        Ok(())
    }

    async fn validate(&self, batch: &Batch) -> Result<(), StoreError> {
        let store = self.store();
        store.clear_lines(&batch.id).await?;
        let read = self.read_lines(batch).await;
        let now = unix_seconds();
        let errors = match read {
            Ok(Ok(())) => return store.start_batch(&batch.id, now).await,
            Ok(Err(told)) => told,
            Err(Unreadable::Bad(BadFile { code, message })) => vec![told(code, &message)],
            Err(Unreadable::Store(StoreError::Missing { kind: "file", id })) => {
                vec![told("file_not_found", &format!("The file {id} is not there any more."))]
            }
            Err(Unreadable::Store(StoreError::Full)) => {
                vec![told("storage_full", "The storage has no place for its lines.")]
            }
            Err(Unreadable::Store(error)) => return Err(error),
        };
        let errors = serde_json::Value::from(errors).to_string();
        store.fail_batch(&batch.id, errors, now, now.saturating_add(self.retention())).await
    }

    /// Puts the lines of all files into the store; `Err` within `Ok` says why none of them can be asked.
    async fn read_lines(&self, batch: &Batch) -> Result<Result<(), Vec<serde_json::Value>>, Unreadable> {
        let mut reading = Reading::new(batch.request.endpoint.clone(), self.state.limits().body_bytes);
        for file in &batch.request.input_files {
            self.store().file(file).await?;
            let mut part = 0;
            while let Some(data) = self.store().file_part(file, part).await? {
                let work = move || {
                    let lines = reading.read(&data);
                    (reading, lines)
                };
                let (read, lines) = off_thread(work).await?;
                reading = read;
                self.store().add_lines(&batch.id, lines?).await?;
                part += 1;
            }
            let last: Vec<NewLine> = reading.end_of_file()?.into_iter().collect();
            self.store().add_lines(&batch.id, last).await?;
        }
        Ok(reading.finish())
    }

    /// Asks every line that has no outcome yet; returns when none is left, time is over, or the batch was cancelled.
    async fn answer_lines(&self, batch: &Batch) -> Result<(), StoreError> {
        let left = Duration::from_secs(batch.request.expires_at.saturating_sub(unix_seconds()));
        let deadline = Instant::now() + left;
        let mut expiry = pin!(sleep(left));
        let mut asked = FuturesUnordered::new();
        let mut last = 0;
        let mut more = !left.is_zero();
        loop {
            while more && asked.len() < self.state.limits().storage.lines_at_once {
                // One by one: a line may be as long as a request.
                match self.store().lines_to_do(&batch.id, last, 1).await?.pop() {
                    Some(line) => {
                        last = line.number;
                        asked.push(self.answer(&batch.request.endpoint, line, deadline));
                    }
                    None => more = false,
                }
            }
            if asked.is_empty() {
                break;
            }
            tokio::select! {
                Some((number, (outcome, result))) = asked.next() => {
                    self.store().record_line(&batch.id, number, outcome, result).await?;
                }
                () = self.state.batches_changed().notified() => {
                    self.tend().await?;
                    if self.store().batch(&batch.id).await?.state != BatchState::InProgress {
                        return Ok(());
                    }
                }
                () = &mut expiry => break,
            }
        }
        self.store().finalize_batch(&batch.id, unix_seconds()).await
    }

    /// Asks one line until it has an answer that is about the line.
    async fn answer(&self, endpoint: &str, line: Line, deadline: Instant) -> (u64, (Outcome, String)) {
        loop {
            let request = Request::post(endpoint)
                .header(CONTENT_TYPE, "application/json")
                .extension(Background { deadline })
                .body(Body::from(line.request.clone()))
                .expect("the endpoint is one of ours");
            let Ok(response) = self.router.clone().oneshot(request).await;
            let (head, body) = response.into_parts();
            // A deadline is that of the batch, which ends with it.
            let not_now = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
            if not_now.contains(&head.status) {
                sleep(RETRY).await;
                continue;
            }
            let request_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let answered = Answered {
                custom_id: &line.custom_id,
                status_code: head.status.as_u16(),
                request_id,
                body: std::str::from_utf8(&body).unwrap_or_default(),
            };
            let result = answered.result().unwrap_or_else(|_| {
                let message = "The answer could not be read; this is a bug of the server.";
                (Outcome::Failed, unanswered(Some(&line.custom_id), "server_error", message))
            });
            return (line.number, result);
        }
    }

    /// Writes the files of a batch and ends it.
    async fn finalize(&self, batch: &Batch) -> Result<(), StoreError> {
        let file = |kind| ResultFile::new(self.store(), format!("{}_{kind}.jsonl", batch.id));
        let (mut output, mut errors) = (file("output"), file("error"));
        let ended = self.write_results(batch, &mut output, &mut errors).await;
        if ended.is_err() {
            output.abandon().await;
            errors.abandon().await;
        }
        ended
    }

    async fn write_results(
        &self,
        batch: &Batch,
        output: &mut ResultFile<'_>,
        errors: &mut ResultFile<'_>,
    ) -> Result<(), StoreError> {
        let cancelled = batch.state == BatchState::Cancelling;
        let (code, message) = if cancelled {
            ("batch_cancelled", "The batch was cancelled before this line was answered.")
        } else {
            ("batch_expired", "The batch's time was over before this line was answered.")
        };
        let (mut last, mut given_up) = (0, 0_u64);
        loop {
            let lines = self.store().written_lines(&batch.id, last, WRITTEN_AT_ONCE).await?;
            let Some(newest) = lines.last() else { break };
            last = newest.number;
            for line in &lines {
                match &line.result {
                    Some((Outcome::Completed, result)) => output.push(result).await?,
                    Some((Outcome::Failed, result)) => errors.push(result).await?,
                    None => {
                        given_up += 1;
                        errors.push(&unanswered(line.custom_id.as_deref(), code, message)).await?;
                    }
                }
            }
        }
        let at = unix_seconds();
        let delete_at = at.saturating_add(self.retention());
        let state = match (cancelled, given_up) {
            (true, _) => BatchState::Cancelled,
            (false, 0) => BatchState::Completed,
            (false, _) => BatchState::Expired,
        };
        let (output, errors) = (output.finish(delete_at).await?, errors.finish(delete_at).await?);
        self.store().end_batch(&batch.id, BatchEnd { state, at, delete_at, output, errors }).await?;
        tracing::info!(batch = batch.id, state = state.as_str(), "batch ended");
        Ok(())
    }

    fn store(&self) -> &Store {
        self.state.store()
    }

    fn retention(&self) -> u64 {
        self.state.limits().storage.retention.as_secs()
    }
}

/// An entry of a batch's `errors` that is about no line.
fn told(code: &str, message: &str) -> serde_json::Value {
    json!({ "code": code, "line": null, "message": message, "param": null })
}

/// Parsing takes longer than other tasks should wait.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => Ok(done),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(StoreError::Closed),
    }
}
