//! Everything that a batch needs beside answers: its lines are read before, its files written after.

use serde_json::Value;
use tokio::task::JoinError;

use super::{
    reading::{BadFile, Reading},
    results::unanswered,
    runner::{Worker, told},
};
use crate::{
    api::{
        files::{BATCH_OUTPUT, PART_BYTES, error_filename},
        state::unix_seconds,
    },
    store::{Batch, BatchEnd, BatchState, FileDetails, NewLine, Progress, StoreError},
};

/// Why no batch can be made of its files.
enum Unreadable {
    Bad(BadFile),
    /// It is not wanted any more.
    Cancelled,
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
    /// Brings a batch to its next state.
    pub(super) async fn tend_to(&self, batch: &Batch) -> Result<(), StoreError> {
        match batch.state {
            BatchState::Validating => self.validate(batch).await,
            // Its time is over.
            BatchState::InProgress => self.store().finalize_batch(&batch.id, None, unix_seconds()).await,
            BatchState::Cancelling | BatchState::Finalizing => self.finalize(batch).await,
            BatchState::Completed | BatchState::Failed | BatchState::Expired | BatchState::Cancelled => Ok(()),
        }
    }

    async fn validate(&self, batch: &Batch) -> Result<(), StoreError> {
        let store = self.store();
        store.discard_lines(&batch.id).await?;
        let read = self.read_lines(batch).await;
        let now = unix_seconds();
        let errors = match read {
            Ok(Ok(())) => {
                store.start_batch(&batch.id, now).await?;
                return self.release_input(batch).await;
            }
            Ok(Err(told)) => told,
            Err(Unreadable::Cancelled) => return Ok(()),
            Err(Unreadable::Bad(BadFile { code, message })) => vec![told(code, &message)],
            Err(Unreadable::Store(StoreError::Missing { kind: "file", id })) => {
                vec![told("file_not_found", &format!("The file {id} is not there any more."))]
            }
            Err(Unreadable::Store(StoreError::Full)) => {
                vec![told("storage_full", "The storage has no place for its lines.")]
            }
            Err(Unreadable::Store(error)) => return Err(error),
        };
        let errors = Value::from(errors).to_string();
        store.fail_batch(&batch.id, errors, now, self.expiry(batch, now)).await?;
        self.release_input(batch).await
    }

    /// Puts the lines of all files into the store; `Err` within `Ok` says why none of them can be asked.
    async fn read_lines(&self, batch: &Batch) -> Result<Result<(), Vec<Value>>, Unreadable> {
        let mut reading = Reading::new(batch.request.endpoint.clone(), self.state.limits().body_bytes);
        for id in &batch.request.input_files {
            let file = self.store().file(id).await?;
            let (mut part, mut bytes) = (0, 0);
            while let Some(data) = self.store().file_part(id, part).await? {
                bytes += data.len() as u64;
                let work = move || {
                    let lines = reading.read(&data);
                    (reading, lines)
                };
                let (read, lines) = off_thread(work).await?;
                reading = read;
                self.store().add_lines(&batch.id, lines?).await?;
                part += 1;
                if self.store().batch(&batch.id).await?.state != BatchState::Validating {
                    return Err(Unreadable::Cancelled);
                }
            }
            if bytes != file.bytes {
                return Err(StoreError::Missing { kind: "file", id: id.clone() }.into());
            }
            let last: Vec<NewLine> = reading.end_of_file()?.into_iter().collect();
            self.store().add_lines(&batch.id, last).await?;
        }
        Ok(reading.finish())
    }

    /// Writes the files of a batch and ends it.
    async fn finalize(&self, batch: &Batch) -> Result<(), StoreError> {
        self.release_input(batch).await?;
        let (code, message) = why_given_up(batch);
        let moved = async || {
            let given_up = move |custom_id: Option<&str>| unanswered(custom_id, code, message);
            self.store().move_results(&batch.id, unix_seconds(), PART_BYTES, given_up).await
        };
        while moved().await? == Progress::Partial {}
        let counts = self.store().batch(&batch.id).await?.counts;
        let state = match batch.state {
            BatchState::Cancelling => BatchState::Cancelled,
            _ if batch.errors.is_some() => BatchState::Failed,
            _ if counts.completed + counts.failed < counts.total => BatchState::Expired,
            _ => BatchState::Completed,
        };
        self.end(batch, state, None).await
    }

    /// Shows the files that a batch has, with all that was answered.
    pub(super) async fn end(&self, batch: &Batch, state: BatchState, errors: Option<String>) -> Result<(), StoreError> {
        let at = unix_seconds();
        let delete_at = self.expiry(batch, at);
        let expires_at = batch.request.keep_output_s.map_or(delete_at, |seconds| at.saturating_add(seconds));
        let file = |filename| FileDetails { filename, purpose: BATCH_OUTPUT.to_owned(), expires_at };
        let (output, error) = (file(format!("{}_output.jsonl", batch.id)), file(error_filename(&batch.id)));
        let end = BatchEnd { state, at, delete_at, errors, output, error };
        self.store().end_batch(&batch.id, PART_BYTES, end).await?;
        tracing::info!(batch = batch.id, state = state.as_str(), "batch ended");
        Ok(())
    }

    /// Requests that came with a job are nobody's file once its lines are read.
    async fn release_input(&self, batch: &Batch) -> Result<(), StoreError> {
        if !batch.request.owns_input {
            return Ok(());
        }
        for file in &batch.request.input_files {
            match self.store().delete_file(file).await {
                Ok(()) | Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a line without a result is told.
fn why_given_up(batch: &Batch) -> (&'static str, &'static str) {
    if batch.state == BatchState::Cancelling {
        ("batch_cancelled", "The batch was cancelled before this line was answered.")
    } else if batch.errors.is_some() {
        ("batch_failed", "The batch failed before this line was answered.")
    } else {
        ("batch_expired", "The batch's time was over before this line was answered.")
    }
}

/// Parsing takes longer than other tasks should wait.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => Ok(done),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(StoreError::Closed),
    }
}
