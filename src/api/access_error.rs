//! Why a caller is not let in, or not allowed something.

use axum::http::StatusCode;

use crate::governance::{Refusal, jwt::JwtError, purposes::PurposeError};

/// What governance says against a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nobody is let in without a credential.
    #[error("No API key was sent: this server expects the header `Authorization: Bearer KEY`.")]
    NoCredential,
    /// The header is no credential.
    #[error("The header `Authorization` is not `Bearer KEY`: {reason}.")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The credential is nobody's.
    #[error("Access is denied: {0}.")]
    Refused(Refusal),
    /// The caller is known, and may not do this.
    #[error("The {source_name} {caller} may not do this: {action} is {reason}.")]
    Forbidden {
        /// What its credential is.
        source_name: &'static str,
        /// Its id.
        caller: String,
        /// What it asked for.
        action: &'static str,
        /// What the policies say.
        reason: String,
    },
    /// There is nobody who could administer.
    #[error(
        "There is no administration over an open server, which knows nobody: make the first key on its machine with \
         `tramontane keys create NAME --role admin`."
    )]
    NoIdentities,
    /// The caller is known, and does not reach this, or may not give it.
    #[error("This is not allowed: {reason}.")]
    NotAllowed {
        /// Why.
        reason: String,
    },
    /// A header in which a request says something of itself is wrong.
    #[error("The header `{name}` must be one value of 1 to {limit} printable ASCII letters.")]
    Circumstance {
        /// Its name.
        name: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Its body can be read in two ways.
    #[error(
        "The header `{name}` must be `{understood}`, once, or be left out: bodies are decoded from no other coding."
    )]
    Coding {
        /// The header's name.
        name: &'static str,
        /// What it may say.
        understood: &'static str,
    },
    /// Whom it asks can be read in two ways.
    #[error("The request must name one server: there are several `Host`, or the target has another than the header.")]
    SeveralHosts,
    /// It asks for another server, or is a web page's.
    #[error(
        "The header `{name}` says {value:?}, which is none of this server's names: as there are no API keys it lets in whoever \
         is on this machine, and nobody that a browser could ask for. Start it with --allowed-host NAME, or make keys."
    )]
    Host {
        /// Which header.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// The request has not the purpose or the consent that it must have.
    #[error("The request {0}. The headers are `X-Tramontane-Purpose` and `X-Tramontane-Consent`.")]
    Purpose(PurposeError),
}

impl AccessError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            // Its issuer could not be reached yet.
            Self::Refused(Refusal::Token(JwtError::NoKeys)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoCredential | Self::Malformed { .. } | Self::Refused(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::Host { .. } | Self::NoIdentities | Self::NotAllowed { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Coding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Circumstance { .. } | Self::Purpose(_) | Self::SeveralHosts => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::NoCredential | Self::Malformed { .. } | Self::Refused(_) => "authentication_error",
            Self::Forbidden { .. } | Self::Host { .. } | Self::NoIdentities | Self::NotAllowed { .. } => {
                "permission_error"
            }
            Self::Circumstance { .. } | Self::Purpose(_) | Self::SeveralHosts | Self::Coding { .. } => {
                "invalid_request_error"
            }
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoCredential | Self::Malformed { .. } | Self::Refused(Refusal::UnknownKey) => "invalid_api_key",
            Self::Refused(Refusal::Revoked) => "revoked_api_key",
            Self::Refused(Refusal::Expired) => "expired_api_key",
            Self::Refused(Refusal::Token(error)) => error.code(),
            Self::Refused(Refusal::UnknownTenant) => "token_unknown_tenant",
            Self::Refused(Refusal::UnknownCertificate) => "unknown_certificate",
            Self::Refused(Refusal::RevokedCertificate) => "revoked_certificate",
            Self::Refused(Refusal::UnverifiedCertificate) => "unverified_certificate",
            Self::Refused(Refusal::Withdrawn) => "identity_changed",
            Self::Forbidden { .. } | Self::NotAllowed { .. } => "permission_denied",
            Self::NoIdentities => "no_identities",
            Self::Circumstance { .. } => "invalid_header",
            Self::SeveralHosts => "several_hosts",
            Self::Coding { .. } => "unsupported_coding",
            Self::Host { .. } => "host_not_allowed",
            Self::Purpose(PurposeError::Missing { .. }) => "purpose_required",
            Self::Purpose(PurposeError::Unknown { .. }) => "unknown_purpose",
            Self::Purpose(PurposeError::NoConsent { .. }) => "consent_required",
        }
    }
}
