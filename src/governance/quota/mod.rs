//! Quotas: how much a key, a tenant or a model may be asked for.
//!
//! A [`Quota`] is a [`Scope`] and its [`Limits`]; they lie in the database of identities. [`Quotas`] holds them and meters
//! what is used. A request takes a [`Reservation`] before it is computed, with an estimate of its tokens, or is told by
//! [`Exceeded`] which limit is in the way; when it ends, what it did not use is given back.
//!
//! Invariants: in no 60 seconds is more admitted than a limit per minute; a reservation is released however its request
//! ends; the time is always passed in. It knows nothing of HTTP, models or prompts.

mod calendar;
mod meter;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::Serialize;

use self::meter::{Budgets, Meter, Slots};
pub use self::rules::{QuotaFilter, Usage};

/// The tenant of a quota that is every tenant's own, unless the tenant has one itself.
pub const EVERY_TENANT: &str = "*";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Requests admitted in any 60 seconds.
    RequestsPerMinute,
    /// Tokens of prompts and answers admitted in any 60 seconds.
    TokensPerMinute,
    /// Requests that are being answered.
    ConcurrentRequests,
    /// Tokens of a day in UTC.
    TokensPerDay,
    /// Tokens of a month in UTC.
    TokensPerMonth,
}

/// For whom: what is not named is anybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Scope {
    /// Id of a key, or the subject of a token.
    pub key: Option<String>,
    /// Name of a tenant, or [`EVERY_TENANT`].
    pub tenant: Option<String>,
    /// Name of a model.
    pub model: Option<String>,
}

/// How much; what is not there is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// See [`LimitKind`].
    pub requests_per_minute: Option<u64>,
    /// See [`LimitKind`].
    pub tokens_per_minute: Option<u64>,
    /// See [`LimitKind`].
    pub concurrent_requests: Option<u64>,
    /// See [`LimitKind`].
    pub tokens_per_day: Option<u64>,
    /// See [`LimitKind`].
    pub tokens_per_month: Option<u64>,
}

/// A limit on somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// On whom.
    #[serde(flatten)]
    pub scope: Scope,
    /// How much.
    #[serde(flatten)]
    pub limits: Limits,
}

/// Who asks, of which model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Id of the key, or subject of the token; nobody in particular for what the server does itself.
    pub key: Option<String>,
    /// The tenant.
    pub tenant: String,
    /// The model.
    pub model: String,
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of {scope} is limited to {limit}: {used} are used, and this request needs {needed}", kind.name())]
pub struct Exceeded {
    /// Whose limit.
    pub scope: Scope,
    /// Which.
    pub kind: LimitKind,
    /// Its value.
    pub limit: u64,
    /// How much of it is used or reserved.
    pub used: u64,
    /// How much more was asked for.
    pub needed: u64,
    /// When so much is free, in milliseconds from now; unknown where others must end first, never where the request alone
    /// is more than the limit.
    pub free_in_ms: Option<u64>,
}

/// Where somebody stands with a limit per minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// When all of it is free again if nothing more is asked.
    pub reset_ms: u64,
}

/// Quotas and what is used of them. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Quotas {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    quotas: Vec<Quota>,
    meters: HashMap<Scope, Meter>,
    /// Used before this process, or by meters that are gone.
    stored: HashMap<(Scope, String), u64>,
    /// Used and not yet written.
    unwritten: HashMap<(Scope, String), u64>,
}

/// How much is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// As many as there are prompts.
    pub requests: u64,
    /// Of all of them.
    pub tokens: u64,
}

/// What a request may use. Dropped, it gives back what was not used.
pub struct Reservation {
    quotas: Quotas,
    /// Where it counts.
    places: Vec<(Scope, Slots)>,
    amount: Amount,
    began: AtomicBool,
    used: AtomicU64,
}

impl LimitKind {
    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::ConcurrentRequests => "concurrent_requests",
            Self::TokensPerDay => "tokens_per_day",
            Self::TokensPerMonth => "tokens_per_month",
        }
    }

    /// Is it a budget, which is not free again for hours or days?
    pub fn is_budget(self) -> bool {
        matches!(self, Self::TokensPerDay | Self::TokensPerMonth)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("key", &self.key), ("tenant", &self.tenant), ("model", &self.model)];
        let named = parts.iter().filter_map(|(kind, name)| name.as_ref().map(|name| format!("{kind} {name}")));
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

