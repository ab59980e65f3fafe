//! `/admin/v1/status`: the server at a glance.

use axum::Json;
use serde_json::{Value, json};

use super::AdminWork;
use crate::{
    api::{error::ApiError, query::QueryFields, state::unix_seconds},
    governance::{Key, KeyState},
};

/// What is served, to how many, under which rules.
pub(super) async fn get(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let (keys, tenants) = work
        .run(|administration, _| {
            administration.whole_server("the server's status")?;
            Ok((administration.keys()?, administration.tenants()?))
        })
        .await?;
    let (state, governance) = (&work.state, work.state.governance());
    let now = unix_seconds();
    let model = state.loaded_model().map(|model| {
        json!({ "name": model.name(), "names": model.names, "digest": model.digest, "since": state.model_since() })
    });
    Ok(Json(json!({
        "object": "admin.status",
        "version": env!("CARGO_PKG_VERSION"),
        "state": state.readiness().name(),
        "model": model,
        "in_flight": state.in_flight(),
        "tenants": tenants.len(),
        "tenants_to_erase": governance.leaving()?.len(),
        "keys": counts(&keys, now),
        "policies": { "digest": governance.policies().digest() },
        "guardrails": { "digest": governance.guardrails().digest() },
    })))
}

fn counts(keys: &[Key], now: u64) -> Value {
    let count = |state: KeyState| keys.iter().filter(|key| key.state(now) == state).count();
    KeyState::ALL.into_iter().map(|state| (state.name().to_owned(), Value::from(count(state)))).collect()
}
