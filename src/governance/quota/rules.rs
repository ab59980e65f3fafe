//! Quotas in the database: set, listed, unset, and what is used of budgets.
//!
//! Use of budgets is written in groups, some times a second and when the server ends: what a crash can lose is the use since
//! the last group.

use std::collections::HashMap;

use rusqlite::Connection;
use serde::Serialize;

use super::{EVERY_TENANT, Limits, Quota, Quotas, Scope};
use crate::governance::{Governance, GovernanceError};

const COLUMNS: &str = "key, tenant, model, requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, \
                       tokens_per_month";

/// Tokens that a scope has used in a day or a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Whose.
    #[serde(flatten)]
    pub scope: Scope,
    /// `2026-11-28` or `2026-11`, in UTC.
    pub period: String,
    /// Prompts and answers.
    pub tokens: u64,
}

impl Governance {
    /// Sets limits on a scope in place of those that it had. A server beside it uses them from its next request.
    pub fn set_quota(&self, quota: &Quota) -> Result<(), GovernanceError> {
        let invalid =
            |field, value: &str, expected| GovernanceError::Invalid { field, value: value.to_owned(), expected };
        if quota.scope == Scope::default() {
            return Err(invalid("scope", "", "a key, a tenant, a model, or several of them"));
        }
        if quota.limits == Limits::default() {
            return Err(invalid("limits", "", "at least one limit"));
        }
        if let Some(tenant) = quota.scope.tenant.as_deref().filter(|tenant| *tenant != EVERY_TENANT) {
            let missing = || GovernanceError::Missing { kind: "tenant", name: tenant.to_owned() };
            self.place(tenant)?.ok_or_else(missing)?;
        }
        let limits = &quota.limits;
        let all = [
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrent_requests,
            limits.tokens_per_day,
            limits.tokens_per_month,
        ];
        if let Some(limit) = all.into_iter().flatten().find(|limit| i64::try_from(*limit).is_err()) {
            return Err(invalid("limit", &limit.to_string(), "at most 9223372036854775807"));
        }
        let (key, tenant, model) = names(&quota.scope);
        self.change(|connection| {
            let sql = format!("INSERT OR REPLACE INTO quotas ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
            connection.execute(&sql, (key, tenant, model, all[0], all[1], all[2], all[3], all[4]))?;
            Ok(())
        })
    }

    /// All quotas.
    pub fn list_quotas(&self) -> Result<Vec<Quota>, GovernanceError> {
        read_quotas(&self.connection())
    }

    /// Limits a scope no more. What it has used is kept.
    pub fn unset_quota(&self, scope: &Scope) -> Result<(), GovernanceError> {
        self.change(|connection| {
            let sql = "DELETE FROM quotas WHERE key = ?1 AND tenant = ?2 AND model = ?3";
            match connection.execute(sql, names(scope))? {
                0 => Err(GovernanceError::Missing { kind: "quota", name: scope.to_string() }),
                _ => Ok(()),
            }
        })
    }

    /// What was used of budgets, the latest periods first.
    pub fn quota_usage(&self) -> Result<Vec<Usage>, GovernanceError> {
        let connection = self.connection();
        let sql = "SELECT key, tenant, model, period, tokens FROM quota_usage ORDER BY period DESC, tenant, key, model";
        let mut rows = connection.prepare_cached(sql)?;
        let usage =
            rows.query_map([], |row| Ok(Usage { scope: read_scope(row)?, period: row.get(3)?, tokens: row.get(4)? }))?;
        Ok(usage.collect::<Result<_, _>>()?)
    }

    /// Writes down what has been used since the last time.
    pub fn write_quota_usage(&self) -> Result<(), GovernanceError> {
        self.change_aside(|connection| self.quotas().write_to(connection))
    }
}

impl Quotas {
    /// Takes what the database has in place of what it had.
    pub(in crate::governance) fn read(&self, connection: &Connection) -> Result<(), GovernanceError> {
        let quotas = read_quotas(connection)?;
        self.state().quotas = quotas;
        Ok(())
    }

    /// The same, and what was used before this process.
    pub(in crate::governance) fn open(&self, connection: &Connection) -> Result<(), GovernanceError> {
        self.read(connection)?;
        let mut rows = connection.prepare_cached("SELECT key, tenant, model, period, tokens FROM quota_usage")?;
        let stored = rows.query_map([], |row| Ok(((read_scope(row)?, row.get(3)?), row.get(4)?)))?;
        self.state().stored = stored.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Writes down what has been used since the last time; what could not be written is tried again.
    pub(in crate::governance) fn write_to(&self, connection: &mut Connection) -> Result<(), rusqlite::Error> {
        let used = std::mem::take(&mut self.state().unwritten);
        if used.is_empty() {
            return Ok(());
        }
        write(connection, &used).inspect_err(|_| self.put_back(&used))
    }

    fn put_back(&self, used: &HashMap<(Scope, String), u64>) {
        let mut state = self.state();
        for (place, tokens) in used {
            *state.unwritten.entry(place.clone()).or_default() += tokens;
        }
    }
}

fn write(connection: &mut Connection, used: &HashMap<(Scope, String), u64>) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    for ((scope, period), tokens) in used {
        let (key, tenant, model) = names(scope);
        let sql = "INSERT INTO quota_usage (key, tenant, model, period, tokens) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens";
        transaction.prepare_cached(sql)?.execute((key, tenant, model, period, tokens))?;
    }
    transaction.commit()
}

fn read_quotas(connection: &Connection) -> Result<Vec<Quota>, GovernanceError> {
    let mut rows = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM quotas ORDER BY tenant, key, model"))?;
    let quotas = rows.query_map([], |row| {
        let limits = Limits {
            requests_per_minute: row.get(3)?,
            tokens_per_minute: row.get(4)?,
            concurrent_requests: row.get(5)?,
            tokens_per_day: row.get(6)?,
            tokens_per_month: row.get(7)?,
        };
        Ok(Quota { scope: read_scope(row)?, limits })
    })?;
    Ok(quotas.collect::<Result<_, _>>()?)
}

/// What is not named is empty, so that a primary key can tell scopes apart.
fn names(scope: &Scope) -> (&str, &str, &str) {
    (
        scope.key.as_deref().unwrap_or_default(),
        scope.tenant.as_deref().unwrap_or_default(),
        scope.model.as_deref().unwrap_or_default(),
    )
}

fn read_scope(row: &rusqlite::Row<'_>) -> Result<Scope, rusqlite::Error> {
    let name = |column| Ok::<_, rusqlite::Error>(Some(row.get::<_, String>(column)?).filter(|name| !name.is_empty()));
    Ok(Scope { key: name(0)?, tenant: name(1)?, model: name(2)? })
}
