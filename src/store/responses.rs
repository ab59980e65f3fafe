//! Responses: what was answered, and the items it was made of.
//!
//! A response names the one it continues, so a conversation is a chain of them. What an item or a body says is its
//! owner's business. `waiting` has what happens to a response before it is answered.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Append, Item, Kept, NewItem, Page, PageQuery, Store, StoreError, VISIBLE, conversations, page::Listing};

pub(super) const COLUMNS: &str = "id, state, previous, created_at, body, attempts, events";
pub(super) const COLUMNS_LEN: usize = 7;
/// Longest chain of responses; each of them is a turn.
const MAX_CHAIN: usize = 1000;

/// A response as it is now, without its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// Given by its owner.
    pub id: String,
    /// Where it is.
    pub state: ResponseState,
    /// The response that it continues.
    pub previous: Option<String>,
    /// Unix seconds.
    pub created_at: u64,
    /// All else.
    pub body: String,
    /// How often somebody has begun to answer it while it waited.
    pub attempts: u64,
    /// What is known of the events of its stream, if it waited with one; its owner's business.
    pub events: Option<String>,
}

/// A response that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewResponse {
    /// The response without items.
    pub response: StoredResponse,
    /// What has to be asked, if that is still to be done.
    pub request: Option<String>,
    /// On whose behalf, as written by who stored it; nobody's in particular if absent.
    pub behalf: Option<String>,
    /// When it is deleted, in Unix seconds.
    pub expires_at: u64,
    /// What was asked.
    pub input: Vec<NewItem>,
    /// What was answered.
    pub output: Vec<NewItem>,
}

/// Where a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// It waits for its turn.
    Queued,
    /// It is being answered.
    InProgress,
    /// It was answered.
    Completed,
    /// It was answered as far as it might be.
    Incomplete,
    /// It could not be answered.
    Failed,
    /// Nobody wants it any more.
    Cancelled,
}

/// What a response is known by, without its body.
pub(super) struct Head {
    pub(super) row: i64,
    state: ResponseState,
    previous: Option<String>,
    created_at: u64,
}

/// Which of a response's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Input,
    Output,
}

impl ResponseState {
    const ALL: [Self; 6] =
        [Self::Queued, Self::InProgress, Self::Completed, Self::Incomplete, Self::Failed, Self::Cancelled];

    /// OpenAI's word, which is also the stored one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

impl Store {
    /// Stores a response that has ended; its conversation gets its items in the same step.
    pub async fn store_response(&self, new: NewResponse, append: Option<Append>) -> Result<(), StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            insert(&transaction, &new, &kept)?;
            if let Some(append) = append {
                conversations::append(&transaction, append, &kept)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// A response and the items of its output.
    pub async fn response(&self, id: &str) -> Result<(StoredResponse, Vec<String>), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let (row, response) = find(connection, &id)?;
            Ok((response, bodies(connection, row, Part::Output)?))
        })
        .await
    }

    /// Where a response is.
    pub async fn response_state(&self, id: &str) -> Result<ResponseState, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| Ok(head(connection, &id)?.state)).await
    }

    /// The items that a response was asked with.
    pub async fn response_input(&self, id: &str, query: PageQuery) -> Result<Page<Item>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let head = head(connection, &id)?;
            list_input(connection, head.row, head.created_at, &query)
        })
        .await
    }

    /// All items of a response and of those that it continues, oldest first, unless they are longer than `max_bytes`.
    pub async fn response_chain(&self, id: &str, max_bytes: usize) -> Result<Vec<String>, StoreError> {
        let (id, purpose) = (id.to_owned(), self.purpose());
        self.call(move |connection| {
            let row = head(connection, &id)?.row;
            Kept::of(connection, "responses", row)?.check_purpose("response", &id, purpose.as_deref())?;
            chain(connection, id, max_bytes)
        })
        .await
    }
}

