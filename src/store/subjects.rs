//! Everything that is held about a subject: told, and deleted.
//!
//! It is found by the marks that stored objects have ([`super::Kept`]), and by what lines of batches say themselves. Invariant:
//! when [`Store::delete_subject`] has said that all is deleted, none of it is in the database's files any more.

use rusqlite::{Connection, Row, ToSql, params, types::Value as Column};
use serde_json::{Map, Value, json};

use super::{
    Store, StoreError, erase_leftovers,
    removal::{CONVERSATIONS, RESPONSES, Which},
    subject_lines::{self, LineForm, SubjectFile},
};

/// Lines may come while others are taken out, as long as a batch is being read.
const MOST_PASSES: usize = 10;

/// Something that is held about a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it is: `response`, `conversation`, `item`, `file`, `file line`, `batch`, `batch line` or `agent`.
    pub kind: &'static str,
    /// Its id; that of what it is in, if it has none.
    pub id: String,
    /// All of it, as it is stored.
    pub content: Value,
}

/// What was deleted, and what could not be yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectDeletion {
    /// Kinds of things, as in [`Held`], with how many of them.
    pub deleted: Vec<(&'static str, u64)>,
    /// Ids of batches whose lines are being read: some of them may be stored again.
    pub being_read: Vec<String>,
}

/// Objects that belong to a subject as a whole: their kind, their table, and the query of their parts with its name.
const WHOLE: [(&str, &str, &str, &str); 4] = [
    ("response", "responses", "items", "SELECT part, id, body FROM response_items WHERE response = ?1 ORDER BY row"),
    (
        "conversation",
        "conversations",
        "items",
        "SELECT id, position, created_at, body FROM items WHERE conversation = ?1 ORDER BY row",
    ),
    (
        "batch",
        "batches",
        "lines",
        "SELECT line, custom_id, request, outcome, result FROM lines WHERE batch = ?1 ORDER BY line",
    ),
    (
        "agent",
        "agents",
        "versions",
        "SELECT version, created_at, name, metadata, body FROM agent_versions WHERE agent = ?1 ORDER BY version",
    ),
];

/// Items of conversations that are not the subject's as a whole.
const ITEMS: &str = "SELECT conversations.id AS conversation, items.id AS id, position, items.created_at AS created_at, body \
                     FROM items JOIN conversations ON conversation = conversations.row \
                     WHERE items.subject = ?1 AND conversations.subject IS NOT ?1 ORDER BY items.row";
/// Lines of such batches.
const LINES: &str = "SELECT batches.id AS id, line, custom_id, request, outcome, result \
                     FROM lines JOIN batches ON batch = batches.row \
                     WHERE lines.subject = ?1 AND batches.subject IS NOT ?1 ORDER BY batch, line";

impl Store {
    /// Tells everything that is held about a subject, one after the other.
    pub async fn export_subject(
        &self,
        subject: &str,
        form: LineForm,
        mut tell: impl FnMut(Held) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let subject = subject.to_owned();
        self.call(move |connection| export(connection, &subject, form, &mut tell)).await
    }

    /// Deletes everything that is held about a subject. What is hidden first nobody sees any more; others are served between
    /// the steps. It may be called again.
    pub async fn delete_subject(&self, subject: &str, form: LineForm) -> Result<SubjectDeletion, StoreError> {
        let owned = subject.to_owned();
        let (batches, files, mut deletion) = self.call_reserved(move |connection| hide(connection, &owned)).await?;
        for batch in batches {
            match self.discard_lines(&batch).await {
                Ok(()) | Err(StoreError::Missing { .. }) => {} // a sweep may come first
                Err(error) => return Err(error),
            }
            let delete = move |connection: &mut Connection| {
                Ok(connection.execute("DELETE FROM batches WHERE id = ?1", [batch])?)
            };
            self.call_reserved(delete).await?;
        }
        for file in files {
            self.remove_file(&file).await?;
        }
        self.remove(&RESPONSES, Which::Expired(0)).await?;
        self.remove(&CONVERSATIONS, Which::Expired(0)).await?;
        let (lines, file_lines) = self.take_lines_out(subject, form, &mut deletion.being_read).await?;
        deletion.deleted.extend([("batch line", lines), ("file line", file_lines)]);
        deletion.deleted.retain(|(_, count)| *count > 0);
        self.call(erase_all).await?;
        Ok(deletion)
    }

