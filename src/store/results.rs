//! The end of a batch: what became of its lines goes into its files, step by step.
//!
//! Invariant: a line is a row or a part of a file, never both, whenever the process ends: each step is one transaction.
//! So no step takes more room than it gives back, but for what the lines that nobody answered are told.

use rusqlite::{Connection, Row, params};

use super::{
    FileDetails, Outcome, Store, StoreError,
    batches::{self, BatchState, UNFINISHED},
    files,
};

/// Lines that are deleted in one transaction.
const LINES_AT_ONCE: usize = 256;

/// Is there more to do?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Perhaps.
    Partial,
    /// No.
    Complete,
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
    /// Why it failed, if it did and nobody has said so before.
    pub errors: Option<String>,
    /// The file of answers, if there is one.
    pub output: FileDetails,
    /// The file of lines without one, if there is one.
    pub error: FileDetails,
}

/// Results of the next lines, as the files have them.
#[derive(Default)]
struct Taken {
    output: Vec<u8>,
    error: Vec<u8>,
    /// Number of the last line.
    last: Option<u64>,
}

impl Store {
    /// Moves results, in the order of their lines, to the files of a batch, about `bytes` of them. A line without one
    /// is given up: its entry is made from its `custom_id`.
    pub async fn move_results(
        &self,
        batch: &str,
        at: u64,
        bytes: usize,
        given_up: impl Fn(Option<&str>) -> String + Send + 'static,
    ) -> Result<Progress, StoreError> {
        let batch = batch.to_owned();
        self.call_reserved(move |connection| {
            let transaction = connection.transaction()?;
            let row = batches::row_of(&transaction, &batch)?;
            count_lines(&transaction, row)?;
            let taken = take(&transaction, row, bytes, given_up)?;
            let Some(last) = taken.last else { return Ok(Progress::Complete) };
            // Before the parts are added, which take the place.
            transaction.execute("DELETE FROM lines WHERE batch = ?1 AND line <= ?2", params![row, last])?;
            append(&transaction, row, "output_file", &taken.output, at)?;
            append(&transaction, row, "error_file", &taken.error, at)?;
            transaction.commit()?;
            Ok(Progress::Partial)
        })
        .await
    }

    /// Ends a batch: its files are shown, in one step. Lines that are left are deleted before.
    pub async fn end_batch(&self, id: &str, end: BatchEnd) -> Result<(), StoreError> {
        self.discard_lines(id).await?;
        let id = id.to_owned();
        self.call_reserved(move |connection| {
            let transaction = connection.transaction()?;
            let row = batches::row_of(&transaction, &id)?;
            for (column, details) in [("output_file", &end.output), ("error_file", &end.error)] {
                if let Some(file) = file_of(&transaction, row, column)? {
                    files::complete(&transaction, &file, details)?;
                }
            }
            transaction.execute(
                &format!(
                    "UPDATE batches SET state = ?2, ended_at = ?3, delete_at = ?4, errors = coalesce(errors, ?5) \
                     WHERE row = ?1 AND {UNFINISHED}"
                ),
                params![row, end.state.as_str(), end.at, end.delete_at, end.errors],
            )?;
            Ok(transaction.commit()?)
        })
        .await?;
        self.erase().await
    }

    /// Deletes the lines of a batch.
    pub async fn discard_lines(&self, batch: &str) -> Result<(), StoreError> {
        loop {
            let batch = batch.to_owned();
            let step = move |connection: &mut Connection| {
                let row = batches::row_of(connection, &batch)?;
                Ok(connection.execute(
                    "DELETE FROM lines WHERE batch = ?1 AND line IN (SELECT line FROM lines WHERE batch = ?1 LIMIT ?2)",
                    params![row, LINES_AT_ONCE],
                )?)
            };
            if self.call(step).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// Of a batch that was cancelled before all its lines were read: those that were.
fn count_lines(connection: &Connection, row: i64) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE batches SET total = (SELECT count(*) FROM lines WHERE batch = ?1), \
             failed = (SELECT count(*) FROM lines WHERE batch = ?1 AND outcome = 'failed') \
         WHERE row = ?1 AND started_at IS NULL AND output_file IS NULL AND error_file IS NULL",
        [row],
    )?;
    Ok(())
}

fn take(
    connection: &Connection,
    row: i64,
    bytes: usize,
    given_up: impl Fn(Option<&str>) -> String,
) -> Result<Taken, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT line, custom_id, outcome, result FROM lines WHERE batch = ?1 ORDER BY line")?;
    let mut lines = select.query([row])?;
    let mut taken = Taken::default();
    while taken.output.len() + taken.error.len() < bytes
        && let Some(line) = lines.next()?
    {
        taken.last = Some(line.get(0)?);
        let (file, result) = match result_of(line)? {
            Some((Outcome::Completed, result)) => (&mut taken.output, result),
            Some((Outcome::Failed, result)) => (&mut taken.error, result),
            None => (&mut taken.error, given_up(line.get::<_, Option<String>>(1)?.as_deref())),
        };
        file.extend_from_slice(result.as_bytes());
        file.push(b'\n');
    }
    Ok(taken)
}

fn result_of(row: &Row<'_>) -> rusqlite::Result<Option<(Outcome, String)>> {
    let outcome: Option<String> = row.get(2)?;
    let result: Option<String> = row.get(3)?;
    let outcome =
        outcome.map(|word| if word == Outcome::Completed.as_str() { Outcome::Completed } else { Outcome::Failed });
    Ok(outcome.zip(result))
}

/// Adds to a file of a batch, which is begun with the first of its content.
fn append(connection: &Connection, row: i64, column: &str, data: &[u8], at: u64) -> Result<(), StoreError> {
    if data.is_empty() {
        return Ok(());
    }
    let file = match file_of(connection, row, column)? {
        Some(file) => file,
        None => {
            let file = files::begin(connection, at)?;
            connection.execute(&format!("UPDATE batches SET {column} = ?2 WHERE row = ?1"), params![row, file])?;
            file
        }
    };
    files::append(connection, &file, data)
}

fn file_of(connection: &Connection, row: i64, column: &str) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row(&format!("SELECT {column} FROM batches WHERE row = ?1"), [row], |row| row.get(0))?)
}
