//! Agents: a name and a definition, in versions that are never changed, and aliases, which are names of versions.
//!
//! The store knows of a definition only what lists are filtered by. One version is the current one; a new version becomes
//! it. Deleting an agent deletes all of it, overwritten.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Order, Page, PageQuery, Store, StoreError, erase_leftovers, new_id, page::has_labels};

pub(super) const TABLES: &str = "
CREATE TABLE agents (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    current INTEGER NOT NULL
) STRICT;
CREATE TABLE agent_versions (
    agent INTEGER NOT NULL REFERENCES agents (row) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    name TEXT NOT NULL,
    metadata TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (agent, version)
) STRICT;
CREATE TABLE agent_aliases (
    agent INTEGER NOT NULL,
    alias TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (agent, alias),
    FOREIGN KEY (agent, version) REFERENCES agent_versions (agent, version) ON DELETE CASCADE
) STRICT;
";

const COLUMNS: &str = "agents.row, agents.id, agents.created_at AS agent_created_at, agent_versions.version, \
                       agent_versions.created_at, name, metadata, body";
const CURRENT: &str = "agents JOIN agent_versions ON agent = agents.row AND version = current";

/// What an agent is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDefinition {
    /// As its owner calls it.
    pub name: String,
    /// Labels: the text of a JSON object.
    pub metadata: String,
    /// All else.
    pub body: String,
}

/// An agent in one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// `ag_` and 32 characters.
    pub id: String,
    /// When its first version was made, in Unix seconds.
    pub created_at: u64,
    /// Numbers of all its versions, in their order.
    pub versions: Vec<u64>,
    /// Which of them this is.
    pub version: u64,
    /// When this version was made, in Unix seconds.
    pub version_created_at: u64,
    /// What this version says.
    pub definition: AgentDefinition,
}

/// Which version of an agent is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentVersion {
    /// The one that is used unless another is asked for.
    Current,
    /// The one with this number.
    Number(u64),
    /// The one with this name.
    Alias(String),
}

/// A name of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAlias {
    /// The name.
    pub alias: String,
    /// The version.
    pub version: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// When it was last given a version, in Unix seconds.
    pub updated_at: u64,
}

/// Which agents a list shall have, by their current versions. All if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// With this id.
    pub id: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// With this text in their name or id, in whatever case.
    pub search: Option<String>,
    /// With these labels among their own: the text of a JSON object.
    pub metadata: Option<String>,
}

