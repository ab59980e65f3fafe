//! API keys: made, found, replaced, revoked, recognised.
//!
//! A key is `tmk_`, ten characters that are its id and may be shown, `_`, and forty that are its secret. Only the SHA-256 of
//! the whole is stored: the secret has 238 bits of chance, so nothing slower is needed to keep it from being guessed, and
//! a look-up by the hash tells nobody by its time how much of a guess was right.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use rand::{RngExt, distr::Alphanumeric};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    Governance, GovernanceError, Principal, Refusal, Role, Source, database,
    policy::Asker,
    tenants::{self, Place, check_name},
};

const PREFIX: &str = "tmk_";
const ID_LETTERS: usize = 10;
const SECRET_LETTERS: usize = 40;
/// Longest attribute, name or value, in bytes; and how many there may be.
const LONGEST_ATTRIBUTE: usize = 256;
const MOST_ATTRIBUTES: usize = 32;

const COLUMNS: &str = "id, name, tenant, roles, attributes, created_at, expires_at, revoked_at, replaced_by";

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

impl Governance {
    /// A new key, created at `now`.
    pub fn create_key(&self, new: &NewKey, now: u64) -> Result<CreatedKey, GovernanceError> {
        check(new, now)?;
        self.change(|connection| {
            let transaction = connection.transaction()?;
            let created = insert(&transaction, new, now)?;
            transaction.commit()?;
            Ok(created)
        })
    }

