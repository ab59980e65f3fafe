//! `/admin/v1/keys`: makes, lists, replaces and revokes API keys.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use serde_json::{Value, json};

use super::{AdminWork, object};
use crate::{
    api::{
        body::{BodyText, Fields, JsonText, wrong},
        error::ApiError,
        fields::{ADMIN_KEY_ROTATION, ADMIN_KEYS},
        query::{ObjectId, QueryFields},
        state::unix_seconds,
        stored_error::StoredError,
    },
    governance::{CreatedKey, Key, KeyFilter, KeyState, NewKey, Role},
};

/// Keys of a part of the list unless told otherwise, and at most.
const PART: u64 = 100;
const MOST: u64 = 1000;
/// A replaced key is still good for so long unless told otherwise, in seconds.
const OVERLAP: i64 = 24 * 60 * 60;
/// A hundred years, in seconds.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60;

/// Those that are reached, the newest first.
pub(super) async fn list(work: AdminWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let states = KeyState::ALL.map(|state| (state.name(), state));
    let filter = KeyFilter {
        prefix: query.text("prefix")?,
        name: query.text("name")?,
        tenant: query.text("tenant")?,
        state: query.word("state", &states)?,
        after: query.text("after")?,
        limit: usize::try_from(query.integer("limit", 1..=MOST)?.unwrap_or(PART)).ok(),
    };
    query.finish()?;
    let page = work.run(move |administration, now| administration.key_page(&filter, now)).await;
    let page = page.map_err(named_by("after"))?;
    let now = unix_seconds();
    let id = |key: Option<&Key>| key.map(|key| key.id.clone());
    Ok(Json(json!({
        "object": "list",
        "data": page.keys.iter().map(|key| described(key, now)).collect::<Vec<_>>(),
        "first_id": id(page.keys.first()),
        "last_id": id(page.keys.last()),
        "has_more": page.has_more,
    })))
}

/// A new one. Its secret is in this answer only.
pub(super) async fn create(work: AdminWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let new = new_key(&text, work.own_tenant())?;
    let created = work.run(move |administration, now| administration.create_key(&new, now)).await;
    Ok(Json(with_secret(&created.map_err(named_by("tenant"))?)))
}

/// One by its id.
pub(super) async fn get(work: AdminWork, ObjectId(id): ObjectId) -> Result<Json<Value>, ApiError> {
    let key = work.run(move |administration, _| administration.key_of_id(&id)).await?;
    Ok(Json(described(&key, unix_seconds())))
}

/// Ends one at once.
pub(super) async fn revoke(work: AdminWork, ObjectId(id): ObjectId) -> Result<Json<Value>, ApiError> {
    let key = work.run(move |administration, now| {
        let key = administration.key_of_id(&id)?;
        administration.revoke_key(&key.id, now)
    });
    Ok(Json(described(&key.await?, unix_seconds())))
}

/// A new one in place of another. Its secret is in this answer only.
pub(super) async fn rotate(
    work: AdminWork,
    ObjectId(id): ObjectId,
    JsonText(text): JsonText,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&text, &ADMIN_KEY_ROTATION)?;
    let overlap = fields.integer("overlap", 0..=LONGEST)?.unwrap_or(OVERLAP).unsigned_abs();
    let expires_at = expires_at(&mut fields)?;
    fields.finish()?;
    let created = work.run(move |administration, now| {
        let key = administration.key_of_id(&id)?;
        administration.rotate_key(&key.id, overlap, expires_at, now)
    });
    Ok(Json(with_secret(&created.await?)))
}

fn new_key(text: &BodyText, own_tenant: &str) -> Result<NewKey, ApiError> {
    let mut fields = Fields::parse(text, &ADMIN_KEYS)?;
    let missing = |name: &str| ApiError::invalid(name, format!("`{name}` is missing."));
    let new = NewKey {
        name: fields.string("name")?.ok_or_else(|| missing("name"))?,
        tenant: fields.string("tenant")?.unwrap_or_else(|| own_tenant.to_owned()),
        roles: roles(fields.take("roles").ok_or_else(|| missing("roles"))?)?,
        attributes: fields.take("attributes").map_or_else(|| Ok(BTreeMap::new()), attributes)?,
        expires_at: expires_at(&mut fields)?,
    };
    fields.finish()?;
    Ok(new)
}

fn roles(value: Value) -> Result<BTreeSet<Role>, ApiError> {
    let expected = "a list of admin, operator, auditor, developer and service, at least one and none twice";
    let role = |name: &Value| name.as_str().and_then(|name| Role::of_name(name).ok());
    let names = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let roles: Option<BTreeSet<Role>> = names.iter().map(role).collect();
    match roles {
        Some(roles) if !roles.is_empty() && roles.len() == names.len() => Ok(roles),
        Some(_) | None => Err(wrong("roles", expected, &value)),
    }
}

/// Names to texts.
pub(super) fn attributes(value: Value) -> Result<BTreeMap<String, String>, ApiError> {
    let Value::Object(map) = value else { return Err(wrong("attributes", "an object of texts", &value)) };
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        other => Err(wrong("attributes", "an object of texts", &other)),
    };
    map.into_iter().map(text).collect()
}

fn expires_at(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let seconds = fields.integer("expires_in", 1..=LONGEST)?;
    Ok(seconds.map(|seconds| unix_seconds().saturating_add(seconds.unsigned_abs())))
}

fn described(key: &Key, now: u64) -> Value {
    object("admin.key", key.to_json(now))
}

fn with_secret(CreatedKey { key, secret }: &CreatedKey) -> Value {
    let mut value = described(key, unix_seconds());
    value["key"] = secret.as_str().into();
    value
}

/// What is not there was named by a field, and not by the path.
pub(super) fn named_by(param: &'static str) -> impl FnOnce(ApiError) -> ApiError {
    move |error| match error {
        ApiError::Stored(StoredError::Missing { kind, id }) => ApiError::Invalid {
            message: format!("`{param}`: there is no {kind} `{id}`."),
            param: Some(param.to_owned()),
            code: Some("not_found"),
        },
        other => other,
    }
}
