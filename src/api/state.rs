//! What the handlers share: limits, and the model once it is loaded.
//!
//! [`AppState`] exists from the first moment, so that the server answers `/health/live` while weights are
//! read. It holds no request state; that lives in each request's own future.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::http::HeaderMap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    about::{About, Storing},
    error::ApiError,
    hosts::Hosts,
    http_limits::HttpLimits,
    long_bodies::{LongBodies, LongBodyPlace},
    origin::model_headers,
    responses::Streams,
    tenancy::{Tenancies, Tenancy},
};
pub(super) use crate::types::unix_seconds;
use crate::{
    engine::{EngineHandle, Health, Places, TakenPlace},
    governance::{DEFAULT_TENANT, Governance, Place, Principal, policy::Trust},
    prompt::{AnswerForm, Codec},
    store::{Store, StoreError, Stores},
    telemetry::{EngineMetrics, HttpMetrics},
    types::{Constraint, Pooling, Provenance},
};

/// Long bodies parsed and tokenized at once; more than that would only take memory.
pub(super) const LONG_BODIES_AT_ONCE: usize = 4;

/// Exports of subjects at once: each reads all that its tenant has, keeps up to three things in memory, each as large as a
/// file may be, and may hold a thread while its reader is slow. A tenant that has none gets one though others have them all.
pub(super) const EXPORTS_AT_ONCE: usize = 2;
/// Requests for which the audit log is read at once; others wait.
const LOG_READERS_AT_ONCE: usize = 4;

/// Memory for request bodies is counted in pieces of so many bytes.
pub(super) const BODY_PIECE_BYTES: usize = 4 << 10;

/// Sampling defaults of a model, as its `generation_config.json` has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// 1 if absent.
    pub temperature: Option<f32>,
    /// 1 if absent.
    pub top_p: Option<f32>,
    /// Off if absent.
    pub top_k: Option<u32>,
    /// Off if absent.
    pub min_p: Option<f32>,
    /// 1 if absent.
    pub repetition_penalty: Option<f32>,
    /// Ids that end a sequence.
    pub eos_token_ids: Vec<u32>,
}

/// A loaded model and everything it takes to talk to it.
#[derive(Clone)]
pub struct ServedModel {
    /// Names that requests may use, at least one; the first is the one answered with by default.
    pub names: Vec<String>,
    /// Text to tokens and back.
    pub codec: Codec,
    /// Tokens to tokens.
    pub engine: EngineHandle,
    /// Where the engine counts.
    pub metrics: Arc<EngineMetrics>,
    /// Sampling where a request says nothing.
    pub defaults: GenerationDefaults,
    /// Longest sequence, prompt and output, in tokens.
    pub max_model_len: usize,
    /// What it makes of a whole text.
    pub pooling: Pooling,
    /// Identifies the weights; part of `system_fingerprint`.
    pub digest: String,
    /// Where it comes from, and who vouches for it.
    pub provenance: Provenance,
}

impl ServedModel {
    /// The first name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// As policies have it.
    pub(super) fn trust(&self) -> Trust<'_> {
        Trust { locked: self.provenance.locked.is_some(), signer: self.provenance.signer.as_deref() }
    }

    /// What keeps an answer to a form, if the form binds at all; `continued` tokens of the answer are in the prompt.
    pub(super) fn constraint(
        &self,
        form: &AnswerForm,
        continued: &[u32],
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        if !form.binds() {
            return Ok(None);
        }
        Ok(Some(self.codec.constraint(form, &self.defaults.eos_token_ids, continued)?))
    }

    /// Changes when the answer to the same request with the same seed may change.
    pub fn fingerprint(&self) -> String {
        let digest: String = self.digest.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        format!("tramontane-{}-{digest}", env!("CARGO_PKG_VERSION"))
    }
}

/// Shared by all handlers, as the tenant sees it whose request is handled, for what the request is about. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
    tenancy: Arc<Tenancy>,
    about: Arc<About>,
    /// The tenancy's, which marks what it stores.
    store: Store,
}

struct Inner {
    limits: HttpLimits,
    http_metrics: HttpMetrics,
    slots: Arc<Places>,
    storage_slots: Arc<Places>,
    follower_slots: Arc<Places>,
    exports: Arc<Places>,
    log_readers: Arc<Semaphore>,
    long_bodies: Arc<LongBodies>,
    body_memory: Arc<Places>,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    served: OnceLock<Served>,
    hosts: OnceLock<Hosts>,
    tenancies: Arc<Tenancies>,
    governance: Governance,
}

