//! Files: a few facts and the content, in parts, so that nobody needs to hold a whole file.
//!
//! A file is begun, gets its parts, and is completed; before that nobody else sees it.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::{Kept, Order, Page, PageQuery, Progress, Store, StoreError, new_id};

const COLUMNS: &str = "id, filename, purpose, bytes, created_at, expires_at";
const VISIBLE: &str = "complete AND expires_at > unixepoch()";
/// Parts that are deleted in one transaction.
const PARTS_AT_ONCE: usize = 16;
/// Files that never will be complete once their upload, or the process, has ended: all but those that a batch which
/// has not ended is writing.
pub(super) const ABANDONED: &str = "NOT complete AND id NOT IN ( \
     SELECT output_file FROM batches WHERE ended_at IS NULL AND output_file IS NOT NULL \
     UNION ALL SELECT error_file FROM batches WHERE ended_at IS NULL AND error_file IS NOT NULL)";

/// A complete file, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// `file-` and 32 characters.
    pub id: String,
    /// Length of the content.
    pub bytes: u64,
    /// When it was begun, in Unix seconds.
    pub created_at: u64,
    /// All else.
    pub details: FileDetails,
}

/// What is known of a file beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDetails {
    /// As its owner calls it; means nothing here.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// When it is deleted, in Unix seconds.
    pub expires_at: u64,
}

/// Which files a list shall have. All if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFilter {
    /// With this purpose.
    pub purpose: Option<String>,
    /// With this text in their names, letters of ASCII in whatever case.
    pub search: Option<String>,
    /// Of one of these kinds.
    pub kinds: Option<Vec<FileKind>>,
}

/// Files that are told from others by what their owner calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// What they are for.
    pub purpose: &'static str,
    /// What their names end with, or, if false, do not end with.
    pub ending: Option<(&'static str, bool)>,
}

