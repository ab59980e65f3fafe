//! `/v1/batches` and Mistral's `/v1/batch/jobs`: requests that may wait, two views of the same stored batches.
//!
//! `request` reads what is asked for, `openai` and `mistral` are the views, [`run`] is the queue's one worker: it reads
//! lines (`tending`, `reading`), has them answered by the same handlers as everybody's requests, after everybody else
//! (`answering`), and writes the files (`results`). All that it knows is in the store, so it goes on where an earlier
//! process stopped.

mod answering;
mod mistral;
mod openai;
mod reading;
mod request;
mod results;
mod runner;
mod tending;
mod troubles;

pub use self::runner::run;
pub(super) use self::{
    mistral::{cancel as cancel_job, create as create_job, delete as delete_job, get as get_job, list as list_jobs},
    openai::{cancel, create, get, list},
    request::{ENDPOINTS, metadata_object, take_metadata},
    runner::keep_running,
};

use super::{
    error::ApiError,
    state::{AppState, unix_seconds},
};
use crate::store::Batch;

/// Batches that are not finished; one more is refused.
const MAX_UNFINISHED: u64 = 1000;

/// A batch whose lines that are not done will not be.
async fn cancelled(state: &AppState, id: &str) -> Result<Batch, ApiError> {
    let batch = state.store().cancel_batch(id, unix_seconds()).await?;
    state.batches_changed().notify_one();
    Ok(batch)
}
