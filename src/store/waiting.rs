//! Responses that wait to be answered, and how they are: taken by a worker, ended, failed or cancelled.
//!
//! Each change of state names the state before it, so that a change which comes too late (a response was cancelled or
//! deleted meanwhile) changes nothing. Each time that a response is taken is an attempt with a number of its own.

use rusqlite::{OptionalExtension, Row, params};

use super::{
    Append, Kept, NewItem, NewResponse, ResponseState, Store, StoreError, StoredResponse, VISIBLE, conversations,
    responses::{COLUMNS, COLUMNS_LEN, Part, add, bodies, head, insert, read},
};

/// How a response that waited has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseEnd {
    /// The last state.
    pub state: ResponseState,
    /// The body from now on.
    pub body: String,
    /// What was answered.
    pub output: Vec<NewItem>,
    /// What is known of its events, if it has a stream.
    pub events: Option<String>,
    /// What a conversation gets of it.
    pub append: Option<Append>,
}

/// A response that waits, with what has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingResponse {
    /// The response without items.
    pub response: StoredResponse,
    /// What it is for.
    pub kept: Kept,
    /// What has to be asked.
    pub request: String,
    /// On whose behalf.
    pub behalf: Option<String>,
    /// The items of the input.
    pub input: Vec<String>,
}

impl Store {
    /// Stores a response that is to be answered later, unless `limit` others wait.
    pub async fn queue_response(&self, new: NewResponse, limit: u64) -> Result<(), StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let sql = "SELECT count(*) FROM responses WHERE state IN ('queued', 'in_progress')";
            let waiting: u64 = transaction.query_row(sql, [], |row| row.get(0))?;
            if waiting >= limit {
                return Err(StoreError::TooManyResponses { limit });
            }
            insert(&transaction, &new, &kept)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Takes the response that has waited longest, for one more attempt.
    pub async fn take_response(&self) -> Result<Option<WaitingResponse>, StoreError> {
        self.call(|connection| {
            let transaction = connection.transaction()?;
            let sql = format!(
                "SELECT {COLUMNS}, row, request, behalf FROM responses WHERE state = 'queued' AND {VISIBLE} ORDER BY row LIMIT 1"
            );
            let read = |row: &Row<'_>| Ok((read(row)?, row.get(COLUMNS_LEN)?, row.get(COLUMNS_LEN + 1)?, row.get(COLUMNS_LEN + 2)?));
            let found: Option<(StoredResponse, i64, Option<String>, Option<String>)> =
                transaction.query_row(&sql, [], read).optional()?;
            let Some((mut response, row, request, behalf)) = found else { return Ok(None) };
            let sql = "UPDATE responses SET state = 'in_progress', attempts = attempts + 1 WHERE row = ?1";
            transaction.execute(sql, [row])?;
            response.attempts += 1;
            let (input, kept) = (bodies(&transaction, row, Part::Input)?, Kept::of(&transaction, "responses", row)?);
            transaction.commit()?;
            Ok(Some(WaitingResponse { response, kept, request: request.unwrap_or_default(), behalf, input }))
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

    /// Puts a response back that was being answered.
    pub async fn requeue_response(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let sql = "UPDATE responses SET state = 'queued' WHERE id = ?1 AND state = 'in_progress'";
            connection.execute(sql, [id])?;
            Ok(())
        })
        .await
    }

    /// Ends a response that is being answered. False if it is not any more.
    pub async fn end_response(&self, id: &str, end: ResponseEnd) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let ResponseEnd { state, body, output, events, append } = end;
            let changed = transaction.execute(
                "UPDATE responses SET state = ?2, body = ?3, events = ?4, request = NULL, behalf = NULL \
                 WHERE id = ?1 AND state = 'in_progress'",
                params![id, state.as_str(), body, events],
            )?;
            if changed == 0 {
                return Ok(false);
            }
            let row = head(&transaction, &id)?.row;
            add(&transaction, row, Part::Output, &output)?;
            if let Some(append) = append {
                conversations::append(&transaction, append, &Kept::of(&transaction, "responses", row)?)?;
            }
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Ends a response that is being answered as failed and without output, also where nothing more can be stored. What is
    /// known of its events stays as it was if there are no `events`.
    pub async fn fail_response(&self, id: &str, body: String, events: Option<String>) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call_reserved(move |connection| {
            connection.execute(
                "UPDATE responses SET state = 'failed', body = ?2, events = COALESCE(?3, events), request = NULL, behalf = NULL \
                 WHERE id = ?1 AND state = 'in_progress'",
                params![id, body, events],
            )?;
            Ok(())
        })
        .await
    }

    /// Cancels a response that waits or is being answered; one that has ended stays as it is. Of its events nothing is kept.
    pub async fn cancel_response(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.execute(
                "UPDATE responses SET state = 'cancelled', request = NULL, behalf = NULL \
                 WHERE id = ?1 AND state IN ('queued', 'in_progress')",
                [id],
            )?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        NewConversation,
        responses::tests::{NEVER, item, new, store},
    };

    fn end(append: Option<Append>) -> ResponseEnd {
        let output = vec![item("x")];
        ResponseEnd { state: ResponseState::Completed, body: "done".to_owned(), output, events: None, append }
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
        assert_eq!((taken.response.id.as_str(), taken.response.attempts, taken.request.as_str()), ("a", 1, "asked"));
        assert_eq!(taken.input, ["body of a-in"]);
        store.cancel_response("b").await.expect("cancelled");
        assert!(store.take_response().await.expect("a query").is_none());
        store.requeue_responses().await.expect("put back");
        let again = store.take_response().await.expect("a query").expect("it waits again");
        assert_eq!(again.response.attempts, 2);
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
    async fn what_is_known_of_events_is_kept_for_what_has_a_stream() {
        let store = store();
        for (id, events) in [("a", Some("")), ("b", Some("")), ("c", None), ("d", Some(""))] {
            let new = new(id, ResponseState::Queued, None);
            let response = StoredResponse { events: events.map(str::to_owned), ..new.response };
            store.queue_response(NewResponse { response, ..new }, 9).await.expect("queued");
        }
        for _ in ["a", "b", "c"] {
            store.take_response().await.expect("a query").expect("a response");
        }
        store.fail_response("b", "failed".to_owned(), None).await.expect("failed");
        for id in ["a", "b", "c", "d"] {
            store.cancel_response(id).await.expect("no error");
        }
        for (id, state, events) in [
            ("a", ResponseState::Cancelled, Some("")),
            ("b", ResponseState::Failed, Some("")), // it had failed before
            ("c", ResponseState::Cancelled, None),
            ("d", ResponseState::Cancelled, Some("")),
        ] {
            let (response, _) = store.response(id).await.expect("it is there");
            assert_eq!((response.state, response.events.as_deref()), (state, events), "{id}");
        }
    }
}
