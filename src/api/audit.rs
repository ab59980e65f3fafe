//! How a request becomes records of the audit log; the only place that knows.
//!
//! Main types: [`AuditScope`], which goes along with a request and knows whose it is, and [`Recording`], one inference of it. A
//! scope is made before anybody knows whether the model will be asked. Invariants: the record that an inference begins is on
//! disk before a byte of its answer leaves, and every recording that begins ends, however its request does. Texts never come
//! here, only tokens, and these leave as keyed hashes unless they are to be kept.

mod fields;
mod recording;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::MatchedPath,
    http::{Method, request::Parts},
    response::Response,
};
use serde::Serialize;
use serde_json::json;

pub(super) use self::{
    fields::Parameters,
    recording::{ChoiceRecord, Inference},
};
use super::{
    about::{About, Storing},
    access::Caller,
    access_error::AccessError,
    error::ApiError,
    guardrail_error::GuardrailError,
    request::RequestId,
    state::AppState,
};
use crate::governance::{
    Principal,
    audit::{Audit, AuditError, Begun, Capture, Refused},
    guardrails::{Action, Finding},
    policy::Circumstances,
};

/// What goes along with a request. The default is that of one whose answer is not written down. Cheap to clone.
#[derive(Clone, Default)]
pub struct AuditScope {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    audit: Audit,
    request: String,
    tenant: Tenant,
    principal: Option<Arc<Principal>>,
    circumstances: Arc<Circumstances>,
    route: String,
    cause: Option<Cause>,
    /// How long what is captured is kept, in seconds, if not for as long as the log.
    keep_s: Option<u64>,
    /// Whom a line of a batch says that it is about.
    line_subject: Option<String>,
    rules: Rules,
    capture: Capture,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: Vec<Begun>,
    /// Whom it is about, as far as it is known.
    subject: Option<String>,
    /// Since the last record that told of them.
    findings: BTreeMap<FoundBy, u64>,
}

/// Whose data it is.
struct Tenant {
    name: String,
    /// Its hashes are made by this.
    id: String,
}

/// Digests of what decides.
#[derive(Serialize)]
struct Rules {
    version: &'static str,
    configuration: String,
    policies: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guardrails: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purposes: Option<String>,
}

/// What a guardrail has found, without what it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct FoundBy {
    guardrail: String,
    detector: String,
    action: &'static str,
    stage: &'static str,
}

/// What an inference that no request waits for is part of.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// A line of a batch.
    Batch { id: String, line: String },
    /// A response in the background.
    Response { id: String },
}

/// A request that the server sends to itself.
pub(super) struct Sent<'a> {
    pub(super) id: &'a str,
    pub(super) route: &'a str,
    pub(super) caller: &'a Caller,
    pub(super) cause: Option<Cause>,
    /// As what it is part of was.
    pub(super) about: About,
}

impl AuditScope {
    /// That of a client's request, whose head has its id and its route.
    pub(super) fn of_client(state: &AppState, head: &Parts, caller: &Caller, about: &About) -> Self {
        let id = head.extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
        let tenant = match &caller.principal {
            Some(principal) => Tenant { name: principal.asker.tenant.clone(), id: principal.place.id.clone() },
            None => Tenant::of(state),
        };
        let (principal, circumstances) = (caller.principal.clone(), Arc::clone(caller.circumstances()));
        let (route, about) = (route(head), about.clone());
        Self::new(state, Whose { id, tenant, principal, circumstances, route, cause: None, about })
    }

    /// That of a request that the server sends to itself, for a caller who has left it, or else in its tenant's name.
    pub(super) fn of_server(state: &AppState, sent: Sent<'_>) -> Self {
        let Sent { id, route, caller, cause, about } = sent;
        let (principal, circumstances) = (caller.principal.clone(), Arc::clone(caller.circumstances()));
        let (id, route) = (id.to_owned(), route.to_owned());
        Self::new(state, Whose { id, tenant: Tenant::of(state), principal, circumstances, route, cause, about })
    }

    fn new(state: &AppState, whose: Whose) -> Self {
        let governance = state.governance();
        let audit = governance.audit();
        if !audit.is_wanted() {
            return Self::default();
        }
        let rules = Rules {
            version: env!("CARGO_PKG_VERSION"),
            configuration: audit.configuration().to_owned(),
            policies: governance.policies().digest(),
            guardrails: governance.guardrails().digest(),
            purposes: governance.purposes().digest(),
        };
        let Whose { id, tenant, principal, circumstances, route, cause, about } = whose;
        let About { kept, storing, line_subject } = about;
        let capture = match storing {
            Storing::Allowed if governance.purposes().captures(&tenant.name, circumstances.purpose.as_deref()) => {
                Capture::Content
            }
            Storing::Allowed => audit.capture(),
            // Where nothing is stored nothing is captured.
            Storing::Forbidden { .. } => Capture::Hashes,
        };
        let shared = Shared {
            audit: audit.clone(),
            request: id,
            capture,
            state: Mutex::new(State { subject: kept.subject, ..State::default() }),
            keep_s: kept.keep_s,
            line_subject,
            tenant,
            principal,
            circumstances,
            route,
            cause,
            rules,
        };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Notes whom the request is about, if that is not known yet.
    pub(super) fn about(&self, subject: Option<String>) {
        if let Some(shared) = &self.shared {
            let mut state = shared.state();
            state.subject = state.subject.take().or(subject);
        }
    }

    /// Is there somebody who would like to know whom it is about?
    pub(super) fn lacks_subject(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.state().subject.is_none())
    }

