//! The database of identities: where it lies, its tables, and whether somebody else has changed it.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{DEFAULT_TENANT, GovernanceError};

pub(super) const DATABASE: &str = "governance.sqlite";

/// How long one process waits for another's transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a look waits, which it does only where somebody mends the log after a crash.
const LOOK_PATIENCE: Duration = Duration::from_millis(100);

/// `user_version` counts those that a database has had. One that was released is never changed.
const MIGRATIONS: [&str; 3] = [TENANTS_AND_KEYS, LEAVING, QUOTAS];

const TENANTS_AND_KEYS: &str = "
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    share_group TEXT
) STRICT;
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL REFERENCES tenants (name),
    roles TEXT NOT NULL,
    attributes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    replaced_by TEXT
) STRICT;
CREATE INDEX keys_by_name ON keys (name);
";

/// Tenants that were deleted and whose data is still to be erased.
const LEAVING: &str = "
CREATE TABLE leaving (
    id TEXT PRIMARY KEY
) STRICT;
";

/// What is not named is empty; periods are days and months.
const QUOTAS: &str = "
CREATE TABLE quotas (
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    concurrent_requests INTEGER,
    tokens_per_day INTEGER,
    tokens_per_month INTEGER,
    PRIMARY KEY (key, tenant, model)
) STRICT;
CREATE TABLE quota_usage (
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    period TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (key, tenant, model, period)
) STRICT;
";

/// Opens it, or makes it, readable by this user alone.
pub(super) fn open(path: &Path) -> Result<Connection, GovernanceError> {
    let unusable = |source| GovernanceError::File { path: path.into(), source };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    }
    // SQLite would make it as readable as the umask says.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(unusable)?;
    prepare(Connection::open(path)?)
}

pub(super) fn in_memory() -> Result<Connection, GovernanceError> {
    prepare(Connection::open_in_memory()?)
}

/// A second connection to it, for looks: as the log is written ahead, whoever writes does not keep it from reading, and it
/// waits for next to nothing.
pub(super) fn open_reader(path: &Path) -> Result<Connection, GovernanceError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOOK_PATIENCE)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// A number that changes when another connection has changed the database, and only then.
pub(super) fn version(connection: &Connection) -> Result<i64, GovernanceError> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

fn prepare(mut connection: Connection) -> Result<Connection, GovernanceError> {
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;
         PRAGMA foreign_keys = ON;",
    )?;
    migrate(&mut connection)?;
    // Whoever begins to read, and finds another writing when it wants to, is refused at once and not after a while.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(connection)
}

/// Two processes may begin at once, so what is missing is looked up by whoever may write.
fn migrate(connection: &mut Connection) -> Result<(), GovernanceError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len();
    let Some(missing) = MIGRATIONS.get(found..) else { return Err(GovernanceError::Newer { found, known }) };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.execute(
        "INSERT OR IGNORE INTO tenants (name, id, created_at) VALUES (?1, ?1, unixepoch())",
        [DEFAULT_TENANT],
    )?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
