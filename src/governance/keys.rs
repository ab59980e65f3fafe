//! API keys: made, found, replaced, revoked, recognised.
//!
//! A key is `tmk_`, ten characters that are its id and may be shown, `_`, and forty that are its secret. Only the SHA-256 of
//! the whole is stored: the secret has 238 bits of chance, so nothing slower is needed to keep it from being guessed, and
//! a look-up by the hash tells nobody by its time how much of a guess was right.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, distr::Alphanumeric};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{GovernanceError, Refusal, Role, tenants::check_name};

pub(super) const PREFIX: &str = "tmk_";
const ID_LETTERS: usize = 10;
const SECRET_LETTERS: usize = 40;
/// Longest attribute, name or value, in bytes; and how many there may be.
const LONGEST_ATTRIBUTE: usize = 256;
const MOST_ATTRIBUTES: usize = 32;

pub(super) const COLUMNS: &str = "id, name, tenant, roles, attributes, created_at, expires_at, revoked_at, replaced_by";

/// What a key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// For people; several keys may have it.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// At least one.
    pub roles: BTreeSet<Role>,
    /// What policies may ask for.
    pub attributes: BTreeMap<String, String>,
    /// Unix seconds from which on it is refused.
    pub expires_at: Option<u64>,
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// What it begins with.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// What it does here.
    pub roles: BTreeSet<Role>,
    /// What policies may ask for.
    pub attributes: BTreeMap<String, String>,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds from which on it is refused.
    pub expires_at: Option<u64>,
    /// Unix seconds.
    pub revoked_at: Option<u64>,
    /// The key that it was replaced by.
    pub replaced_by: Option<String>,
}

/// A key with its secret, which nobody can be shown again.
pub struct CreatedKey {
    /// All else about it.
    pub key: Key,
    /// What its bearer sends.
    pub secret: String,
}

/// Can a key be used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Yes.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody has ended it.
    Revoked,
}

impl KeyState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Expired, Self::Revoked];

    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Key {
    /// Can it be used at `now`, in Unix seconds?
    pub fn state(&self, now: u64) -> KeyState {
        if self.revoked_at.is_some() {
            return KeyState::Revoked;
        }
        if self.expires_at.is_some_and(|end| end <= now) { KeyState::Expired } else { KeyState::Active }
    }
}

impl Key {
    /// All that is said of it, and whether it can be used at `now`.
    pub fn to_json(&self, now: u64) -> Value {
        let mut value = json!(self);
        value["state"] = self.state(now).name().into();
        value
    }

    /// What replaces it, if it can be replaced.
    pub(super) fn successor(&self, expires_at: Option<u64>, now: u64) -> Result<NewKey, GovernanceError> {
        match self.state(now) {
            KeyState::Active => {}
            state @ (KeyState::Expired | KeyState::Revoked) => {
                return Err(GovernanceError::Ended { id: self.id.clone(), state: state.name() });
            }
        }
        let as_long = || Some(now.saturating_add(self.expires_at?.saturating_sub(self.created_at)));
        Ok(NewKey {
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            roles: self.roles.clone(),
            attributes: self.attributes.clone(),
            expires_at: expires_at.or_else(as_long),
        })
    }
}

/// All keys, or those of one tenant, the newest first.
pub(super) fn all(connection: &Connection, tenant: Option<&str>) -> Result<Vec<Key>, GovernanceError> {
    let mut rows = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM keys WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at DESC, rowid DESC"
    ))?;
    let keys = rows.query_map([tenant], read_key)?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// The key of this id, of this beginning of an id, or of this name, if it is the only one.
pub(super) fn find(keys: Vec<Key>, name: &str) -> Result<Key, GovernanceError> {
    let (mut found, others): (Vec<Key>, Vec<Key>) =
        keys.into_iter().partition(|key| key.id == name || key.name == name);
    if found.is_empty() && name.len() > PREFIX.len() {
        found = others.into_iter().filter(|key| key.id.starts_with(name)).collect();
    }
    // A name goes on to the key that replaces another, and from one that was revoked to one that is not.
    let is_meant: [fn(&Key) -> bool; 2] = [|key| key.replaced_by.is_none(), |key| key.revoked_at.is_none()];
    for is_meant in is_meant {
        if found.len() > 1 && found.iter().any(is_meant) {
            found.retain(is_meant);
        }
    }
    match found.len() {
        0 => Err(GovernanceError::Missing { kind: "key", name: name.to_owned() }),
        1 => Ok(found.remove(0)),
        count => Err(GovernanceError::Ambiguous { name: name.to_owned(), count }),
    }
}

/// The old key ends at `end` at the latest.
pub(super) fn replace(transaction: &Transaction<'_>, old: &str, by: &str, end: u64) -> Result<(), GovernanceError> {
    let replaced = transaction.execute(
        "UPDATE keys SET replaced_by = ?2, expires_at = min(coalesce(expires_at, ?3), ?3)
         WHERE id = ?1 AND revoked_at IS NULL AND replaced_by IS NULL",
        (old, by, end),
    )?;
    if replaced == 0 {
        return Err(GovernanceError::Ended { id: old.to_owned(), state: "replaced" });
    }
    Ok(())
}

