//! Tenants: whose keys, stored objects and cached prefixes are kept apart.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;

use super::{DEFAULT_TENANT, GovernanceError};

const LONGEST_NAME: usize = 64;

/// A customer, department or application whose data is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// Unique.
    pub name: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Tenants of one group share cached prefixes; one of none shares them with nobody.
    pub share_group: Option<String>,
    /// Its keys that are not revoked.
    pub keys: u64,
}

/// Where a tenant's data is. Another tenant of the same name, made after it was deleted, has another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Fit to be the name of a directory.
    pub id: String,
    /// Who shares cached prefixes with it.
    pub cache_group: String,
}

impl Place {
    /// That of a tenant that shares cached prefixes with nobody.
    pub fn alone(id: String) -> Self {
        Self { cache_group: format!("tenant {id}"), id }
    }
}

/// What is left of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeletedTenant {
    /// Its name.
    pub name: String,
    /// Where its data was.
    pub place: String,
    /// How many of its keys were ended.
    pub keys: u64,
}

/// A new tenant.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    name: &str,
    share_group: Option<&str>,
    now: u64,
) -> Result<(), GovernanceError> {
    check_name("tenant", name)?;
    share_group.map_or(Ok(()), |group| check_name("share_group", group))?;
    let sql = "INSERT OR IGNORE INTO tenants (name, id, created_at, share_group) VALUES (?1, ?2, ?3, ?4)";
    let id = uuid::Uuid::new_v4().simple().to_string();
    if transaction.execute(sql, (name, id, now, share_group))? == 0 {
        return Err(GovernanceError::Exists { kind: "tenant", name: name.to_owned() });
    }
    Ok(())
}

/// All tenants, by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<Tenant>, GovernanceError> {
    let mut rows = connection.prepare_cached(
        "SELECT name, created_at, share_group, (SELECT count(*) FROM keys WHERE tenant = tenants.name AND revoked_at IS NULL)
         FROM tenants ORDER BY name",
    )?;
    let tenants = rows.query_map([], |row| {
        Ok(Tenant { name: row.get(0)?, created_at: row.get(1)?, share_group: row.get(2)?, keys: row.get(3)? })
    })?;
    Ok(tenants.collect::<Result<_, _>>()?)
}

/// Has a tenant share with those of a group, or with nobody.
pub(super) fn share(transaction: &Transaction<'_>, name: &str, group: Option<&str>) -> Result<(), GovernanceError> {
    group.map_or(Ok(()), |group| check_name("share_group", group))?;
    match transaction.execute("UPDATE tenants SET share_group = ?2 WHERE name = ?1", (name, group))? {
        0 => Err(GovernanceError::Missing { kind: "tenant", name: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Forgets a tenant and ends its keys; where its data is remains to be erased.
pub(super) fn delete(transaction: &Transaction<'_>, name: &str, now: u64) -> Result<DeletedTenant, GovernanceError> {
    if name == DEFAULT_TENANT {
        let expected = "another tenant: keys that name none belong to this one";
        return Err(GovernanceError::Invalid { field: "tenant", value: name.to_owned(), expected });
    }
    let place: Option<String> =
        transaction.query_row("SELECT id FROM tenants WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    let Some(place) = place else { return Err(GovernanceError::Missing { kind: "tenant", name: name.to_owned() }) };
    let ended = "UPDATE keys SET revoked_at = ?2 WHERE tenant = ?1 AND revoked_at IS NULL";
    let keys = u64::try_from(transaction.execute(ended, (name, now))?).unwrap_or(u64::MAX);
    // Its keys stay, so that their ids can still be told apart; they are the default tenant's now, and revoked.
    transaction.execute("UPDATE keys SET tenant = ?2 WHERE tenant = ?1", (name, DEFAULT_TENANT))?;
    transaction.execute("DELETE FROM tenants WHERE name = ?1", [name])?;
    // Another of its name has neither its limits nor what it has used.
    transaction.execute("DELETE FROM quotas WHERE tenant = ?1", [name])?;
    transaction.execute("DELETE FROM quota_usage WHERE tenant = ?1", [name])?;
    transaction.execute("INSERT INTO leaving (id) VALUES (?1)", [&place])?;
    Ok(DeletedTenant { name: name.to_owned(), place, keys })
}

/// Places whose data is not erased yet.
pub(super) fn leaving(connection: &Connection) -> Result<Vec<String>, GovernanceError> {
    let mut rows = connection.prepare_cached("SELECT id FROM leaving ORDER BY id")?;
    let places = rows.query_map([], |row| row.get(0))?;
    Ok(places.collect::<Result<_, _>>()?)
}

/// What was at a place is erased.
pub(super) fn erased(connection: &Connection, place: &str) -> Result<(), GovernanceError> {
    connection.execute("DELETE FROM leaving WHERE id = ?1", [place])?;
    Ok(())
}

/// Where the places of tenants are.
pub(super) fn places(connection: &Connection) -> Result<HashMap<String, Place>, GovernanceError> {
    let mut rows = connection.prepare_cached("SELECT name, id, share_group FROM tenants")?;
    let read = rows.query_map([], |row| {
        let place = Place::alone(row.get(1)?);
        // A tenant cannot be named so that it gets into a group, nor the other way round.
        let group = row.get::<_, Option<String>>(2)?.map(|group| format!("group {group}"));
        Ok((row.get(0)?, Place { cache_group: group.unwrap_or(place.cache_group), ..place }))
    })?;
    Ok(read.collect::<Result<_, _>>()?)
}

/// A name that is the same in a path, a log and a policy.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), GovernanceError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let is_name = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(fits);
    let expected = "1 to 64 letters, digits, '-', '_' or '.', the first a letter or a digit";
    if is_name { Ok(()) } else { Err(GovernanceError::Invalid { field, value: name.to_owned(), expected }) }
}
