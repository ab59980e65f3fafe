//! Responses: what was answered, the items it was made of, and those that still wait to be answered.
//!
//! A response names the one it continues, so a conversation is a chain of them. What an item or a body says is its
//! owner's business. Each change of state names the state before it, so that a change which comes too late (a response
//! was cancelled or deleted meanwhile) changes nothing.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Append, Item, NewItem, Page, PageQuery, Store, StoreError, conversations, erase_leftovers, page::Listing};

const COLUMNS: &str = "id, state, previous, created_at, body";
const VISIBLE: &str = "expires_at > unixepoch()";
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
}

/// A response that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewResponse {
    /// The response without items.
    pub response: StoredResponse,
    /// What has to be asked, if that is still to be done.
    pub request: Option<String>,
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

/// How a response that waited has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseEnd {
    /// The last state.
    pub state: ResponseState,
    /// The body from now on.
    pub body: String,
    /// What was answered.
    pub output: Vec<NewItem>,
    /// What a conversation gets of it.
    pub append: Option<Append>,
}

/// A response that waits, with what has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingResponse {
    /// The response without items.
    pub response: StoredResponse,
    /// What has to be asked.
    pub request: String,
    /// The items of the input.
    pub input: Vec<String>,
}

/// Which of a response's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
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
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            insert(&transaction, &new)?;
            if let Some(append) = append {
                conversations::append(&transaction, append)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Stores a response that is to be answered later, unless `limit` others wait.
    pub async fn queue_response(&self, new: NewResponse, limit: u64) -> Result<(), StoreError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let sql = "SELECT count(*) FROM responses WHERE state IN ('queued', 'in_progress')";
            let waiting: u64 = transaction.query_row(sql, [], |row| row.get(0))?;
            if waiting >= limit {
                return Err(StoreError::TooManyResponses { limit });
            }
            insert(&transaction, &new)?;
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

    /// Deletes a response with its items, so that they are in the database no more.
    pub async fn delete_response(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let (row, _) = find(connection, &id)?;
            connection.execute("DELETE FROM responses WHERE row = ?1", [row])?;
            erase_leftovers(connection)
        })
        .await
    }

    /// The items that a response was asked with.
    pub async fn response_input(&self, id: &str, query: PageQuery) -> Result<Page<Item>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let (row, response) = find(connection, &id)?;
            list_input(connection, row, response.created_at, &query)
        })
        .await
    }

    /// All items of a response and of those that it continues, oldest first, unless they are longer than `max_bytes`.
    pub async fn response_chain(&self, id: &str, max_bytes: usize) -> Result<Vec<String>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| chain(connection, id, max_bytes)).await
    }

    /// An item of any response, or of any conversation of `owner`, by its id, unless it is longer than `max_bytes`.
    pub async fn any_item(&self, owner: &'static str, id: &str, max_bytes: usize) -> Result<String, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let sql = format!(
                "SELECT CASE WHEN length(CAST(response_items.body AS BLOB)) <= ?3 THEN response_items.body END \
                 FROM response_items JOIN responses ON response = responses.row \
                 WHERE response_items.id = ?1 AND {VISIBLE} \
                 UNION ALL SELECT CASE WHEN length(CAST(items.body AS BLOB)) <= ?3 THEN items.body END \
                 FROM items JOIN conversations ON conversation = conversations.row \
                 WHERE items.id = ?1 AND owner = ?2 AND {VISIBLE} LIMIT 1"
            );
            let read = |row: &Row<'_>| row.get::<_, Option<String>>(0);
            let found = connection.query_row(&sql, params![id, owner, max_bytes as u64], read).optional()?;
            let body = found.ok_or_else(|| StoreError::Missing { kind: "item", id })?;
            body.ok_or(StoreError::TooLong { limit: max_bytes })
        })
        .await
    }

    /// Takes the response that has waited longest.
    pub async fn take_response(&self) -> Result<Option<WaitingResponse>, StoreError> {
        self.call(|connection| {
            let transaction = connection.transaction()?;
            let sql = format!(
                "SELECT {COLUMNS}, row, request FROM responses WHERE state = 'queued' AND {VISIBLE} ORDER BY row LIMIT 1"
            );
            let read = |row: &Row<'_>| Ok((read(row)?, row.get(5)?, row.get(6)?));
            let found: Option<(StoredResponse, i64, Option<String>)> =
                transaction.query_row(&sql, [], read).optional()?;
            let Some((response, row, request)) = found else { return Ok(None) };
            transaction.execute("UPDATE responses SET state = 'in_progress' WHERE row = ?1", [row])?;
            let input = bodies(&transaction, row, Part::Input)?;
            transaction.commit()?;
            Ok(Some(WaitingResponse { response, request: request.unwrap_or_default(), input }))
        })
        .await
    }

    /// Puts responses back that an earlier process was answering.
    pub async fn requeue_responses(&self) -> Result<(), StoreError> {
        self.call(|connection| {
            connection.execute("UPDATE responses SET state = 'queued' WHERE state = 'in_progress'", [])?;
            Ok(())
        })
        .await
    }

    /// Ends a response that is being answered. False if it is not any more.
    pub async fn end_response(&self, id: &str, end: ResponseEnd) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let ResponseEnd { state, body, output, append } = end;
            let changed = transaction.execute(
                "UPDATE responses SET state = ?2, body = ?3, request = NULL WHERE id = ?1 AND state = 'in_progress'",
                params![id, state.as_str(), body],
            )?;
            if changed == 0 {
                return Ok(false);
            }
            let (row, _) = find(&transaction, &id)?;
            add(&transaction, row, Part::Output, &output)?;
            if let Some(append) = append {
                conversations::append(&transaction, append)?;
            }
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Ends a response that is being answered as failed and without output, also where nothing more can be stored.
    pub async fn fail_response(&self, id: &str, body: String) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call_reserved(move |connection| {
            connection.execute(
                "UPDATE responses SET state = 'failed', body = ?2, request = NULL \
                 WHERE id = ?1 AND state = 'in_progress'",
                params![id, body],
            )?;
            Ok(())
        })
        .await
    }

    /// Cancels a response that waits or is being answered; one that has ended stays as it is.
    pub async fn cancel_response(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.execute(
                "UPDATE responses SET state = 'cancelled', request = NULL \
                 WHERE id = ?1 AND state IN ('queued', 'in_progress')",
                [id],
            )?;
            Ok(())
        })
        .await
    }
}

