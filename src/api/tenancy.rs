//! Whose data a request sees: every tenant has a store of its own, which is opened when it is first needed.
//!
//! A handler's [`AppState`](super::AppState) is that of one tenant, so no handler can forget to ask whose an object is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, watch};

use super::{error::ApiError, request::joined, responses::Streams};
use crate::{
    governance::{DEFAULT_TENANT, Governance, Principal},
    store::{Store, StoreError, Stores},
};

/// A tenant's own part of the server.
pub(super) struct Tenancy {
    pub(super) name: String,
    /// Where its data is.
    pub(super) place: String,
    pub(super) store: Store,
    /// Rings when there is a batch to begin or to cancel.
    pub(super) batches_changed: Notify,
    /// Rings when there is a response to begin, or one that is not wanted any more.
    pub(super) responses_changed: Notify,
    /// Where its responses in the background are followed.
    pub(super) response_streams: Arc<Streams>,
    /// True once its tenant is deleted: nobody works for it any more.
    closed: watch::Sender<bool>,
}

impl Tenancy {
    pub(super) fn new(name: String, place: String, store: Store) -> Self {
        Self {
            name,
            place,
            store,
            batches_changed: Notify::new(),
            responses_changed: Notify::new(),
            response_streams: Arc::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Works for the tenant until it is deleted.
    pub(super) fn until_closed<Work: Future<Output = ()>>(&self, work: Work) -> impl Future<Output = ()> + use<Work> {
        let mut closed = self.closed.subscribe();
        async move {
            tokio::select! {
                () = work => {}
                // So it is if nobody has the tenancy any more.
                _ = closed.wait_for(|closed| *closed) => {}
            }
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
    /// Held by whoever erases what deleted tenants have left.
    erasing: AsyncMutex<()>,
    governance: Governance,
    /// Until somebody takes it: the worker of each.
    newly_opened: Mutex<Option<mpsc::UnboundedReceiver<Arc<Tenancy>>>>,
}

impl Tenancies {
    /// With that of the default tenant, whose store is open.
    pub(super) fn new(stores: Stores, default: Arc<Tenancy>, governance: Governance) -> Self {
        let (opened, newly_opened) = mpsc::unbounded_channel();
        let open = HashMap::from([(DEFAULT_TENANT.to_owned(), Arc::clone(&default))]);
        // The receiver is in here, so it is there.
        let _ = opened.send(default);
        Self {
            stores,
            open: Mutex::new(open),
            opening: Mutex::default(),
            opened,
            erasing: AsyncMutex::default(),
            governance,
            newly_opened: Mutex::new(Some(newly_opened)),
        }
    }

    /// That of a caller.
    pub(super) async fn of(self: &Arc<Self>, principal: &Principal) -> Result<Arc<Tenancy>, StoreError> {
        self.at(&principal.asker.tenant, &principal.place.id).await
    }

    /// That of a tenant by its name and its place, if it has ever stored anything.
    pub(super) async fn existing(
        self: &Arc<Self>,
        name: &str,
        place: &str,
    ) -> Result<Option<Arc<Tenancy>>, StoreError> {
        let is_open = self.open().contains_key(place);
        if !is_open && !self.stores.has(place) {
            return Ok(None);
        }
        self.at(name, place).await.map(Some)
    }

    async fn at(self: &Arc<Self>, name: &str, place: &str) -> Result<Arc<Tenancy>, StoreError> {
        if let Some(open) = self.open().get(place) {
            return Ok(Arc::clone(open));
        }
        let (tenancies, name, place) = (Arc::clone(self), name.to_owned(), place.to_owned());
        let opening = tokio::task::spawn_blocking(move || tenancies.open_store(name, place));
        let opened = opening.await.unwrap_or(Err(StoreError::Closed))?;
        // Between its caller's being let in and now the tenant may have been deleted: what was erased must not come back.
        match self.governance.tenant_at(&opened.place) {
            Ok(Some(_)) => Ok(opened),
            Ok(None) => {
                self.close(&opened).await?;
                Err(StoreError::Closed)
            }
            // Nothing is erased because nobody knows.
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// Opens those that have stored something before, so that what they have left to be done is done, and what is past its
    /// time is deleted. What deleted tenants have left is erased.
    pub(super) fn open_all(&self) -> Result<(), StoreError> {
        let leaving = self.governance.leaving().map_err(|_| StoreError::Closed)?;
        for place in &leaving {
            match self.stores.destroy(place) {
                Ok(()) => {
                    if let Err(error) = self.governance.erased(place) {
                        // It is tried again while the others are served.
                        tracing::warn!(%error, "what was captured of a deleted tenant cannot be erased yet");
                    }
                }
                // The command line is about to.
                Err(StoreError::InUse { .. }) => {}
                // It is tried again while the others are served.
                Err(error) => tracing::warn!(%error, "what a deleted tenant has stored cannot be erased yet"),
            }
        }
        for place in self.stores.tenants()? {
            if !leaving.contains(&place) {
                let name = self.governance.tenant_at(&place).map_err(|_| StoreError::Closed)?;
                self.open_store(name.unwrap_or_else(|| place.clone()), place)?;
            }
        }
        Ok(())
    }

    /// Erases what tenants have left that were deleted, by whatever process.
    pub(super) async fn erase_leaving(self: &Arc<Self>) -> Result<(), ApiError> {
        let _erasing = self.erasing.lock().await;
        let mut failed = None;
        for place in self.governance.leaving()? {
            if let Err(error) = self.erase(&place).await {
                tracing::error!(place, ?error, "what a deleted tenant has stored cannot be erased");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// One that cannot be erased keeps no other.
    async fn erase(self: &Arc<Self>, place: &str) -> Result<(), ApiError> {
        let open = self.open().get(place).cloned();
        match open {
            Some(tenancy) => self.close(&tenancy).await?,
            None => {
                let (tenancies, place) = (Arc::clone(self), place.to_owned());
                let erased = tokio::task::spawn_blocking(move || tenancies.stores.destroy(&place));
                match erased.await.unwrap_or(Err(StoreError::Closed)) {
                    // The command line is about to.
                    Err(StoreError::InUse { .. }) => return Ok(()),
                    erased => erased?,
                }
            }
        }
        let (governance, gone) = (self.governance.clone(), place.to_owned());
        // What was captured of it may be much.
        joined(tokio::task::spawn_blocking(move || governance.erased(&gone).map_err(ApiError::from))).await?;
        tracing::info!(place, "what a deleted tenant has stored is erased");
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

    /// Nobody works for it from now on, and its store is no more.
    async fn close(&self, tenancy: &Tenancy) -> Result<(), StoreError> {
        tenancy.closed.send_replace(true);
        self.open().remove(&tenancy.place);
        tenancy.store.destroy().await
    }

    /// May take its time, which only those wait for who want the same.
    fn open_store(&self, name: String, place: String) -> Result<Arc<Tenancy>, StoreError> {
        let opening = Arc::clone(lock(&self.opening).entry(place.clone()).or_default());
        let _opening = lock(&opening);
        if let Some(open) = self.open().get(&place) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(Tenancy::new(name, place.clone(), self.stores.of(&place)?));
        self.open().insert(place, Arc::clone(&opened));
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
        let default = Tenancy::new(DEFAULT_TENANT.to_owned(), DEFAULT_TENANT.to_owned(), store);
        let governance = Governance::in_memory().expect("memory");
        let tenancies = Tenancies::new(Stores::in_memory(1 << 20), Arc::new(default), governance);
        let slow = Arc::clone(lock(&tenancies.opening).entry("slow".to_owned()).or_default());
        let _opening = lock(&slow);
        let open = |id: &str| tenancies.open_store(id.to_owned(), id.to_owned()).expect("memory");
        let (first, again) = (open("quick"), open("quick"));
        assert!(Arc::ptr_eq(&first, &again));
    }
}
