//! Who asks, and whether they may: the credential of a request becomes its [`Caller`], policies allow what it asks for, or the
//! request goes no further.
//!
//! This stands before every route, those that do not exist included. Where there is no source of identities everybody who
//! reaches the server is its user. When a key is revoked or a credential's time is over, what its bearers are being answered
//! ends: with a refusal if nothing was sent, with a broken body otherwise.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body::{Frame, SizeHint};

use super::{
    about::{About, circumstances, data_of},
    access_error::AccessError,
    actions::{ADMINISTRATION, Needs, Target, needs},
    administration_error::AdministrationError,
    audit::{self, AuditScope},
    body::shortened,
    codings,
    error::ApiError,
    hosts::Openness,
    quota,
    state::{AppState, unix_seconds},
    stored_error::StoredError,
};
use crate::governance::{
    Actor, DEFAULT_TENANT, Governance, GovernanceError, Principal, Refusal, ShownCertificate,
    audit::AuditError,
    jwt::JwtError,
    policy::{Action, Circumstances, PolicyError, Resource},
};

const SCHEME: &str = "Bearer";
/// How long what is being answered may go on after another process has revoked its key. New requests always look.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// After what a deleted tenant has stored could not be erased.
const ERASING_PAUSE: Duration = Duration::from_secs(10);
/// How often it is asked whether issuers' keys are due to be read.
const ISSUERS_INTERVAL: Duration = Duration::from_secs(1);
/// How much use of quotas a crash can lose.
const USAGE_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked for captured content that is past its time.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// Methods that routes have. The router answers others with 405, so there is nothing to be denied.
const ROUTED: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// Longest credential, in bytes.
const LONGEST_TOKEN: usize = 8 << 10;

/// Whose request it is; nobody's in particular where there are no identities.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) circumstances: Arc<Circumstances>,
}

/// Who is at the other end of a connection, as far as TLS tells.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) certificate: Arc<ShownCertificate>,
}

/// Reads issuers' keys again and again, which may wait for them. Does not end.
pub(super) async fn watch_issuers(governance: Governance) {
    loop {
        tokio::time::sleep(ISSUERS_INTERVAL).await;
        let governance = governance.clone();
        // A panic would be logged where it happens.
        drop(tokio::task::spawn_blocking(move || governance.refresh_issuers(unix_seconds())).await);
    }
}

/// Looks again and again whether somebody beside this process has revoked a key. Does not end.
pub(super) async fn watch_keys(governance: Governance) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let governance = governance.clone();
        // A panic would be logged where it happens.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || governance.refresh()).await {
            tracing::warn!(%error, "cannot see whether keys were revoked");
        }
    }
}

/// Looks again and again whether somebody beside this process has deleted a tenant, and erases what that has stored. Does not
/// end.
pub(super) async fn watch_tenants(state: AppState) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        if let Err(error) = state.erase_leaving().await {
            tracing::warn!(%error, "what a deleted tenant has stored cannot be erased yet");
            tokio::time::sleep(ERASING_PAUSE).await;
        }
    }
}

/// Writes down again and again what is used of quotas. Does not end.
pub(super) async fn write_usage(governance: Governance) {
    loop {
        tokio::time::sleep(USAGE_INTERVAL).await;
        let governance = governance.clone();
        let written = tokio::task::spawn_blocking(move || governance.write_quota_usage()).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "cannot write down what was used of quotas");
        }
    }
}

/// Deletes again and again what the audit has captured and is past its time. Does not end.
pub(super) async fn prune_captured(governance: Governance) {
    loop {
        let pruned = governance.clone();
        match tokio::task::spawn_blocking(move || pruned.prune_captured(unix_seconds())).await {
            Ok(Ok(count @ 1..)) => tracing::info!(count, "captured content that is past its time is deleted"),
            Ok(Err(error)) => tracing::warn!(%error, "captured content that is past its time cannot be deleted yet"),
            Ok(Ok(0)) | Err(_) => {} // a panic was logged where it happened
        }
        tokio::time::sleep(PRUNE_INTERVAL).await;
    }
}