impl Store {
    /// Stores version 0 of a new agent, unless there are `limit` already.
    pub async fn create_agent(&self, definition: AgentDefinition, at: u64, limit: u64) -> Result<Agent, StoreError> {
        let kept = self.marks()?;
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let count: u64 = transaction.query_row("SELECT count(*) FROM agents", [], |row| row.get(0))?;
            check_limit(count, limit, "agents")?;
            let id = new_id("ag_");
            transaction.execute("INSERT INTO agents (id, created_at, current) VALUES (?1, ?2, 0)", params![id, at])?;
            let row = transaction.last_insert_rowid();
            kept.mark(&transaction, "agents", row)?;
            insert_version(&transaction, row, 0, &definition, at)?;
            let agent = find(&transaction, &id, &AgentVersion::Current)?;
            transaction.commit()?;
            Ok(agent)
        })
        .await
    }

    /// An agent by its id.
    pub async fn agent(&self, id: &str, version: AgentVersion) -> Result<Agent, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| find(connection, &id, &version)).await
    }

    /// Agents in their current versions.
    pub async fn agents(&self, filter: AgentFilter, query: PageQuery) -> Result<Page<Agent>, StoreError> {
        self.call(move |connection| list(connection, &filter, &query)).await
    }

    /// All versions of an agent that a page has, newest first.
    pub async fn agent_versions(&self, id: &str, skip: u64, limit: u64) -> Result<Vec<Agent>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let row = row_of(connection, &id)?;
            let sql = format!(
                "SELECT {COLUMNS} FROM agents JOIN agent_versions ON agent = agents.row WHERE agents.row = ?1 \
                 ORDER BY version DESC LIMIT ?2 OFFSET ?3"
            );
            collected(connection, &sql, params![row, limit, skip])
        })
        .await
    }

    /// Stores a new version and makes it the current one. It was made of version `base`: if that is no longer the current
    /// one, somebody else's change would be undone, and nothing is stored.
    pub async fn add_agent_version(
        &self,
        id: &str,
        base: u64,
        definition: AgentDefinition,
        at: u64,
        limit: u64,
    ) -> Result<Agent, StoreError> {
        self.marks()?;
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let agent = find(&transaction, &id, &AgentVersion::Current)?;
            if agent.version != base {
                return Err(StoreError::Changed { kind: AGENT, id });
            }
            check_limit(agent.versions.len() as u64, limit, "versions of one agent")?;
            let (row, next) = (row_of(&transaction, &id)?, agent.versions.last().map_or(0, |last| last + 1));
            insert_version(&transaction, row, next, &definition, at)?;
            transaction.execute("UPDATE agents SET current = ?2 WHERE row = ?1", params![row, next])?;
            let agent = find(&transaction, &id, &AgentVersion::Current)?;
            transaction.commit()?;
            Ok(agent)
        })
        .await
    }

    /// Makes one of an agent's versions the current one.
    pub async fn set_agent_version(&self, id: &str, version: u64) -> Result<Agent, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let agent = find(&transaction, &id, &AgentVersion::Number(version))?;
            transaction.execute("UPDATE agents SET current = ?2 WHERE id = ?1", params![id, version])?;
            transaction.commit()?;
            Ok(agent)
        })
        .await
    }

    /// Deletes an agent with all its versions and aliases.
    pub async fn delete_agent(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            if connection.execute("DELETE FROM agents WHERE id = ?1", [&id])? == 0 {
                return Err(missing(AGENT, &id));
            }
            erase_leftovers(connection)
        })
        .await
    }

    /// Gives a version a name, which another version may have had; an agent has at most `limit` names.
    pub async fn set_agent_alias(
        &self,
        id: &str,
        alias: &str,
        version: u64,
        at: u64,
        limit: u64,
    ) -> Result<AgentAlias, StoreError> {
        let (id, alias) = (id.to_owned(), alias.to_owned());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let row = row_of(&transaction, &id)?;
            check_version(&transaction, row, version)?;
            let sql = "SELECT count(*) FROM agent_aliases WHERE agent = ?1 AND alias <> ?2";
            let others: u64 = transaction.query_row(sql, params![row, alias], |row| row.get(0))?;
            check_limit(others, limit, "aliases of one agent")?;
            let alias = transaction.query_row(
                "INSERT INTO agent_aliases (agent, alias, version, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4) \
                 ON CONFLICT DO UPDATE SET version = ?3, updated_at = ?4 \
                 RETURNING alias, version, created_at, updated_at",
                params![row, alias, version, at],
                read_alias,
            )?;
            transaction.commit()?;
            Ok(alias)
        })
        .await
    }

    /// The names of an agent's versions, in alphabetical order.
    pub async fn agent_aliases(&self, id: &str) -> Result<Vec<AgentAlias>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let row = row_of(connection, &id)?;
            let mut statement = connection.prepare_cached(
                "SELECT alias, version, created_at, updated_at FROM agent_aliases WHERE agent = ?1 ORDER BY alias",
            )?;
            let aliases = statement.query_map([row], read_alias)?;
            Ok(aliases.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Takes a name away.
    pub async fn delete_agent_alias(&self, id: &str, alias: &str) -> Result<(), StoreError> {
        let (id, alias) = (id.to_owned(), alias.to_owned());
        self.call(move |connection| {
            let row = row_of(connection, &id)?;
            let sql = "DELETE FROM agent_aliases WHERE agent = ?1 AND alias = ?2";
            if connection.execute(sql, params![row, alias])? == 0 {
                return Err(missing(ALIAS, &alias));
            }
            Ok(())
        })
        .await
    }
}

const AGENT: &str = "agent";
const VERSION: &str = "version of the agent";
const ALIAS: &str = "alias of the agent";

