//! A caller, once it is known who that is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio::sync::watch;

use super::{GovernanceError, policy::Asker};

/// What somebody does here. What a role may do is for the policy to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Governs: keys, tenants, policy.
    Admin,
    /// Keeps the server running.
    Operator,
    /// Reads everything and changes nothing.
    Auditor,
    /// Writes applications: asks the model, keeps files and agents.
    Developer,
    /// An application: asks the model.
    Service,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::Auditor, Self::Developer, Self::Service];

    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Developer => "developer",
            Self::Service => "service",
        }
    }

    /// The role that is written so.
    pub fn of_name(name: &str) -> Result<Self, GovernanceError> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| GovernanceError::Invalid {
            field: "role",
            value: name.to_owned(),
            expected: "admin, operator, auditor, developer or service",
        })
    }
}

/// What an identity was shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An API key of this server.
    Key,
    /// A token of an issuer that is believed.
    Token,
}

impl Source {
    /// As policies have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
        }
    }
}

/// Somebody who may ask, as far as policy allows.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Unique among those of its source: of a key, its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where it is from.
    pub source: Source,
    /// Whose it is.
    pub tenant: String,
    /// Who shares cached prefixes with it.
    pub cache_group: String,
    /// What it does here.
    pub roles: BTreeSet<Role>,
    /// What else is known, for policies.
    pub attributes: BTreeMap<String, String>,
    /// The same in the terms of policies.
    pub(super) asker: Asker,
    pub(super) revoked: watch::Receiver<bool>,
}

impl Principal {
    /// Was its credential revoked after it was shown?
    pub fn is_revoked(&self) -> bool {
        *self.revoked.borrow()
    }

    /// Resolves when its credential is revoked.
    pub async fn revoked(&self) {
        let mut revoked = self.revoked.clone();
        if revoked.wait_for(|revoked| *revoked).await.is_err() {
            // Nobody is left who could revoke it.
            std::future::pending::<()>().await;
        }
    }
}
