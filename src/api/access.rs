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
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body::{Frame, SizeHint};

use super::{
    access_error::AccessError,
    actions::{Target, needs},
    error::ApiError,
    quota,
    state::{AppState, unix_seconds},
};
use crate::governance::{
    Governance, GovernanceError, Principal, Refusal,
    jwt::JwtError,
    policy::{Action, Circumstances, Resource},
};

const SCHEME: &str = "Bearer";
/// How long what is being answered may go on after another process has revoked its key. New requests always look.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is asked whether issuers' keys are due to be read.
const ISSUERS_INTERVAL: Duration = Duration::from_secs(1);
/// How much use of quotas a crash can lose.
const USAGE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest value of a header in which a request says something of itself, in bytes.
const LONGEST_CIRCUMSTANCE: usize = 256;
/// Longest credential, in bytes.
const LONGEST_TOKEN: usize = 8 << 10;

/// Whose request it is; nobody's in particular where there are no identities.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) principal: Option<Arc<Principal>>,
    circumstances: Arc<Circumstances>,
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
        if let Err(error) = governance.refresh() {
            tracing::warn!(%error, "cannot see whether keys were revoked");
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

/// Lets a request through once it is known who asks, and that policies allow it.
pub(super) async fn let_in(state: &AppState, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let caller = match admit(state, &head).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    head.extensions.insert(caller.clone());
    let route = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let needs = route.and_then(|route| needs(&head.method, route)).unwrap_or_default();
    let infers = needs.iter().any(|(action, _)| *action == Action::Infer);
    let request = Request::from_parts(head, body);
    let mut response = match caller.principal.clone() {
        None => next.run(request).await,
        Some(principal) => tokio::select! {
            response = next.run(request) => response.map(|body| until_over(body, principal)),
            refusal = principal.until_over() => ApiError::from(AccessError::Refused(refusal)).into_response(),
        },
    };
    if infers {
        quota::add_headers(state, caller.principal.as_deref(), &mut response);
    }
    response
}

async fn admit(state: &AppState, head: &Parts) -> Result<Caller, ApiError> {
    let governance = state.governance();
    if !governance.is_configured()? {
        return Ok(Caller::default());
    }
    let principal = authenticate(governance, bearer_token(&head.headers)?).await?;
    let route = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let circumstances = circumstances(&head.headers, route.unwrap_or_default())?;
    let caller = Caller { principal: Some(principal), circumstances: Arc::new(circumstances) };
    // What is not there is nobody's to be denied: it is answered by 404.
    if let Some(route) = route {
        let needs = needs(&head.method, route);
        for (action, target) in needs.ok_or_else(|| caller.forbidden("this", "known to no policy".to_owned()))? {
            let resource = match target {
                Target::Kind(kind) => Resource::Kind(kind),
                // Nothing is decided about a model that is not known yet.
                Target::Model => {
                    let model = state.loaded_model();
                    let model = model.ok_or(ApiError::Unavailable { reason: "the model is loading" })?;
                    Resource::Model { name: model.name(), digest: &model.digest }
                }
            };
            caller.check(governance, action, resource)?;
        }
    }
    Ok(caller)
}

/// Whose token it is. Only an issuer's new key takes time to find.
async fn authenticate(governance: &Governance, token: &str) -> Result<Arc<Principal>, ApiError> {
    let refused = match governance.authenticate(token, unix_seconds()) {
        Err(GovernanceError::Refused(Refusal::Token(error @ (JwtError::UnknownKey | JwtError::NoKeys)))) => error,
        known => return Ok(known?),
    };
    let (governance, token) = (governance.clone(), token.to_owned());
    let anew = tokio::task::spawn_blocking(move || governance.authenticate_anew(&token, unix_seconds())).await;
    Ok(anew.unwrap_or(Err(Refusal::Token(refused).into()))?)
}

impl Caller {
    /// Fails if policies do not allow it.
    fn check(&self, governance: &Governance, action: Action, resource: Resource) -> Result<(), ApiError> {
        let Some(principal) = &self.principal else { return Ok(()) };
        let decision = governance.decide(principal, action, resource, &self.circumstances)?;
        if decision.allowed {
            return Ok(());
        }
        for error in &decision.errors {
            tracing::warn!(error, "a policy cannot be evaluated, so nobody is allowed what it is asked for");
        }
        let reason = match decision.policies.as_slice() {
            _ if !decision.errors.is_empty() => "denied as a policy cannot be evaluated".to_owned(),
            [] => "permitted by no policy".to_owned(),
            policies => format!("forbidden by policy {}", policies.join(", ")),
        };
        Err(self.forbidden(action.name(), reason))
    }

    fn forbidden(&self, action: &'static str, reason: String) -> ApiError {
        let (source_name, caller) =
            self.principal.as_ref().map_or(("caller", ""), |principal| (principal.source.name(), &principal.asker.id));
        AccessError::Forbidden { source_name, caller: caller.to_owned(), action, reason }.into()
    }
}

/// What the request says of itself.
fn circumstances(headers: &HeaderMap, route: &str) -> Result<Circumstances, AccessError> {
    let value = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let is_printable = |text: &&str| {
            (1..=LONGEST_CIRCUMSTANCE).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let text = value.to_str().ok().filter(is_printable).filter(|_| values.next().is_none());
        text.map(|text| Some(text.to_owned())).ok_or(AccessError::Circumstance { name, limit: LONGEST_CIRCUMSTANCE })
    };
    Ok(Circumstances {
        route: route.to_owned(),
        purpose: value("x-tramontane-purpose")?,
        data_classification: value("x-tramontane-data-classification")?,
        consent: value("x-tramontane-consent")?,
    })
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
            // Nobody is let in by a failure.
            error => Self::Internal { message: format!("Identities cannot be looked up: {error}.") },
        }
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