pub(super) fn insert(connection: &Connection, new: &NewResponse, kept: &Kept) -> Result<(), StoreError> {
    let StoredResponse { id, state, previous, created_at, body, attempts, events } = &new.response;
    connection.execute(
        "INSERT INTO responses (id, state, previous, created_at, expires_at, request, behalf, body, attempts, events) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            id,
            state.as_str(),
            previous,
            created_at,
            new.expires_at,
            new.request,
            new.behalf,
            body,
            attempts,
            events
        ],
    )?;
    let row = connection.last_insert_rowid();
    kept.mark(connection, "responses", row)?;
    add(connection, row, Part::Input, &new.input)?;
    add(connection, row, Part::Output, &new.output)
}

pub(super) fn add(connection: &Connection, response: i64, part: Part, items: &[NewItem]) -> Result<(), StoreError> {
    let mut insert =
        connection.prepare_cached("INSERT INTO response_items (response, part, id, body) VALUES (?1, ?2, ?3, ?4)")?;
    for NewItem { id, body } in items {
        insert.execute(params![response, part.as_str(), id, body])?;
    }
    Ok(())
}

pub(super) fn find(connection: &Connection, id: &str) -> Result<(i64, StoredResponse), StoreError> {
    let sql = format!("SELECT {COLUMNS}, row FROM responses WHERE id = ?1 AND {VISIBLE}");
    let found = connection.query_row(&sql, [id], |row| Ok((row.get(COLUMNS_LEN)?, read(row)?))).optional()?;
    found.ok_or_else(|| StoreError::Missing { kind: "response", id: id.to_owned() })
}

/// A response by its id, without what it says.
pub(super) fn head(connection: &Connection, id: &str) -> Result<Head, StoreError> {
    let sql = format!("SELECT row, state, previous, created_at FROM responses WHERE id = ?1 AND {VISIBLE}");
    let read = |row: &Row<'_>| {
        Ok(Head { row: row.get(0)?, state: read_state(row.get(1)?)?, previous: row.get(2)?, created_at: row.get(3)? })
    };
    let found = connection.prepare_cached(&sql)?.query_row([id], read).optional()?;
    found.ok_or_else(|| StoreError::Missing { kind: "response", id: id.to_owned() })
}

/// Length of all items of a response.
fn body_bytes(connection: &Connection, response: i64) -> Result<u64, StoreError> {
    let sql = "SELECT ifnull(sum(octet_length(body)), 0) FROM response_items WHERE response = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([response], |row| row.get(0))?)
}

pub(super) fn bodies(connection: &Connection, response: i64, part: Part) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT body FROM response_items WHERE response = ?1 AND part = ?2 ORDER BY row";
    let mut statement = connection.prepare_cached(sql)?;
    let bodies = statement.query_map(params![response, part.as_str()], |row| row.get(0))?;
    Ok(bodies.collect::<Result<_, _>>()?)
}

fn chain(connection: &Connection, last: String, max_bytes: usize) -> Result<Vec<String>, StoreError> {
    let (mut newest_first, mut next, mut bytes) = (Vec::new(), Some(last), 0);
    while let Some(id) = next {
        let Head { row, previous, .. } = head(connection, &id)?;
        bytes += body_bytes(connection, row)?;
        if bytes > max_bytes as u64 || newest_first.len() == MAX_CHAIN {
            return Err(StoreError::TooLong { limit: max_bytes });
        }
        let mut items = bodies(connection, row, Part::Input)?;
        items.extend(bodies(connection, row, Part::Output)?);
        newest_first.push(items);
        next = previous;
    }
    Ok(newest_first.into_iter().rev().flatten().collect())
}

