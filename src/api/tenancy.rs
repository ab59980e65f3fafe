//! Whose data a request sees: every tenant has a store of its own, which is opened when it is first needed.
//!
//! A handler's [`AppState`](super::AppState) is that of one tenant, so no handler can forget to ask whose an object is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc};

use super::responses::Streams;
use crate::{
    governance::{DEFAULT_TENANT, Governance, Place, Principal},
    store::{Store, StoreError, Stores},
};

/// A tenant's own part of the server.
pub(super) struct Tenancy {
    pub(super) name: String,
    pub(super) store: Store,
    /// Rings when there is a batch to begin or to cancel.
    pub(super) batches_changed: Notify,
    /// Rings when there is a response to begin, or one that is not wanted any more.
    pub(super) responses_changed: Notify,
    /// Where its responses in the background are followed.
    pub(super) response_streams: Arc<Streams>,
    /// Who shares cached prefixes with what nobody in particular has asked for, such as its batches.
    pub(super) cache_group: String,
}

impl Tenancy {
    pub(super) fn new(name: String, store: Store, cache_group: String) -> Self {
        Self {
            name,
            store,
            batches_changed: Notify::new(),
            responses_changed: Notify::new(),
            response_streams: Arc::default(),
            cache_group,
        }
    }
}

/// All that are open.
pub(super) struct Tenancies {
    stores: Stores,
    open: Mutex<HashMap<String, Arc<Tenancy>>>,
    /// What is held while a store is opened, by its place: two could not open one store, and others are not to wait.
    opening: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    opened: mpsc::UnboundedSender<Arc<Tenancy>>,
    /// Until somebody takes it: the worker of each.
    newly_opened: Mutex<Option<mpsc::UnboundedReceiver<Arc<Tenancy>>>>,
}

impl Tenancies {
    /// With that of the default tenant, whose store is open.
    pub(super) fn new(stores: Stores, default: Arc<Tenancy>) -> Self {
        let (opened, newly_opened) = mpsc::unbounded_channel();
        let open = HashMap::from([(DEFAULT_TENANT.to_owned(), Arc::clone(&default))]);
        // The receiver is in here, so it is there.
        let _ = opened.send(default);
        let newly_opened = Mutex::new(Some(newly_opened));
        Self { stores, open: Mutex::new(open), opening: Mutex::default(), opened, newly_opened }
    }

    /// That of a caller.
    pub(super) async fn of(self: &Arc<Self>, principal: &Principal) -> Result<Arc<Tenancy>, StoreError> {
        if let Some(open) = self.open().get(&principal.place.id) {
            return Ok(Arc::clone(open));
        }
        let (tenancies, name, place) = (Arc::clone(self), principal.asker.tenant.clone(), principal.place.clone());
        let opening = tokio::task::spawn_blocking(move || tenancies.open_store(name, place));
        opening.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Opens those that have stored something before, so that what they have left to be done is done, and what is past its
    /// time is deleted, also that of tenants that are there no more. Requests of the latter would share prefixes with nobody.
    pub(super) fn open_all(&self, governance: &Governance) -> Result<(), StoreError> {
        for id in self.stores.tenants()? {
            let name = governance.tenant_at(&id).map_err(|_| StoreError::Closed)?.unwrap_or_else(|| id.clone());
            self.open_store(name, Place::alone(id))?;
        }
        Ok(())
    }

    /// Tells all who follow a response that something has changed.
    pub(super) fn ring_all(&self) {
        self.open().values().for_each(|tenancy| tenancy.response_streams.ring_all());
    }

    /// The default one first, then each that is opened; for one taker.
    pub(super) fn take_opened(&self) -> Option<mpsc::UnboundedReceiver<Arc<Tenancy>>> {
        self.newly_opened.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// May take its time, which only those wait for who want the same.
    fn open_store(&self, name: String, Place { id, cache_group }: Place) -> Result<Arc<Tenancy>, StoreError> {
        let opening = Arc::clone(lock(&self.opening).entry(id.clone()).or_default());
        let _opening = lock(&opening);
        if let Some(open) = self.open().get(&id) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(Tenancy::new(name, self.stores.of(&id)?, cache_group));
        self.open().insert(id, Arc::clone(&opened));
        // Nobody takes them where nothing is worked on in the background.
        let _ = self.opened.send(Arc::clone(&opened));
        Ok(opened)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Tenancy>>> {
        lock(&self.open)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_the_store_of_another() {
        let store = Store::in_memory(1 << 20).expect("memory");
        let default = Tenancy::new(DEFAULT_TENANT.to_owned(), store, String::new());
        let tenancies = Tenancies::new(Stores::in_memory(1 << 20), Arc::new(default));
        let slow = Arc::clone(lock(&tenancies.opening).entry("slow".to_owned()).or_default());
        let _opening = lock(&slow);
        let open = |id: &str| tenancies.open_store(id.to_owned(), Place::alone(id.to_owned())).expect("memory");
        let (first, again) = (open("quick"), open("quick"));
        assert!(Arc::ptr_eq(&first, &again));
    }
}
