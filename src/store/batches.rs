//! Batches: what was asked for, how far it has come, and how it ended.
//!
//! Each change of state is one transaction that names the state before it, so that a change which comes too late (a
//! batch was cancelled meanwhile) changes nothing.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Kept, Page, PageQuery, Store, StoreError, erase_leftovers, new_id, page::Listing};

const COLUMNS: &str = "id, endpoint, model, input_files, completion_window, metadata, state, created_at, expires_at, \
                       started_at, finalizing_at, cancelling_at, ended_at, total, completed, failed, output_file, error_file, errors, dialect, owns_input, keep_output_s, behalf, kept_for, consent, subject, keep_s";
pub(super) const UNFINISHED: &str = "(state IN ('validating', 'in_progress', 'finalizing', 'cancelling'))";

/// A batch as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `batch_` and 32 characters.
    pub id: String,
    /// What was asked for.
    pub request: BatchRequest,
    /// What it is for.
    pub kept: Kept,
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
    /// Whose API it was asked by, if that is known, as written by who created it.
    pub dialect: Option<String>,
    /// Nobody else knows its files: they are deleted with the last use.
    pub owns_input: bool,
    /// How long its result files are kept, in seconds, if something else was asked for than usual.
    pub keep_output_s: Option<u64>,
    /// On whose behalf its lines are asked, as written by who created it; nobody's in particular if absent.
    pub behalf: Option<String>,
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
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let sql = format!("SELECT count(*) FROM batches WHERE {UNFINISHED}");
            let unfinished: u64 = transaction.query_row(&sql, [], |row| row.get(0))?;
            if unfinished >= limit {
                return Err(StoreError::QueueFull { limit });
            }
            let id = new_id("batch_");
            check_files(&transaction, &request, &kept)?;
            insert(&transaction, &id, &request)?;
            kept.mark(&transaction, "batches", transaction.last_insert_rowid())?;
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

    /// The oldest batch that needs something else than answers: its lines are to be read, its files to be written, or
    /// its time is over. None of `except`.
    pub async fn batch_to_tend(&self, now: u64, except: Vec<String>) -> Result<Option<Batch>, StoreError> {
        let wanted =
            "(state IN ('validating', 'finalizing', 'cancelling') OR state = 'in_progress' AND expires_at <= ?1)";
        self.call(move |connection| oldest(connection, wanted, now, &except)).await
    }

    /// The oldest batch whose lines may be answered now. None of `except`.
    pub async fn batch_to_answer(&self, now: u64, except: Vec<String>) -> Result<Option<Batch>, StoreError> {
        self.call(move |connection| oldest(connection, "state = 'in_progress' AND expires_at > ?1", now, &except)).await
    }

    /// Marks a batch to be cancelled. One that is cancelled already stays as it is.
    pub async fn cancel_batch(&self, id: &str, at: u64) -> Result<Batch, StoreError> {
        let id = id.to_owned();
        self.call_reserved(move |connection| {
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

    /// No line of a batch could be tried; `errors` says why. The lines that were read are deleted before.
    pub async fn fail_batch(&self, id: &str, errors: String, at: u64, delete_at: u64) -> Result<(), StoreError> {
        self.discard_lines(id).await?;
        let id = id.to_owned();
        self.call_reserved(move |connection| {
            connection.execute(
                "UPDATE batches SET state = 'failed', errors = ?2, ended_at = ?3, delete_at = ?4 \
                 WHERE id = ?1 AND state = 'validating'",
                params![id, errors, at, delete_at],
            )?;
            Ok(())
        })
        .await?;
        self.erase().await
    }

    /// No further line of a batch is tried: what it has is written to its files. `errors` says why, if it is not that
    /// all were tried or its time is over.
    pub async fn finalize_batch(&self, id: &str, errors: Option<String>, at: u64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call_reserved(move |connection| {
            connection.execute(
                "UPDATE batches SET state = 'finalizing', finalizing_at = ?2, errors = ?3 \
                 WHERE id = ?1 AND state = 'in_progress'",
                params![id, at, errors],
            )?;
            Ok(())
        })
        .await
    }
}

/// The row of a batch.
pub(super) fn row_of(connection: &Connection, id: &str) -> Result<i64, StoreError> {
    let row = connection.query_row("SELECT row FROM batches WHERE id = ?1", [id], |row| row.get(0)).optional()?;
    row.ok_or_else(|| missing(id))
}

/// Files that are kept for another purpose are not read for this one. What is not there is missed when it is read.
fn check_files(connection: &Connection, request: &BatchRequest, kept: &Kept) -> Result<(), StoreError> {
    for file in &request.input_files {
        let sql = "SELECT row FROM files WHERE id = ?1";
        if let Some(row) = connection.prepare_cached(sql)?.query_row([file], |row| row.get(0)).optional()? {
            Kept::of(connection, "files", row)?.check_purpose("file", file, kept.purpose.as_deref())?;
        }
    }
    Ok(())
}

fn insert(connection: &Connection, id: &str, request: &BatchRequest) -> Result<(), StoreError> {
    let BatchRequest { endpoint, model, input_files, window, metadata, .. } = request;
    let BatchRequest { created_at, expires_at, dialect, owns_input, keep_output_s, behalf, .. } = request;
    let input_files = input_files.join("\n");
    connection.execute(
        "INSERT INTO batches (id, endpoint, model, input_files, completion_window, metadata, state, created_at, \
             expires_at, dialect, owns_input, keep_output_s, behalf) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'validating', ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            id,
            endpoint,
            model,
            input_files,
            window,
            metadata,
            created_at,
            expires_at,
            dialect,
            owns_input,
            keep_output_s,
            behalf
        ],
    )?;
    Ok(())
}

fn oldest(connection: &Connection, wanted: &str, now: u64, except: &[String]) -> Result<Option<Batch>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM batches WHERE {wanted} AND id NOT IN (SELECT value FROM json_each(?2)) ORDER BY row LIMIT 1"
    );
    let except = serde_json::Value::from(except).to_string();
    Ok(connection.prepare_cached(&sql)?.query_row(params![now, except], read).optional()?)
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
    let rows =
        format!("FROM batches WHERE {states} AND (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR created_at > ?2)");
    let parameters = params![filter.model, filter.created_after];
    Listing { columns: COLUMNS, rows: &rows, parameters, after }.page(connection, query, read)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let input_files: String = row.get("input_files")?;
    let state: String = row.get("state")?;
    let known = BatchState::ALL.into_iter().find(|known| known.as_str() == state);
    let ended_at: Option<u64> = row.get("ended_at")?;
    // Files are the batch's own until it ends.
    let shown = |file: Option<String>| file.filter(|_| ended_at.is_some());
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
            dialect: row.get("dialect")?,
            owns_input: row.get("owns_input")?,
            keep_output_s: row.get("keep_output_s")?,
            behalf: row.get("behalf")?,
        },
        kept: Kept {
            purpose: row.get("kept_for")?,
            consent: row.get("consent")?,
            subject: row.get("subject")?,
            keep_s: row.get("keep_s")?,
        },
        state: known.ok_or(rusqlite::Error::InvalidColumnName(state))?,
        times: BatchTimes {
            started_at: row.get("started_at")?,
            finalizing_at: row.get("finalizing_at")?,
            cancelling_at: row.get("cancelling_at")?,
            ended_at,
        },
        counts: LineCounts { total: row.get("total")?, completed: row.get("completed")?, failed: row.get("failed")? },
        output_file: shown(row.get("output_file")?),
        error_file: shown(row.get("error_file")?),
        errors: row.get("errors")?,
    })
}

fn missing(id: &str) -> StoreError {
    StoreError::Missing { kind: "batch", id: id.to_owned() }
}