impl Store {
    /// Begins a file; the id is its own from now on.
    pub async fn begin_file(&self, created_at: u64) -> Result<String, StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let id = begin(&transaction, created_at, &kept)?;
            transaction.commit()?;
            Ok(id)
        })
        .await
    }

    /// Adds to the content of a file that is not complete.
    pub async fn append_to_file(&self, id: &str, data: Vec<u8>) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            append(&transaction, &id, &data)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Shows a file to everybody.
    pub async fn complete_file(&self, id: &str, details: FileDetails) -> Result<StoredFile, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            complete(&transaction, &id, &details)?;
            let file = find(&transaction, &id, "complete")?;
            transaction.commit()?;
            Ok(file)
        })
        .await
    }

    /// A file by its id.
    pub async fn file(&self, id: &str) -> Result<StoredFile, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| find(connection, &id, VISIBLE)).await
    }

    /// Complete files that the filter lets through.
    pub async fn files(&self, filter: FileFilter, query: PageQuery) -> Result<Page<StoredFile>, StoreError> {
        self.call(move |connection| list(connection, &filter, &query)).await
    }

    /// One part of a file's content, counted from 0; `None` behind the last. A file that is gone, or has passed its time,
    /// has no last part: it is missing.
    pub async fn file_part(&self, id: &str, part: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let row = row_of(connection, &id, VISIBLE)?;
            let mut select = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 AND part = ?2")?;
            Ok(select.query_row(params![row, part], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// Deletes a file, complete or not, so that its content is in the database no more. Nobody sees it from the first
    /// moment; others are served between the steps.
    pub async fn delete_file(&self, id: &str) -> Result<(), StoreError> {
        let hidden = id.to_owned();
        self.call(move |connection| {
            match connection.execute("UPDATE files SET complete = FALSE WHERE id = ?1", [&hidden])? {
                0 => Err(missing(&hidden)),
                _ => Ok(()),
            }
        })
        .await?;
        self.remove_file(id).await
    }

    /// Deletes a file that is there no more for others.
    pub(super) async fn remove_file(&self, id: &str) -> Result<(), StoreError> {
        loop {
            let id = id.to_owned();
            let step = move |connection: &mut Connection| delete_some(connection, &id);
            if self.call(step).await? == Progress::Complete {
                return self.erase().await;
            }
        }
    }
}

/// Begins a file within somebody's transaction.
pub(super) fn begin(connection: &Connection, created_at: u64, kept: &Kept) -> Result<String, StoreError> {
    let id = new_id("file-");
    connection.execute(
        "INSERT INTO files (id, filename, purpose, bytes, created_at, expires_at, complete) \
         VALUES (?1, '', '', 0, ?2, ?3, FALSE)",
        params![id, created_at, i64::MAX],
    )?;
    kept.mark(connection, "files", connection.last_insert_rowid())?;
    Ok(id)
}

/// Adds to a file within somebody's transaction.
pub(super) fn append(connection: &Connection, id: &str, data: &[u8]) -> Result<(), StoreError> {
    let row = row_of(connection, id, "NOT complete")?;
    connection.execute(
        "INSERT INTO parts (file, part, data) VALUES (?1, (SELECT count(*) FROM parts WHERE file = ?1), ?2)",
        params![row, data],
    )?;
    connection.execute("UPDATE files SET bytes = bytes + ?2 WHERE row = ?1", params![row, data.len()])?;
    Ok(())
}

/// Deletes the last parts of a file, and the file once it has none.
fn delete_some(connection: &mut Connection, id: &str) -> Result<Progress, StoreError> {
    let transaction = connection.transaction()?;
    let row = match row_of(&transaction, id, "TRUE") {
        Err(StoreError::Missing { .. }) => return Ok(Progress::Complete), // somebody else deleted it too
        row => row?,
    };
    let deleted = transaction.execute(
        "DELETE FROM parts WHERE file = ?1 AND part IN \
         (SELECT part FROM parts WHERE file = ?1 ORDER BY part DESC LIMIT ?2)",
        params![row, PARTS_AT_ONCE],
    )?;
    if deleted == 0 {
        transaction.execute("DELETE FROM files WHERE row = ?1", [row])?;
    }
    transaction.commit()?;
    Ok(if deleted == 0 { Progress::Complete } else { Progress::Partial })
}

/// Completes a file within somebody's transaction.
pub(super) fn complete(connection: &Connection, id: &str, details: &FileDetails) -> Result<(), StoreError> {
    let FileDetails { filename, purpose, expires_at } = details;
    let changed = connection.execute(
        "UPDATE files SET filename = ?2, purpose = ?3, expires_at = ?4, complete = TRUE WHERE id = ?1 AND NOT complete",
        params![id, filename, purpose, expires_at],
    )?;
    if changed == 0 { Err(missing(id)) } else { Ok(()) }
}

fn find(connection: &Connection, id: &str, condition: &str) -> Result<StoredFile, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM files WHERE id = ?1 AND {condition}");
    connection.query_row(&sql, [id], read).optional()?.ok_or_else(|| missing(id))
}

fn list(connection: &Connection, filter: &FileFilter, query: &PageQuery) -> Result<Page<StoredFile>, StoreError> {
    let after = query.after.as_deref().map(|id| row_of(connection, id, VISIBLE)).transpose()?;
    let wanted = format!(
        "FROM files WHERE {VISIBLE} AND (?1 IS NULL OR purpose = ?1) \
         AND (?2 IS NULL OR instr(lower(filename), lower(?2))) \
         AND (?3 IS NULL OR EXISTS (SELECT 1 FROM json_each(?3) AS kind \
              WHERE purpose = kind.value ->> 0 AND (kind.value ->> 1 IS NULL OR \
                    (substr(filename, -length(kind.value ->> 1)) = kind.value ->> 1) = kind.value ->> 2)))"
    );
    let FileFilter { purpose, search, kinds } = filter;
    let kind =
        |kind: &FileKind| json!([kind.purpose, kind.ending.map(|(text, _)| text), kind.ending.map(|(_, is)| is)]);
    let kinds = kinds.as_ref().map(|kinds| kinds.iter().map(kind).collect::<serde_json::Value>().to_string());
    let total = connection
        .query_row(&format!("SELECT count(*) {wanted}"), params![purpose, search, kinds], |row| row.get(0))?;
    let sql = format!("SELECT {COLUMNS} {wanted} {}", Order::tail(query.order, 4));
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = query.limit.saturating_add(1);
    let items = statement.query_map(params![purpose, search, kinds, after, limit, query.skip], read)?;
    Ok(Page::new(items.collect::<Result<_, _>>()?, query, total))
}

pub(super) fn row_of(connection: &Connection, id: &str, condition: &str) -> Result<i64, StoreError> {
    let sql = format!("SELECT row FROM files WHERE id = ?1 AND {condition}");
    connection.query_row(&sql, [id], |row| row.get(0)).optional()?.ok_or_else(|| missing(id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredFile> {
    Ok(StoredFile {
        id: row.get(0)?,
        bytes: row.get(3)?,
        created_at: row.get(4)?,
        details: FileDetails { filename: row.get(1)?, purpose: row.get(2)?, expires_at: row.get(5)? },
    })
}

fn missing(id: &str) -> StoreError {
    StoreError::Missing { kind: "file", id: id.to_owned() }
}