/// Lets a request through once it is known who asks, and that policies allow it.
pub(super) async fn let_in(state: &AppState, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let Admitted { caller, about, infers } = match admit(state, &head).await {
        Ok(admitted) => admitted,
        Err(error) => {
            audit::refused(state, &head, &error);
            return error.into_response();
        }
    };
    let scope = AuditScope::of_client(state, &head, &caller, &about);
    head.extensions.insert(caller.clone());
    head.extensions.insert(about);
    head.extensions.insert(scope.clone());
    let is_administration = is_administration(&head);
    let request = Request::from_parts(head, body);
    let answered = async { told_of_model(state, answer(request, next, &scope).await) };
    let mut response = match &caller.principal {
        Some(principal) if !is_administration => tokio::select! {
            response = answered => response,
            refusal = principal.until_over() => ApiError::from(AccessError::Refused(refusal)).into_response(),
        },
        // Whoever administers is asked again when he changes something, so that he is told how it ended, were it his own key.
        Some(_) | None => answered.await,
    };
    // What is told bit by bit ends with its reader's credential, be it of administration or not.
    if let Some(principal) = &caller.principal {
        response = response.map(|body| until_over(body, Arc::clone(principal)));
    }
    if infers {
        quota::add_headers(state, caller.principal.as_deref(), &mut response);
    }
    response
}

/// Digests of the model, for whoever was let in: somebody else could tell by them what is served here.
fn told_of_model(state: &AppState, mut response: Response) -> Response {
    if let Some(headers) = state.model_headers() {
        response.headers_mut().extend(headers.clone());
    }
    response
}

/// Nothing of an answer leaves before it is written down that it was begun.
async fn answer(request: Request, next: Next, scope: &AuditScope) -> Response {
    let response = next.run(request).await;
    scope.answered(&response);
    match scope.on_disk().await {
        Ok(()) => response,
        Err(error) => error.into_response(),
    }
}

/// A request that may go on.
struct Admitted {
    caller: Caller,
    about: About,
    /// Does it have the model compute?
    infers: bool,
}

async fn admit(state: &AppState, head: &Parts) -> Result<Admitted, ApiError> {
    codings::check(&head.headers)?;
    let governance = state.governance();
    look(governance).await?;
    let principal = match governance.is_configured()? {
        false => {
            state.hosts().check(head, Openness::Everybody)?;
            // Otherwise whoever comes first could make himself the only one.
            if is_administration(head) && ROUTED.contains(&head.method) {
                return Err(AccessError::NoIdentities.into());
            }
            None
        }
        true => {
            // There may be a source of identities since a moment.
            if governance.audit().is_asleep() {
                let audit = governance.audit().clone();
                let woken = tokio::task::spawn_blocking(move || audit.wake()).await;
                woken.unwrap_or(Err(AuditError::Closed))?;
            }
            state.hosts().check(head, Openness::Credentials)?;
            Some(identify(governance, head).await?)
        }
    };
    let route = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let circumstances = circumstances(&head.headers, route.unwrap_or_default())?;
    let tenant = principal.as_ref().map_or(DEFAULT_TENANT, |principal| &principal.asker.tenant);
    let data = data_of(&head.method, route.unwrap_or_default());
    let about = About::of(&head.headers, &circumstances, governance.purposes(), (tenant, data))?;
    let caller = Caller { principal, circumstances: Arc::new(circumstances) };
    // What is not there is nobody's to be denied: it is answered by 404.
    let needs = route.map(|route| needs(&head.method, route));
    let infers = needs.iter().flatten().flatten().any(|(action, _)| *action == Action::Infer);
    if let (Some(needs), Some(_)) = (needs, &caller.principal) {
        caller.check_needs(state, &head.method, needs)?;
    }
    Ok(Admitted { caller, about, infers })
}

/// Who shows what the request shows.
async fn identify(governance: &Governance, head: &Parts) -> Result<Arc<Principal>, ApiError> {
    match head.extensions.get::<Peer>() {
        // Where there is a token as well, that says who asks: a gateway's certificate may carry many people's requests.
        Some(peer) if !head.headers.contains_key(AUTHORIZATION) => {
            let known = governance.roll().authenticate_certificate(&peer.certificate, unix_seconds());
            Ok(known.map_err(AccessError::Refused)?)
        }
        peer => {
            // It could not open another connection, so it does not hold this one open either.
            let good = peer.map(|peer| governance.roll().check_certificate(&peer.certificate, unix_seconds()));
            good.transpose().map_err(AccessError::Refused)?;
            authenticate(governance, bearer_token(&head.headers)?).await
        }
    }
}

/// Is it asked for what governs?
fn is_administration(head: &Parts) -> bool {
    head.extensions.get::<MatchedPath>().is_some_and(|route| route.as_str().starts_with(ADMINISTRATION))
}

/// What has changed is read where it may take its time; otherwise this is a look that waits for nobody.
async fn look(governance: &Governance) -> Result<(), ApiError> {
    if governance.is_current()? {
        return Ok(());
    }
    let governance = governance.clone();
    let read = tokio::task::spawn_blocking(move || governance.refresh()).await;
    Ok(read.unwrap_or(Ok(()))?)
}

