//! Who may ask what, what for, and what may be said: tenants, API keys, policies, purposes, guardrails.
//!
//! [`Governance`] is the seam: a credential goes in, a [`Principal`] or the reason for none comes out; a principal and what it
//! wants go in, and a [`Decision`] comes out. Its state is one SQLite database beside what clients store, which the server and
//! the command line open at the same time: what one changes the other sees at its next look, so that a key that is revoked is
//! refused from then on.
//!
//! Invariants: once there is, or ever was, a key, nobody without a credential is let in; a key's secret is shown once and
//! never stored. It knows nothing of HTTP, models or requests.

mod acts;
mod administration;
pub mod audit;
mod believed;
mod database;
mod error;
mod guardrail_file;
pub mod guardrails;
mod identity;
mod issuers;
pub mod jwt;
mod key_list;
mod keys;
mod known;
pub mod policy;
pub mod purposes;
pub mod quota;
mod reloaded;
mod roles;
mod roll;
mod standing;
mod subjects;
mod tenants;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use rusqlite::Connection;

use self::{
    acts::ProcessLog,
    audit::{Audit, Contents},
    believed::Believed,
    database::DATABASE,
    known::Known,
    policy::{Action, Circumstances, Decision, Policies, Question, Resource},
    purposes::PurposeFile,
    quota::Quotas,
};
pub use self::{
    acts::{Act, ActKind, ActLog, ActedBy, Actor},
    administration::Administration,
    believed::{CertificateJudge, ShownCertificate},
    error::{GovernanceError, Refusal},
    guardrail_file::{GuardrailFile, GuardrailFileError},
    identity::{Principal, Role, Source},
    issuers::{FetchKeys, Issuers, KeySources},
    key_list::{KeyFilter, KeyPage},
    keys::{CreatedKey, Key, KeyState, NewKey},
    roles::{Right, RoleRights},
    roll::Roll,
    standing::Standing,
    subjects::{AboutSubject, LONGEST_SUBJECT},
    tenants::{DeletedTenant, Place, Tenant},
};

/// The tenant of keys that name none. It is always there.
pub const DEFAULT_TENANT: &str = "default";

/// Identities and what is decided about them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Governance {
    inner: Arc<Inner>,
    policies: Policies,
    believed: Arc<Believed>,
    guardrails: GuardrailFile,
    purposes: PurposeFile,
    audit: Audit,
    /// What was captured, and at which age it goes.
    captured: Option<(Contents, Option<Duration>)>,
    acts: Arc<dyn ActLog>,
}