fn list_input(
    connection: &Connection,
    response: i64,
    created_at: u64,
    query: &PageQuery,
) -> Result<Page<Item>, StoreError> {
    let place = |id: &str| {
        let sql = "SELECT row FROM response_items WHERE response = ?1 AND part = 'input' AND id = ?2";
        let row = connection.query_row(sql, params![response, id], |row| row.get::<_, i64>(0)).optional()?;
        row.ok_or_else(|| StoreError::Missing { kind: "item", id: id.to_owned() })
    };
    let after = query.after.as_deref().map(place).transpose()?;
    let rows = "FROM response_items WHERE response = ?1 AND part = 'input'";
    let listing = Listing { columns: "id, row AS position, body", rows, parameters: params![response], after };
    let read = |row: &Row<'_>| Ok(Item { id: row.get(0)?, position: row.get(1)?, created_at, body: row.get(2)? });
    listing.page(connection, query, read)
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<StoredResponse> {
    Ok(StoredResponse {
        id: row.get(0)?,
        state: read_state(row.get(1)?)?,
        previous: row.get(2)?,
        created_at: row.get(3)?,
        body: row.get(4)?,
        attempts: row.get(5)?,
        events: row.get(6)?,
    })
}

fn read_state(word: String) -> rusqlite::Result<ResponseState> {
    let known = ResponseState::ALL.into_iter().find(|known| known.as_str() == word);
    known.ok_or(rusqlite::Error::InvalidColumnName(word))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) const NEVER: u64 = 1 << 40;

    pub(in crate::store) fn store() -> Store {
        Store::in_memory(1 << 20).expect("memory")
    }

    pub(in crate::store) fn item(id: &str) -> NewItem {
        NewItem { id: id.to_owned(), body: format!("body of {id}") }
    }

    pub(in crate::store) fn new(id: &str, state: ResponseState, previous: Option<&str>) -> NewResponse {
        let previous = previous.map(str::to_owned);
        let (owned, body) = (id.to_owned(), "{}".to_owned());
        let response = StoredResponse { id: owned, state, previous, created_at: 1, body, attempts: 0, events: None };
        let (input, output) = (vec![item(&format!("{id}-in"))], vec![item(&format!("{id}-out"))]);
        NewResponse { response, request: Some("asked".to_owned()), behalf: None, expires_at: NEVER, input, output }
    }

    #[tokio::test]
    async fn a_chain_is_read_from_its_beginning() {
        let store = store();
        for (id, previous) in [("a", None), ("b", Some("a")), ("c", Some("b"))] {
            store.store_response(new(id, ResponseState::Completed, previous), None).await.expect("stored");
        }
        let chain = store.response_chain("b", 1 << 10).await.expect("a chain");
        assert_eq!(chain, ["body of a-in", "body of a-out", "body of b-in", "body of b-out"]);
        let error = store.response_chain("c", 60).await.expect_err("it is longer");
        assert!(matches!(error, StoreError::TooLong { limit: 60 }), "{error}");
        assert_eq!(store.any_item("openai", "b-out", 13).await.expect("an item"), "body of b-out");
        let error = store.any_item("openai", "b-out", 12).await.expect_err("it is longer");
        assert!(matches!(error, StoreError::TooLong { limit: 12 }), "{error}");
        let hidden = store.hide_response("a").await.expect("hidden");
        store.remove_response(hidden).await.expect("removed");
        let error = store.response_chain("c", 1 << 10).await.expect_err("its beginning is gone");
        assert!(matches!(&error, StoreError::Missing { kind: "response", id } if id == "a"), "{error}");
        assert!(store.any_item("openai", "a-out", 99).await.is_err());
    }

    #[tokio::test]
    async fn what_is_past_its_time_is_not_seen_and_then_swept() {
        let store = store();
        let expired = NewResponse { expires_at: 2, ..new("a", ResponseState::Completed, None) };
        store.store_response(expired, None).await.expect("stored");
        assert!(store.response("a").await.is_err() && store.any_item("openai", "a-in", 99).await.is_err());
        store.sweep(3, 0).await.expect("swept");
        let left: u64 = store
            .call(|connection| Ok(connection.query_row("SELECT count(*) FROM response_items", [], |row| row.get(0))?))
            .await
            .expect("a count");
        assert_eq!(left, 0);
    }
}
