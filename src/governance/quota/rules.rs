//! Quotas in the database: set, listed, unset, and what is used of budgets.
//!
//! Use of budgets is written in groups, some times a second and when the server ends: what a crash can lose is the use since
//! the last group.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;
use serde::Serialize;
use serde_json::{Value, json};

use super::{EVERY_TENANT, Limits, Quota, Quotas, Scope};
use crate::governance::{ActKind, Administration, Governance, GovernanceError, administration::Told};

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

/// Which quotas are asked for: each name that is there must be the quota's.
#[derive(Clone, Debug, Default)]
pub struct QuotaFilter(pub Scope);

impl Administration<'_> {
    /// The quotas that are reached: all, or those of one tenant and of its keys.
    pub fn quotas(&self, filter: &QuotaFilter) -> Result<Vec<Quota>, GovernanceError> {
        let quotas = read_quotas(&self.governance.connection())?;
        let is_reached = self.reached_scopes()?;
        Ok(quotas.into_iter().filter(|quota| is_reached(&quota.scope) && filter.has(&quota.scope)).collect())
    }

    /// That of exactly this scope.
    pub fn quota(&self, scope: &Scope) -> Result<Quota, GovernanceError> {
        let missing = || GovernanceError::Missing { kind: "quota", name: scope.to_string() };
        let mut reached = self.quotas(&QuotaFilter::default())?.into_iter();
        reached.find(|quota| quota.scope == *scope).ok_or_else(missing)
    }

    /// A scope as people name it: a key by its id, by the beginning of that or by its name. What is no key is the subject of a
    /// token.
    pub fn quota_scope(&self, named: Scope) -> Result<Scope, GovernanceError> {
        let key = match named.key {
            None => None,
            Some(name) => match self.key(&name) {
                Ok(key) => Some(key.id),
                Err(GovernanceError::Missing { .. }) => Some(name),
                Err(error) => return Err(error),
            },
        };
        Ok(Scope { key, ..named })
    }

    /// Sets limits on a scope in place of those that it had. A server beside it uses them from its next request.
    pub fn set_quota(&self, quota: &Quota, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("setting quotas")?;
        let limits = check(quota)?;
        if let Some(tenant) = quota.scope.tenant.as_deref().filter(|tenant| *tenant != EVERY_TENANT) {
            self.tenant(tenant)?;
        }
        let (key, tenant, model) = names(&quota.scope);
        self.change(now, |transaction| {
            let sql = format!("INSERT OR REPLACE INTO quotas ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
            let [a, b, c, d, e] = limits;
            transaction.execute(&sql, (key, tenant, model, a, b, c, d, e))?;
            Ok(((), told(ActKind::SetQuota, &quota.scope, json!(quota.limits))))
        })
    }

    /// Limits a scope no more. What it has used is kept.
    pub fn unset_quota(&self, scope: &Scope, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("removing quotas")?;
        self.change(now, |transaction| {
            let sql = "DELETE FROM quotas WHERE key = ?1 AND tenant = ?2 AND model = ?3";
            match transaction.execute(sql, names(scope))? {
                0 => Err(GovernanceError::Missing { kind: "quota", name: scope.to_string() }),
                _ => Ok(((), told(ActKind::UnsetQuota, scope, Value::Null))),
            }
        })
    }

    /// What was used of budgets, the latest periods first, as far as it is reached.
    pub fn quota_usage(&self, filter: &QuotaFilter) -> Result<Vec<Usage>, GovernanceError> {
        let usage = {
            let connection = self.governance.connection();
            let sql =
                "SELECT key, tenant, model, period, tokens FROM quota_usage ORDER BY period DESC, tenant, key, model";
            let mut rows = connection.prepare_cached(sql)?;
            let usage = rows
                .query_map([], |row| Ok(Usage { scope: read_scope(row)?, period: row.get(3)?, tokens: row.get(4)? }))?;
            usage.collect::<Result<Vec<_>, _>>()?
        };
        let is_reached = self.reached_scopes()?;
        Ok(usage.into_iter().filter(|usage| is_reached(&usage.scope) && filter.has(&usage.scope)).collect())
    }

    /// Which scopes are a caller's own.
    fn reached_scopes(&self) -> Result<impl Fn(&Scope) -> bool, GovernanceError> {
        let keys = match self.only_tenant() {
            None => HashSet::new(),
            Some(_) => self.keys()?.into_iter().map(|key| key.id).collect(),
        };
        let only = self.only_tenant().map(str::to_owned);
        Ok(move |scope: &Scope| match &only {
            None => true,
            Some(_) if scope.tenant.is_some() => scope.tenant == only,
            Some(_) => scope.key.as_ref().is_some_and(|key| keys.contains(key)),
        })
    }
}

impl QuotaFilter {
    fn has(&self, scope: &Scope) -> bool {
        let Self(asked) = self;
        let fits = |asked: &Option<String>, of: &Option<String>| asked.is_none() || asked == of;
        fits(&asked.key, &scope.key) && fits(&asked.tenant, &scope.tenant) && fits(&asked.model, &scope.model)
    }
}

impl Governance {
    /// Writes down what has been used since the last time.
    pub fn write_quota_usage(&self) -> Result<(), GovernanceError> {
        self.change_aside(|connection| self.quotas().write_to(connection))
    }
}

/// The limits in the order of their columns, if they are any.
fn check(quota: &Quota) -> Result<[Option<u64>; 5], GovernanceError> {
    let invalid = |field, value: &str, expected| GovernanceError::Invalid { field, value: value.to_owned(), expected };
    if quota.scope == Scope::default() {
        return Err(invalid("scope", "", "a key, a tenant, a model, or several of them"));
    }
    let named = [("key", &quota.scope.key), ("tenant", &quota.scope.tenant), ("model", &quota.scope.model)];
    if let Some((field, _)) = named.iter().find(|(_, name)| name.as_deref() == Some("")) {
        return Err(invalid(field, "", "a name"));
    }
    if quota.limits == Limits::default() {
        return Err(invalid("limits", "", "at least one limit"));
    }
    let Limits { requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month } =
        quota.limits;
    let all = [requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month];
    if let Some(limit) = all.into_iter().flatten().find(|limit| i64::try_from(*limit).is_err()) {
        return Err(invalid("limit", &limit.to_string(), "at most 9223372036854775807"));
    }
    Ok(all)
}

fn told(kind: ActKind, scope: &Scope, details: Value) -> Told {
    let tenant = scope.tenant.clone().filter(|tenant| tenant != EVERY_TENANT);
    Told { kind, subject: scope.to_string(), tenant, details }
}

impl Quotas {
    /// Takes what the database has in place of what it had.
    pub(in crate::governance) fn read(&self, connection: &Connection) -> Result<(), GovernanceError> {
        let quotas = read_quotas(connection)?;
        self.state().quotas = quotas;
        Ok(())
    }

    /// Knows nothing more of what tenants have used that are gone: it is not that of others of their names.
    pub(in crate::governance) fn forget(&self, tenants: &HashSet<&str>) {
        let is_kept = |scope: &Scope| scope.tenant.as_deref().is_none_or(|tenant| !tenants.contains(tenant));
        let mut state = self.state();
        state.meters.retain(|scope, _| is_kept(scope));
        state.stored.retain(|(scope, _), _| is_kept(scope));
        state.unwritten.retain(|(scope, _), _| is_kept(scope));
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
