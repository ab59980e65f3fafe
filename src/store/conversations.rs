//! Conversations: lists of items that grow at their end.
//!
//! What an item is, is its owner's business: here it is an id and a text. Each append is one transaction that names
//! the position it continues, so that of two writers who have read the same conversation only one can go on.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Kept, Order, Page, PageQuery, Store, StoreError, VISIBLE, erase_leftovers, new_id,
    page::{Listing, has_labels},
};

const COLUMNS: &str = "id, owner, created_at, updated_at, expires_at, metadata, details, last_position";

/// A conversation without its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The prefix that its owner wants, and 32 characters.
    pub id: String,
    /// The API it belongs to; others do not see it.
    pub owner: String,
    /// When it was begun, in Unix seconds.
    pub created_at: u64,
    /// When it was last changed, in Unix seconds.
    pub updated_at: u64,
    /// When it is deleted, in Unix seconds.
    pub expires_at: u64,
    /// Labels, as their owner wrote them.
    pub metadata: Option<String>,
    /// Whatever else its owner wants to know of it.
    pub details: Option<String>,
    /// Position of the newest item there has been, and one more for each that was deleted since; 0 if there was none.
    pub last_position: u64,
}

/// A conversation that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConversation {
    /// What its id begins with.
    pub prefix: &'static str,
    /// The API it belongs to.
    pub owner: &'static str,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// Labels.
    pub metadata: Option<String>,
    /// Whatever else its owner wants to know of it.
    pub details: Option<String>,
}

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As its owner calls it; unique in its list.
    pub id: String,
    /// Counted from 1 in its list; items that are deleted leave gaps.
    pub position: u64,
    /// When it was added, in Unix seconds.
    pub created_at: u64,
    /// What it is.
    pub body: String,
}

/// An item that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// As its owner calls it.
    pub id: String,
    /// What it is.
    pub body: String,
}

/// Items for the end of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The conversation's id.
    pub conversation: String,
    /// Its owner.
    pub owner: &'static str,
    /// The conversation's `last_position` that they continue; any if `None`.
    pub after: Option<u64>,
    /// What is added, in order.
    pub items: Vec<NewItem>,
    /// Unix seconds.
    pub at: u64,
    /// When the conversation is deleted from now on, in Unix seconds.
    pub expires_at: u64,
    /// Most items that the conversation may have.
    pub limit: u64,
}

/// What changes of a conversation; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversationChange {
    /// New labels; `Some(None)` takes them away.
    pub metadata: Option<Option<String>>,
    /// New details.
    pub details: Option<Option<String>>,
}

impl Store {
    /// Begins a conversation with these items.
    pub async fn create_conversation(
        &self,
        new: NewConversation,
        items: Vec<NewItem>,
    ) -> Result<Conversation, StoreError> {
        let id = new_id(new.prefix);
        self.create_conversation_as(id, new, items).await
    }

