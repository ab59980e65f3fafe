//! Why a token is refused, and what is wrong with where identities come from.
//!
//! [`JwtError`] is about one token and goes to whoever showed it: it names claims and limits, never what the token says.
//! [`SourceError`] is about files, addresses and settings, and goes to whoever runs the server.

use std::{fmt, io, path::PathBuf};

use super::keys::SkippedKey;

/// A part of a token in the compact form of RFC 7515 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Token,
    /// The JOSE header.
    Header,
    /// The claims.
    Payload,
    /// The signature.
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Token => "token",
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is nobody's. It may be shown to the caller: nothing of the token is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than any that is read.
    #[error("the token has {bytes} bytes and may have {limit}")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// Not a signed token in the compact form.
    #[error("the token's {part} is malformed: {reason}")]
    Malformed {
        /// Where.
        part: Part,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A header that would have the token choose its own key, or that must be understood and is not.
    #[error("the token's header has `{name}`, which is not accepted")]
    HeaderRefused {
        /// The header's name.
        name: &'static str,
    },
    /// Not an access token but something else that the same issuer signs.
    #[error("the token's `typ` is neither JWT nor at+jwt")]
    WrongType,
    /// Not in the allow list, or not the key's own.
    #[error("the token's signature algorithm is not allowed")]
    AlgorithmNotAllowed,
    /// Signed, or said to be, by somebody else.
    #[error("the token is not from the issuer that this server trusts")]
    UnknownIssuer,
    /// No key of the issuer has this id, or too many could be meant.
    #[error("none of the issuer's keys is the one that the token names")]
    UnknownKey,
    /// There has been no key set yet.
    #[error("the issuer's keys are not known yet")]
    NoKeys,
    /// The key does not confirm it.
    #[error("the token's signature is not right")]
    BadSignature,
    /// It does not say what it must.
    #[error("the token has no claim `{claim}`")]
    MissingClaim {
        /// As configured.
        claim: String,
    },
    /// It says it in a way that cannot be meant.
    #[error("the token's claim `{claim}` is not {expected}")]
    InvalidClaim {
        /// As configured.
        claim: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Meant for another server.
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It lives longer than is trusted.
    #[error("the token lives {seconds} seconds and may live {limit}")]
    LifetimeTooLong {
        /// From `iat`, or from now, to `exp`.
        seconds: u64,
        /// What it may be.
        limit: u64,
    },
}

impl JwtError {
    /// A word for programs and for the audit, which stays the same when the sentence changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "token_too_large",
            Self::Malformed { .. } => "token_malformed",
            Self::HeaderRefused { .. } => "token_header_refused",
            Self::WrongType => "token_wrong_type",
            Self::AlgorithmNotAllowed => "token_algorithm_not_allowed",
            Self::UnknownIssuer => "token_unknown_issuer",
            Self::UnknownKey => "token_unknown_key",
            Self::NoKeys => "token_keys_unavailable",
            Self::BadSignature => "token_bad_signature",
            Self::MissingClaim { .. } => "token_claim_missing",
            Self::InvalidClaim { .. } => "token_claim_invalid",
            Self::WrongAudience => "token_wrong_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::LifetimeTooLong { .. } => "token_lifetime_too_long",
        }
    }
}

/// Why identities cannot come from where they are said to.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Whoever can write the one document could name any keys.
    #[error(
        "{url} says that the keys are at {keys_url}, which is another host or not https: if that is right, name the host in \
         keys.hosts"
    )]
    OtherHost {
        /// The discovery document.
        url: String,
        /// Where it says that they are.
        keys_url: String,
    },
    /// A setting that cannot be.
    #[error("{field} = {value:?}: expected {expected}")]
    Invalid {
        /// Its name.
        field: String,
        /// As given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be read.
    #[error("cannot fetch {url}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// Keys are at an address, and nothing was handed in that could read one.
    #[error("the keys are at {url}, and nothing may be fetched")]
    NoFetch {
        /// The address.
        url: String,
    },
    /// What was read is not what it should be.
    #[error("{origin}: {reason}")]
    Content {
        /// The file or address.
        origin: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// There are keys, and none can be used.
    #[error("{origin} has no key that could be used{}", list(skipped))]
    NoUsableKey {
        /// The file or address.
        origin: String,
        /// Those that it has.
        skipped: Vec<SkippedKey>,
    },
    /// Not a certificate, or one that says too little.
    #[error("the client certificate cannot be read: {reason}")]
    Certificate {
        /// What is wrong.
        reason: &'static str,
    },
}

fn list(skipped: &[SkippedKey]) -> String {
    skipped.iter().map(|key| format!("; {key}")).collect()
}