/// Whose token it is. Only an issuer's new key takes time to find.
async fn authenticate(governance: &Governance, token: &str) -> Result<Arc<Principal>, ApiError> {
    let roll = governance.roll();
    let refused = match roll.authenticate(token, unix_seconds()) {
        Err(Refusal::Token(error @ (JwtError::UnknownKey | JwtError::NoKeys))) => error,
        known => return Ok(known.map_err(AccessError::Refused)?),
    };
    let token = token.to_owned();
    let anew = tokio::task::spawn_blocking(move || roll.authenticate_anew(&token, unix_seconds())).await;
    Ok(anew.unwrap_or(Err(Refusal::Token(refused))).map_err(AccessError::Refused)?)
}

impl Caller {
    /// What its request says of itself.
    pub(super) fn circumstances(&self) -> &Arc<Circumstances> {
        &self.circumstances
    }

    /// As one who administers, if it is known who that is.
    pub(super) fn actor(&self) -> Option<Actor> {
        let principal = Arc::clone(self.principal.as_ref()?);
        Some(Actor::Caller { principal, circumstances: Arc::clone(&self.circumstances) })
    }

    /// Who shares cached prefixes with it.
    pub(super) fn cache_group(&self, state: &AppState) -> String {
        let principal = self.principal.as_ref();
        principal.map_or_else(|| state.cache_group(), |principal| principal.place.cache_group.clone())
    }

    /// Fails if policies do not allow a request to another route than its own, which it leads to.
    pub(super) fn may_use(&self, state: &AppState, method: &Method, route: &str) -> Result<(), ApiError> {
        if self.principal.is_none() {
            return Ok(());
        }
        let circumstances = Circumstances { route: route.to_owned(), ..self.circumstances.as_ref().clone() };
        let caller = Self { principal: self.principal.clone(), circumstances: circumstances.into() };
        caller.check_needs(state, method, needs(method, route))
    }

    fn check_needs(&self, state: &AppState, method: &Method, needs: Option<Needs>) -> Result<(), ApiError> {
        let needs = match needs {
            Some(needs) => needs,
            None if !ROUTED.contains(method) => Vec::new(),
            None => return Err(self.forbidden("this", "known to no policy".to_owned())),
        };
        for (action, target) in needs {
            let resource = match target {
                Target::Kind(kind) => Resource::Kind(kind),
                // Nothing is decided about a model that is not known yet.
                Target::Model => {
                    let model = state.loaded_model();
                    let model = model.ok_or(ApiError::Unavailable { reason: "the model is loading" })?;
                    Resource::Model { name: model.name(), digest: &model.digest, trust: model.trust() }
                }
            };
            self.check(state.governance(), action, resource)?;
        }
        Ok(())
    }

    /// Fails if policies do not allow it.
    pub(super) fn check(&self, governance: &Governance, action: Action, resource: Resource) -> Result<(), ApiError> {
        let Some(principal) = &self.principal else { return Ok(()) };
        let decision = governance.decide(principal, action, resource, &self.circumstances)?;
        if decision.allowed {
            return Ok(());
        }
        for error in &decision.errors {
            tracing::warn!(error, "a policy cannot be evaluated, so nobody is allowed what it is asked for");
        }
        let mut reason = match decision.policies.as_slice() {
            _ if !decision.errors.is_empty() => "denied as a policy cannot be evaluated".to_owned(),
            [] => "permitted by no policy".to_owned(),
            policies => format!("forbidden by policy {}", policies.join(", ")),
        };
        // Of all tools of a request it is this one.
        if let Resource::Tool(name) = resource {
            reason += &format!(" for the tool `{name}`");
        }
        Err(self.forbidden(action.name(), reason))
    }

    fn forbidden(&self, action: &'static str, reason: String) -> ApiError {
        let (source_name, caller) =
            self.principal.as_ref().map_or(("caller", ""), |principal| (principal.source.name(), &principal.asker.id));
        AccessError::Forbidden { source_name, caller: caller.to_owned(), action, reason }.into()
    }
}

/// The token of the one `Authorization` header (RFC 6750, section 2.1).
fn bearer_token(headers: &HeaderMap) -> Result<&str, AccessError> {
    let malformed = |reason| AccessError::Malformed { reason };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AccessError::NoCredential)?;
    if values.next().is_some() {
        return Err(malformed("there are several"));
    }
    let value = value.to_str().map_err(|_| malformed("it has letters that are not ASCII"))?;
    let (scheme, token) = value.split_once(' ').ok_or(malformed("there is nothing behind a scheme"))?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(malformed("its scheme is another"));
    }
    let is_token = |letter: u8| letter.is_ascii_alphanumeric() || b"-._~+/=".contains(&letter);
    if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(is_token) {
        return Err(malformed("what is behind the scheme is no token"));
    }
    Ok(token)
}