    /// Begins a conversation whose id has been told already, before it was certain that there would be one.
    pub async fn create_conversation_as(
        &self,
        id: String,
        new: NewConversation,
        items: Vec<NewItem>,
    ) -> Result<Conversation, StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let NewConversation { prefix: _, owner, created_at, expires_at, metadata, details } = new;
            transaction.execute(
                "INSERT INTO conversations (id, owner, created_at, updated_at, expires_at, metadata, details) \
                 VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)",
                params![id, owner, created_at, expires_at, metadata, details],
            )?;
            kept.mark(&transaction, "conversations", transaction.last_insert_rowid())?;
            let limit = items.len() as u64;
            let conversation = id.clone();
            let append = Append { conversation, owner, after: None, items, at: created_at, expires_at, limit };
            self::append(&transaction, append, &kept)?;
            let conversation = find(&transaction, owner, &id)?;
            transaction.commit()?;
            Ok(conversation)
        })
        .await
    }

    /// A conversation by its id.
    pub async fn conversation(&self, owner: &'static str, id: &str) -> Result<Conversation, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| find(connection, owner, &id)).await
    }

    /// Whose a conversation is, if there is one of this id.
    pub async fn conversation_owner(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let sql = format!("SELECT owner FROM conversations WHERE id = ?1 AND {VISIBLE}");
            Ok(connection.query_row(&sql, [id], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// The conversations of an owner that have these labels among their own: the text of a JSON object.
    pub async fn conversations(
        &self,
        owner: &'static str,
        labels: Option<String>,
        query: PageQuery,
    ) -> Result<Page<Conversation>, StoreError> {
        self.call(move |connection| list(connection, owner, labels.as_deref(), &query)).await
    }

    /// Changes what is known of a conversation.
    pub async fn update_conversation(
        &self,
        owner: &'static str,
        id: &str,
        change: ConversationChange,
        at: u64,
    ) -> Result<Conversation, StoreError> {
        self.marks()?;
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let row = row_of(&transaction, owner, &id)?;
            let set = |column: &str, value: Option<Option<String>>| match value {
                None => Ok(0),
                Some(value) => transaction.execute(
                    &format!("UPDATE conversations SET {column} = ?2, updated_at = ?3 WHERE row = ?1"),
                    params![row, value, at],
                ),
            };
            set("metadata", change.metadata)?;
            set("details", change.details)?;
            let conversation = find(&transaction, owner, &id)?;
            transaction.commit()?;
            Ok(conversation)
        })
        .await
    }

    /// Adds items at the end of a conversation: all of them or none. `StoreError::Moved` if it has others by now than
    /// those which they continue.
    pub async fn append_items(&self, append: Append) -> Result<Vec<Item>, StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let items = self::append(&transaction, append, &kept)?;
            transaction.commit()?;
            Ok(items)
        })
        .await
    }

    /// Items of a conversation, in order of their positions.
    pub async fn items(
        &self,
        owner: &'static str,
        conversation: &str,
        query: PageQuery,
    ) -> Result<Page<Item>, StoreError> {
        let conversation = conversation.to_owned();
        self.call(move |connection| {
            let row = row_of(connection, owner, &conversation)?;
            list_items(connection, row, &query)
        })
        .await
    }

    /// A conversation with all its items, unless they are longer than `max_bytes`.
    pub async fn whole_conversation(
        &self,
        owner: &'static str,
        id: &str,
        max_bytes: usize,
    ) -> Result<(Conversation, Vec<Item>), StoreError> {
        let (id, purpose) = (id.to_owned(), self.purpose());
        self.call(move |connection| {
            let row = row_of(connection, owner, &id)?;
            Kept::of(connection, "conversations", row)?.check_purpose("conversation", &id, purpose.as_deref())?;
            let sql = "SELECT total(length(CAST(body AS BLOB))) FROM items WHERE conversation = ?1";
            let bytes: f64 = connection.query_row(sql, [row], |row| row.get(0))?;
            if bytes > max_bytes as f64 {
                return Err(StoreError::TooLong { limit: max_bytes });
            }
            let query = PageQuery { after: None, skip: 0, limit: i64::MAX as u64 - 1, order: Order::Ascending };
            Ok((find(connection, owner, &id)?, list_items(connection, row, &query)?.items))
        })
        .await
    }

    /// One item of a conversation.
    pub async fn item(&self, owner: &'static str, conversation: &str, id: &str) -> Result<Item, StoreError> {
        let (conversation, id) = (conversation.to_owned(), id.to_owned());
        self.call(move |connection| {
            let row = row_of(connection, owner, &conversation)?;
            let sql = "SELECT id, position, created_at, body FROM items WHERE conversation = ?1 AND id = ?2";
            let item = connection.query_row(sql, params![row, id], read_item).optional()?;
            item.ok_or_else(|| StoreError::Missing { kind: "item", id })
        })
        .await
    }

    /// Deletes one item; the others keep their positions. Whoever has read it cannot continue what is left.
    pub async fn delete_item(
        &self,
        owner: &'static str,
        conversation: &str,
        id: &str,
        at: u64,
    ) -> Result<Conversation, StoreError> {
        let (conversation, id) = (conversation.to_owned(), id.to_owned());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let row = row_of(&transaction, owner, &conversation)?;
            let deleted =
                transaction.execute("DELETE FROM items WHERE conversation = ?1 AND id = ?2", params![row, id])?;
            if deleted == 0 {
                return Err(StoreError::Missing { kind: "item", id });
            }
            let sql = "UPDATE conversations SET last_position = last_position + 1, updated_at = ?2 WHERE row = ?1";
            transaction.execute(sql, params![row, at])?;
            let changed = find(&transaction, owner, &conversation)?;
            transaction.commit()?;
            erase_leftovers(connection)?;
            Ok(changed)
        })
        .await
    }
}