    /// Takes lines about a subject out of batches and files of others, file by file. Says how many lines of batches and of
    /// files they were, and adds the batches that are being read.
    async fn take_lines_out(
        &self,
        subject: &str,
        form: LineForm,
        being_read: &mut Vec<String>,
    ) -> Result<(u64, u64), StoreError> {
        let (mut lines, mut file_lines, mut touched) = (0, 0, Vec::new());
        for _ in 0..MOST_PASSES {
            let owned = subject.to_owned();
            // First those of batches, which nobody then moves to a file.
            let (of_batches, files) =
                self.call_reserved(move |connection| take_from_batches(connection, &owned)).await?;
            lines += of_batches;
            for file in files {
                let (owned, id) = (subject.to_owned(), file.id.clone());
                let take = move |connection: &mut Connection| subject_lines::take_out(connection, &file, &owned, form);
                let taken = self.call_reserved(take).await?;
                file_lines += taken;
                touched.extend((taken > 0).then_some(id));
            }
            let (owned, read) = (subject.to_owned(), touched.clone());
            let (left, reading) = self.call(move |connection| what_is_left(connection, &owned, &read)).await?;
            *being_read = reading;
            if left == 0 {
                break;
            }
        }
        Ok((lines, file_lines))
    }
}

fn export(
    connection: &Connection,
    subject: &str,
    form: LineForm,
    tell: &mut impl FnMut(Held) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    // Each thing as it is when it is told: whoever listens may be slow, and must not hold up a server.
    for (kind, table, parts_name, parts) in WHOLE {
        for row in rows_of(connection, table, subject)? {
            let mut object = one(connection, &format!("SELECT * FROM {table} WHERE row = ?1"), params![row])?;
            object.remove("row");
            object.insert(parts_name.to_owned(), all(connection, parts, params![row])?.into());
            tell(held(kind, object))?;
        }
    }
    for (kind, sql) in [("item", ITEMS), ("batch line", LINES)] {
        for object in all(connection, sql, params![subject])? {
            tell(held(kind, object))?;
        }
    }
    for row in rows_of(connection, "files", subject)? {
        let mut object = one(connection, "SELECT * FROM files WHERE row = ?1", params![row])?;
        object.remove("row");
        let mut parts = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 ORDER BY part")?;
        let parts = parts.query_map([row], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()?;
        object.insert("content".to_owned(), text(&parts.concat()));
        tell(held("file", object))?;
    }
    for file in subject_lines::files(connection, subject)? {
        for line in subject_lines::find(connection, &file, subject, form)? {
            let content = json!({ "file": file.id, "line": text(line.text.trim_ascii_end()) });
            tell(Held { kind: "file line", id: file.id.clone(), content })?;
        }
    }
    Ok(())
}

/// Hides what belongs to a subject as a whole, and deletes what is short. Gives the batches and files that are to be deleted.
fn hide(connection: &mut Connection, subject: &str) -> Result<(Vec<String>, Vec<String>, SubjectDeletion), StoreError> {
    let transaction = connection.transaction()?;
    let count = |sql: &str| transaction.execute(sql, [subject]).map(|count| count as u64);
    let ids = |table: &str| -> Result<Vec<String>, StoreError> {
        let mut select = transaction.prepare_cached(&format!("SELECT id FROM {table} WHERE subject = ?1"))?;
        Ok(select.query_map([subject], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    let (batches, files) = (ids("batches")?, ids("files")?);
    let responses = count(
        "UPDATE responses SET expires_at = 0, \
             state = CASE WHEN state IN ('queued', 'in_progress') THEN 'cancelled' ELSE state END WHERE subject = ?1",
    )?;
    let conversations = count("UPDATE conversations SET expires_at = 0 WHERE subject = ?1")?;
    // No worker goes on with it.
    count("UPDATE batches SET state = 'cancelled', ended_at = ifnull(ended_at, 0), delete_at = 0 WHERE subject = ?1")?;
    count("UPDATE files SET complete = FALSE WHERE subject = ?1")?;
    // Whoever has read them cannot continue what is left.
    count(
        "UPDATE conversations SET last_position = last_position + 1 WHERE subject IS NOT ?1 \
         AND row IN (SELECT conversation FROM items WHERE subject = ?1)",
    )?;
    let items = count(
        "DELETE FROM items WHERE subject = ?1 \
         AND conversation IN (SELECT row FROM conversations WHERE subject IS NOT ?1)",
    )?;
    let agents = count("DELETE FROM agents WHERE subject = ?1")?;
    let deletion = SubjectDeletion {
        deleted: vec![
            ("response", responses),
            ("conversation", conversations),
            ("item", items),
            ("batch", batches.len() as u64),
            ("file", files.len() as u64),
            ("agent", agents),
        ],
        being_read: Vec::new(),
    };
    transaction.commit()?;
    Ok((batches, files, deletion))
}

/// Deletes lines of batches about a subject. Says how many, and which files may have some.
fn take_from_batches(connection: &mut Connection, subject: &str) -> Result<(u64, Vec<SubjectFile>), StoreError> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "UPDATE batches SET \
             total = total - (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1), \
             completed = completed - \
                 (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1 AND outcome = 'completed'), \
             failed = failed - \
                 (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1 AND outcome = 'failed') \
         WHERE row IN (SELECT batch FROM lines WHERE subject = ?1) AND started_at IS NOT NULL",
        [subject],
    )?;
    let deleted = transaction.execute("DELETE FROM lines WHERE subject = ?1", [subject])? as u64;
    let files = subject_lines::files(&transaction, subject)?;
    transaction.commit()?;
    Ok((deleted, files))
}

/// How many lines have come since, and which batches are reading one of the files.
fn what_is_left(connection: &Connection, subject: &str, files: &[String]) -> Result<(u64, Vec<String>), StoreError> {
    let sql = "SELECT (SELECT count(*) FROM lines WHERE subject = ?1) \
                    + (SELECT count(*) FROM result_subjects WHERE subject = ?1)";
    let left = connection.query_row(sql, [subject], |row| row.get(0))?;
    let is_read = |inputs: &String| inputs.lines().any(|input| files.iter().any(|file| file == input));
    let reading = being_read(connection)?.into_iter().filter(|(_, inputs)| is_read(inputs)).map(|(id, _)| id);
    Ok((left, reading.collect()))
}

/// Batches whose lines are being read, and ids of their files, one a line.
fn being_read(connection: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut select = connection.prepare_cached("SELECT id, input_files FROM batches WHERE state = 'validating'")?;
    Ok(select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// Overwrites what was deleted, and says so if somebody beside this process keeps that from being done.
fn erase_all(connection: &mut Connection) -> Result<(), StoreError> {
    erase_leftovers(connection)?;
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))? {
        0 => Ok(()),
        _ => Err(StoreError::NotErased),
    }
}

fn held(kind: &'static str, object: Map<String, Value>) -> Held {
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    Held { kind, id, content: object.into() }
}

fn rows_of(connection: &Connection, table: &str, subject: &str) -> Result<Vec<i64>, StoreError> {
    let mut select = connection.prepare_cached(&format!("SELECT row FROM {table} WHERE subject = ?1 ORDER BY row"))?;
    Ok(select.query_map([subject], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn one(connection: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<Map<String, Value>, StoreError> {
    Ok(all(connection, sql, values)?.pop().unwrap_or_default())
}

/// What a query finds, by the names of its columns. Text that is JSON is shown as what it says.
fn all(connection: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<Map<String, Value>>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let read = |row: &Row<'_>| {
        let member = |(index, name): (usize, &String)| Ok((name.clone(), shown(row.get(index)?)));
        names.iter().enumerate().map(member).collect()
    };
    Ok(statement.query_map(values, read)?.collect::<Result<_, _>>()?)
}

fn shown(value: Column) -> Value {
    match value {
        Column::Null => Value::Null,
        Column::Integer(number) => number.into(),
        Column::Real(number) => number.into(),
        Column::Text(text) if text.starts_with(['{', '[']) => {
            serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text))
        }
        Column::Text(text) => text.into(),
        Column::Blob(bytes) => text(&bytes),
    }
}

/// What is no text is told as its bytes in base64.
fn text(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}
