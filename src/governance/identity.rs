//! A caller, once it is known who that is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{GovernanceError, Refusal, believed::Vouched, policy::Asker, tenants::Place};
use crate::types::unix_seconds;

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

    /// What it is for.
    pub fn description(self) -> &'static str {
        match self {
            Self::Admin => "governs: keys, tenants, policies",
            Self::Operator => "keeps the server running",
            Self::Auditor => "reads everything and changes nothing",
            Self::Developer => "writes applications: asks the model, keeps files and agents",
            Self::Service => "is an application: asks the model",
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An API key of this server.
    Key,
    /// A token of an issuer that is believed.
    Token,
    /// A client certificate of an authority that is believed.
    Certificate,
}

impl Source {
    /// As policies have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// Somebody who may ask, as far as policy allows.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Who it is: its id, unique among those of its source, its tenant and roles, and what else policies may know.
    pub asker: Asker,
    /// Where it is from.
    pub source: Source,
    /// Where its tenant's data is.
    pub place: Place,
    /// From when on its credential is refused, in Unix seconds; 0 if it was revoked.
    pub(super) over: watch::Receiver<Option<u64>>,
    /// True once its tenant is deleted.
    pub(super) tenant_gone: watch::Receiver<bool>,
    /// Why it is believed, if it has no key of this server.
    pub(super) vouched: Option<Vouched>,
}

impl Principal {
    /// Why its credential is not good at `now`, in Unix seconds, as far as this process has heard.
    pub(super) fn over_at(&self, now: u64) -> Option<Refusal> {
        if *self.tenant_gone.borrow() {
            return Some(Refusal::UnknownTenant);
        }
        match *self.over.borrow() {
            Some(0) => Some(Refusal::Revoked),
            Some(end) if end <= now => Some(Refusal::Expired),
            Some(_) | None => self.vouched.as_ref().and_then(|vouched| vouched.refusal(now)),
        }
    }

    /// Resolves when its credential is not good any more, and says why: its time is over, it was revoked, those who vouched for
    /// it do so no more, or its tenant is deleted.
    pub async fn until_over(&self) -> Refusal {
        tokio::select! {
            refusal = self.until_credential_over() => refusal,
            refusal = self.until_refused() => refusal,
            () = self.until_tenant_gone() => Refusal::UnknownTenant,
        }
    }

    async fn until_refused(&self) -> Refusal {
        match &self.vouched {
            Some(vouched) => vouched.until_refused().await,
            None => std::future::pending().await,
        }
    }

    async fn until_tenant_gone(&self) {
        let mut gone = self.tenant_gone.clone();
        if gone.wait_for(|gone| *gone).await.is_err() {
            std::future::pending().await // nobody is left who could say so
        }
    }

    async fn until_credential_over(&self) -> Refusal {
        let mut over = self.over.clone();
        loop {
            let left = match *over.borrow_and_update() {
                None => None,
                Some(end) => match end.saturating_sub(unix_seconds()) {
                    0 if end == 0 => return Refusal::Revoked,
                    0 => return Refusal::Expired,
                    seconds => Some(Duration::from_secs(seconds)),
                },
            };
            tokio::select! {
                () = end_after(left) => {}
                changed = over.changed() => if changed.is_err() {
                    end_after(left).await; // nobody is left who could change it
                    return Refusal::Expired;
                },
            }
        }
    }
}

async fn end_after(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}