/// Adds items within somebody's transaction. They are about a subject of their own; how long they are kept is the
/// conversation's.
pub(super) fn append(connection: &Connection, append: Append, kept: &Kept) -> Result<Vec<Item>, StoreError> {
    let Append { conversation, owner, after, items, at, expires_at, limit } = append;
    let row = row_of(connection, owner, &conversation)?;
    let own = Kept::of(connection, "conversations", row)?;
    own.check_purpose("conversation", &conversation, kept.purpose.as_deref())?;
    let sql =
        "SELECT last_position, (SELECT count(*) FROM items WHERE conversation = ?1) FROM conversations WHERE row = ?1";
    let (last, count): (u64, u64) = connection.query_row(sql, [row], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if after.is_some_and(|after| after != last) {
        return Err(StoreError::Moved { id: conversation });
    }
    if count + items.len() as u64 > limit {
        return Err(StoreError::TooManyItems { id: conversation, limit });
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO items (conversation, position, id, created_at, body, subject) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let mut added = Vec::new();
    for (NewItem { id, body }, position) in items.into_iter().zip(last + 1..) {
        match insert.execute(params![row, position, id, at, body, kept.subject]) {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                return Err(StoreError::ItemExists { id });
            }
            inserted => inserted?,
        };
        added.push(Item { id, position, created_at: at, body });
    }
    connection.execute(
        "UPDATE conversations SET last_position = ?2, updated_at = ?3, expires_at = ?4 WHERE row = ?1",
        params![row, last + added.len() as u64, at, own.expiry(at, expires_at)],
    )?;
    Ok(added)
}

fn find(connection: &Connection, owner: &str, id: &str) -> Result<Conversation, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM conversations WHERE id = ?1 AND owner = ?2 AND {VISIBLE}");
    connection.query_row(&sql, [id, owner], read).optional()?.ok_or_else(|| missing(id))
}

/// The row of a conversation.
pub(super) fn row_of(connection: &Connection, owner: &str, id: &str) -> Result<i64, StoreError> {
    let sql = format!("SELECT row FROM conversations WHERE id = ?1 AND owner = ?2 AND {VISIBLE}");
    connection.query_row(&sql, [id, owner], |row| row.get(0)).optional()?.ok_or_else(|| missing(id))
}

fn list(
    connection: &Connection,
    owner: &str,
    labels: Option<&str>,
    query: &PageQuery,
) -> Result<Page<Conversation>, StoreError> {
    let after = query.after.as_deref().map(|id| row_of(connection, owner, id)).transpose()?;
    let rows = format!("FROM conversations WHERE owner = ?1 AND {VISIBLE} AND {}", has_labels("metadata", 2));
    Listing { columns: COLUMNS, rows: &rows, parameters: params![owner, labels], after }.page(connection, query, read)
}

fn list_items(connection: &Connection, conversation: i64, query: &PageQuery) -> Result<Page<Item>, StoreError> {
    let place = |id: &str| {
        let sql = "SELECT row FROM items WHERE conversation = ?1 AND id = ?2";
        let row = connection.query_row(sql, params![conversation, id], |row| row.get::<_, i64>(0)).optional()?;
        row.ok_or_else(|| StoreError::Missing { kind: "item", id: id.to_owned() })
    };
    let after = query.after.as_deref().map(place).transpose()?;
    let (columns, rows) = ("id, position, created_at, body", "FROM items WHERE conversation = ?1");
    Listing { columns, rows, parameters: params![conversation], after }.page(connection, query, read_item)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get(0)?,
        owner: row.get(1)?,
        created_at: row.get(2)?,
        updated_at: row.get(3)?,
        expires_at: row.get(4)?,
        metadata: row.get(5)?,
        details: row.get(6)?,
        last_position: row.get(7)?,
    })
}

fn read_item(row: &Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item { id: row.get(0)?, position: row.get(1)?, created_at: row.get(2)?, body: row.get(3)? })
}

