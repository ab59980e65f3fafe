//! Batches: what was asked for, how far it has come, and how it ended.
//!
//! Each change of state is one transaction that names the state before it, so that a change which comes too late (a
//! batch was cancelled meanwhile) changes nothing.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{FileDetails, Order, Page, PageQuery, Store, StoreError, erase_leftovers, files, new_id};

const COLUMNS: &str = "id, endpoint, model, input_files, completion_window, metadata, state, created_at, expires_at, \
                       started_at, finalizing_at, cancelling_at, ended_at, total, completed, failed, output_file, error_file, errors";
const UNFINISHED: &str = "(state IN ('validating', 'in_progress', 'finalizing', 'cancelling'))";

/// A batch as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `batch_` and 32 characters.
    pub id: String,
    /// What was asked for.
    pub request: BatchRequest,
    /// Where it is.
    pub state: BatchState,
    /// When it came there.
    pub times: BatchTimes,
    /// What became of its lines.
    pub counts: LineCounts,
    /// The file of answers.
    pub output_file: Option<String>,
    /// The file of lines without one.
    pub error_file: Option<String>,
    /// Why it failed as a whole, as written by who failed it.
    pub errors: Option<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRequest {
    /// What answers each line.
    pub endpoint: String,
    /// Asked of lines that name no other.
    pub model: Option<String>,
    /// Ids of the files that have the lines.
    pub input_files: Vec<String>,
    /// The time it may take, as it was spelled.
    pub window: String,
    /// Labels, as their owner wrote them.
    pub metadata: Option<String>,
    /// Unix seconds.
    pub created_at: u64,
    /// When lines that are not done are given up, in Unix seconds.
    pub expires_at: u64,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// Its lines are read and checked.
    Validating,
    /// Its lines are answered, or wait for that.
    InProgress,
    /// Its files are written.
    Finalizing,
    /// Every line has been tried.
    Completed,
    /// It had no line that could be tried.
    Failed,
    /// Its time was over before all lines were done.
    Expired,
    /// It will be cancelled.
    Cancelling,
    /// Lines that were not done are given up.
    Cancelled,
}

/// When a batch changed its state, in Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Its lines were checked.
    pub started_at: Option<u64>,
    /// All that could be done was done.
    pub finalizing_at: Option<u64>,
    /// Somebody cancelled it.
    pub cancelling_at: Option<u64>,
    /// It ended, in whichever way.
    pub ended_at: Option<u64>,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// All of them.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Refused, or failed.
    pub failed: u64,
}

/// How a batch ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchEnd {
    /// The last state.
    pub state: BatchState,
    /// When, in Unix seconds.
    pub at: u64,
    /// When the batch itself is deleted, in Unix seconds.
    pub delete_at: u64,
    /// A file that was begun for the answers.
    pub output: Option<(String, FileDetails)>,
    /// A file that was begun for the lines without one.
    pub errors: Option<(String, FileDetails)>,
}

/// Which batches a list shall have. All if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchFilter {
    /// In one of these states.
    pub states: Option<Vec<BatchState>>,
    /// Asked of this model.
    pub model: Option<String>,
    /// Later than this moment, in Unix seconds.
    pub created_after: Option<u64>,
}

