//! What the server keeps between requests and between starts: files, batches, responses and conversations, in one embedded SQLite database.
//!
//! [`Store`] is the seam: typed data in, typed data out, each method one transaction. Nobody above it sees SQL, so
//! that another database can stand behind the same methods. It knows nothing of HTTP, nor what a file means.
//!
//! Invariants: there is one connection, so one writer, and its calls run where they may block; what is deleted or
//! past its time is overwritten, not merely hidden; a directory belongs to one server at a time.

mod agents;
mod batches;
mod conversations;
mod error;
mod files;
mod lines;
mod page;
mod responses;
mod schema;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rusqlite::Connection;
use tokio::{sync::Mutex, task::JoinError};

pub use self::{
    agents::{Agent, AgentAlias, AgentDefinition, AgentFilter, AgentVersion},
    batches::{Batch, BatchEnd, BatchFilter, BatchRequest, BatchState, BatchTimes, LineCounts},
    conversations::{Append, Conversation, ConversationChange, Item, NewConversation, NewItem},
    error::StoreError,
    files::{FileDetails, StoredFile},
    lines::{Line, NewLine, Outcome, WrittenLine},
    page::{Order, Page, PageQuery},
    responses::{NewResponse, ResponseEnd, ResponseState, StoredResponse, WaitingResponse},
};

const DATABASE: &str = "tramontane.sqlite";
const LOCK: &str = "lock";
const PAGE_BYTES: u64 = 4096; // SQLite's default

/// Files, batches, responses and conversations. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    database: Arc<Mutex<Database>>,
}

struct Database {
    connection: Connection,
    /// Held as long as the database is open.
    _lock: Option<File>,
}

impl Store {
    /// The store in a directory, which is made if it is not there, readable by this user alone. It never takes more
    /// than `limit_bytes`.
    pub fn open(directory: &Path, limit_bytes: u64) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let lock = private_file(&directory.join(LOCK)).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse { path: directory.into() },
            TryLockError::Error(source) => unusable(source),
        })?;
        let path = directory.join(DATABASE);
        private_file(&path).map_err(unusable)?; // SQLite would make it as readable as the umask says
        Self::prepare(Connection::open(&path)?, Some(lock), limit_bytes)
    }

    /// A store that is gone when its last clone is dropped, and never on a disk.
    pub fn in_memory(limit_bytes: u64) -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory()?, None, limit_bytes)
    }

    /// Deletes what is past its time, and uploads that began before `unfinished_before` and never ended.
    pub async fn sweep(&self, now: u64, unfinished_before: u64) -> Result<(), StoreError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let files = transaction.execute(
                "DELETE FROM files WHERE expires_at <= ?1 OR (NOT complete AND created_at < ?2)",
                [now, unfinished_before],
            )?;
            let batches = transaction.execute("DELETE FROM batches WHERE delete_at <= ?1", [now])?;
            let conversations = transaction.execute("DELETE FROM conversations WHERE expires_at <= ?1", [now])?;
            let responses = transaction.execute("DELETE FROM responses WHERE expires_at <= ?1", [now])?;
            transaction.commit()?;
            if files + batches + conversations + responses > 0 { erase_leftovers(connection) } else { Ok(()) }
        })
        .await
    }

    fn prepare(mut connection: Connection, lock: Option<File>, limit_bytes: u64) -> Result<Self, StoreError> {
        // FULL: what a client was told to be stored or deleted stays so when the power fails.
        connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA secure_delete = ON;
             PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY;",
        )?;
        let pages = limit_bytes / PAGE_BYTES;
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        schema::migrate(&mut connection)?;
        // Uploads and results that an earlier process had not completed.
        connection.execute("DELETE FROM files WHERE NOT complete", [])?;
        erase_leftovers(&mut connection)?;
        Ok(Self { database: Arc::new(Mutex::new(Database { connection, _lock: lock })) })
    }

    /// Runs `work` on the connection, one caller at a time, on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut database = Arc::clone(&self.database).lock_owned().await;
        let work = move || work(&mut database.connection);
        match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(StoreError::Closed),
        }
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Deleted rows are overwritten in the database's own file once the log is written back; then the log goes too.
fn erase_leftovers(connection: &mut Connection) -> Result<(), StoreError> {
    {
        let mut vacuum = connection.prepare_cached("PRAGMA incremental_vacuum")?;
        let mut pages = vacuum.query([])?; // each step gives one back
        while pages.next()?.is_some() {}
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// A new id: unguessable, and in the form that clients of the object expect.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}
