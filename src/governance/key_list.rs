//! Which keys of a list are wanted, and a part of them.

use super::{
    GovernanceError,
    keys::{Key, KeyState},
};

/// Which keys. What says nothing lets all pass.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// What their ids begin with.
    pub prefix: Option<String>,
    /// What they are called.
    pub name: Option<String>,
    /// Whose they are.
    pub tenant: Option<String>,
    /// Can they be used?
    pub state: Option<KeyState>,
    /// The key behind which the list goes on.
    pub after: Option<String>,
    /// How many there are in a part; all if nothing is said.
    pub limit: Option<usize>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPage {
    /// The newest first.
    pub keys: Vec<Key>,
    /// Are there others behind them?
    pub has_more: bool,
}

impl KeyFilter {
    pub(super) fn page(&self, mut keys: Vec<Key>, now: u64) -> Result<KeyPage, GovernanceError> {
        if let Some(after) = &self.after {
            let missing = || GovernanceError::Missing { kind: "key", name: after.clone() };
            let at = keys.iter().position(|key| key.id == *after).ok_or_else(missing)?;
            keys.drain(..=at);
        }
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        keys.retain(|key| {
            self.prefix.as_ref().is_none_or(|prefix| key.id.starts_with(prefix))
                && is(&self.name, &key.name)
                && is(&self.tenant, &key.tenant)
                && self.state.is_none_or(|state| key.state(now) == state)
        });
        let limit = self.limit.unwrap_or(usize::MAX);
        let has_more = keys.len() > limit;
        keys.truncate(limit);
        Ok(KeyPage { keys, has_more })
    }
}
