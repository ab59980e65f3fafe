//! Stored agents: the routes that make, list, change and delete them, their versions and their aliases.

use std::sync::Arc;

use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

use super::definition::{Definition, object};
use crate::{
    api::{
        body::{JsonText, shortened, wrong},
        error::ApiError,
        form::parsing_cost,
        query::{ObjectId, QueryFields},
        request::{StorageWork, TokenizerWork, off_thread},
        state::{AppState, unix_seconds},
        stored_error::named_by,
        timestamp::timestamp,
    },
    store::{AgentAlias, AgentDefinition, AgentFilter, AgentVersion, Order, PageQuery},
};

const MOST_AGENTS: u64 = 10_000;
const MOST_VERSIONS: u64 = 1000;
const MOST_ALIASES: u64 = 100;
const ALIAS_CHARACTERS: usize = 64;
const LISTED: u64 = 20;
const MOST_LISTED: u64 = 1000;
/// What Mistral's client for Python sends as `metadata` when it was told nothing.
const SAYS_NOTHING: &str = "~?~unset~?~sentinel~?~";

/// Makes an agent.
pub(super) async fn create(work: TokenizerWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let cost = parsing_cost(&text);
    let parsed = off_thread(&work.state, text.len(), move || Definition::parse(&text)).await?;
    let definition = checked(&work, parsed, cost).await?;
    let agent = work.state.store().create_agent(definition, unix_seconds(), MOST_AGENTS).await?;
    Ok(Json(object(&agent)?))
}

/// Makes a new version, which becomes the current one.
pub(super) async fn change(
    work: TokenizerWork,
    ObjectId(id): ObjectId,
    JsonText(text): JsonText,
) -> Result<Json<Value>, ApiError> {
    let store = work.state.store();
    let current = store.agent(&id, AgentVersion::Current).await?;
    let cost = parsing_cost(&current.definition.body).max(parsing_cost(&text));
    let definition = Definition::of(&current.definition)?;
    let changed = off_thread(&work.state, text.len(), move || definition.changed(&text)).await?;
    let definition = checked(&work, changed, cost).await?;
    let agent = store.add_agent_version(&id, current.version, definition, unix_seconds(), MOST_VERSIONS).await?;
    Ok(Json(object(&agent)?))
}

/// The agent in its current version, or in the one that `agent_version` names.
pub(super) async fn get(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    let version = match query.text("agent_version")? {
        None => AgentVersion::Current,
        Some(text) => version_named(text),
    };
    query.finish()?;
    let agent = work.state.store().agent(&id, version).await?;
    Ok(Json(object(&agent)?))
}

/// Agents, newest first, as a list.
pub(super) async fn list(work: StorageWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let page = query.numbered_page(LISTED)?;
    let (agents, _) = listed(&work.state, query, page).await?;
    Ok(Json(Value::Array(agents)))
}

/// Agents, newest first, as pages that lead from one to the next.
pub(super) async fn pages(work: StorageWork, mut query: QueryFields) -> Result<Json<Value>, ApiError> {
    let after = query.text("page_token")?;
    let limit = query.integer("page_size", 1..=MOST_LISTED)?.unwrap_or(LISTED);
    let (agents, has_more) =
        listed(&work.state, query, PageQuery { after, skip: 0, limit, order: Order::Descending }).await?;
    let next = agents.last().filter(|_| has_more).map(|agent| agent["id"].clone());
    Ok(Json(json!({ "object": "list", "data": agents, "next_page_token": next })))
}

