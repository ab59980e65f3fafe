//! What is done to keys, tenants and rules, by whom, and that it is written down.
//!
//! Main types: [`Actor`], [`Act`], and the seam [`ActLog`]. An act is written down before it takes effect: what cannot be
//! written down is not done.

use std::{io, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{Principal, policy::Circumstances};

/// Who does something.
#[derive(Clone, Debug)]
pub enum Actor {
    /// Whoever may use the data directory, with the command line.
    CommandLine,
    /// Whoever may send the server a signal.
    Signal,
    /// The server, which has seen that a file is another.
    Server,
    /// A caller of the server.
    Caller {
        /// Who it is.
        principal: Arc<Principal>,
        /// What its request says of itself.
        circumstances: Arc<Circumstances>,
    },
}

/// The same as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActedBy {
    /// `command_line`, `signal`, `server`, `key`, `token` or `certificate`.
    pub source: &'static str,
    /// Of the key, or issuer and subject of the token; empty for those who have neither.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// What it does here.
    pub roles: Vec<String>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ActKind {
    /// A key is made.
    #[serde(rename = "keys.create")]
    CreateKey,
    /// A key is made in place of another.
    #[serde(rename = "keys.rotate")]
    RotateKey,
    /// A key is ended.
    #[serde(rename = "keys.revoke")]
    RevokeKey,
    /// A tenant is made.
    #[serde(rename = "tenants.create")]
    CreateTenant,
    /// A tenant shares cached prefixes with others, or not any more.
    #[serde(rename = "tenants.share")]
    ShareTenant,
    /// A tenant is deleted with its keys and its data.
    #[serde(rename = "tenants.delete")]
    DeleteTenant,
    /// Policies are read again.
    #[serde(rename = "policies.reload")]
    ReloadPolicies,
    /// Guardrails are read again.
    #[serde(rename = "guardrails.reload")]
    ReloadGuardrails,
    /// Somebody is limited.
    #[serde(rename = "quotas.set")]
    SetQuota,
    /// Somebody is limited no more.
    #[serde(rename = "quotas.unset")]
    UnsetQuota,
    /// Purposes are read again.
    #[serde(rename = "purposes.reload")]
    ReloadPurposes,
    /// Certificates, whose issuers are believed and which are revoked is read again.
    #[serde(rename = "certificates.reload")]
    ReloadCertificates,
    /// The file of identities is read again.
    #[serde(rename = "identities.reload")]
    ReloadIdentities,
    /// All that is held about somebody is told.
    #[serde(rename = "subjects.export")]
    ExportSubject,
    /// All that is held about somebody is deleted.
    #[serde(rename = "subjects.delete")]
    DeleteSubject,
}

/// Something that somebody does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Act {
    /// What.
    pub kind: ActKind,
    /// To what: the id of a key, the name of a tenant, the scope of a quota, a keyed hash of whom data is about; empty for what is there once.
    pub subject: String,
    /// The tenant whose it is; nobody's in particular if there is none.
    pub tenant: Option<String>,
    /// How: what was asked for. Never a secret.
    pub details: Value,
    /// Who.
    pub by: ActedBy,
    /// Unix seconds.
    pub at: u64,
}

/// Where acts are written down.
pub trait ActLog: Send + Sync {
    /// Returns once it will not be lost. If that fails, the act is not done.
    fn record(&self, act: &Act) -> io::Result<()>;
}

/// Writes them into the log of the process.
pub(super) struct ProcessLog;

impl ActLog for ProcessLog {
    fn record(&self, act: &Act) -> io::Result<()> {
        tracing::info!(act = %serde_json::to_string(act)?, "administration");
        Ok(())
    }
}

impl Actor {
    /// As it is written down.
    pub(super) fn described(&self) -> ActedBy {
        let without_name = |source| ActedBy {
            source,
            id: String::new(),
            name: String::new(),
            tenant: String::new(),
            roles: Vec::new(),
        };
        match self {
            Self::CommandLine => without_name("command_line"),
            Self::Signal => without_name("signal"),
            Self::Server => without_name("server"),
            Self::Caller { principal, .. } => ActedBy {
                source: principal.source.name(),
                id: principal.asker.id.clone(),
                name: principal.asker.name.clone(),
                tenant: principal.asker.tenant.clone(),
                roles: principal.asker.roles.clone(),
            },
        }
    }
}