struct Inner {
    /// For changes, which may wait for those of other processes.
    database: Mutex<Connection>,
    /// For reading all that there is, which takes its time where there is much; none where there is one connection for all.
    reader: Option<Mutex<Connection>>,
    /// For asking whether there is anything new, which waits for nobody.
    looker: Option<Mutex<Connection>>,
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
        let path = directory.join(DATABASE);
        let connection = database::open(&path)?;
        Self::prepare(connection, Some([database::open_reader(&path)?, database::open_reader(&path)?]))
    }

    /// One that is gone with its last clone.
    pub fn in_memory() -> Result<Self, GovernanceError> {
        Self::prepare(database::in_memory()?, None)
    }

    /// The same with an operator's own policies in place of the built-in ones.
    pub fn with_policies(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    /// The same with issuers whose tokens are believed.
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { believed: Arc::new(Believed::new(issuers)), ..self }
    }

    /// Who says whether client certificates are good. The first counts; without one, none is.
    pub fn judge_certificates_by(&self, judge: Box<dyn CertificateJudge>) {
        self.believed.set_judge(judge);
    }

    /// The same with guardrails over what is said.
    pub fn with_guardrails(self, guardrails: GuardrailFile) -> Self {
        Self { guardrails, ..self }
    }

    /// Whose word is taken for who somebody is.
    pub fn issuers(&self) -> Arc<Issuers> {
        self.believed.issuers()
    }

    /// The same with purposes that requests may have.
    pub fn with_purposes(self, purposes: PurposeFile) -> Self {
        Self { purposes, ..self }
    }

    /// What requests may be for.
    pub fn purposes(&self) -> &PurposeFile {
        &self.purposes
    }

    /// The same with a log of what is done, by its callers and to it.
    pub fn with_audit(self, audit: Audit) -> Self {
        let acts: Arc<dyn ActLog> = match audit.directory() {
            Some(_) => Arc::new(audit.clone()),
            None => self.acts,
        };
        let captured = audit.contents().or(self.captured);
        Self { audit, captured, acts, ..self }
    }

    /// The same with what was captured beside a log that is off now, and at which age it goes.
    pub fn with_captured(self, contents: Contents, retention: Option<Duration>) -> Self {
        Self { captured: Some((contents, retention)), ..self }
    }

    /// Deletes what was captured and is past its time. Says how much that was.
    pub fn prune_captured(&self, now: u64) -> Result<u64, GovernanceError> {
        let Some((contents, retention)) = &self.captured else { return Ok(0) };
        Ok(contents.prune(now, retention.map(|age| now.saturating_sub(age.as_secs())))?)
    }

    /// Where the audit log is, be it on or off now, if there can be one.
    pub fn log_directory(&self) -> Option<&Path> {
        self.captured.as_ref().map(|(contents, _)| contents.directory())
    }

    /// Where it is written down what is done.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The same with a log of what is done to it, in place of the process's own.
    pub fn with_act_log(self, acts: Arc<dyn ActLog>) -> Self {
        Self { acts, ..self }
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
        Ok(self.look()?.tenant(tenant).map(|tenant| tenant.place.clone()))
    }

    /// The tenant whose data is at a place.
    pub fn tenant_at(&self, place: &str) -> Result<Option<String>, GovernanceError> {
        Ok(self.look()?.tenant_at(place).map(|(name, _)| name.to_owned()))
    }

    /// Who shares cached prefixes with the tenant whose data is at a place, as far as this process has heard.
    pub fn cache_group_at(&self, place: &str) -> Option<String> {
        self.known().tenant_at(place).map(|(_, place)| place.cache_group.clone())
    }

    /// Places of tenants that were deleted and whose data is not erased yet.
    pub fn leaving(&self) -> Result<Vec<String>, GovernanceError> {
        Ok(self.look()?.leaving().to_vec())
    }

    /// What was stored at a place is erased; now what was captured of it is, and then nothing is known of it any more.
    pub fn erased(&self, place: &str) -> Result<(), GovernanceError> {
        if let Some((contents, _)) = &self.captured {
            contents.erase_place(place)?;
        }
        self.change(|connection| tenants::erased(connection, place))
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
        Ok(!self.issuers().is_empty() || self.known().has_keys() || self.look()?.has_keys())
    }

    /// Who presents this bearer token at `now`, in Unix seconds, whoever changed something last: that is read first, which may
    /// take its time. What must not wait asks the [`Roll`].
    pub fn authenticate(&self, token: &str, now: u64) -> Result<Arc<Principal>, GovernanceError> {
        self.look()?;
        Ok(self.roll().authenticate(token, now)?)
    }

    /// Who is known, as the last look has found it. It waits for nobody.
    pub fn roll(&self) -> Roll {
        Roll::new(self.known(), Arc::clone(&self.believed))
    }

    /// Reads what other processes have changed, and ends the standing of keys that they have revoked. It may take its time.
    pub fn refresh(&self) -> Result<(), GovernanceError> {
        self.look().map(drop)
    }

    /// Reads issuers' keys again where it is time, which may take its time.
    pub fn refresh_issuers(&self, now: u64) {
        self.issuers().refresh(now);
    }

    /// `readers` are for reading all and for looking whether there is anything new.
    fn prepare(connection: Connection, readers: Option<[Connection; 2]>) -> Result<Self, GovernanceError> {
        let (reader, looker) = readers.map_or((None, None), |[reader, looker]| (Some(reader), Some(looker)));
        // Its version first: what is changed while it is read is read again.
        let version = database::version(looker.as_ref().unwrap_or(&connection))?;
        let known = Known::read(reader.as_ref().unwrap_or(&connection), version, None)?;
        let known = RwLock::new(Arc::new(known));
        let quotas = Quotas::default();
        quotas.open(&connection)?;
        let [reader, looker] = [reader, looker].map(|connection| connection.map(Mutex::new));
        let inner = Inner { database: Mutex::new(connection), reader, looker, known, quotas };
        Ok(Self {
            inner: Arc::new(inner),
            policies: Policies::built_in()?,
            believed: Arc::default(),
            guardrails: GuardrailFile::default(),
            purposes: PurposeFile::default(),
            audit: Audit::default(),
            captured: None,
            acts: Arc::new(ProcessLog),
        })
    }

    /// Keys and tenants as they were at the last look.
    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.inner.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has nobody changed anything since the last look? This reads no more than a number, and waits for nobody who reads more.
    pub fn is_current(&self) -> Result<bool, GovernanceError> {
        // Known first: if it is replaced meanwhile, the next look finds nothing new.
        let known = self.known();
        Ok(self.version()? == known.version())
    }

    /// Keys and tenants as they are now, whoever changed them last. It may take its time.
    fn look(&self) -> Result<Arc<Known>, GovernanceError> {
        let known = self.known();
        if self.version()? == known.version() {
            return Ok(known);
        }
        let reader = self.reader();
        // Others may have read it while this waited for them.
        let (version, known) = (self.version_by(&reader)?, self.known());
        if version == known.version() {
            return Ok(known);
        }
        self.read_again(&reader, version)
    }

    /// Changes something; what is known afterwards is read anew.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, GovernanceError>,
    ) -> Result<T, GovernanceError> {
        let done = work(&mut self.connection())?;
        let reader = self.reader();
        let version = self.version_by(&reader)?;
        self.read_again(&reader, version)?;
        Ok(done)
    }

    /// Changes something that nobody has to read again, as what was used of quotas: unless another process has changed
    /// something meanwhile, what is known is as new afterwards as it was before.
    fn change_aside<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, GovernanceError> {
        let mut connection = self.connection();
        if self.inner.looker.is_none() {
            return Ok(work(&mut connection)?); // one that makes all changes itself sees none of them as another's
        }
        // To this connection only what others change is a change.
        let (others, before) = (database::version(&connection)?, self.version()?);
        let done = work(&mut connection)?;
        let after = self.version()?;
        if database::version(&connection)? == others {
            self.known().is_as_new(before, after);
        }
        Ok(done)
    }

    /// Whoever calls this holds the reading connection, so that an older state never replaces a newer one. Those who ask what
    /// is known do not wait for it.
    fn read_again(&self, connection: &Connection, version: i64) -> Result<Arc<Known>, GovernanceError> {
        let before = self.known();
        self.inner.quotas.read(connection)?;
        let read = Arc::new(Known::read(connection, version, Some(&before))?);
        self.inner.quotas.forget(&before.gone_tenants());
        *self.inner.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
        Ok(read)
    }

    /// What changes with the database.
    fn version(&self) -> Result<i64, GovernanceError> {
        let looker = self.inner.looker.as_ref().unwrap_or(&self.inner.database);
        database::version(&looker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same for who holds the reading connection, which may be the only one.
    fn version_by(&self, reader: &Connection) -> Result<i64, GovernanceError> {
        if self.inner.looker.is_some() { self.version() } else { database::version(reader) }
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        let reader = self.inner.reader.as_ref().unwrap_or(&self.inner.database);
        reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic while it was held has rolled its transaction back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.inner.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
