//! On whose behalf something is answered that nobody waits for: who asked and what they said of it is stored with what is to
//! be answered, and looked up again before it is.
//!
//! [`Caller::behalf`] is what is stored, and [`caller_of`] makes it a [`Caller`] again. Invariant: what a policy, the keys and
//! the tenants of now would refuse is refused, whatever they said when it was asked.

use axum::http::Method;
use serde::{Deserialize, Serialize};

use super::{
    access::Caller,
    error::ApiError,
    state::{AppState, unix_seconds},
};
use crate::governance::{GovernanceError, Standing, policy::Circumstances};

/// A caller and what its request said of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Behalf {
    caller: Standing,
    purpose: Option<String>,
    data_classification: Option<String>,
    consent: Option<String>,
}

impl Caller {
    /// What is to be stored of it; nothing where there are no identities.
    pub(super) fn behalf(&self) -> Option<String> {
        let principal = self.principal.as_ref()?;
        let Circumstances { purpose, data_classification, consent, .. } = self.circumstances.as_ref().clone();
        let behalf = Behalf { caller: principal.standing(), purpose, data_classification, consent };
        Some(serde_json::to_string(&behalf).expect("texts and lists are JSON"))
    }
}

/// Who asked, if they may still ask this of a route. What was asked before there were identities is nobody's in particular,
/// and goes on.
pub(super) async fn caller_of(state: &AppState, behalf: Option<&str>, route: &str) -> Result<Caller, ApiError> {
    let Some(text) = behalf else { return Ok(Caller::default()) };
    let unreadable =
        |error: serde_json::Error| ApiError::Internal { message: format!("Who asked is unreadable: {error}.") };
    let Behalf { caller, purpose, data_classification, consent } = serde_json::from_str(text).map_err(unreadable)?;
    let governance = state.governance().clone();
    // It may have to be read from the database.
    let recognised = tokio::task::spawn_blocking(move || governance.recognise(&caller, unix_seconds())).await;
    let principal = match recognised {
        Ok(Ok(principal)) => principal,
        Ok(Err(error @ GovernanceError::Refused(_))) => return Err(error.into()),
        // Nobody is let in by a failure, and nobody is refused by one that may pass.
        Ok(Err(error)) => {
            tracing::warn!(%error, "identities cannot be looked up, so what they asked for waits");
            return Err(ApiError::Unavailable { reason: "identities cannot be looked up" });
        }
        Err(_) => return Err(ApiError::Unavailable { reason: "it is shutting down" }),
    };
    let circumstances = Circumstances { route: route.to_owned(), purpose, data_classification, consent };
    let caller = Caller { principal: Some(principal), circumstances: circumstances.into() };
    caller.may_use(state, &Method::POST, route)?;
    Ok(caller)
}