/// What ends with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Alone,
    WithThoseItReplaced,
}

/// Ends a key.
pub(super) fn revoke(
    transaction: &Transaction<'_>,
    id: &str,
    ending: Ending,
    now: u64,
) -> Result<Key, GovernanceError> {
    let others = match ending {
        Ending::Alone => "",
        Ending::WithThoseItReplaced => "UNION SELECT keys.id FROM keys JOIN chain ON replaced_by = chain.id",
    };
    let sql = format!(
        "WITH RECURSIVE chain (id) AS (SELECT ?1 {others})
         UPDATE keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id IN chain",
    );
    transaction.execute(&sql, (id, now))?;
    Ok(transaction.query_row(&format!("SELECT {COLUMNS} FROM keys WHERE id = ?1"), [id], read_key)?)
}

/// Fails if a key is not good any more, whoever has ended it.
pub(super) fn check_good(transaction: &Transaction<'_>, id: &str, now: u64) -> Result<(), GovernanceError> {
    let select = format!("SELECT {COLUMNS} FROM keys WHERE id = ?1");
    let key = transaction.query_row(&select, [id], read_key).optional()?;
    match key.map(|key| key.state(now)) {
        Some(KeyState::Active) => Ok(()),
        Some(KeyState::Expired) => Err(Refusal::Expired.into()),
        Some(KeyState::Revoked) => Err(Refusal::Revoked.into()),
        None => Err(Refusal::UnknownKey.into()),
    }
}

pub(super) fn check(new: &NewKey, now: u64) -> Result<(), GovernanceError> {
    let invalid = |field, value: &str, expected| GovernanceError::Invalid { field, value: value.to_owned(), expected };
    check_name("name", &new.name)?;
    if new.name.starts_with(PREFIX) {
        return Err(invalid("name", &new.name, "another beginning than that of keys' ids"));
    }
    if new.roles.is_empty() {
        return Err(invalid("role", "", "at least one of admin, operator, auditor, developer, service"));
    }
    if let Some(end) = new.expires_at.filter(|end| *end <= now) {
        return Err(invalid("expires", &end.to_string(), "a time to come"));
    }
    if new.attributes.len() > MOST_ATTRIBUTES {
        return Err(invalid("attribute", &new.attributes.len().to_string(), "at most 32 attributes"));
    }
    for (name, value) in &new.attributes {
        check_name("attribute", name)?;
        if value.len() > LONGEST_ATTRIBUTE || value.contains(char::is_control) {
            return Err(invalid("attribute", name, "a value of at most 256 bytes without control characters"));
        }
    }
    Ok(())
}

pub(super) fn insert(transaction: &Transaction<'_>, new: &NewKey, now: u64) -> Result<CreatedKey, GovernanceError> {
    let is_tenant = transaction.query_row("SELECT 1 FROM tenants WHERE name = ?1", [&new.tenant], |_| Ok(()));
    if is_tenant.optional()?.is_none() {
        return Err(GovernanceError::Missing { kind: "tenant", name: new.tenant.clone() });
    }
    let id = format!("{PREFIX}{}", random_letters(ID_LETTERS));
    let secret = format!("{id}_{}", random_letters(SECRET_LETTERS));
    let key = Key {
        id,
        name: new.name.clone(),
        tenant: new.tenant.clone(),
        roles: new.roles.clone(),
        attributes: new.attributes.clone(),
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        replaced_by: None,
    };
    transaction.execute(
        "INSERT INTO keys (id, name, hash, tenant, roles, attributes, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (
            &key.id,
            &key.name,
            hash(&secret),
            &key.tenant,
            roles_text(&key.roles),
            serde_json::to_string(&key.attributes).unwrap_or_default(),
            key.created_at,
            key.expires_at,
        ),
    )?;
    Ok(CreatedKey { key, secret })
}

fn random_letters(count: usize) -> String {
    // The thread's generator is cryptographically secure and seeded by the operating system.
    rand::rng().sample_iter(Alphanumeric).take(count).map(char::from).collect()
}

pub(super) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn roles_text(roles: &BTreeSet<Role>) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
}

pub(super) fn read_key(row: &Row) -> rusqlite::Result<Key> {
    let unreadable = |column, error: String| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    };
    let roles: String = row.get(3)?;
    let attributes: String = row.get(4)?;
    let roles = roles.split(',').map(Role::of_name).collect::<Result<_, _>>();
    Ok(Key {
        id: row.get(0)?,
        name: row.get(1)?,
        tenant: row.get(2)?,
        roles: roles.map_err(|error| unreadable(3, error.to_string()))?,
        attributes: serde_json::from_str(&attributes).map_err(|error| unreadable(4, error.to_string()))?,
        created_at: row.get(5)?,
        expires_at: row.get(6)?,
        revoked_at: row.get(7)?,
        replaced_by: row.get(8)?,
    })
}
