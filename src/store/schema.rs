//! The tables, and how a database of an earlier version gets them.
//!
//! `user_version` counts the migrations that a database has had. A migration that was released is never changed.

use rusqlite::Connection;

use super::{StoreError, agents, kept};

const MIGRATIONS: [&str; 9] = [
    FILES_AND_BATCHES,
    CONVERSATIONS,
    RESPONSES,
    agents::TABLES,
    WHO_ASKED_FOR_BATCHES,
    STREAMS_OF_RESPONSES,
    WHAT_IS_PAST_ITS_TIME,
    kept::MARKS,
    ON_WHOSE_BEHALF,
];

/// So that what is past its time is found without looking at all that is stored.
const WHAT_IS_PAST_ITS_TIME: &str = "
CREATE INDEX conversations_by_expiry ON conversations (expires_at);
CREATE INDEX responses_by_expiry ON responses (expires_at);
";

/// Rows of deleted objects leave nothing that a later object could be taken for: ids of rows are not used again.
const FILES_AND_BATCHES: &str = "
CREATE TABLE files (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    complete INTEGER NOT NULL
) STRICT;
CREATE TABLE parts (
    file INTEGER NOT NULL REFERENCES files (row) ON DELETE CASCADE,
    part INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (file, part)
) STRICT;
CREATE TABLE batches (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL,
    model TEXT,
    input_files TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    metadata TEXT,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    started_at INTEGER,
    finalizing_at INTEGER,
    cancelling_at INTEGER,
    ended_at INTEGER,
    delete_at INTEGER,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    output_file TEXT,
    error_file TEXT,
    errors TEXT
) STRICT;
CREATE INDEX batches_by_state ON batches (state, row);
CREATE TABLE lines (
    batch INTEGER NOT NULL REFERENCES batches (row) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    custom_id TEXT,
    request TEXT,
    outcome TEXT,
    result TEXT,
    PRIMARY KEY (batch, line)
) STRICT;
CREATE INDEX lines_to_do ON lines (batch, line) WHERE outcome IS NULL;
";

const CONVERSATIONS: &str = "
CREATE TABLE conversations (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    metadata TEXT,
    details TEXT,
    last_position INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX conversations_by_owner ON conversations (owner, row);
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations (row) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (conversation, id),
    UNIQUE (conversation, position)
) STRICT;
CREATE INDEX items_by_conversation ON items (conversation, row);
";

const RESPONSES: &str = "
CREATE TABLE responses (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    previous TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    request TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX responses_waiting ON responses (state, row) WHERE state IN ('queued', 'in_progress');
CREATE TABLE response_items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    response INTEGER NOT NULL REFERENCES responses (row) ON DELETE CASCADE,
    part TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX response_items_by_response ON response_items (response, part, row);
CREATE INDEX response_items_by_id ON response_items (id);
CREATE INDEX items_by_id ON items (id);
";

const WHO_ASKED_FOR_BATCHES: &str = "
ALTER TABLE batches ADD COLUMN dialect TEXT;
ALTER TABLE batches ADD COLUMN owns_input INTEGER NOT NULL DEFAULT FALSE;
ALTER TABLE batches ADD COLUMN keep_output_s INTEGER;
";

const STREAMS_OF_RESPONSES: &str = "
ALTER TABLE responses ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN events TEXT;
";

/// Who asked for what is answered later, as written by who stored it.
const ON_WHOSE_BEHALF: &str = "
ALTER TABLE batches ADD COLUMN behalf TEXT;
ALTER TABLE responses ADD COLUMN behalf TEXT;
";

/// Brings a database up to date, each migration whole or not at all.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let had: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if had > MIGRATIONS.len() {
        return Err(StoreError::Newer { found: had, known: MIGRATIONS.len() });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(had) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Fails if a database has not the format of this version: whoever uses it now, uses it in another.
pub(super) fn check_current(connection: &Connection) -> Result<(), StoreError> {
    let found: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found.cmp(&MIGRATIONS.len()) {
        std::cmp::Ordering::Less => Err(StoreError::Older { found, needed: MIGRATIONS.len() }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::Newer { found, known: MIGRATIONS.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_migrated_once_and_never_backwards() {
        let mut connection = Connection::open_in_memory().expect("memory");
        migrate(&mut connection).expect("a new database");
        migrate(&mut connection).expect("nothing is left to do");
        connection.pragma_update(None, "user_version", 99).expect("a number");
        let error = migrate(&mut connection).expect_err("this one is from the future");
        assert_eq!(error.to_string(), "the stored data has format 99, and this version knows formats up to 9");
    }
}