    /// All keys, the newest first.
    pub fn keys(&self) -> Result<Vec<Key>, GovernanceError> {
        let connection = self.connection();
        let mut rows =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM keys ORDER BY created_at DESC, rowid DESC"))?;
        let keys = rows.query_map([], read_key)?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// The key of this id, of this beginning of an id, or of this name, if it is the only one.
    pub fn key(&self, name: &str) -> Result<Key, GovernanceError> {
        let mut found: Vec<Key> = self.keys()?.into_iter().filter(|key| key.id == name || key.name == name).collect();
        if found.is_empty() && name.len() > PREFIX.len() {
            found = self.keys()?.into_iter().filter(|key| key.id.starts_with(name)).collect();
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

    /// A key in place of another, with all that is said of that, its lifetime too unless another end is given; the old one is
    /// still good for `overlap_seconds`.
    pub fn rotate_key(
        &self,
        name: &str,
        overlap_seconds: u64,
        expires_at: Option<u64>,
        now: u64,
    ) -> Result<CreatedKey, GovernanceError> {
        let old = self.key(name)?;
        let ended = |state: KeyState| GovernanceError::Ended { id: old.id.clone(), state: state.name() };
        match old.state(now) {
            KeyState::Active => {}
            state @ (KeyState::Expired | KeyState::Revoked) => return Err(ended(state)),
        }
        let new = NewKey {
            name: old.name.clone(),
            tenant: old.tenant.clone(),
            roles: old.roles.clone(),
            attributes: old.attributes.clone(),
            expires_at: expires_at.or_else(|| Some(now.saturating_add(old.expires_at?.saturating_sub(old.created_at)))),
        };
        check(&new, now)?;
        self.change(|connection| {
            let transaction = connection.transaction()?;
            let created = insert(&transaction, &new, now)?;
            let end = now.saturating_add(overlap_seconds);
            let replaced = transaction.execute(
                "UPDATE keys SET replaced_by = ?2, expires_at = min(coalesce(expires_at, ?3), ?3)
                 WHERE id = ?1 AND revoked_at IS NULL AND replaced_by IS NULL",
                (&old.id, &created.key.id, end),
            )?;
            if replaced == 0 {
                return Err(GovernanceError::Ended { id: old.id.clone(), state: "replaced" });
            }
            transaction.commit()?;
            Ok(created)
        })
    }

    /// Ends a key, and what its bearers are being answered; a name's with those that it has replaced. Ending it twice is no
    /// error.
    pub fn revoke_key(&self, name: &str, now: u64) -> Result<Key, GovernanceError> {
        let key = self.key(name)?;
        self.change(|connection| {
            let replaced = "UNION SELECT keys.id FROM keys JOIN chain ON replaced_by = chain.id";
            let sql = format!(
                "WITH RECURSIVE chain (id) AS (SELECT ?1 {})
                 UPDATE keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id IN chain",
                if name == key.name { replaced } else { "" },
            );
            connection.execute(&sql, (&key.id, now))?;
            let select = format!("SELECT {COLUMNS} FROM keys WHERE id = ?1");
            Ok(connection.query_row(&select, [&key.id], read_key)?)
        })
    }
}

fn check(new: &NewKey, now: u64) -> Result<(), GovernanceError> {
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

fn insert(transaction: &Transaction, new: &NewKey, now: u64) -> Result<CreatedKey, GovernanceError> {
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

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn roles_text(roles: &BTreeSet<Role>) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
}

fn read_key(row: &Row) -> rusqlite::Result<Key> {
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

/// All keys and tenants of one moment.
pub(super) struct Known {
    version: i64,
    /// By their hashes.
    keys: HashMap<[u8; 32], KnownKey>,
    /// By their names.
    tenants: HashMap<String, Place>,
}

struct KnownKey {
    key: Key,
    principal: Arc<Principal>,
    /// From when on it is refused, in Unix seconds; 0 if it was revoked.
    over: watch::Sender<Option<u64>>,
}

impl Known {
    /// Reads them. Whoever was recognised by a key of `before` learns when that is over now.
    pub(super) fn read(connection: &Connection, before: Option<&Self>) -> Result<Self, GovernanceError> {
        let version = database::version(connection)?;
        let tenants = tenants::places(connection)?;
        let mut rows = connection.prepare_cached(&format!("SELECT {COLUMNS}, hash FROM keys"))?;
        let read = rows.query_map([], |row| Ok((row.get::<_, [u8; 32]>(9)?, read_key(row)?)))?;
        let mut keys = HashMap::new();
        for row in read {
            let (hash, key) = row?;
            let Some(place) = tenants.get(&key.tenant) else { continue }; // a key has a tenant
            let over = before.and_then(|before| before.keys.get(&hash)).map(|known| known.over.clone());
            keys.insert(hash, KnownKey::new(key, place, over.unwrap_or_else(|| watch::Sender::new(None))));
        }
        Ok(Self { version, keys, tenants })
    }

    pub(super) fn version(&self) -> i64 {
        self.version
    }

    /// Was there ever a key?
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Where a tenant's data is.
    pub(super) fn place(&self, tenant: &str) -> Option<&Place> {
        self.tenants.get(tenant)
    }

    /// The tenant whose data is at a place.
    pub(super) fn tenant_at(&self, id: &str) -> Option<&str> {
        self.tenants.iter().find(|(_, place)| place.id == id).map(|(name, _)| name.as_str())
    }

    pub(super) fn authenticate(&self, token: &str, now: u64) -> Result<Arc<Principal>, Refusal> {
        self.keys.get(&hash(token)).ok_or(Refusal::UnknownKey)?.principal(now)
    }

    /// Who stands for a key of this id: if it is not good any more because it was replaced, the one that replaced it.
    pub(super) fn standing_of(&self, id: &str, now: u64) -> Result<Arc<Principal>, Refusal> {
        let of_id = |id: &str| self.keys.values().find(|known| known.key.id == id);
        let mut known = of_id(id).ok_or(Refusal::UnknownKey)?;
        while known.key.state(now) == KeyState::Expired
            && let Some(next) = known.key.replaced_by.as_deref().and_then(of_id)
        {
            known = next;
        }
        known.principal(now)
    }
}

impl KnownKey {
    fn principal(&self, now: u64) -> Result<Arc<Principal>, Refusal> {
        match self.key.state(now) {
            KeyState::Active => Ok(Arc::clone(&self.principal)),
            KeyState::Expired => Err(Refusal::Expired),
            KeyState::Revoked => Err(Refusal::Revoked),
        }
    }

    fn new(key: Key, place: &Place, over: watch::Sender<Option<u64>>) -> Self {
        let end = if key.revoked_at.is_some() { Some(0) } else { key.expires_at };
        over.send_if_modified(|known| std::mem::replace(known, end) != end);
        let asker = Asker {
            id: key.id.clone(),
            name: key.name.clone(),
            tenant: key.tenant.clone(),
            source: Source::Key.name().to_owned(),
            roles: key.roles.iter().map(|role| role.name().to_owned()).collect(),
            attributes: key.attributes.clone(),
        };
        let principal = Principal { asker, source: Source::Key, place: place.clone(), over: over.subscribe() };
        Self { key, principal: Arc::new(principal), over }
    }
}
