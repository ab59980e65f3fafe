//! Why, and about whom, something is kept: marks that every stored object has.
//!
//! A [`Store`] marks what it creates with what it was told by [`Store::marking`]. Invariant: what belongs to one purpose is
//! not gone on with for another, and where nothing may be kept nothing can be created.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{Store, StoreError};

/// Why and about whom something is kept. Whatever nobody has said is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The purpose that its data is processed for.
    pub purpose: Option<String>,
    /// What a person's consent is recorded under.
    pub consent: Option<String>,
    /// Whom the data is about.
    pub subject: Option<String>,
    /// How long anything is kept for that purpose, in seconds, if not for as long as the server keeps anything.
    pub keep_s: Option<u64>,
}

/// What a store does with what is to be created.
#[derive(Clone, Debug)]
pub(super) enum Marks {
    Kept(Arc<Kept>),
    /// For this purpose nothing is stored.
    Nothing(Arc<str>),
}

impl Default for Marks {
    fn default() -> Self {
        Self::Kept(Arc::default())
    }
}

pub(super) const MARKS: &str = "
ALTER TABLE files ADD COLUMN kept_for TEXT;
ALTER TABLE files ADD COLUMN consent TEXT;
ALTER TABLE files ADD COLUMN subject TEXT;
ALTER TABLE files ADD COLUMN keep_s INTEGER;
CREATE INDEX files_by_subject ON files (subject) WHERE subject IS NOT NULL;
ALTER TABLE batches ADD COLUMN kept_for TEXT;
ALTER TABLE batches ADD COLUMN consent TEXT;
ALTER TABLE batches ADD COLUMN subject TEXT;
ALTER TABLE batches ADD COLUMN keep_s INTEGER;
CREATE INDEX batches_by_subject ON batches (subject) WHERE subject IS NOT NULL;
ALTER TABLE conversations ADD COLUMN kept_for TEXT;
ALTER TABLE conversations ADD COLUMN consent TEXT;
ALTER TABLE conversations ADD COLUMN subject TEXT;
ALTER TABLE conversations ADD COLUMN keep_s INTEGER;
CREATE INDEX conversations_by_subject ON conversations (subject) WHERE subject IS NOT NULL;
ALTER TABLE responses ADD COLUMN kept_for TEXT;
ALTER TABLE responses ADD COLUMN consent TEXT;
ALTER TABLE responses ADD COLUMN subject TEXT;
ALTER TABLE responses ADD COLUMN keep_s INTEGER;
CREATE INDEX responses_by_subject ON responses (subject) WHERE subject IS NOT NULL;
ALTER TABLE agents ADD COLUMN kept_for TEXT;
ALTER TABLE agents ADD COLUMN consent TEXT;
ALTER TABLE agents ADD COLUMN subject TEXT;
ALTER TABLE agents ADD COLUMN keep_s INTEGER;
CREATE INDEX agents_by_subject ON agents (subject) WHERE subject IS NOT NULL;
ALTER TABLE items ADD COLUMN subject TEXT;
CREATE INDEX items_by_subject ON items (subject) WHERE subject IS NOT NULL;
ALTER TABLE lines ADD COLUMN subject TEXT;
CREATE INDEX lines_by_subject ON lines (subject) WHERE subject IS NOT NULL;
CREATE TABLE result_subjects (
    row INTEGER PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES files (row) ON DELETE CASCADE,
    custom_id TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;
CREATE INDEX result_subjects_by_file ON result_subjects (file);
CREATE INDEX result_subjects_by_subject ON result_subjects (subject);
";

impl Store {
    /// The same store, which marks what it creates.
    pub fn marking(&self, kept: Kept) -> Self {
        Self { marks: Marks::Kept(Arc::new(kept)), ..self.clone() }
    }

    /// The same store, in which nothing can be created.
    pub fn keeping_nothing(&self, purpose: &str) -> Self {
        Self { marks: Marks::Nothing(purpose.into()), ..self.clone() }
    }

    /// The marks of what is about to be created.
    pub(super) fn marks(&self) -> Result<Arc<Kept>, StoreError> {
        match &self.marks {
            Marks::Kept(kept) => Ok(Arc::clone(kept)),
            Marks::Nothing(purpose) => Err(StoreError::NotKept { purpose: purpose.to_string() }),
        }
    }

    /// What is asked for, if that is known.
    pub(super) fn purpose(&self) -> Option<String> {
        match &self.marks {
            Marks::Kept(kept) => kept.purpose.clone(),
            Marks::Nothing(purpose) => Some(purpose.to_string()),
        }
    }
}

impl Kept {
    /// When what is changed at that moment is deleted, if it would otherwise be deleted at `expires_at`.
    pub(super) fn expiry(&self, at: u64, expires_at: u64) -> u64 {
        self.keep_s.map_or(expires_at, |seconds| expires_at.min(at.saturating_add(seconds)))
    }

    /// The marks of the object in that row of a table.
    pub(super) fn of(connection: &Connection, table: &str, row: i64) -> Result<Self, StoreError> {
        let sql = format!("SELECT kept_for, consent, subject, keep_s FROM {table} WHERE row = ?1");
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self { purpose: row.get(0)?, consent: row.get(1)?, subject: row.get(2)?, keep_s: row.get(3)? })
        };
        Ok(connection.prepare_cached(&sql)?.query_row([row], read)?)
    }

    /// Marks the object in that row of a table.
    pub(super) fn mark(&self, connection: &Connection, table: &str, row: i64) -> Result<(), StoreError> {
        if *self == Self::default() {
            return Ok(());
        }
        let sql = format!("UPDATE {table} SET kept_for = ?2, consent = ?3, subject = ?4, keep_s = ?5 WHERE row = ?1");
        let Self { purpose, consent, subject, keep_s } = self;
        connection.prepare_cached(&sql)?.execute(params![row, purpose, consent, subject, keep_s])?;
        Ok(())
    }

    /// Fails if it is kept for another purpose than the one that is asked for.
    pub(super) fn check_purpose(&self, kind: &'static str, id: &str, asked: Option<&str>) -> Result<(), StoreError> {
        match (&self.purpose, asked) {
            (Some(purpose), Some(asked)) if purpose != asked => {
                Err(StoreError::OtherPurpose { kind, id: id.to_owned(), purpose: purpose.clone() })
            }
            (Some(_) | None, _) => Ok(()),
        }
    }
}
