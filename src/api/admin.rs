//! `/admin/v1/..`: what governs the server, for those who may. The command line does the same without a server.
//!
//! Main type: [`AdminWork`], which a handler cannot do without: who asks, and a place among requests that need no engine.
//! Whether its role may is decided before, by `access`; what it reaches of it, by
//! [`Administration`](crate::governance::Administration). Invariants: nobody administers without an identity, and a key's
//! secret is in the answer that makes it and in no other.

mod audit;
mod keys;
mod quotas;
mod rules;
mod status;
mod subjects;
mod tenants;

use std::sync::Arc;

use axum::{
    Router,
    extract::FromRequestParts,
    http::request::Parts,
    routing::{get, post, put},
};
use serde_json::{Value, json};

use super::{
    access::Caller,
    access_error::AccessError,
    error::ApiError,
    request::{joined, tenant_of},
    state::{AppState, InFlight, unix_seconds},
};
use crate::governance::{Actor, Administration, Governance, GovernanceError};

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/v1/keys", get(keys::list).post(keys::create))
        .route("/admin/v1/keys/{id}", get(keys::get).delete(keys::revoke))
        .route("/admin/v1/keys/{id}/revoke", post(keys::revoke))
        .route("/admin/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/admin/v1/tenants", get(tenants::list).post(tenants::create))
        .route("/admin/v1/tenants/{name}", get(tenants::get).delete(tenants::delete))
        .route("/admin/v1/tenants/{name}/share_group", put(tenants::share).delete(tenants::unshare))
        .route("/admin/v1/roles", get(rules::roles))
        .route("/admin/v1/policies", get(rules::policies))
        .route("/admin/v1/policies/reload", post(rules::reload_policies))
        .route("/admin/v1/policies/explain", post(rules::explain))
        .route("/admin/v1/guardrails", get(rules::guardrails))
        .route("/admin/v1/guardrails/reload", post(rules::reload_guardrails))
        .route("/admin/v1/quotas", get(quotas::list).put(quotas::set).delete(quotas::unset))
        .route("/admin/v1/usage", get(quotas::usage))
        .route("/admin/v1/audit", get(audit::list))
        .route("/admin/v1/audit/verify", get(audit::check))
        .route("/admin/v1/subjects", get(subjects::export).delete(subjects::delete))
        .route("/admin/v1/status", get(status::get))
}

/// Leave to administer, for one request.
pub(super) struct AdminWork {
    state: AppState,
    actor: Actor,
    in_flight: Arc<InFlight>,
}

impl FromRequestParts<AppState> for AdminWork {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let actor = parts.extensions.get::<Caller>().and_then(Caller::actor).ok_or(AccessError::NoIdentities)?;
        let in_flight = Arc::new(state.admit_to_storage(&tenant_of(parts))?);
        Ok(Self { in_flight, state: state.clone(), actor })
    }
}

impl AdminWork {
    /// Does something that may wait for the disk, as whoever asks may.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Administration<'_>, u64) -> Result<T, GovernanceError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (governance, actor): (Governance, Actor) = (self.state.governance().clone(), self.actor.clone());
        let in_flight = Arc::clone(&self.in_flight);
        // What has begun is done, were the client to leave, and keeps its place.
        let working = tokio::task::spawn_blocking(move || {
            let _in_flight = in_flight;
            work(&governance.administered_by(&actor), unix_seconds()).map_err(ApiError::from)
        });
        joined(working).await
    }

    /// Does something for which the audit log is read, once few others do.
    async fn read_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Administration<'_>) -> Result<T, GovernanceError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let reader = self.state.log_reader().await;
        self.run(move |administration, _| {
            let _reader = reader;
            work(administration)
        })
        .await
    }

    /// The tenant of whoever asks.
    fn own_tenant(&self) -> &str {
        match &self.actor {
            Actor::Caller { principal, .. } => &principal.asker.tenant,
            Actor::CommandLine | Actor::Signal | Actor::Server => crate::governance::DEFAULT_TENANT,
        }
    }
}

/// A list that has no further part.
fn whole_list(data: Vec<Value>) -> Value {
    json!({ "object": "list", "data": data })
}

/// `value` with the name of its kind.
fn object(kind: &str, mut value: Value) -> Value {
    value["object"] = kind.into();
    value
}
