//! What each route does, in the terms of policies. A route that is not here is allowed to nobody; a test asks every route.

use axum::http::Method;

use crate::governance::policy::Action;

/// With what it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The served model.
    Model,
    /// A kind of thing.
    Kind(&'static str),
}

/// All of these must be allowed.
pub(super) type Needs = Vec<(Action, Target)>;

const SERVER: Target = Target::Kind("server");

/// Routes that have the model compute and store nothing.
const INFERENCE: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/fim/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/chat/moderations",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
];

/// Routes that are posted to and have the model compute, beside what they store.
const STORING_INFERENCE: &[&str] = &[
    "/v1/responses",
    "/v1/conversations",
    "/v1/conversations/{id}",
    "/v1/conversations/{id}/restart",
    "/v1/batches",
    "/v1/batch/jobs",
];

/// Where what is stored is, and its kind.
const STORED: &[(&str, &str)] = &[
    ("/v1/files", "files"),
    ("/v1/batches", "batches"),
    ("/v1/batch", "batches"),
    ("/v1/responses", "responses"),
    ("/v1/conversations", "conversations"),
    ("/v1/agents", "agents"),
];

/// What routes begin with that govern.
pub(super) const ADMINISTRATION: &str = "/admin/";

/// Where what governs is, and its kind.
const ADMINISTERED: &[(&str, &str)] = &[
    ("/admin/v1/keys", "keys"),
    ("/admin/v1/tenants", "tenants"),
    ("/admin/v1/roles", "roles"),
    ("/admin/v1/policies", "policies"),
    ("/admin/v1/guardrails", "guardrails"),
    ("/admin/v1/quotas", "quotas"),
    ("/admin/v1/usage", "usage"),
    ("/admin/v1/audit", "audit"),
    ("/admin/v1/subjects", "subjects"),
    ("/admin/v1/status", "status"),
];

/// Routes that are posted to and change nothing.
const ASKING: &[&str] = &["/admin/v1/policies/explain"];

const STATUS: &[&str] = &["/health", "/health/live", "/health/ready", "/load", "/version", "/metrics", "/openapi.json"];

/// What a method of a route, as the router has it, needs; nothing is known of other routes.
pub(super) fn needs(method: &Method, route: &str) -> Option<Needs> {
    let reads = *method == Method::GET || *method == Method::HEAD;
    if INFERENCE.contains(&route) {
        return (*method == Method::POST).then(|| vec![(Action::Infer, Target::Model)]);
    }
    if route == "/v1/agents/completions" {
        let needs = vec![(Action::Infer, Target::Model), (Action::ReadStored, Target::Kind("agents"))];
        return (*method == Method::POST).then_some(needs);
    }
    match route {
        "/v1/responses/input_tokens" => {
            let needs = vec![(Action::Tokenize, Target::Model), (Action::ReadStored, Target::Kind("responses"))];
            return (*method == Method::POST).then_some(needs);
        }
        "/tokenize" | "/detokenize" => {
            return (*method == Method::POST).then(|| vec![(Action::Tokenize, Target::Model)]);
        }
        "/v1/models" | "/v1/models/{*model}" if reads => return Some(vec![(Action::ReadModel, Target::Model)]),
        "/v1/models/{*model}" => return Some(vec![(Action::ChangeAdministration, Target::Kind("models"))]),
        _ if STATUS.contains(&route) => return reads.then(|| vec![(Action::ReadStatus, SERVER)]),
        _ => {}
    }
    if route.starts_with(ADMINISTRATION) {
        return administration(method, route);
    }
    let kind = kind_of(STORED, route)?;
    let mut needs = match *method {
        Method::GET | Method::HEAD => vec![(Action::ReadStored, kind)],
        Method::DELETE => vec![(Action::DeleteStored, kind)],
        Method::POST | Method::PATCH | Method::PUT => vec![(Action::WriteStored, kind)],
        _ => return None,
    };
    if *method == Method::POST && STORING_INFERENCE.contains(&route) {
        // They go on from what is stored, or read their lines from a file.
        let read = if kind == Target::Kind("batches") { Target::Kind("files") } else { kind };
        needs.extend([(Action::Infer, Target::Model), (Action::ReadStored, read)]);
    }
    Some(needs)
}

fn administration(method: &Method, route: &str) -> Option<Needs> {
    let kind = kind_of(ADMINISTERED, route)?;
    let action = match *method {
        Method::GET | Method::HEAD => Action::ReadAdministration,
        Method::POST if ASKING.contains(&route) => Action::ReadAdministration,
        Method::POST | Method::PATCH | Method::PUT | Method::DELETE => Action::ChangeAdministration,
        _ => return None,
    };
    Some(vec![(action, kind)])
}

/// The kind of what is at a route.
fn kind_of(places: &'static [(&str, &str)], route: &str) -> Option<Target> {
    let is_within =
        |place: &str| route.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    places.iter().find(|(place, _)| is_within(place)).map(|(_, kind)| Target::Kind(kind))
}
