//! Everything that is held about a subject is told, one thing after the other.
//!
//! First it is noted what there is, by rows alone, and then each thing is read as it is when it is told. Invariants: nobody
//! holds the database up who listens slowly; up to three things are in memory, however many there are: one that waits to be
//! told, or the lines of a part of a file, one in the channel, and one at its listener; and it ends at the next step once
//! nobody listens.

use rusqlite::{Connection, Row, ToSql, params, types::Value as Column};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::Sender;

use super::{
    Store, StoreError,
    subject_lines::{self, LineForm, LineScan},
};

/// Something that is held about a subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// What it is: `response`, `conversation`, `item`, `file`, `file line`, `batch`, `batch line` or `agent`.
    pub kind: &'static str,
    /// Its id; that of what it is in, if it has none.
    pub id: String,
    /// All of it, as it is stored.
    pub content: Value,
}

/// Objects that belong to a subject as a whole.
struct Whole {
    kind: &'static str,
    table: &'static str,
    /// What they consist of, and the query of that by the row of an object.
    parts_name: &'static str,
    parts: &'static str,
}

/// Parts of objects that are not the subject's as a whole: their kind, the query of their rows, and that of one of them.
struct Part {
    kind: &'static str,
    rows: &'static str,
    one: &'static str,
}

/// Where something is.
#[derive(Clone, Copy)]
enum Place {
    Whole(&'static Whole, i64),
    Part(&'static Part, i64),
    File(i64),
}

static WHOLES: [Whole; 4] = [
    Whole {
        kind: "response",
        table: "responses",
        parts_name: "items",
        parts: "SELECT part, id, body FROM response_items WHERE response = ?1 ORDER BY row",
    },
    Whole {
        kind: "conversation",
        table: "conversations",
        parts_name: "items",
        parts: "SELECT id, position, created_at, body FROM items WHERE conversation = ?1 ORDER BY row",
    },
    Whole {
        kind: "batch",
        table: "batches",
        parts_name: "lines",
        parts: "SELECT line, custom_id, request, outcome, result FROM lines WHERE batch = ?1 ORDER BY line",
    },
    Whole {
        kind: "agent",
        table: "agents",
        parts_name: "versions",
        parts: "SELECT version, created_at, name, metadata, body FROM agent_versions WHERE agent = ?1 ORDER BY version",
    },
];

static PARTS: [Part; 2] = [
    Part {
        kind: "item",
        rows: "SELECT items.row FROM items JOIN conversations ON conversation = conversations.row \
               WHERE items.subject = ?1 AND conversations.subject IS NOT ?1 ORDER BY items.row",
        one: "SELECT conversations.id AS conversation, items.id AS id, position, items.created_at AS created_at, body \
              FROM items JOIN conversations ON conversation = conversations.row \
              WHERE items.row = ?1 AND items.subject = ?2",
    },
    Part {
        kind: "batch line",
        rows: "SELECT lines.rowid FROM lines JOIN batches ON batch = batches.row \
               WHERE lines.subject = ?1 AND batches.subject IS NOT ?1 ORDER BY batch, line",
        one: "SELECT batches.id AS id, line, custom_id, request, outcome, result \
              FROM lines JOIN batches ON batch = batches.row \
              WHERE lines.rowid = ?1 AND lines.subject = ?2",
    },
];

impl Store {
    /// Tells everything that is held about a subject. Ends with [`StoreError::Closed`] when nobody listens any more.
    pub async fn export_subject(&self, subject: &str, form: LineForm, told: &Sender<Held>) -> Result<(), StoreError> {
        let owned = subject.to_owned();
        let places = self.call(move |connection| places(connection, &owned)).await?;
        for place in places {
            is_heard(told)?;
            let owned = subject.to_owned();
            if let Some(held) = self.call(move |connection| read(connection, place, &owned)).await? {
                told.send(held).await.map_err(|_| StoreError::Closed)?;
            }
        }
        let owned = subject.to_owned();
        for file in self.call(move |connection| subject_lines::files(connection, &owned)).await? {
            let (id, mut scan) = (file.id.clone(), LineScan::new(file));
            loop {
                // It may be long to the next line that is about the subject.
                is_heard(told)?;
                let owned = subject.to_owned();
                let (scanned, found) = self
                    .call(move |connection| {
                        let found = scan.step(connection, &owned, form)?;
                        Ok((scan, found))
                    })
                    .await?;
                scan = scanned;
                let Some(lines) = found else { break };
                for line in lines {
                    let content = json!({ "file": id, "line": text(line.text.trim_ascii_end()) });
                    let held = Held { kind: "file line", id: id.clone(), content };
                    told.send(held).await.map_err(|_| StoreError::Closed)?;
                }
            }
        }
        Ok(())
    }
}

fn is_heard(told: &Sender<Held>) -> Result<(), StoreError> {
    if told.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
}

/// What there is, in the order in which it is told.
fn places(connection: &Connection, subject: &str) -> Result<Vec<Place>, StoreError> {
    let rows = |sql: &str| -> Result<Vec<i64>, StoreError> {
        let mut select = connection.prepare_cached(sql)?;
        Ok(select.query_map([subject], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    let of_table = |table: &str| rows(&format!("SELECT row FROM {table} WHERE subject = ?1 ORDER BY row"));
    let mut places = Vec::new();
    for whole in &WHOLES {
        places.extend(of_table(whole.table)?.into_iter().map(|row| Place::Whole(whole, row)));
    }
    for part in &PARTS {
        places.extend(rows(part.rows)?.into_iter().map(|row| Place::Part(part, row)));
    }
    places.extend(of_table("files")?.into_iter().map(Place::File));
    Ok(places)
}

/// `None` if it was deleted since, be its row another's now.
fn read(connection: &Connection, place: Place, subject: &str) -> Result<Option<Held>, StoreError> {
    let of_table = |table: &str| format!("SELECT * FROM {table} WHERE row = ?1 AND subject = ?2");
    match place {
        Place::Whole(Whole { kind, table, parts_name, parts }, row) => {
            let Some(mut object) = one(connection, &of_table(table), row, subject)? else {
                return Ok(None);
            };
            object.remove("row");
            object.insert((*parts_name).to_owned(), all(connection, parts, params![row])?.into());
            Ok(Some(held(kind, object)))
        }
        Place::Part(Part { kind, one: sql, .. }, row) => {
            Ok(one(connection, sql, row, subject)?.map(|object| held(kind, object)))
        }
        Place::File(row) => {
            let Some(mut object) = one(connection, &of_table("files"), row, subject)? else {
                return Ok(None);
            };
            object.remove("row");
            let mut parts = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 ORDER BY part")?;
            let parts = parts.query_map([row], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()?;
            object.insert("content".to_owned(), text(&parts.concat()));
            Ok(Some(held("file", object)))
        }
    }
}

fn held(kind: &'static str, object: Map<String, Value>) -> Held {
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    Held { kind, id, content: object.into() }
}

/// What is in a row, if it is about the subject.
fn one(connection: &Connection, sql: &str, row: i64, subject: &str) -> Result<Option<Map<String, Value>>, StoreError> {
    Ok(all(connection, sql, params![row, subject])?.pop())
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
