//! `/admin/v1/roles`, `/admin/v1/policies` and `/admin/v1/guardrails`: the rules in force, read again when told to.

use axum::Json;
use serde_json::{Value, json};

use super::{AdminWork, keys, object, whole_list};
use crate::{
    api::{
        administration_error::AdministrationError,
        body::{Fields, JsonText, wrong},
        error::ApiError,
        fields::ADMIN_EXPLANATION,
        query::QueryFields,
    },
    governance::{
        Role, RoleRights,
        policy::{Action, Asker, Circumstances, PolicyError, Question},
    },
};

/// The roles, and what the policies in force let each of them do.
pub(super) async fn roles(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    let policies = work.state.governance().policies();
    let rights = Role::ALL.map(|role| RoleRights::of(role, policies, work.own_tenant()));
    let rights: Vec<RoleRights> = rights.into_iter().collect::<Result<_, _>>()?;
    Ok(Json(whole_list(rights.iter().map(|rights| object("admin.role", json!(rights))).collect())))
}

/// The policies in force.
pub(super) async fn policies(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    work.run(|administration, _| administration.whole_server("policies")).await?;
    Ok(Json(policies_in_force(&work)))
}

/// Reads them again; wrong ones change nothing.
pub(super) async fn reload_policies(work: AdminWork) -> Result<Json<Value>, ApiError> {
    work.run(|administration, now| administration.reload_policies(now)).await?;
    Ok(Json(policies_in_force(&work)))
}

/// May somebody do something, and by which policy?
pub(super) async fn explain(work: AdminWork, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    work.run(|administration, _| administration.whole_server("policies")).await?;
    let mut fields = Fields::parse(&text, &ADMIN_EXPLANATION)?;
    let missing = |name: &str| ApiError::invalid(name, format!("`{name}` is missing."));
    let action = fields.string("action")?.ok_or_else(|| missing("action"))?;
    let resource = fields.string("resource")?.ok_or_else(|| missing("resource"))?;
    let asker = asker(&mut fields, work.own_tenant())?;
    let circumstances = Circumstances {
        route: fields.string("route")?.unwrap_or_default(),
        purpose: fields.string("purpose")?,
        data_classification: fields.string("data_classification")?,
        consent: fields.string("consent")?,
    };
    fields.finish()?;
    let known = || Action::ALL.map(Action::name).join(", ");
    let unknown = || wrong("action", format!("one of {}", known()), &action.as_str().into());
    let action = Action::of_name(&action).ok_or_else(unknown)?;
    let question =
        Question { asker: &asker, action, resource: action.resource(&resource), circumstances: &circumstances };
    let policies = work.state.governance().policies();
    let decision = policies.decide(&question).map_err(|error| match error {
        PolicyError::Question { reason } => ApiError::invalid("resource", format!("It cannot be asked: {reason}.")),
        other => AdministrationError::WrongRules { reason: other.to_string() }.into(),
    })?;
    Ok(Json(json!({
        "object": "admin.decision",
        "allowed": decision.allowed,
        "policies": decision.policies,
        "errors": decision.errors,
        "considered": policies.names(),
        "digest": policies.digest(),
    })))
}

/// The guardrails in force.
pub(super) async fn guardrails(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    query.finish()?;
    work.run(|administration, _| administration.whole_server("guardrails")).await?;
    Ok(Json(guardrails_in_force(&work)))
}

/// Reads them again; wrong ones change nothing.
pub(super) async fn reload_guardrails(work: AdminWork) -> Result<Json<Value>, ApiError> {
    work.run(|administration, now| administration.reload_guardrails(now)).await?;
    Ok(Json(guardrails_in_force(&work)))
}

fn policies_in_force(work: &AdminWork) -> Value {
    let policies = work.state.governance().policies();
    json!({
        "object": "admin.policies",
        "source": policies.directory().map_or_else(|| "built-in".into(), |path| path.to_string_lossy()),
        "digest": policies.digest(),
        "policies": policies.names(),
    })
}

fn guardrails_in_force(work: &AdminWork) -> Value {
    let guardrails = work.state.governance().guardrails();
    json!({
        "object": "admin.guardrails",
        "source": guardrails.path().map(|path| path.to_string_lossy()),
        "digest": guardrails.digest(),
        "guardrails": guardrails.names(),
    })
}

fn asker(fields: &mut Fields, own_tenant: &str) -> Result<Asker, ApiError> {
    let roles = match fields.take("roles") {
        None => Vec::new(),
        Some(value) => {
            let names = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let texts: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            texts.filter(|_| value.is_array()).ok_or_else(|| wrong("roles", "a list of texts", &value))?
        }
    };
    Ok(Asker {
        id: "somebody".to_owned(),
        name: "somebody".to_owned(),
        tenant: fields.string("tenant")?.unwrap_or_else(|| own_tenant.to_owned()),
        source: "key".to_owned(),
        roles,
        attributes: fields.take("attributes").map(keys::attributes).transpose()?.unwrap_or_default(),
    })
}