impl From<GovernanceError> for ApiError {
    fn from(error: GovernanceError) -> Self {
        match error {
            GovernanceError::Refused(refusal) => AccessError::Refused(refusal).into(),
            GovernanceError::Audit(error) => error.into(),
            GovernanceError::OutOfReach { .. } | GovernanceError::NotToGive { .. } => {
                AccessError::NotAllowed { reason: error.to_string() }.into()
            }
            GovernanceError::Invalid { field, value, expected } => {
                let field = field_of(field);
                Self::invalid(field, format!("`{field}` = {:?}: expected {expected}.", shortened(value)))
            }
            GovernanceError::Unrecorded(source) => {
                tracing::error!(error = %source, "an act of administration cannot be written down, so it is not done");
                Self::Unavailable { reason: "nothing was changed, as it cannot be written down" }
            }
            GovernanceError::Missing { kind, name } => StoredError::Missing { kind, id: shortened(name) }.into(),
            GovernanceError::Exists { .. } | GovernanceError::Ended { .. } | GovernanceError::Ambiguous { .. } => {
                AdministrationError::Conflict { reason: error.to_string() }.into()
            }
            // Nobody is let in by a failure.
            error @ (GovernanceError::Policy(PolicyError::Question { .. })
            | GovernanceError::File { .. }
            | GovernanceError::Newer { .. }
            | GovernanceError::Identities { .. }
            | GovernanceError::Database(_)) => {
                Self::Internal { message: format!("Identities cannot be looked up: {error}.") }
            }
            GovernanceError::Policy(_) | GovernanceError::Guardrails(_) | GovernanceError::Purposes(_) => {
                AdministrationError::WrongRules { reason: error.to_string() }.into()
            }
        }
    }
}

/// What requests call what governance calls so.
fn field_of(name: &'static str) -> &'static str {
    match name {
        "role" => "roles",
        "attribute" => "attributes",
        "expires" => "expires_in",
        other => other,
    }
}

/// A body that breaks when the credential of its reader is not good any more.
fn until_over(body: Body, principal: Arc<Principal>) -> Body {
    if body.size_hint().exact().is_some() {
        return body; // it is there already
    }
    let over = Box::pin(async move { principal.until_over().await });
    Body::new(UntilOver { body, over })
}

struct UntilOver {
    body: Body,
    over: Pin<Box<dyn Future<Output = Refusal> + Send>>,
}

impl HttpBody for UntilOver {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(refusal) = self.over.as_mut().poll(context) {
            return Poll::Ready(Some(Err(axum::Error::new(AccessError::Refused(refusal)))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(values: &[&[u8]], expected: Expect) {
        let value = |bytes: &&[u8]| (AUTHORIZATION, HeaderValue::from_bytes(bytes).expect("a header"));
        let headers = HeaderMap::from_iter(values.iter().map(value));
        expected.assert_eq(&match bearer_token(&headers) {
            Ok(token) => token.to_owned(),
            Err(error) => error.to_string(),
        });
    }

    #[test]
    fn one_bearer_token_and_nothing_else() {
        check(&[b"Bearer tmk_a_b"], expect!["tmk_a_b"]);
        check(&[b"bearer a.b-c~d+e/f=="], expect!["a.b-c~d+e/f=="]);
        check(&[], expect!["No API key was sent: this server expects the header `Authorization: Bearer KEY`."]);
        check(
            &[b"Bearer a", b"Bearer b"],
            expect!["The header `Authorization` is not `Bearer KEY`: there are several."],
        );
        for value in [&b"Basic YTpi"[..], b"Bearer: a", b"BearerX a"] {
            check(&[value], expect!["The header `Authorization` is not `Bearer KEY`: its scheme is another."]);
        }
        for value in [&b"Bearer"[..], b"tmk_a_b", b""] {
            check(
                &[value],
                expect!["The header `Authorization` is not `Bearer KEY`: there is nothing behind a scheme."],
            );
        }
        for value in [&b"Bearer "[..], b"Bearer  a", b"Bearer a b", b"Bearer a,b", b"Bearer \ta"] {
            check(
                &[value],
                expect!["The header `Authorization` is not `Bearer KEY`: what is behind the scheme is no token."],
            );
        }
        check(
            &[b"Bearer \xc3\xa9"],
            expect!["The header `Authorization` is not `Bearer KEY`: it has letters that are not ASCII."],
        );
    }
}