fn find(connection: &Connection, id: &str, version: &AgentVersion) -> Result<Agent, StoreError> {
    let row = row_of(connection, id)?;
    let number: u64 = match version {
        AgentVersion::Number(number) => *number,
        AgentVersion::Current => {
            connection.query_row("SELECT current FROM agents WHERE row = ?1", [row], |row| row.get(0))?
        }
        AgentVersion::Alias(alias) => {
            let sql = "SELECT version FROM agent_aliases WHERE agent = ?1 AND alias = ?2";
            let version = connection.query_row(sql, params![row, alias], |row| row.get(0)).optional()?;
            version.ok_or_else(|| missing(ALIAS, alias))?
        }
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM agents JOIN agent_versions ON agent = agents.row WHERE agents.row = ?1 AND version = ?2"
    );
    let found = collected(connection, &sql, params![row, number])?.pop();
    found.ok_or_else(|| missing(VERSION, &number.to_string()))
}

fn check_version(connection: &Connection, agent: i64, version: u64) -> Result<(), StoreError> {
    let sql = "SELECT count(*) FROM agent_versions WHERE agent = ?1 AND version = ?2";
    match connection.query_row(sql, params![agent, version], |row| row.get(0))? {
        0 => Err(missing(VERSION, &version.to_string())),
        1_u64.. => Ok(()),
    }
}

fn list(connection: &Connection, filter: &AgentFilter, query: &PageQuery) -> Result<Page<Agent>, StoreError> {
    let after = query.after.as_deref().map(|id| row_of(connection, id)).transpose()?;
    let wanted = format!(
        "FROM {CURRENT} WHERE (?1 IS NULL OR id = ?1) AND (?2 IS NULL OR name = ?2) \
         AND (?3 IS NULL OR instr(lower(name), lower(?3)) OR instr(lower(id), lower(?3))) AND {}",
        has_labels("metadata", 4)
    );
    let AgentFilter { id, name, search, metadata } = filter;
    let count = format!("SELECT count(*) {wanted}");
    let total = connection.query_row(&count, params![id, name, search, metadata], |row| row.get(0))?;
    let sql = format!("SELECT {COLUMNS} {wanted} {}", Order::tail(query.order, 5));
    let limit = query.limit.saturating_add(1);
    let items = collected(connection, &sql, params![id, name, search, metadata, after, limit, query.skip])?;
    Ok(Page::new(items, query, total))
}

/// The agents that a query finds, each with the numbers of its versions.
fn collected(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Agent>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let found: Vec<(i64, Agent)> = statement.query_map(values, read)?.collect::<Result<_, _>>()?;
    let mut versions =
        connection.prepare_cached("SELECT version FROM agent_versions WHERE agent = ?1 ORDER BY version")?;
    let complete = |(row, agent)| {
        let numbers = versions.query_map([row], |row| row.get(0))?;
        Ok(Agent { versions: numbers.collect::<Result<_, _>>()?, ..agent })
    };
    found.into_iter().map(complete).collect()
}

fn insert_version(
    connection: &Connection,
    agent: i64,
    version: u64,
    definition: &AgentDefinition,
    at: u64,
) -> Result<(), StoreError> {
    let AgentDefinition { name, metadata, body } = definition;
    connection.execute(
        "INSERT INTO agent_versions (agent, version, created_at, name, metadata, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![agent, version, at, name, metadata, body],
    )?;
    Ok(())
}

fn check_limit(count: u64, limit: u64, kinds: &'static str) -> Result<(), StoreError> {
    if count >= limit { Err(StoreError::TooMany { kinds, limit }) } else { Ok(()) }
}

fn row_of(connection: &Connection, id: &str) -> Result<i64, StoreError> {
    let row = connection.query_row("SELECT row FROM agents WHERE id = ?1", [id], |row| row.get(0)).optional()?;
    row.ok_or_else(|| missing(AGENT, id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Agent)> {
    let agent = Agent {
        id: row.get(1)?,
        created_at: row.get(2)?,
        versions: Vec::new(),
        version: row.get(3)?,
        version_created_at: row.get(4)?,
        definition: AgentDefinition { name: row.get(5)?, metadata: row.get(6)?, body: row.get(7)? },
    };
    Ok((row.get(0)?, agent))
}

fn read_alias(row: &Row<'_>) -> rusqlite::Result<AgentAlias> {
    Ok(AgentAlias { alias: row.get(0)?, version: row.get(1)?, created_at: row.get(2)?, updated_at: row.get(3)? })
}

fn missing(kind: &'static str, id: &str) -> StoreError {
    StoreError::Missing { kind, id: id.to_owned() }
}