fn insert(connection: &Connection, new: &NewResponse) -> Result<(), StoreError> {
    let StoredResponse { id, state, previous, created_at, body } = &new.response;
    connection.execute(
        "INSERT INTO responses (id, state, previous, created_at, expires_at, request, body) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id, state.as_str(), previous, created_at, new.expires_at, new.request, body],
    )?;
    let row = connection.last_insert_rowid();
    add(connection, row, Part::Input, &new.input)?;
    add(connection, row, Part::Output, &new.output)
}

fn add(connection: &Connection, response: i64, part: Part, items: &[NewItem]) -> Result<(), StoreError> {
    let mut insert =
        connection.prepare_cached("INSERT INTO response_items (response, part, id, body) VALUES (?1, ?2, ?3, ?4)")?;
    for NewItem { id, body } in items {
        insert.execute(params![response, part.as_str(), id, body])?;
    }
    Ok(())
}

fn find(connection: &Connection, id: &str) -> Result<(i64, StoredResponse), StoreError> {
    let sql = format!("SELECT {COLUMNS}, row FROM responses WHERE id = ?1 AND {VISIBLE}");
    let found = connection.query_row(&sql, [id], |row| Ok((row.get(5)?, read(row)?))).optional()?;
    found.ok_or_else(|| StoreError::Missing { kind: "response", id: id.to_owned() })
}

fn bodies(connection: &Connection, response: i64, part: Part) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT body FROM response_items WHERE response = ?1 AND part = ?2 ORDER BY row";
    let mut statement = connection.prepare_cached(sql)?;
    let bodies = statement.query_map(params![response, part.as_str()], |row| row.get(0))?;
    Ok(bodies.collect::<Result<_, _>>()?)
}

