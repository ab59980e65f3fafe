//! What can go wrong with identities, and why a caller is refused.

use std::{io, path::PathBuf};

use super::{GuardrailFileError, audit::AuditError, jwt::JwtError, policy::PolicyError, purposes::PurposeFileError};

/// Why something about identities was not done.
#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    /// The database's file cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version of this program has changed the tables.
    #[error("the identities have format {found}, and this version knows formats up to {known}")]
    Newer {
        /// Format of the data.
        found: usize,
        /// The latest that this version knows.
        known: usize,
    },
    /// A value that cannot be.
    #[error("{field} = {value:?}: expected {expected}")]
    Invalid {
        /// What was given.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Nothing has this name.
    #[error("there is no {kind} {name:?}")]
    Missing {
        /// What was looked for.
        kind: &'static str,
        /// As asked for.
        name: String,
    },
    /// Several things have this name.
    #[error("{name:?} is the name of {count} keys: say which by its id")]
    Ambiguous {
        /// As asked for.
        name: String,
        /// How many have it.
        count: usize,
    },
    /// The name is taken.
    #[error("there is a {kind} {name:?} already")]
    Exists {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is over with the key.
    #[error("the key {id} is {state} and cannot be replaced: create another")]
    Ended {
        /// The key.
        id: String,
        /// Why.
        state: &'static str,
    },
    /// Whoever asks reaches only what is his tenant's.
    #[error("{what} is out of reach for those of the tenant {tenant:?}: they govern their own tenant's keys only")]
    OutOfReach {
        /// What was asked for.
        what: &'static str,
        /// Of whoever asks.
        tenant: String,
    },
    /// Nobody gives what policies do not let him give.
    #[error("the {source_name} {id} may not give {given}: no policy permits it, or one forbids it")]
    NotToGive {
        /// What the credential of whoever asks is.
        source_name: &'static str,
        /// Its id.
        id: String,
        /// The role or the attribute.
        given: String,
    },
    /// What cannot be written down is not done.
    #[error("nothing was changed, as it could not be written down")]
    Unrecorded(#[source] io::Error),
    /// The file of guardrails is wrong.
    #[error(transparent)]
    Guardrails(#[from] GuardrailFileError),
    /// The file of purposes is wrong.
    #[error(transparent)]
    Purposes(#[from] PurposeFileError),
    /// A file of identities is wrong.
    #[error("{}: {reason}", path.display())]
    Identities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller is none of those who may ask.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Policies are wrong, or cannot decide.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It cannot be written down what is done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database failed.
    #[error("the database of identities failed")]
    Database(#[from] rusqlite::Error),
}

/// Why a credential is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key is this one.
    #[error("the API key is not one of this server's")]
    UnknownKey,
    /// It was, and somebody has ended that.
    #[error("the API key was revoked")]
    Revoked,
    /// It was, until its time was over.
    #[error("the API key, token or certificate has expired")]
    Expired,
    /// No token of an issuer that is believed.
    #[error("{0}")]
    Token(JwtError),
    /// The token or certificate says that somebody is of a tenant that there is not.
    #[error("the tenant that the token or certificate stands for is not one of this server's")]
    UnknownTenant,
    /// A certificate whose owner is nobody here.
    #[error("the client certificate is nobody's of this server")]
    UnknownCertificate,
    /// A certificate that its authority has taken back.
    #[error("the client certificate was revoked")]
    RevokedCertificate,
    /// A certificate for which no authority vouches now.
    #[error(
        "the client certificate is not vouched for by this server's authorities and revocation lists as they are now"
    )]
    UnverifiedCertificate,
    /// Somebody who is not what he was when he asked.
    #[error("who the bearer of the token or certificate is here was changed since it was shown")]
    Withdrawn,
}
