//! Keys and tenants of one moment, as callers are recognised by them.
//!
//! Main type: [`Known`]. Whoever was recognised learns when his key, or his tenant, is not good any more: what is read again
//! tells those of before.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    GovernanceError, Principal, Refusal, Source,
    keys::{self, Key, KeyState},
    policy::Asker,
    tenants::{self, Place},
};

/// All keys and tenants of one moment.
pub(super) struct Known {
    version: AtomicI64,
    /// By their hashes.
    keys: HashMap<[u8; 32], KnownKey>,
    /// By their names.
    tenants: HashMap<String, KnownTenant>,
    /// Places of tenants that were deleted and whose data is not erased yet.
    leaving: Vec<String>,
}

/// A tenant that there is.
pub(super) struct KnownTenant {
    pub(super) place: Place,
    /// True once it is deleted.
    pub(super) gone: watch::Sender<bool>,
}

struct KnownKey {
    key: Key,
    principal: Arc<Principal>,
    /// From when on it is refused, in Unix seconds; 0 if it was revoked.
    over: watch::Sender<Option<u64>>,
}

impl Known {
    /// Reads them; they are at least as new as `version`. Whoever was recognised by a key of `before` learns when that is over
    /// now.
    pub(super) fn read(connection: &Connection, version: i64, before: Option<&Self>) -> Result<Self, GovernanceError> {
        let tenants = read_tenants(connection, before)?;
        let leaving = tenants::leaving(connection)?;
        let mut rows = connection.prepare_cached(&format!("SELECT {}, hash FROM keys", keys::COLUMNS))?;
        let read = rows.query_map([], |row| Ok((row.get::<_, [u8; 32]>(9)?, keys::read_key(row)?)))?;
        let mut keys = HashMap::new();
        for row in read {
            let (hash, key) = row?;
            let Some(tenant) = tenants.get(&key.tenant) else { continue }; // a key has a tenant
            let over = before.and_then(|before| before.keys.get(&hash)).map(|known| known.over.clone());
            keys.insert(hash, KnownKey::new(key, tenant, over.unwrap_or_else(|| watch::Sender::new(None))));
        }
        Ok(Self { version: version.into(), keys, tenants, leaving })
    }

    pub(super) fn version(&self) -> i64 {
        self.version.load(Ordering::Acquire)
    }

    /// Nothing of what is here has changed between these versions.
    pub(super) fn is_as_new(&self, before: i64, after: i64) {
        // If it is of another version, somebody has read it again, or has to.
        let _ = self.version.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Was there ever a key?
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The tenant of this name.
    pub(super) fn tenant(&self, name: &str) -> Option<&KnownTenant> {
        self.tenants.get(name)
    }

    /// Names of tenants that are gone since, as what was read later has told.
    pub(super) fn gone_tenants(&self) -> HashSet<&str> {
        let gone = self.tenants.iter().filter(|(_, tenant)| *tenant.gone.borrow());
        gone.map(|(name, _)| name.as_str()).collect()
    }

    /// The tenant whose data is at a place, and its name.
    pub(super) fn tenant_at(&self, id: &str) -> Option<(&str, &Place)> {
        let found = self.tenants.iter().find(|(_, tenant)| tenant.place.id == id);
        found.map(|(name, tenant)| (name.as_str(), &tenant.place))
    }

    /// Places of tenants that were deleted and whose data is not erased yet.
    pub(super) fn leaving(&self) -> &[String] {
        &self.leaving
    }

    pub(super) fn authenticate(&self, token: &str, now: u64) -> Result<Arc<Principal>, Refusal> {
        self.keys.get(&keys::hash(token)).ok_or(Refusal::UnknownKey)?.principal(now)
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

    fn new(key: Key, tenant: &KnownTenant, over: watch::Sender<Option<u64>>) -> Self {
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
        let principal = Principal {
            asker,
            source: Source::Key,
            place: tenant.place.clone(),
            over: over.subscribe(),
            tenant_gone: tenant.gone.subscribe(),
            vouched: None,
        };
        Self { key, principal: Arc::new(principal), over }
    }
}

/// Those that there are. Whoever is of one that is there no more learns it.
fn read_tenants(
    connection: &Connection,
    before: Option<&Known>,
) -> Result<HashMap<String, KnownTenant>, GovernanceError> {
    let before = before.map(|before| &before.tenants);
    let places = tenants::places(connection)?;
    let same = |name: &String, place: &Place| {
        before.and_then(|before| before.get(name)).filter(|known| known.place.id == place.id)
    };
    for (name, known) in before.into_iter().flatten() {
        if places.get(name).is_none_or(|place| place.id != known.place.id) {
            known.gone.send_replace(true);
        }
    }
    let tenants = places.into_iter().map(|(name, place)| {
        let gone = same(&name, &place).map_or_else(|| watch::Sender::new(false), |known| known.gone.clone());
        (name, KnownTenant { place, gone })
    });
    Ok(tenants.collect())
}
