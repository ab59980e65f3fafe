//! `/admin/v1/tenants`: makes, lists and deletes tenants, and has them share cached prefixes.

use axum::Json;
use serde_json::{Value, json};

use super::{AdminWork, object, whole_list};
use crate::{
    api::{
        body::{Fields, JsonText},
        error::ApiError,
        fields::{ADMIN_SHARE_GROUP, ADMIN_TENANTS},
        query::{ObjectId, QueryFields},
    },
    governance::{GovernanceError, Tenant},
};

/// Those that are reached, by name.
pub(super) async fn list(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let tenants = work.run(|administration, _| administration.tenants()).await?;
    Ok(Json(whole_list(tenants.iter().map(described).collect())))
}

/// A new one.
pub(super) async fn create(work: AdminWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &ADMIN_TENANTS)?;
    let name = fields.string("name")?.ok_or_else(|| ApiError::invalid("name", "`name` is missing."))?;
    let group = fields.string("share_group")?;
    fields.finish()?;
    let created = work.run(move |administration, now| {
        administration.create_tenant(&name, group.as_deref(), now)?;
        administration.tenant(&name)
    });
    Ok(Json(described(&created.await.map_err(named_in_body)?)))
}

/// One by its name.
pub(super) async fn get(work: AdminWork, ObjectId(name): ObjectId) -> Result<Json<Value>, ApiError> {
    let tenant = work.run(move |administration, _| administration.tenant(&name)).await?;
    Ok(Json(described(&tenant)))
}

/// Deletes one, its keys and all that it has stored, which is erased before this answers.
pub(super) async fn delete(work: AdminWork, ObjectId(name): ObjectId) -> Result<Json<Value>, ApiError> {
    let deleted = work.run(move |administration, now| administration.delete_tenant(&name, now)).await?;
    // Once it is deleted that is not undone by a failure to erase, which is tried again.
    if let Err(error) = work.state.erase_leaving().await {
        tracing::warn!(%error, "what a deleted tenant has stored cannot be erased yet");
    }
    let is_erased = !work.state.governance().leaving()?.contains(&deleted.place);
    Ok(Json(json!({
        "object": "admin.tenant.deleted",
        "name": deleted.name,
        "deleted": true,
        "revoked_keys": deleted.keys,
        "erased": is_erased,
    })))
}

/// Has one share cached prefixes with those of a group.
pub(super) async fn share(
    work: AdminWork,
    ObjectId(name): ObjectId,
    JsonText(text): JsonText,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &ADMIN_SHARE_GROUP)?;
    let missing = || ApiError::invalid("share_group", "`share_group` is missing.");
    let group = fields.string("share_group")?.ok_or_else(missing)?;
    fields.finish()?;
    set_share_group(work, name, Some(group)).await
}

/// Has one share cached prefixes with nobody.
pub(super) async fn unshare(work: AdminWork, ObjectId(name): ObjectId) -> Result<Json<Value>, ApiError> {
    set_share_group(work, name, None).await
}

async fn set_share_group(work: AdminWork, name: String, group: Option<String>) -> Result<Json<Value>, ApiError> {
    let changed = work.run(move |administration, now| -> Result<Tenant, GovernanceError> {
        administration.share_tenant(&name, group.as_deref(), now)?;
        administration.tenant(&name)
    });
    Ok(Json(described(&changed.await?)))
}

fn described(tenant: &Tenant) -> Value {
    object("admin.tenant", json!(tenant))
}

/// What governance calls a tenant's name is the name here.
fn named_in_body(error: ApiError) -> ApiError {
    match error {
        ApiError::Invalid { message, param: Some(param), code } if param == "tenant" => {
            ApiError::Invalid { message: message.replace("`tenant`", "`name`"), param: Some("name".to_owned()), code }
        }
        other => other,
    }
}
