//! Items by their ids alone, wherever they are.

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, VISIBLE};

/// It is kept for the purpose that is asked for, or it is not known for which.
const OF_PURPOSE: &str = "(?4 IS NULL OR kept_for IS NULL OR kept_for = ?4)";

impl Store {
    /// An item of any response, or of any conversation of `owner`, by its id, unless it is longer than `max_bytes`.
    pub async fn any_item(&self, owner: &'static str, id: &str, max_bytes: usize) -> Result<String, StoreError> {
        let (id, purpose) = (id.to_owned(), self.purpose());
        self.call(move |connection| {
            let sql = format!(
                "SELECT CASE WHEN length(CAST(response_items.body AS BLOB)) <= ?3 THEN response_items.body END \
                 FROM response_items JOIN responses ON response = responses.row \
                 WHERE response_items.id = ?1 AND {VISIBLE} AND {OF_PURPOSE} \
                 UNION ALL SELECT CASE WHEN length(CAST(items.body AS BLOB)) <= ?3 THEN items.body END \
                 FROM items JOIN conversations ON conversation = conversations.row \
                 WHERE items.id = ?1 AND owner = ?2 AND {VISIBLE} AND {OF_PURPOSE} LIMIT 1"
            );
            let read = |row: &Row<'_>| row.get::<_, Option<String>>(0);
            let found = connection.query_row(&sql, params![id, owner, max_bytes as u64, purpose], read).optional()?;
            let body = found.ok_or_else(|| StoreError::Missing { kind: "item", id })?;
            body.ok_or(StoreError::TooLong { limit: max_bytes })
        })
        .await
    }
}