fn chain(connection: &Connection, last: String, max_bytes: usize) -> Result<Vec<String>, StoreError> {
    let (mut newest_first, mut next, mut bytes) = (Vec::new(), Some(last), 0);
    while let Some(id) = next {
        let (row, response) = find(connection, &id)?;
        let mut items = bodies(connection, row, Part::Input)?;
        items.extend(bodies(connection, row, Part::Output)?);
        bytes += items.iter().map(String::len).sum::<usize>();
        newest_first.push(items);
        if bytes > max_bytes || newest_first.len() > MAX_CHAIN {
            return Err(StoreError::TooLong { limit: max_bytes });
        }
        next = response.previous;
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

fn read(row: &Row<'_>) -> rusqlite::Result<StoredResponse> {
    let state: String = row.get(1)?;
    let known = ResponseState::ALL.into_iter().find(|known| known.as_str() == state);
    Ok(StoredResponse {
        id: row.get(0)?,
        state: known.ok_or(rusqlite::Error::InvalidColumnName(state))?,
        previous: row.get(2)?,
        created_at: row.get(3)?,
        body: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewConversation;

    const NEVER: u64 = 1 << 40;

    fn store() -> Store {
        Store::in_memory(1 << 20).expect("memory")
    }

    fn item(id: &str) -> NewItem {
        NewItem { id: id.to_owned(), body: format!("body of {id}") }
    }

    fn new(id: &str, state: ResponseState, previous: Option<&str>) -> NewResponse {
        let previous = previous.map(str::to_owned);
        let response = StoredResponse { id: id.to_owned(), state, previous, created_at: 1, body: "{}".to_owned() };
        let (input, output) = (vec![item(&format!("{id}-in"))], vec![item(&format!("{id}-out"))]);
        NewResponse { response, request: Some("asked".to_owned()), expires_at: NEVER, input, output }
    }

    fn end(append: Option<Append>) -> ResponseEnd {
        ResponseEnd { state: ResponseState::Completed, body: "done".to_owned(), output: vec![item("x")], append }
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
        store.delete_response("a").await.expect("deleted");
        let error = store.response_chain("c", 1 << 10).await.expect_err("its beginning is gone");
        assert!(matches!(&error, StoreError::Missing { kind: "response", id } if id == "a"), "{error}");
        assert!(store.any_item("openai", "a-out", 99).await.is_err());
    }

    #[tokio::test]
    async fn what_waits_is_taken_once_and_ended_once() {
        let store = store();
        for id in ["a", "b"] {
            store.queue_response(new(id, ResponseState::Queued, None), 2).await.expect("queued");
        }
        let full = store.queue_response(new("c", ResponseState::Queued, None), 2).await;
        assert!(matches!(full, Err(StoreError::TooManyResponses { limit: 2 })), "{full:?}");
        let taken = store.take_response().await.expect("a query").expect("a response");
        assert_eq!((taken.response.id.as_str(), taken.request.as_str()), ("a", "asked"));
        assert_eq!(taken.input, ["body of a-in"]);
        store.cancel_response("b").await.expect("cancelled");
        assert!(store.take_response().await.expect("a query").is_none());
        store.requeue_responses().await.expect("put back");
        store.take_response().await.expect("a query").expect("it waits again");
        assert!(store.end_response("a", end(None)).await.expect("ended"));
        for id in ["a", "b"] {
            assert!(!store.end_response(id, end(None)).await.expect("a query"), "{id} is not being answered");
        }
        let (ended, output) = store.response("a").await.expect("it is there");
        assert_eq!((ended.state, ended.body.as_str()), (ResponseState::Completed, "done"));
        assert_eq!(output.last().map(String::as_str), Some("body of x"));
    }

    #[tokio::test]
    async fn a_response_ends_together_with_its_conversation_or_not_at_all() {
        let store = store();
        let made = NewConversation {
            prefix: "conv_",
            owner: "openai",
            created_at: 1,
            expires_at: NEVER,
            metadata: None,
            details: None,
        };
        let conversation = store.create_conversation(made, vec![item("first")]).await.expect("created").id;
        let append = |after| Append {
            conversation: conversation.clone(),
            owner: "openai",
            after: Some(after),
            items: vec![item("second")],
            at: 2,
            expires_at: NEVER,
            limit: 10,
        };
        store.queue_response(new("a", ResponseState::Queued, None), 2).await.expect("queued");
        store.take_response().await.expect("a query").expect("a response");
        let moved = store.end_response("a", end(Some(append(0)))).await;
        assert!(matches!(moved, Err(StoreError::Moved { .. })), "{moved:?}");
        assert_eq!(store.response("a").await.expect("it is there").0.state, ResponseState::InProgress);
        assert!(store.end_response("a", end(Some(append(1)))).await.expect("ended"));
        assert_eq!(store.conversation("openai", &conversation).await.expect("it is there").last_position, 2);
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
