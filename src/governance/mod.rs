//! Who may ask what, and what may be said: tenants, API keys, policies, guardrails.
//!
//! [`Governance`] is the seam: a credential goes in, a [`Principal`] or the reason for none comes out; a principal and what it
//! wants go in, and a [`Decision`] comes out. Its state is one SQLite database beside what clients store, which the server and
//! the command line open at the same time: what one changes the other sees at its next look, so that a key that is revoked is
//! refused from then on.
//!
//! Invariants: once there is, or ever was, a key, nobody without a credential is let in; a key's secret is shown once and
//! never stored. It knows nothing of HTTP, models or requests.

mod database;
mod error;
mod guardrail_file;
pub mod guardrails;
mod identity;
mod issuers;
pub mod jwt;
mod keys;
pub mod policy;
pub mod quota;
mod tenants;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use rusqlite::Connection;

use self::{
    database::DATABASE,
    jwt::{Claims, JwtError},
    keys::Known,
    policy::{Action, Circumstances, Decision, Policies, Question, Resource},
    quota::Quotas,
};
pub use self::{
    error::{GovernanceError, Refusal},
    guardrail_file::{GuardrailFile, GuardrailFileError},
    identity::{Principal, Role, Source},
    issuers::{FetchKeys, Issuers},
    keys::{CreatedKey, Key, KeyState, NewKey},
    tenants::{Place, Tenant},
};

/// The tenant of keys that name none. It is always there.
pub const DEFAULT_TENANT: &str = "default";

/// Identities and what is decided about them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Governance {
    inner: Arc<Inner>,
    policies: Policies,
    issuers: Arc<Issuers>,
    guardrails: GuardrailFile,
}

struct Inner {
    database: Mutex<Connection>,
    known: RwLock<Arc<Known>>,
    quotas: Quotas,
}

impl Drop for Inner {
    /// What was used is known to the next process.
    fn drop(&mut self) {
        let connection = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.quotas.write_to(connection) {
            tracing::warn!(%error, "cannot write down what was used of quotas");
        }
    }
}

impl Governance {
    /// That of a directory, which is made if it is not there, readable by this user alone. Several processes may have it
    /// open.
    pub fn open(directory: &Path) -> Result<Self, GovernanceError> {
        Self::prepare(database::open(&directory.join(DATABASE))?)
    }

    /// One that is gone with its last clone.
    pub fn in_memory() -> Result<Self, GovernanceError> {
        Self::prepare(database::in_memory()?)
    }

    /// The same with an operator's own policies in place of the built-in ones.
    pub fn with_policies(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    /// The same with issuers whose tokens are believed.
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers: Arc::new(issuers), ..self }
    }

    /// The same with guardrails over what is said.
    pub fn with_guardrails(self, guardrails: GuardrailFile) -> Self {
        Self { guardrails, ..self }
    }

    /// What checks requests and answers.
    pub fn guardrails(&self) -> &GuardrailFile {
        &self.guardrails
    }

    /// How much may be asked for, and what was.
    pub fn quotas(&self) -> &Quotas {
        &self.inner.quotas
    }

    /// What decides who may do what.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Where a tenant's data is.
    pub fn place(&self, tenant: &str) -> Result<Option<Place>, GovernanceError> {
        Ok(self.look()?.place(tenant).cloned())
    }

    /// The tenant whose data is at a place.
    pub fn tenant_at(&self, place: &str) -> Result<Option<String>, GovernanceError> {
        Ok(self.look()?.tenant_at(place).map(str::to_owned))
    }

    /// May a principal do this?
    pub fn decide(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource,
        circumstances: &Circumstances,
    ) -> Result<Decision, GovernanceError> {
        let question = Question { asker: &principal.asker, action, resource, circumstances };
        Ok(self.policies.decide(&question)?)
    }

    /// Is there any source of identities? If not, whoever reaches the server is its user.
    pub fn is_configured(&self) -> Result<bool, GovernanceError> {
        // Keys are never forgotten, so nobody needs to look again for the first.
        Ok(!self.issuers.is_empty() || self.known().has_keys() || self.look()?.has_keys())
    }

    /// Who presents this bearer token at `now`, in Unix seconds. It waits for nobody.
    pub fn authenticate(&self, token: &str, now: u64) -> Result<Arc<Principal>, GovernanceError> {
        if self.issuers.is_empty() || !issuers::is_token(token) {
            return Ok(self.look()?.authenticate(token, now)?);
        }
        self.believed(self.issuers.verify(token, now))
    }

    /// The same after a refusal because a key is unknown: the issuer's keys are read again, which may take its time.
    pub fn authenticate_anew(&self, token: &str, now: u64) -> Result<Arc<Principal>, GovernanceError> {
        self.believed(self.issuers.verify_or_refresh(token, now))
    }

    /// Reads what other processes have changed, and ends the standing of keys that they have revoked.
    pub fn refresh(&self) -> Result<(), GovernanceError> {
        self.look().map(drop)
    }

    /// Reads issuers' keys again where it is time, which may take its time.
    pub fn refresh_issuers(&self, now: u64) {
        self.issuers.refresh(now);
    }

    fn believed(&self, claims: Result<Claims, JwtError>) -> Result<Arc<Principal>, GovernanceError> {
        let mut claims = claims.map_err(Refusal::Token)?;
        let tenant = claims.tenant.take().unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        let place = self.look()?.place(&tenant).cloned().ok_or(Refusal::UnknownTenant)?;
        Ok(Arc::new(issuers::principal(claims, tenant, place)))
    }

    fn prepare(connection: Connection) -> Result<Self, GovernanceError> {
        let known = Known::read(&connection, None)?;
        let quotas = Quotas::default();
        quotas.open(&connection)?;
        let inner = Inner { database: Mutex::new(connection), known: RwLock::new(Arc::new(known)), quotas };
        let guardrails = GuardrailFile::default();
        Ok(Self { inner: Arc::new(inner), policies: Policies::built_in()?, issuers: Arc::default(), guardrails })
    }

    /// Keys and tenants as they were at the last look.
    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.inner.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keys and tenants as they are now, whoever changed them last.
    fn look(&self) -> Result<Arc<Known>, GovernanceError> {
        let known = self.known();
        let connection = self.connection();
        if database::version(&connection)? == known.version() {
            return Ok(known);
        }
        self.read_again(&connection)
    }

    /// Changes something; what is known afterwards is read anew.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, GovernanceError>,
    ) -> Result<T, GovernanceError> {
        let mut connection = self.connection();
        let done = work(&mut connection)?;
        self.read_again(&connection)?;
        Ok(done)
    }

    /// Whoever calls this holds the connection, so that an older state never replaces a newer one.
    fn read_again(&self, connection: &Connection) -> Result<Arc<Known>, GovernanceError> {
        self.inner.quotas.read(connection)?;
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Arc::new(Known::read(connection, Some(&known))?);
        Ok(Arc::clone(&known))
    }

    /// A panic while it was held has rolled its transaction back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.inner.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