/// Deletes the agent with all its versions.
pub(super) async fn delete(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<StatusCode, ApiError> {
    query.finish()?;
    work.state.store().delete_agent(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an older version the current one, or a newer one again.
pub(super) async fn set_version(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    let version = take_version(&mut query)?;
    query.finish()?;
    let agent = work.state.store().set_agent_version(&id, version).await?;
    Ok(Json(object(&agent)?))
}

/// All versions, newest first.
pub(super) async fn versions(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    let PageQuery { skip, limit, .. } = query.numbered_page(LISTED)?;
    query.finish()?;
    let versions = work.state.store().agent_versions(&id, skip, limit).await?;
    Ok(Json(versions.iter().map(object).collect::<Result<_, _>>()?))
}

/// One version, by its number or an alias.
pub(super) async fn version(
    work: StorageWork,
    ObjectId((id, version)): ObjectId<(String, String)>,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let agent = work.state.store().agent(&id, version_named(version)).await?;
    Ok(Json(object(&agent)?))
}

/// Gives a version a name, or moves a name to it.
pub(super) async fn set_alias(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    let alias = take_alias(&mut query)?;
    let version = take_version(&mut query)?;
    query.finish()?;
    let store = work.state.store();
    let alias = store.set_agent_alias(&id, &alias, version, unix_seconds(), MOST_ALIASES).await?;
    Ok(Json(alias_object(&alias)))
}

/// All names of versions.
pub(super) async fn aliases(
    work: StorageWork,
    ObjectId(id): ObjectId,
    query: QueryFields,
) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let aliases = work.state.store().agent_aliases(&id).await?;
    Ok(Json(aliases.iter().map(alias_object).collect()))
}

/// Takes a name away.
pub(super) async fn delete_alias(
    work: StorageWork,
    ObjectId(id): ObjectId,
    mut query: QueryFields,
) -> Result<StatusCode, ApiError> {
    let alias = take_alias(&mut query)?;
    query.finish()?;
    work.state.store().delete_agent_alias(&id, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `7` is a number, everything else an alias.
pub(in crate::api) fn version_named(text: String) -> AgentVersion {
    match text.parse() {
        Ok(number) if i64::try_from(number).is_ok() => AgentVersion::Number(number),
        Ok(_) | Err(_) => AgentVersion::Alias(text),
    }
}

async fn checked(work: &TokenizerWork, definition: Definition, cost: usize) -> Result<AgentDefinition, ApiError> {
    let functions = definition.handoff_functions(&work.state).await?;
    let model = Arc::clone(&work.model);
    off_thread(&work.state, cost, move || {
        definition.check(&functions, &model)?;
        definition.stored()
    })
    .await
}

async fn listed(state: &AppState, mut query: QueryFields, page: PageQuery) -> Result<(Vec<Value>, bool), ApiError> {
    let is_deployed = query.flag("deployment_chat")?;
    let sources = query.all("sources");
    let known = ["api", "playground", "agent_builder_v1"];
    if let Some(other) = sources.iter().find(|source| !known.contains(&source.as_str())) {
        return Err(wrong("sources", known.join(", "), &shortened(other.clone()).into()));
    }
    let (id, name, search) = (query.text("id")?, query.text("name")?, query.text("search")?);
    let filter = AgentFilter { id, name, search, metadata: take_labels(&mut query)? };
    query.finish()?;
    // All agents here were made through the API, and none is deployed to a chat.
    if is_deployed == Some(true) || !(sources.is_empty() || sources.iter().any(|source| source == "api")) {
        return Ok((Vec::new(), false));
    }
    let found = state.store().agents(filter, page).await.map_err(named_by("page_token"))?;
    Ok((found.items.iter().map(object).collect::<Result<_, _>>()?, found.has_more))
}

/// Takes `metadata`, which is JSON in a query.
pub(in crate::api) fn take_labels(query: &mut QueryFields) -> Result<Option<String>, ApiError> {
    let Some(text) = query.text("metadata")? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(Value::String(text)) if text == SAYS_NOTHING => Ok(None),
        Ok(Value::Object(labels)) => Ok(Some(Value::Object(labels).to_string())),
        Ok(_) | Err(_) => Err(wrong("metadata", "a JSON object", &text.into())),
    }
}

fn take_version(query: &mut QueryFields) -> Result<u64, ApiError> {
    let version = query.integer("version", 0..=1 << 32)?;
    version.ok_or_else(|| wrong("version", "the number of a version", &Value::Null))
}

fn take_alias(query: &mut QueryFields) -> Result<String, ApiError> {
    let alias = query.text("alias")?.unwrap_or_default();
    let fits = |letter: char| letter.is_alphanumeric() || ['-', '_', '.'].contains(&letter);
    let is_name = alias.chars().all(fits) && !alias.chars().all(|letter| letter.is_ascii_digit());
    if is_name && alias.chars().count() <= ALIAS_CHARACTERS {
        return Ok(alias);
    }
    let expected = format!("1 to {ALIAS_CHARACTERS} letters, digits, `-`, `_` and `.`, not digits alone");
    Err(wrong("alias", expected, &alias.into()))
}

fn alias_object(alias: &AgentAlias) -> Value {
    json!({
        "alias": alias.alias,
        "version": alias.version,
        "created_at": timestamp(alias.created_at),
        "updated_at": timestamp(alias.updated_at),
    })
}