impl BatchState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Failed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// OpenAI's word, which is also the stored one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Store {
    /// Stores a batch whose lines are still to be read, unless `limit` others are unfinished.
    pub async fn create_batch(&self, request: BatchRequest, limit: u64) -> Result<Batch, StoreError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let sql = format!("SELECT count(*) FROM batches WHERE {UNFINISHED}");
            let unfinished: u64 = transaction.query_row(&sql, [], |row| row.get(0))?;
            if unfinished >= limit {
                return Err(StoreError::QueueFull { limit });
            }
            let id = new_id("batch_");
            let BatchRequest { endpoint, model, input_files, window, metadata, created_at, expires_at } = request;
            transaction.execute(
                "INSERT INTO batches (id, endpoint, model, input_files, completion_window, metadata, state, created_at, \
                     expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'validating', ?7, ?8)",
                params![id, endpoint, model, input_files.join("\n"), window, metadata, created_at, expires_at],
            )?;
            let batch = find(&transaction, &id)?;
            transaction.commit()?;
            Ok(batch)
        })
        .await
    }

    /// A batch by its id.
    pub async fn batch(&self, id: &str) -> Result<Batch, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| find(connection, &id)).await
    }

    /// Batches that the filter lets through.
    pub async fn batches(&self, filter: BatchFilter, query: PageQuery) -> Result<Page<Batch>, StoreError> {
        self.call(move |connection| list(connection, &filter, &query)).await
    }

    /// The oldest batch in one of these states.
    pub async fn oldest_batch(&self, states: &'static [BatchState]) -> Result<Option<Batch>, StoreError> {
        self.call(move |connection| {
            let filter = BatchFilter { states: Some(states.to_vec()), ..BatchFilter::default() };
            let query = PageQuery { after: None, skip: 0, limit: 1, order: Order::Ascending };
            Ok(list(connection, &filter, &query)?.items.pop())
        })
        .await
    }

    /// Marks a batch to be cancelled. One that is cancelled already stays as it is.
    pub async fn cancel_batch(&self, id: &str, at: u64) -> Result<Batch, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE batches SET state = 'cancelling', cancelling_at = ?2 \
                 WHERE id = ?1 AND state IN ('validating', 'in_progress')",
                params![id, at],
            )?;
            let batch = find(&transaction, &id)?;
            transaction.commit()?;
            match batch.state {
                BatchState::Cancelling | BatchState::Cancelled => Ok(batch),
                BatchState::Validating
                | BatchState::InProgress
                | BatchState::Finalizing
                | BatchState::Completed
                | BatchState::Failed
                | BatchState::Expired => Err(StoreError::NotCancellable { id, state: batch.state }),
            }
        })
        .await
    }

    /// Deletes a batch that has ended; its files stay.
    pub async fn delete_batch(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let sql = format!("DELETE FROM batches WHERE id = ?1 AND NOT {UNFINISHED}");
            if connection.execute(&sql, [&id])? == 0 {
                let Batch { id, state, .. } = find(connection, &id)?;
                return Err(StoreError::Unfinished { id, state });
            }
            erase_leftovers(connection)
        })
        .await
    }

    /// The lines of a batch are all there: they may be answered.
    pub async fn start_batch(&self, id: &str, at: u64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.execute(
                "UPDATE batches SET state = 'in_progress', started_at = ?2, \
                     total = (SELECT count(*) FROM lines WHERE batch = batches.row), \
                     failed = (SELECT count(*) FROM lines WHERE batch = batches.row AND outcome = 'failed') \
                 WHERE id = ?1 AND state = 'validating'",
                params![id, at],
            )?;
            Ok(())
        })
        .await
    }

    /// No line of a batch could be tried; `errors` says why.
    pub async fn fail_batch(&self, id: &str, errors: String, at: u64, delete_at: u64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let changed = transaction.execute(
                "UPDATE batches SET state = 'failed', errors = ?2, ended_at = ?3, delete_at = ?4 \
                 WHERE id = ?1 AND state = 'validating'",
                params![id, errors, at, delete_at],
            )?;
            if changed > 0 {
                delete_lines(&transaction, &id)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// No further line of a batch is tried: what it has is written to its files.
    pub async fn finalize_batch(&self, id: &str, at: u64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.execute(
                "UPDATE batches SET state = 'finalizing', finalizing_at = ?2 WHERE id = ?1 AND state = 'in_progress'",
                params![id, at],
            )?;
            Ok(())
        })
        .await
    }

    /// Ends a batch: its files are shown and its lines deleted, in one step.
    pub async fn end_batch(&self, id: &str, end: BatchEnd) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            for (file, details) in end.output.iter().chain(&end.errors) {
                files::complete(&transaction, file, details)?;
            }
            let file = |file: &Option<(String, FileDetails)>| file.as_ref().map(|(id, _)| id.clone());
            transaction.execute(
                &format!(
                    "UPDATE batches SET state = ?2, ended_at = ?3, delete_at = ?4, output_file = ?5, error_file = ?6 \
                     WHERE id = ?1 AND {UNFINISHED}"
                ),
                params![id, end.state.as_str(), end.at, end.delete_at, file(&end.output), file(&end.errors)],
            )?;
            delete_lines(&transaction, &id)?;
            transaction.commit()?;
            erase_leftovers(connection)
        })
        .await
    }
}

/// The row of a batch.
pub(super) fn row_of(connection: &Connection, id: &str) -> Result<i64, StoreError> {
    let row = connection.query_row("SELECT row FROM batches WHERE id = ?1", [id], |row| row.get(0)).optional()?;
    row.ok_or_else(|| missing(id))
}

/// Deletes all lines of a batch.
pub(super) fn delete_lines(connection: &Connection, id: &str) -> Result<(), StoreError> {
    connection.execute("DELETE FROM lines WHERE batch = (SELECT row FROM batches WHERE id = ?1)", [id])?;
    Ok(())
}

fn find(connection: &Connection, id: &str) -> Result<Batch, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE id = ?1");
    connection.query_row(&sql, [id], read).optional()?.ok_or_else(|| missing(id))
}

fn list(connection: &Connection, filter: &BatchFilter, query: &PageQuery) -> Result<Page<Batch>, StoreError> {
    let after = query.after.as_deref().map(|id| row_of(connection, id)).transpose()?;
    let names =
        |states: &Vec<BatchState>| states.iter().map(|state| format!("'{}'", state.as_str())).collect::<Vec<_>>();
    let states =
        filter.states.as_ref().map_or("TRUE".to_owned(), |states| format!("state IN ({})", names(states).join(", ")));
    let wanted =
        format!("FROM batches WHERE {states} AND (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR created_at > ?2)");
    let BatchFilter { model, created_after, .. } = filter;
    let total =
        connection.query_row(&format!("SELECT count(*) {wanted}"), params![model, created_after], |row| row.get(0))?;
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} {wanted} {}", query.order.tail(3)))?;
    let limit = query.limit.saturating_add(1);
    let items = statement.query_map(params![model, created_after, after, limit, query.skip], read)?;
    Ok(Page::new(items.collect::<Result<_, _>>()?, query, total))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let input_files: String = row.get("input_files")?;
    let state: String = row.get("state")?;
    let known = BatchState::ALL.into_iter().find(|known| known.as_str() == state);
    Ok(Batch {
        id: row.get("id")?,
        request: BatchRequest {
            endpoint: row.get("endpoint")?,
            model: row.get("model")?,
            input_files: input_files.lines().map(str::to_owned).collect(),
            window: row.get("completion_window")?,
            metadata: row.get("metadata")?,
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
        },
        state: known.ok_or(rusqlite::Error::InvalidColumnName(state))?,
        times: BatchTimes {
            started_at: row.get("started_at")?,
            finalizing_at: row.get("finalizing_at")?,
            cancelling_at: row.get("cancelling_at")?,
            ended_at: row.get("ended_at")?,
        },
        counts: LineCounts { total: row.get("total")?, completed: row.get("completed")?, failed: row.get("failed")? },
        output_file: row.get("output_file")?,
        error_file: row.get("error_file")?,
        errors: row.get("errors")?,
    })
}

fn missing(id: &str) -> StoreError {
    StoreError::Missing { kind: "batch", id: id.to_owned() }
}