impl Scope {
    /// The scope whose use of this quota is counted together, if it is the subject's at all.
    fn of(&self, subject: &Subject) -> Option<Self> {
        let every = self.tenant.as_deref() == Some(EVERY_TENANT);
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let is_of = fits(&self.model, &subject.model)
            && (every || fits(&self.tenant, &subject.tenant))
            && (self.key.is_none() || self.key == subject.key);
        let tenant = if every { Some(subject.tenant.clone()) } else { self.tenant.clone() };
        is_of.then(|| Self { tenant, ..self.clone() })
    }
}

impl Quotas {
    /// Takes requests with an estimate of their tokens at `now_ms`, in Unix milliseconds, or says why not. Nothing is taken if
    /// any limit is in the way. `None` if nothing limits it.
    pub fn reserve(&self, subject: &Subject, amount: Amount, now_ms: u64) -> Result<Option<Reservation>, Exceeded> {
        let mut state = self.state();
        let limits = state.limits_of(subject);
        if limits.is_empty() {
            return Ok(None);
        }
        for (scope, limits) in &limits {
            if let Some((kind, exceeded)) = state.meter(scope, now_ms).exceeds(limits, amount, now_ms) {
                let meter::Excess { limit, used, needed, free_in_ms } = exceeded;
                return Err(Exceeded { scope: scope.clone(), kind, limit, used, needed, free_in_ms });
            }
        }
        let reserve = |(scope, _)| {
            let slots = state.meter(&scope, now_ms).reserve(amount, now_ms);
            (scope, slots)
        };
        let places = limits.into_iter().map(reserve).collect();
        let (began, used) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Some(Reservation { quotas: self.clone(), places, amount, began, used }))
    }

    /// Where a subject stands with the tightest limit per minute on requests, and on tokens.
    pub fn standing(&self, subject: &Subject, now_ms: u64) -> (Option<Standing>, Option<Standing>) {
        let mut state = self.state();
        let (mut requests, mut tokens) = (Vec::new(), Vec::new());
        for (scope, limits) in state.limits_of(subject) {
            let meter = state.meter(&scope, now_ms);
            requests.extend(limits.requests_per_minute.map(|limit| meter.requests.standing(limit, now_ms)));
            tokens.extend(limits.tokens_per_minute.map(|limit| meter.tokens.standing(limit, now_ms)));
        }
        let tightest = |all: Vec<Standing>| all.into_iter().min_by_key(|standing| standing.remaining);
        (tightest(requests), tightest(tokens))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// All limits on a subject, each with where its use is counted. A tenant's own replaces every tenant's.
    fn limits_of(&self, subject: &Subject) -> Vec<(Scope, Limits)> {
        let is_every = |scope: &Scope| scope.tenant.as_deref() == Some(EVERY_TENANT);
        let mut found: Vec<(Scope, Limits)> = Vec::new();
        let of_all = self.quotas.iter().filter(|quota| !is_every(&quota.scope));
        for quota in of_all.chain(self.quotas.iter().filter(|quota| is_every(&quota.scope))) {
            if let Some(scope) = quota.scope.of(subject).filter(|scope| found.iter().all(|(other, _)| other != scope)) {
                found.push((scope, quota.limits));
            }
        }
        found
    }

    fn meter(&mut self, scope: &Scope, now_ms: u64) -> &mut Meter {
        let stored = &self.stored;
        self.meters.entry(scope.clone()).or_insert_with(|| {
            let used = |period: String| stored.get(&(scope.clone(), period)).copied().unwrap_or(0);
            Meter::new(Budgets::new(now_ms, used))
        })
    }
}

impl Reservation {
    /// The request is being computed: it counts from now on, with so many tokens.
    pub fn begin(&self, tokens: u64) {
        self.began.store(true, Ordering::Relaxed);
        self.used.fetch_add(tokens, Ordering::Relaxed);
    }

    /// It has used more.
    pub fn count(&self, tokens: u64) {
        self.used.fetch_add(tokens, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let used = self.began.load(Ordering::Relaxed).then(|| self.used.load(Ordering::Relaxed));
        let mut state = self.quotas.state();
        for (scope, slots) in &self.places {
            let Some(meter) = state.meters.get_mut(scope) else { continue };
            let periods = meter.settle(self.amount, used, *slots);
            if let Some(used) = used.filter(|used| *used > 0) {
                for period in periods {
                    *state.unwritten.entry((scope.clone(), period)).or_default() += used;
                }
            }
        }
    }
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").finish_non_exhaustive()
    }
}
