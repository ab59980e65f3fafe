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
mod items;
mod kept;
mod lines;
mod page;
mod removal;
mod responses;
mod results;
mod schema;
mod stores;
mod subject_export;
mod subject_lines;
mod subjects;
mod waiting;
mod wipe;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::{sync::Mutex, task::JoinError};

pub use self::{
    agents::{Agent, AgentAlias, AgentDefinition, AgentFilter, AgentVersion},
    batches::{Batch, BatchFilter, BatchRequest, BatchState, BatchTimes, LineCounts},
    conversations::{Append, Conversation, ConversationChange, Item, NewConversation, NewItem},
    error::StoreError,
    files::{FileDetails, FileFilter, FileKind, StoredFile},
    kept::Kept,
    lines::{Line, NewLine, Outcome},
    page::{Order, Page, PageQuery},
    removal::HiddenResponse,
    responses::{NewResponse, ResponseState, StoredResponse},
    results::{BatchEnd, Progress},
    stores::Stores,
    subject_export::Held,
    subject_lines::LineForm,
    subjects::SubjectDeletion,
    waiting::{ResponseEnd, WaitingResponse},
};
use self::{kept::Marks, removal::Which};

const DATABASE: &str = "tramontane.sqlite";
const LOCK: &str = "lock";
const PAGE_BYTES: u64 = 4096; // SQLite's default
/// Condition of what is there: neither past its time nor deleted.
const VISIBLE: &str = "expires_at > unixepoch()";
/// Pages that only what makes room may take beyond the limit.
const RESERVED_PAGES: u64 = 256;
/// Pages that are given back to the file system in one transaction.
const ERASED_AT_ONCE: u64 = 1024;

/// Files, batches, responses and conversations. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    /// None once it is destroyed.
    database: Arc<Mutex<Option<Database>>>,
    marks: Marks,
}

struct Database {
    connection: Connection,
    most_pages: u64,
    /// In memory, if nowhere.
    home: Option<Home>,
}

/// A directory that is one process's alone.
struct Home {
    directory: PathBuf,
    /// Held as long as the database is open.
    _lock: File,
}

impl Home {
    fn take(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.into(), source };
        let lock = private_file(&directory.join(LOCK)).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse { path: directory.into() },
            TryLockError::Error(source) => unusable(source),
        })?;
        Ok(Self { directory: directory.into(), _lock: lock })
    }
}