fn missing(id: &str) -> StoreError {
    StoreError::Missing { kind: "conversation", id: id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "openai";
    const NEVER: u64 = 1 << 40;

    fn store() -> Store {
        Store::in_memory(1 << 20).expect("memory")
    }

    fn new(owner: &'static str) -> NewConversation {
        NewConversation { prefix: "conv_", owner, created_at: 1, expires_at: NEVER, metadata: None, details: None }
    }

    fn items(ids: &[&str]) -> Vec<NewItem> {
        ids.iter().map(|id| NewItem { id: (*id).to_owned(), body: format!("body of {id}") }).collect()
    }

    fn append(conversation: &str, after: Option<u64>, ids: &[&str]) -> Append {
        let conversation = conversation.to_owned();
        Append { conversation, owner: OWNER, after, items: items(ids), at: 2, expires_at: NEVER, limit: 5 }
    }

    async fn ids(store: &Store, conversation: &str, order: Order, after: Option<&str>, limit: u64) -> (String, bool) {
        let query = PageQuery { after: after.map(str::to_owned), skip: 0, limit, order };
        let page = store.items(OWNER, conversation, query).await.expect("a list");
        (page.items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>().join(" "), page.has_more)
    }

    #[tokio::test]
    async fn items_are_listed_in_both_orders_and_in_pages() {
        let store = store();
        let conversation = store.create_conversation(new(OWNER), items(&["a", "b"])).await.expect("created").id;
        store.append_items(append(&conversation, Some(2), &["c"])).await.expect("it continues what is there");
        assert_eq!(ids(&store, &conversation, Order::Ascending, None, 10).await, ("a b c".to_owned(), false));
        assert_eq!(ids(&store, &conversation, Order::Descending, None, 2).await, ("c b".to_owned(), true));
        assert_eq!(ids(&store, &conversation, Order::Ascending, Some("a"), 1).await, ("b".to_owned(), true));
        let item = store.item(OWNER, &conversation, "c").await.expect("it is there");
        assert_eq!((item.position, item.body.as_str()), (3, "body of c"));
        assert_eq!(store.conversation(OWNER, &conversation).await.expect("it is there").updated_at, 2);
    }

    #[tokio::test]
    async fn of_two_writers_one_is_told_that_the_conversation_has_moved() {
        let store = store();
        let conversation = store.create_conversation(new(OWNER), items(&["a"])).await.expect("created").id;
        let (one, other) = tokio::join!(
            store.append_items(append(&conversation, Some(1), &["b"])),
            store.append_items(append(&conversation, Some(1), &["c"])),
        );
        assert_eq!(usize::from(one.is_ok()) + usize::from(other.is_ok()), 1, "{one:?} {other:?}");
        let error = one.err().or(other.err()).expect("one failed");
        assert!(matches!(error, StoreError::Moved { .. }), "{error}");
        store.append_items(append(&conversation, None, &["d"])).await.expect("this one does not care");
        let deleted = store.delete_item(OWNER, &conversation, "d", 3).await.expect("deleted");
        assert_eq!(deleted.last_position, 4, "a position is not used again");
        let error = store.append_items(append(&conversation, Some(3), &["e"])).await.expect_err("d was there");
        assert!(matches!(error, StoreError::Moved { .. }), "{error}");
        store.append_items(append(&conversation, Some(4), &["e"])).await.expect("this one has not read d");
    }

    #[tokio::test]
    async fn all_items_of_an_append_are_added_or_none() {
        let store = store();
        let conversation = store.create_conversation(new(OWNER), items(&["a"])).await.expect("created").id;
        let error = store.append_items(append(&conversation, None, &["b", "a"])).await.expect_err("a is there");
        assert!(matches!(&error, StoreError::ItemExists { id } if id == "a"), "{error}");
        let error = store.append_items(append(&conversation, None, &["b", "c", "d", "e", "f"])).await;
        assert!(matches!(error, Err(StoreError::TooManyItems { limit: 5, .. })), "{error:?}");
        assert_eq!(ids(&store, &conversation, Order::Ascending, None, 10).await.0, "a");
    }

    #[tokio::test]
    async fn owners_do_not_see_each_others_and_nobody_what_is_past_its_time() {
        let store = store();
        let conversation = store.create_conversation(new("mistral"), items(&["a"])).await.expect("created").id;
        assert!(store.conversation(OWNER, &conversation).await.is_err());
        assert!(store.append_items(append(&conversation, None, &["b"])).await.is_err());
        assert!(store.delete_conversation(OWNER, &conversation).await.is_err());
        store.conversation("mistral", &conversation).await.expect("its owner sees it");

        let expired = NewConversation { expires_at: 2, ..new(OWNER) };
        let expired = store.create_conversation(expired, Vec::new()).await;
        assert!(matches!(expired, Err(StoreError::Missing { .. })), "it is past its time already: {expired:?}");
    }

    #[tokio::test]
    async fn a_deleted_conversation_takes_its_items_along() {
        let store = store();
        let conversation = store.create_conversation(new(OWNER), items(&["a"])).await.expect("created").id;
        let change = ConversationChange { metadata: Some(Some("{}".to_owned())), details: None };
        let changed = store.update_conversation(OWNER, &conversation, change, 9).await.expect("changed");
        assert_eq!((changed.metadata.as_deref(), changed.updated_at), (Some("{}"), 9));
        store.delete_conversation(OWNER, &conversation).await.expect("deleted");
        assert!(store.item(OWNER, &conversation, "a").await.is_err());
        let left: u64 = store
            .call(|connection| Ok(connection.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?))
            .await
            .expect("a count");
        assert_eq!(left, 0);
    }
}
