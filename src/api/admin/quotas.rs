//! `/admin/v1/quotas` and `/admin/v1/usage`: sets, lists and removes quotas, and tells what is used of budgets.
//!
//! A quota has no id: it is what it limits, a key, a tenant, a model, or several of them.

use axum::Json;
use serde_json::{Value, json};

use super::{AdminWork, keys::named_by, object, whole_list};
use crate::{
    api::{
        body::{Fields, JsonText},
        error::ApiError,
        fields::ADMIN_QUOTAS,
        query::QueryFields,
    },
    governance::quota::{Limits, Quota, QuotaFilter, Scope},
};

/// Those that are reached, of what the query names.
pub(super) async fn list(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    let named = named(query)?;
    let quotas = work.run(move |administration, _| {
        let filter = QuotaFilter(administration.quota_scope(named)?);
        administration.quotas(&filter)
    });
    Ok(Json(whole_list(quotas.await?.iter().map(described).collect())))
}

/// Limits in place of those that there were on the same.
pub(super) async fn set(work: AdminWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &ADMIN_QUOTAS)?;
    let named = Scope { key: fields.string("key")?, tenant: fields.string("tenant")?, model: fields.string("model")? };
    let mut limit = |name| Ok::<_, ApiError>(fields.integer(name, 0..=i64::MAX)?.map(i64::unsigned_abs));
    let limits = Limits {
        requests_per_minute: limit("requests_per_minute")?,
        tokens_per_minute: limit("tokens_per_minute")?,
        concurrent_requests: limit("concurrent_requests")?,
        tokens_per_day: limit("tokens_per_day")?,
        tokens_per_month: limit("tokens_per_month")?,
    };
    fields.finish()?;
    let quota = work.run(move |administration, now| {
        let scope = administration.quota_scope(named)?;
        administration.set_quota(&Quota { scope: scope.clone(), limits }, now)?;
        administration.quota(&scope)
    });
    Ok(Json(described(&quota.await.map_err(named_by("tenant"))?)))
}

/// No more limits on what the query names.
pub(super) async fn unset(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    let named = named(query)?;
    let scope = work.run(move |administration, now| {
        let scope = administration.quota_scope(named)?;
        administration.unset_quota(&scope, now)?;
        Ok(scope)
    });
    let mut deleted = object("admin.quota.deleted", json!(scope.await?));
    deleted["deleted"] = true.into();
    Ok(Json(deleted))
}

/// Tokens of the days and months in which there were budgets, the latest first.
pub(super) async fn usage(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    let named = named(query)?;
    // What this process has counted since it last wrote it down.
    let governance = work.state.governance().clone();
    let usage = work.run(move |administration, _| {
        governance.write_quota_usage()?;
        let filter = QuotaFilter(administration.quota_scope(named)?);
        administration.quota_usage(&filter)
    });
    Ok(Json(whole_list(usage.await?.iter().map(|usage| object("admin.usage", json!(usage))).collect())))
}

fn named(mut query: QueryFields) -> Result<Scope, ApiError> {
    let named = Scope { key: query.text("key")?, tenant: query.text("tenant")?, model: query.text("model")? };
    query.finish()?;
    Ok(named)
}

fn described(quota: &Quota) -> Value {
    object("admin.quota", json!(quota))
}
