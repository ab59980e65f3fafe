//! Responses and conversations that are deleted: hidden in one step, then removed piece by piece, so that others are
//! served between however long they are.
//!
//! What is hidden is as if its time was over: nobody sees it, and [`Store::sweep`] goes on where a process that ended, or a
//! caller that left, has stopped. Invariant: a step removes about [`BYTES_AT_ONCE`], or one part that is longer.

use rusqlite::{Connection, params};

use super::{Progress, Store, StoreError, conversations, responses};

const BYTES_AT_ONCE: u64 = 4 << 20;
/// Rows that are deleted in one transaction.
const ROWS_AT_ONCE: usize = 256;

/// Objects of a kind, and the parts that they are made of.
pub(super) struct Kind {
    objects: &'static str,
    parts: &'static str,
    /// Column of a part.
    object_of: &'static str,
    /// Length of what an object has beside its parts.
    own_bytes: &'static str,
}

pub(super) const CONVERSATIONS: Kind = Kind {
    objects: "conversations",
    parts: "items",
    object_of: "conversation",
    own_bytes: "ifnull(octet_length(metadata), 0) + ifnull(octet_length(details), 0)",
};
pub(super) const RESPONSES: Kind = Kind {
    objects: "responses",
    parts: "response_items",
    object_of: "response",
    own_bytes: "octet_length(body) + ifnull(octet_length(request), 0)",
};

/// Which objects; none of them is to be seen any more.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// The one in this row.
    Row(i64),
    /// All whose time is over now, in Unix seconds.
    Expired(u64),
}

/// A response that nobody sees, and that is still to be removed.
#[derive(Debug)]
pub struct HiddenResponse {
    row: i64,
}

impl Store {
    /// From now on nobody sees the response, and whoever is answering it has nothing to end any more.
    pub async fn hide_response(&self, id: &str) -> Result<HiddenResponse, StoreError> {
        let id = id.to_owned();
        let hide = move |connection: &mut Connection| {
            let row = responses::head(connection, &id)?.row;
            connection.execute(
                "UPDATE responses SET expires_at = 0, \
                     state = CASE WHEN state IN ('queued', 'in_progress') THEN 'cancelled' ELSE state END WHERE row = ?1",
                [row],
            )?;
            Ok(HiddenResponse { row })
        };
        self.call_reserved(hide).await
    }

    /// Deletes a hidden response with its items, so that they are in the database no more.
    pub async fn remove_response(&self, HiddenResponse { row }: HiddenResponse) -> Result<(), StoreError> {
        self.remove(&RESPONSES, Which::Row(row)).await
    }

    /// Deletes a conversation with all its items, so that they are in the database no more. Nobody sees it from the first
    /// moment.
    pub async fn delete_conversation(&self, owner: &'static str, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        let hide = move |connection: &mut Connection| {
            let row = conversations::row_of(connection, owner, &id)?;
            connection.execute("UPDATE conversations SET expires_at = 0 WHERE row = ?1", [row])?;
            Ok(row)
        };
        let row = self.call_reserved(hide).await?;
        self.remove(&CONVERSATIONS, Which::Row(row)).await
    }

    /// Deletes objects that are there no more for others.
    pub(super) async fn remove(&self, kind: &'static Kind, which: Which) -> Result<(), StoreError> {
        let mut is_erased = true;
        while self.call(move |connection| remove_some(connection, kind, which)).await? == Progress::Partial {
            is_erased = false;
        }
        if is_erased { Ok(()) } else { self.erase().await }
    }
}

/// Deletes some of the parts, and the objects once they have none. Complete if nothing was left.
fn remove_some(connection: &mut Connection, kind: &Kind, which: Which) -> Result<Progress, StoreError> {
    let Kind { objects, parts, object_of, own_bytes } = kind;
    let (condition, value) = match which {
        Which::Row(row) => (format!("{objects}.row = ?1"), row),
        Which::Expired(now) => (format!("{objects}.expires_at <= ?1"), i64::try_from(now).unwrap_or(i64::MAX)),
    };
    let transaction = connection.transaction()?;
    let of_parts = format!(
        "SELECT {parts}.row, octet_length({parts}.body) FROM {objects} JOIN {parts} ON {object_of} = {objects}.row \
         WHERE {condition} LIMIT ?2"
    );
    let mut deleted = delete_first(&transaction, parts, &of_parts, value)?;
    if deleted == 0 {
        let of_objects = format!("SELECT row, {own_bytes} FROM {objects} WHERE {condition} LIMIT ?2");
        deleted = delete_first(&transaction, objects, &of_objects, value)?;
    }
    transaction.commit()?;
    Ok(if deleted == 0 { Progress::Complete } else { Progress::Partial })
}

/// Deletes the first rows of a table that a query finds with their lengths, and says how many.
fn delete_first(connection: &Connection, table: &str, query: &str, value: i64) -> Result<usize, StoreError> {
    let mut rows = Vec::new();
    {
        let mut select = connection.prepare_cached(query)?;
        let mut found = select.query(params![value, ROWS_AT_ONCE])?;
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && let Some(row) = found.next()?
        {
            bytes += row.get::<_, u64>(1)?;
            rows.push(row.get::<_, i64>(0)?);
        }
    }
    let mut delete = connection.prepare_cached(&format!("DELETE FROM {table} WHERE row = ?1"))?;
    for row in &rows {
        delete.execute([row])?;
    }
    Ok(rows.len())
}