impl Store {
    /// The store in a directory, which is made if it is not there, readable by this user alone. The database never takes
    /// more than `limit_bytes`, and 1 MiB to make room; its log some MiB beside it, between two write-backs.
    pub fn open(directory: &Path, limit_bytes: u64) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let home = Home::take(directory)?;
        let path = directory.join(DATABASE);
        private_file(&path).map_err(unusable)?; // SQLite would make it as readable as the umask says
        Self::prepare(Connection::open(&path)?, Some(home), limit_bytes)
    }

    /// The store in a directory beside a server that may have it open; `None` if there is none. What a server does when it
    /// begins is left to it.
    pub fn open_beside(directory: &Path, limit_bytes: u64) -> Result<Option<Self>, StoreError> {
        let path = directory.join(DATABASE);
        if !path.exists() {
            return Ok(None);
        }
        match Self::open(directory, limit_bytes) {
            Err(StoreError::InUse { .. }) => {}
            opened => return opened.map(Some),
        }
        let mut connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        set_up(&mut connection)?;
        schema::check_current(&connection)?;
        Ok(Some(Self::of(connection, None, limit_bytes)))
    }

    /// A store that is gone when its last clone is dropped, and never on a disk.
    pub fn in_memory(limit_bytes: u64) -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory()?, None, limit_bytes)
    }

    /// Deletes what is past its time, what was not deleted to its end, and uploads that began before `unfinished_before`
    /// and never ended.
    pub async fn sweep(&self, now: u64, unfinished_before: u64) -> Result<(), StoreError> {
        loop {
            let due = self.call(move |connection| {
                let abandoned = files::ABANDONED;
                let sql =
                    format!("SELECT id FROM files WHERE expires_at <= ?1 OR ({abandoned} AND created_at < ?2) LIMIT 1");
                Ok(connection.query_row(&sql, [now, unfinished_before], |row| row.get::<_, String>(0)).optional()?)
            });
            let Some(file) = due.await? else { break };
            self.remove_file(&file).await?;
        }
        for kind in [&removal::CONVERSATIONS, &removal::RESPONSES] {
            self.remove(kind, Which::Expired(now)).await?;
        }
        let delete = move |connection: &mut Connection| {
            Ok(connection.execute("DELETE FROM batches WHERE delete_at <= ?1", [now])?)
        };
        if self.call(delete).await? > 0 { self.erase().await } else { Ok(()) }
    }

    /// Overwrites and deletes everything. Whoever still has the store finds it closed.
    pub async fn destroy(&self) -> Result<(), StoreError> {
        let mut database = Arc::clone(&self.database).lock_owned().await;
        blocking(move || {
            let Some(Database { connection, home, .. }) = database.take() else { return Ok(()) };
            drop(connection); // its files are not in use any more
            home.map_or(Ok(()), wipe::wipe)
        })
        .await
    }

    fn prepare(mut connection: Connection, home: Option<Home>, limit_bytes: u64) -> Result<Self, StoreError> {
        set_up(&mut connection)?;
        limit_pages(&connection, limit_bytes / PAGE_BYTES)?;
        schema::migrate(&mut connection)?;
        // Uploads that an earlier process had not completed, and files that it had not deleted to their end.
        connection.execute(&format!("DELETE FROM files WHERE {}", files::ABANDONED), [])?;
        erase_leftovers(&mut connection)?;
        Ok(Self::of(connection, home, limit_bytes))
    }

    fn of(connection: Connection, home: Option<Home>, limit_bytes: u64) -> Self {
        let database = Database { connection, most_pages: limit_bytes / PAGE_BYTES, home };
        Self { database: Arc::new(Mutex::new(Some(database))), marks: Marks::default() }
    }

    /// Runs `work` on the connection, one caller at a time, on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call_database(move |database| work(&mut database.connection)).await
    }

    /// The same for what ends in less being stored: it may take a little more than there is on its way.
    async fn call_reserved<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call_database(move |database| {
            limit_pages(&database.connection, database.most_pages + RESERVED_PAGES)?;
            let done = work(&mut database.connection);
            limit_pages(&database.connection, database.most_pages)?;
            done
        })
        .await
    }

    /// Overwrites what was deleted, step by step, so that others are served between them.
    async fn erase(&self) -> Result<(), StoreError> {
        while self.call(erase_some).await? == Progress::Partial {}
        Ok(())
    }

    async fn call_database<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut database = Arc::clone(&self.database).lock_owned().await;
        blocking(move || work(database.as_mut().ok_or(StoreError::Closed)?)).await
    }
}

/// Runs what may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(StoreError::Closed),
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn set_up(connection: &mut Connection) -> Result<(), StoreError> {
    // FULL: what a client was told to be stored or deleted stays so when the power fails.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;",
    )?;
    // A command may write beside a server: what reads before it writes must not find that somebody else has written since.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(())
}

/// The database grows to so many pages and no further.
fn limit_pages(connection: &Connection, most: u64) -> Result<(), StoreError> {
    Ok(connection.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()))?)
}

/// Overwrites what was deleted, where that was not much.
fn erase_leftovers(connection: &mut Connection) -> Result<(), StoreError> {
    while erase_some(connection)? == Progress::Partial {}
    Ok(())
}

/// Deleted rows are overwritten in the database's own file once the log is written back; then the log goes too.
fn erase_some(connection: &mut Connection) -> Result<Progress, StoreError> {
    let unused = |connection: &Connection| {
        connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0)).map_err(StoreError::from)
    };
    let before = unused(connection)?;
    {
        let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({ERASED_AT_ONCE})"))?;
        let mut pages = vacuum.query([])?; // each step gives one back
        while pages.next()?.is_some() {}
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let after = unused(connection)?;
    Ok(if after > 0 && after < before { Progress::Partial } else { Progress::Complete })
}

/// A new id: unguessable, and in the form that clients of the object expect.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}