    /// Notes what guardrails found; the next record tells it.
    pub(super) fn found(&self, findings: &[Finding], stage: &'static str) {
        let Some(shared) = self.shared.as_ref().filter(|_| !findings.is_empty()) else { return };
        let mut state = shared.state();
        for finding in findings {
            let by = FoundBy {
                guardrail: finding.guardrail.to_string(),
                detector: finding.detector.to_string(),
                action: action_name(finding.action),
                stage,
            };
            *state.findings.entry(by).or_default() += 1;
        }
    }

    /// Writes down that a request has left work to be done later, whose records will name it as their cause.
    pub(super) fn queued(&self, action: &'static str, target: &str) -> Result<(), ApiError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let fields = json!({
            "request": shared.request,
            "tenant": shared.tenant.name,
            "principal": shared.principal.as_deref().map(fields::Who::of),
            "action": action,
            "target": target,
            "purpose": shared.circumstances.purpose,
            "consent": shared.circumstances.consent,
        });
        let begun = shared.audit.queued(&fields)?;
        shared.state().begun.extend(begun);
        Ok(())
    }

    /// Waits until the beginnings of all inferences so far are on disk. What is answered is not to leave before.
    pub(super) async fn on_disk(&self) -> Result<(), ApiError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let begun = shared.state().begun.clone();
        for begun in begun {
            begun.on_disk().await?;
        }
        Ok(())
    }

    /// Writes down that guardrails have blocked what was asked, or that it was more than a quota allows, if that is so.
    pub(super) fn answered(&self, response: &Response) {
        let Some(shared) = &self.shared else { return };
        let code = match response.extensions().get::<ApiError>() {
            Some(ApiError::Guardrail(error @ GuardrailError::Blocked { .. })) => error.code(),
            Some(ApiError::Quota(error)) => error.code(),
            Some(_) | None => return,
        };
        let fields = json!({
            "request": shared.request,
            "route": shared.route,
            "tenant": shared.tenant.name,
            "principal": shared.principal.as_deref().map(fields::Who::of),
            "status": response.status().as_u16(),
            "code": code,
            "findings": fields::findings(&mut shared.state().findings),
        });
        shared.audit.refuse(Refused::Known, &fields);
    }
}

/// Writes down that somebody was not let in.
pub(super) fn refused(state: &AppState, head: &Parts, error: &ApiError) {
    let audit = state.governance().audit();
    let ApiError::Access(access) = error else { return };
    if !audit.is_wanted() || !matches!(access.status().as_u16(), 401 | 403) {
        return;
    }
    let (who, principal) = match access {
        AccessError::Forbidden { source_name, caller, .. } => {
            (Refused::Known, Some(json!({ "source": source_name, "id": caller })))
        }
        _ => (Refused::Stranger, None),
    };
    let mut fields = json!({
        "request": head.extensions.get::<RequestId>().map(|id| id.0.as_str()),
        "method": method(&head.method),
        "route": route(head),
        "status": access.status().as_u16(),
        "code": access.code(),
    });
    if let AccessError::Forbidden { action, .. } = access {
        fields["action"] = (*action).into();
    }
    if let Some(principal) = principal {
        fields["principal"] = principal;
    }
    audit.refuse(who, &fields);
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tenant {
    /// That of a state which is a tenant's own.
    fn of(state: &AppState) -> Self {
        let name = state.tenant().to_owned();
        let place = state.governance().place(&name).ok().flatten();
        Self { id: place.map_or_else(|| name.clone(), |place| place.id), name }
    }
}

struct Whose {
    id: String,
    tenant: Tenant,
    principal: Option<Arc<Principal>>,
    circumstances: Arc<Circumstances>,
    route: String,
    cause: Option<Cause>,
    about: About,
}

impl fmt::Debug for AuditScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.shared.as_ref().map(|shared| &shared.request);
        formatter.debug_struct("AuditScope").field("request", &request).finish()
    }
}

/// Scopes are equal if they are one.
impl PartialEq for AuditScope {
    fn eq(&self, other: &Self) -> bool {
        match (&self.shared, &other.shared) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Eq for AuditScope {}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Full { .. } => Self::Busy { reason: error.to_string() },
            // The writer has told why.
            _ => {
                Self::Unavailable { reason: "it cannot be written down what is done: the audit log cannot be written" }
            }
        }
    }
}

/// A client's own path could say anything.
fn route(head: &Parts) -> String {
    head.extensions.get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned()
}

/// A method can be any word.
fn method(method: &Method) -> &str {
    let name = method.as_str();
    if ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&name) { name } else { "other" }
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Flag => "flag",
        Action::Redact => "redact",
        Action::Block => "block",
    }
}