struct Served {
    model: Arc<ServedModel>,
    headers: HeaderMap,
    since: u64, // Unix seconds
}

/// Counts a request as in flight until dropped.
pub(super) struct InFlight {
    state: AppState,
    _place: Option<TakenPlace>,
}

impl AppState {
    /// A server without a model yet, whose user is whoever reaches it.
    pub fn new(limits: HttpLimits, store: Store) -> Self {
        let others = Stores::in_memory(0); // nobody is another tenant
        Self::build(limits, store, others, Governance::in_memory().expect("a database in memory needs nothing"))
    }

    /// The same for those alone who are let in, each tenant's data apart. What tenants have stored before is opened.
    pub fn governed(limits: HttpLimits, stores: Stores, governance: Governance) -> Result<Self, StoreError> {
        let state = Self::build(limits, stores.of_default()?, stores, governance);
        state.inner.tenancies.open_all()?;
        Ok(state)
    }

    fn build(limits: HttpLimits, store: Store, stores: Stores, governance: Governance) -> Self {
        let tenancy = Arc::new(Tenancy::new(DEFAULT_TENANT.to_owned(), DEFAULT_TENANT.to_owned(), store));
        let [slots, storage_slots, follower_slots] = [(); 3].map(|()| Arc::new(Places::new(limits.max_requests)));
        let http_metrics = HttpMetrics::default();
        if let Some(audit) = governance.audit().metrics() {
            http_metrics.show_audit(audit);
        }
        let body_pieces = limits.all_bodies_bytes / BODY_PIECE_BYTES;
        let inner = Inner {
            limits,
            http_metrics,
            slots,
            storage_slots,
            follower_slots,
            exports: Arc::new(Places::new(EXPORTS_AT_ONCE)),
            log_readers: Arc::new(Semaphore::new(LOG_READERS_AT_ONCE)),
            long_bodies: Arc::new(LongBodies::new(LONG_BODIES_AT_ONCE)),
            body_memory: Arc::new(Places::new(body_pieces)),
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            served: OnceLock::new(),
            hosts: OnceLock::new(),
            tenancies: Arc::new(Tenancies::new(stores, Arc::clone(&tenancy), governance.clone())),
            governance,
        };
        let store = tenancy.store.clone();
        Self { inner: Arc::new(inner), tenancy, about: Arc::default(), store }
    }

    /// The model is loaded: requests are answered from now on. Only the first call counts.
    pub fn set_model(&self, model: ServedModel) {
        let since = unix_seconds();
        // A second model would be a bug of the caller; the first keeps serving.
        let _ = self.inner.served.set(Served { headers: model_headers(&model), model: Arc::new(model), since });
    }

    /// Under which names it may be asked for; without this call, under those of this machine. Only the first call counts.
    pub fn set_hosts(&self, hosts: Hosts) {
        // As with the model.
        let _ = self.inner.hosts.set(hosts);
    }

    pub(super) fn hosts(&self) -> &Hosts {
        self.inner.hosts.get_or_init(Hosts::default)
    }

    /// The model, even if it cannot take work now.
    pub fn loaded_model(&self) -> Option<&Arc<ServedModel>> {
        self.inner.served.get().map(|served| &served.model)
    }

    /// What every answer says of the model, once it is loaded.
    pub(super) fn model_headers(&self) -> Option<&HeaderMap> {
        self.inner.served.get().map(|served| &served.headers)
    }

    /// The model, ready for work.
    pub fn model(&self) -> Result<Arc<ServedModel>, ApiError> {
        let reason = match self.readiness() {
            Readiness::Ready => None,
            Readiness::Loading => Some("the model is loading"),
            Readiness::Draining => Some("it is shutting down"),
            Readiness::Wedged => Some("the engine does not respond"),
        };
        match (reason, self.loaded_model()) {
            (None, Some(model)) => Ok(Arc::clone(model)),
            (reason, _) => Err(ApiError::Unavailable { reason: reason.unwrap_or("the model is loading") }),
        }
    }

