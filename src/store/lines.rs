//! The lines of a batch: each is to do, or has its one outcome.

use rusqlite::{Row, params};

use super::{Store, StoreError, batches};

/// A line that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1 over all files of the batch.
    pub number: u64,
    /// How its owner knows it.
    pub custom_id: String,
    /// What to ask.
    pub request: String,
    /// Whom it is about, if it says so itself.
    pub subject: Option<String>,
}

/// A line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLine {
    /// It can be asked.
    ToDo(Line),
    /// It cannot; the result says why.
    Bad {
        /// Counted from 1 over all files of the batch.
        number: u64,
        /// How its owner knows it, if that could be read.
        custom_id: Option<String>,
        /// What the error file will say.
        result: String,
    },
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Completed,
    /// It was refused, or it failed.
    Failed,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

impl Store {
    /// Adds lines to a batch.
    pub async fn add_lines(&self, batch: &str, lines: Vec<NewLine>) -> Result<(), StoreError> {
        let batch = batch.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let row = batches::row_of(&transaction, &batch)?;
            let mut insert = transaction.prepare_cached(
                "INSERT INTO lines (batch, line, custom_id, request, outcome, result, subject) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for line in lines {
                match line {
                    NewLine::ToDo(Line { number, custom_id, request, subject }) => {
                        insert.execute(params![row, number, custom_id, request, None::<&str>, None::<&str>, subject])?
                    }
                    NewLine::Bad { number, custom_id, result } => {
                        let outcome = Outcome::Failed.as_str();
                        insert.execute(params![row, number, custom_id, None::<&str>, outcome, result, None::<&str>])?
                    }
                };
            }
            drop(insert);
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Lines to do behind line `after`, in their order.
    pub async fn lines_to_do(&self, batch: &str, after: u64, limit: usize) -> Result<Vec<Line>, StoreError> {
        let batch = batch.to_owned();
        self.call(move |connection| {
            let row = batches::row_of(connection, &batch)?;
            let mut select = connection.prepare_cached(
                "SELECT line, custom_id, request, subject FROM lines \
                 WHERE batch = ?1 AND line > ?2 AND outcome IS NULL ORDER BY line LIMIT ?3",
            )?;
            let read = |row: &Row<'_>| {
                Ok(Line { number: row.get(0)?, custom_id: row.get(1)?, request: row.get(2)?, subject: row.get(3)? })
            };
            let lines = select.query_map(params![row, after, limit], read)?;
            Ok(lines.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Writes down what became of a line, once: a line that has an outcome keeps it. Its request is forgotten.
    pub async fn record_line(
        &self,
        batch: &str,
        number: u64,
        outcome: Outcome,
        result: String,
    ) -> Result<(), StoreError> {
        let batch = batch.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let row = batches::row_of(&transaction, &batch)?;
            let changed = transaction.execute(
                "UPDATE lines SET outcome = ?3, result = ?4, request = NULL \
                 WHERE batch = ?1 AND line = ?2 AND outcome IS NULL",
                params![row, number, outcome.as_str(), result],
            )?;
            let count = match outcome {
                Outcome::Completed => "UPDATE batches SET completed = completed + ?2 WHERE row = ?1",
                Outcome::Failed => "UPDATE batches SET failed = failed + ?2 WHERE row = ?1",
            };
            transaction.execute(count, params![row, changed])?;
            Ok(transaction.commit()?)
        })
        .await
    }
}
