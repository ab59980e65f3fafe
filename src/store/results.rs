//! The end of a batch: what became of its lines goes into its files, step by step.
//!
//! Invariants: a line with an outcome is a row or in a file, never both and never neither, whenever the process ends or the
//! database fails: each step is one transaction. What was answered goes first, and takes no more room than it gives back;
//! what the lines that nobody answered are told may take more, and comes behind it.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::{
    FileDetails, Kept, Outcome, Store, StoreError,
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
    /// Numbers of the lines.
    lines: Vec<u64>,
    /// Lines that are about somebody.
    subjects: Vec<ResultSubject>,
}

/// Whom a result is about.
struct ResultSubject {
    /// The file that has it.
    column: &'static str,
    custom_id: String,
    subject: String,
}

/// Columns of a batch with its files.
const OUTPUT: &str = "output_file";
const ERROR: &str = "error_file";

/// Lines that have an outcome. The others are looked up in an index of their own, so that nobody reads past their requests.
const ANSWERED: &str =
    "line NOT IN (SELECT line FROM lines INDEXED BY lines_to_do WHERE batch = ?1 AND outcome IS NULL)";
const UNANSWERED: &str = "outcome IS NULL";

impl Store {
    /// Moves results to the files of a batch, about `bytes` of them: those of lines that have one, in the order of the
    /// lines; then the others are given up, whose entries are made from their `custom_id`.
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
            let mut taken = take(&transaction, row, ANSWERED, bytes, &given_up)?;
            if taken.lines.is_empty() {
                taken = take(&transaction, row, UNANSWERED, bytes, &given_up)?;
            }
            let progress = put_into_files(&transaction, row, taken, at)?;
            transaction.commit()?;
            Ok(progress)
        })
        .await
    }

    /// Ends a batch: its files are shown, in one step. What was answered and is not in them yet is moved before, about
    /// `bytes` at once; lines that nobody answered are deleted.
    pub async fn end_batch(&self, id: &str, bytes: usize, end: BatchEnd) -> Result<(), StoreError> {
        let end = Arc::new(end);
        loop {
            let (id, end) = (id.to_owned(), Arc::clone(&end));
            let step = move |connection: &mut Connection| {
                let transaction = connection.transaction()?;
                let progress = end_some(&transaction, batches::row_of(&transaction, &id)?, bytes, &end)?;
                transaction.commit()?;
                Ok(progress)
            };
            if self.call_reserved(step).await? == Progress::Complete {
                return self.erase().await;
            }
        }
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

/// The next step to the end of a batch, and the end once nothing else is left to do.
fn end_some(connection: &Connection, row: i64, bytes: usize, end: &BatchEnd) -> Result<Progress, StoreError> {
    // Why it failed is not forgotten if the process ends between two steps.
    connection.execute("UPDATE batches SET errors = coalesce(errors, ?2) WHERE row = ?1", params![row, end.errors])?;
    let answered = take(connection, row, ANSWERED, bytes, &|_| String::new())?;
    if put_into_files(connection, row, answered, end.at)? == Progress::Partial {
        return Ok(Progress::Partial);
    }
    let deleted = connection.execute(
        "DELETE FROM lines WHERE batch = ?1 AND line IN (SELECT line FROM lines WHERE batch = ?1 LIMIT ?2)",
        params![row, LINES_AT_ONCE],
    )?;
    if deleted > 0 {
        return Ok(Progress::Partial);
    }
    for (column, details) in [(OUTPUT, &end.output), (ERROR, &end.error)] {
        if let Some(file) = file_of(connection, row, column)? {
            files::complete(connection, &file, details)?;
        }
    }
    connection.execute(
        &format!("UPDATE batches SET state = ?2, ended_at = ?3, delete_at = ?4 WHERE row = ?1 AND {UNFINISHED}"),
        params![row, end.state.as_str(), end.at, end.delete_at],
    )?;
    Ok(Progress::Complete)
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

/// Results of lines that fulfil a condition, about `bytes` of them.
fn take(
    connection: &Connection,
    row: i64,
    condition: &str,
    bytes: usize,
    given_up: &impl Fn(Option<&str>) -> String,
) -> Result<Taken, StoreError> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT line, custom_id, outcome, result, subject FROM lines WHERE batch = ?1 AND {condition} ORDER BY line"
    ))?;
    let mut lines = select.query([row])?;
    let mut taken = Taken::default();
    while taken.output.len() + taken.error.len() < bytes
        && let Some(line) = lines.next()?
    {
        taken.lines.push(line.get(0)?);
        let custom_id: Option<String> = line.get(1)?;
        let (column, file, result) = match result_of(line)? {
            Some((Outcome::Completed, result)) => (OUTPUT, &mut taken.output, result),
            Some((Outcome::Failed, result)) => (ERROR, &mut taken.error, result),
            None => (ERROR, &mut taken.error, given_up(custom_id.as_deref())),
        };
        if let (Some(custom_id), Some(subject)) = (custom_id, line.get(4)?) {
            taken.subjects.push(ResultSubject { column, custom_id, subject });
        }
        file.extend_from_slice(result.as_bytes());
        file.push(b'\n');
    }
    Ok(taken)
}

/// Puts results into the files of a batch, in place of their lines. Complete if there are none.
fn put_into_files(connection: &Connection, row: i64, taken: Taken, at: u64) -> Result<Progress, StoreError> {
    if taken.lines.is_empty() {
        return Ok(Progress::Complete);
    }
    // Before the parts are added, which take the place.
    let mut delete = connection.prepare_cached("DELETE FROM lines WHERE batch = ?1 AND line = ?2")?;
    for line in taken.lines {
        delete.execute(params![row, line])?;
    }
    append(connection, row, OUTPUT, &taken.output, at)?;
    append(connection, row, ERROR, &taken.error, at)?;
    for ResultSubject { column, custom_id, subject } in taken.subjects {
        let sql = format!(
            "INSERT INTO result_subjects (file, custom_id, subject) \
             SELECT files.row, ?2, ?3 FROM files JOIN batches ON files.id = {column} WHERE batches.row = ?1"
        );
        connection.prepare_cached(&sql)?.execute(params![row, custom_id, subject])?;
    }
    Ok(Progress::Partial)
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
            let file = files::begin(connection, at, &Kept::of(connection, "batches", row)?)?;
            connection.execute(&format!("UPDATE batches SET {column} = ?2 WHERE row = ?1"), params![row, file])?;
            file
        }
    };
    files::append(connection, &file, data)
}

fn file_of(connection: &Connection, row: i64, column: &str) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row(&format!("SELECT {column} FROM batches WHERE row = ?1"), [row], |row| row.get(0))?)
}