    /// Can this server take work?
    pub fn readiness(&self) -> Readiness {
        let Some(model) = self.loaded_model() else { return Readiness::Loading };
        if self.is_draining() {
            return Readiness::Draining;
        }
        match model.engine.health() {
            Health::Ready => Readiness::Ready,
            Health::Draining => Readiness::Draining,
            Health::Wedged => Readiness::Wedged,
        }
    }

    /// From now on no new work is taken.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.inner.tenancies.ring_all();
    }

    /// Will it take no new work any more?
    pub(super) fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// The limits as configured.
    pub fn limits(&self) -> &HttpLimits {
        &self.inner.limits
    }

    /// When what is stored at that moment is deleted, both in Unix seconds.
    pub(super) fn expiry(&self, stored_at: u64) -> u64 {
        stored_at.saturating_add(self.retention_s())
    }

    /// How long what is stored is kept, in seconds: as the purpose says, and never longer than the server keeps anything.
    pub(super) fn retention_s(&self) -> u64 {
        let retention = self.limits().storage.retention.as_secs();
        self.about.kept.keep_s.map_or(retention, |seconds| seconds.min(retention))
    }

    /// Requests handled now: those that take work from the engine, the tokenizer or the storage, and lines of batches.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.load(Ordering::Relaxed)
    }

    /// Where its tenant's files and batches are.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The same for a request that is about this.
    pub(super) fn with_about(&self, about: About) -> Self {
        let store = about.marking(&self.tenancy.store);
        Self { inner: Arc::clone(&self.inner), tenancy: Arc::clone(&self.tenancy), about: Arc::new(about), store }
    }

    /// The same about somebody, if it is not known yet about whom.
    pub(super) fn or_subject(&self, subject: Option<String>) -> Self {
        self.with_about(About::clone(&self.about).or_subject(subject))
    }

    /// May anything be stored?
    pub(super) fn storing(&self) -> &Storing {
        &self.about.storing
    }

    /// The same as the tenant of a caller sees it.
    pub(super) async fn of_tenant(&self, principal: &Principal) -> Result<Self, ApiError> {
        Ok(self.with(self.inner.tenancies.of(principal).await?))
    }

    /// What a tenant has of the server by its name and its place, if it has ever stored anything.
    pub(super) async fn tenancy_at(&self, name: &str, place: &str) -> Result<Option<Arc<Tenancy>>, ApiError> {
        Ok(self.inner.tenancies.existing(name, place).await?)
    }

    /// As each tenant sees it, the default one first, then each that is opened; for one taker.
    pub(super) fn take_opened(&self) -> Option<mpsc::UnboundedReceiver<Arc<Tenancy>>> {
        self.inner.tenancies.take_opened()
    }

    /// The same for a tenant.
    pub(super) fn with(&self, tenancy: Arc<Tenancy>) -> Self {
        let store = tenancy.store.clone();
        Self { inner: Arc::clone(&self.inner), tenancy, about: Arc::default(), store }
    }

    /// Who shares cached prefixes with what nobody in particular has asked for, such as its tenant's batches. That of a
    /// tenant that is there no more are shared with nobody.
    pub(super) fn cache_group(&self) -> String {
        let place = &self.tenancy.place;
        self.governance().cache_group_at(place).unwrap_or_else(|| Place::alone(place.clone()).cache_group)
    }

    /// Erases what tenants have left that were deleted.
    pub(super) async fn erase_leaving(&self) -> Result<(), ApiError> {
        self.inner.tenancies.erase_leaving().await
    }

    /// Works for its tenant until that is deleted.
    pub(super) fn until_closed<Work: Future<Output = ()>>(&self, work: Work) -> impl Future<Output = ()> + use<Work> {
        self.tenancy.until_closed(work)
    }

    /// Its tenant's name.
    pub(super) fn tenant(&self) -> &str {
        &self.tenancy.name
    }

    /// Who may ask.
    pub(super) fn governance(&self) -> &Governance {
        &self.inner.governance
    }

    /// Rings when there is a batch to begin or to cancel.
    pub(super) fn batches_changed(&self) -> &Notify {
        &self.tenancy.batches_changed
    }

    /// Rings when there is a response to begin, or one that is not wanted any more.
    pub(super) fn responses_changed(&self) -> &Notify {
        &self.tenancy.responses_changed
    }

    /// Where responses in the background are followed.
    pub(super) fn response_streams(&self) -> &Arc<Streams> {
        &self.tenancy.response_streams
    }

    /// When the model was loaded, in Unix seconds.
    pub(super) fn model_since(&self) -> u64 {
        self.inner.served.get().map_or(0, |served| served.since)
    }

    pub(super) fn http_metrics(&self) -> &HttpMetrics {
        &self.inner.http_metrics
    }

    /// Waits for a place among those whose long bodies are parsed. The work must keep it: what is dropped
    /// when the client leaves would let in more work than there are places.
    pub(super) async fn long_body_place(&self, tenant: &Arc<str>) -> Option<LongBodyPlace> {
        self.inner.long_bodies.enter(tenant).await
    }

    /// Makes `held` large enough for a body of `len` bytes, if that much memory is left for bodies of its tenant.
    pub(super) fn reserve_body(&self, held: &mut Option<TakenPlace>, len: usize) -> Result<(), ApiError> {
        self.reserve_body_of(&self.tenant().into(), held, len)
    }

    /// The same for a tenant.
    pub(super) fn reserve_body_of(
        &self,
        tenant: &Arc<str>,
        held: &mut Option<TakenPlace>,
        len: usize,
    ) -> Result<(), ApiError> {
        let missing = len.div_ceil(BODY_PIECE_BYTES).saturating_sub(held.as_ref().map_or(0, TakenPlace::count));
        let is_there = match held {
            _ if missing == 0 => true,
            Some(held) => held.grow(missing),
            None => {
                *held = self.inner.body_memory.take_many(tenant, missing);
                held.is_some()
            }
        };
        if is_there {
            return Ok(());
        }
        let limit = self.limits().all_bodies_bytes;
        let reason = format!("the bodies of its requests take {limit} bytes already, or its tenant's part of them");
        Err(ApiError::Busy { reason })
    }

    /// A place among the `max_requests`, if one is free or the tenant has fewer than its part.
    pub(super) fn admit(&self, tenant: &Arc<str>) -> Result<InFlight, ApiError> {
        self.admit_to(&self.inner.slots, tenant)
    }

    /// A place for what is stored: there are as many again, so that whoever downloads takes none from those who chat.
    pub(super) fn admit_to_storage(&self, tenant: &Arc<str>) -> Result<InFlight, ApiError> {
        self.admit_to(&self.inner.storage_slots, tenant)
    }

    /// A place for whoever follows a response, which may take long: as many again.
    pub(super) fn admit_follower(&self) -> Result<InFlight, ApiError> {
        self.admit_to(&self.inner.follower_slots, &self.tenant().into())
    }

    /// A place among exports of subjects, beside that of its request.
    pub(super) fn admit_export(&self, tenant: &Arc<str>) -> Result<TakenPlace, ApiError> {
        self.inner.exports.take(tenant).ok_or_else(|| {
            let limit = format!("{EXPORTS_AT_ONCE} exports of subjects run at once, or a tenant's part of them");
            ApiError::Busy { reason: format!("{limit}, so this one has to wait until one of them has ended") }
        })
    }

    /// Leave to read the audit log, which may be long, once fewer than a few do. It goes with what reads.
    pub(super) async fn log_reader(&self) -> OwnedSemaphorePermit {
        let readers = Arc::clone(&self.inner.log_readers);
        readers.acquire_owned().await.expect("it is never closed")
    }

    /// What nobody waits for takes no place from clients: its worker knows itself how much it may ask.
    pub(super) fn admit_line(&self) -> InFlight {
        self.count_in(None)
    }

    fn admit_to(&self, slots: &Arc<Places>, tenant: &Arc<str>) -> Result<InFlight, ApiError> {
        let Some(place) = slots.take(tenant) else {
            let reason = format!("it handles {} requests already", self.inner.limits.max_requests);
            return Err(ApiError::Busy { reason });
        };
        Ok(self.count_in(Some(place)))
    }

    fn count_in(&self, place: Option<TakenPlace>) -> InFlight {
        self.inner.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { state: self.clone(), _place: place }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.inner.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Can this server take work?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Not yet.
    Loading,
    /// Not any more.
    Draining,
    /// The engine is stuck.
    Wedged,
}

impl Readiness {
    /// As it is written everywhere.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Loading => "loading",
            Self::Draining => "draining",
            Self::Wedged => "wedged",
        }
    }
}
