//! What every request passes, whatever its route: an id, a count, a guard against panics, its dialect's errors.
//!
//! [`Work`] is the door to the engine and [`TokenizerWork`] the one to the tokenizer: a handler that takes one runs
//! only if a place is free, and is checked before the body is read.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{Extensions, HeaderName, HeaderValue, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::task::{JoinError, JoinHandle};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    about::About,
    access::{self, Caller},
    audit::{AuditScope, Cause, Sent},
    dialect::Dialect,
    error::ApiError,
    guard::{RequestGuard, Terms},
    params::{Scheduling, is_request_id},
    quota::Metering,
    state::{AppState, InFlight, ServedModel},
    tool_access::ToolAccess,
};
use crate::{engine::Precedence, governance::DEFAULT_TENANT, store::Kept};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bodies longer than this are parsed and tokenized away from the threads that serve connections.
const LONG_BODY_BYTES: usize = 32 << 10;

/// Marks a request that gives way to all others and has its own deadline: a line of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Background {
    pub(super) deadline: Instant,
    /// Whose API the batch was asked by, if that is known.
    pub(super) dialect: Option<Dialect>,
}

/// The client's `x-request-id`, or one of our own.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Leave to use the engine for one request.
pub(super) struct Work {
    pub(super) state: AppState,
    pub(super) model: Arc<ServedModel>,
    pub(super) in_flight: InFlight,
    pub(super) request_id: String,
    /// Whose API the request's head shows it is written for, if it shows it.
    pub(super) dialect: Option<Dialect>,
    /// When it must be answered, and what may be said.
    pub(super) terms: Terms,
    /// Whose it is, and does somebody wait for the answer?
    pub(super) share: Share,
    pub(super) caller: Caller,
}

/// What a request may have of the engine.
#[derive(Clone, Debug)]
pub(super) struct Share {
    precedence: Precedence,
    tenant: Arc<str>,
    cache_group: String,
    audit: AuditScope,
    metering: Metering,
}

impl Share {
    /// Where it is written down.
    pub(super) fn audit(&self) -> &AuditScope {
        &self.audit
    }

    /// Prefixes are shared only with those who may know of them: whether one is cached can be told by the time of an answer
    /// (CVE-2025-46570).
    pub(super) fn apply(&self, scheduling: &mut Scheduling) {
        scheduling.precedence = self.precedence;
        scheduling.share = Arc::clone(&self.tenant);
        scheduling.audit = self.audit.clone();
        scheduling.metering = self.metering.clone();
        let salt = scheduling.cache_salt.take().unwrap_or_default();
        scheduling.cache_salt = Some(format!("{}\n{salt}", self.cache_group));
    }
}

impl Work {
    /// Leave for a request that has its place already.
    fn admitted(state: AppState, in_flight: InFlight, parts: &Parts) -> Result<Self, ApiError> {
        let background = parts.extensions.get::<Background>();
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
        let model = state.model()?;
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let request_id = parts.extensions.get::<RequestId>().map_or_else(new_id, |id| id.0.clone());
        let audit = match parts.extensions.get::<AuditScope>() {
            Some(scope) => scope.clone(),
            None => {
                let cause = parts.extensions.get::<Cause>().cloned();
                let about = parts.extensions.get::<About>().cloned().unwrap_or_default();
                let route = parts.uri.path();
                AuditScope::of_server(&state, Sent { id: &request_id, route, caller: &caller, cause, about })
            }
        };
        Ok(Self {
            in_flight,
            request_id,
            terms: Terms {
                deadline: background
                    .map_or_else(|| Instant::now() + state.limits().request_timeout, |line| line.deadline),
                guard: RequestGuard::new(&state, model.name(), route, &audit),
                tools: ToolAccess::of(&state, &caller),
            },
            share: Share {
                precedence: background.map_or(Precedence::Interactive, |_| Precedence::Background),
                tenant: state.tenant().into(),
                cache_group: caller.cache_group(&state),
                audit,
                metering: Metering::new(&state, caller.principal.as_deref(), model.name()),
            },
            model,
            caller,
            dialect: background
                .and_then(|line| line.dialect)
                .or_else(|| Dialect::of_head(parts.uri.path(), &parts.headers)),
            state,
        })
    }

    /// Leave for a request to a route that nobody waits for: it takes no place from those of clients.
    pub(super) fn in_background(
        state: &AppState,
        route: &str,
        deadline: Instant,
        caller: Caller,
        (cause, kept): (Cause, Kept),
    ) -> Result<Self, ApiError> {
        let model = state.model()?;
        let request_id = new_id();
        let about = About::of_kept(kept);
        let sent = Sent { id: &request_id, route, caller: &caller, cause: Some(cause), about };
        let audit = AuditScope::of_server(state, sent);
        let guard = RequestGuard::new(state, model.name(), Some(route), &audit);
        let tools = ToolAccess::of(state, &caller);
        Ok(Self {
            terms: Terms { deadline, guard, tools },
            in_flight: state.admit_line(),
            request_id,
            dialect: None,
            share: Share {
                precedence: Precedence::Background,
                tenant: state.tenant().into(),
                cache_group: caller.cache_group(state),
                audit,
                metering: Metering::new(state, caller.principal.as_deref(), model.name()),
            },
            model,
            caller,
            state: state.clone(),
        })
    }
}

impl FromRequestParts<AppState> for Work {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        state.model()?; // what cannot be answered takes no place
        let in_flight = match parts.extensions.get::<Background>() {
            Some(_) => state.admit_line(),
            None => state.admit(&tenant_of(parts))?,
        };
        Self::admitted(of_caller(state, parts).await?, in_flight, parts)
    }
}

/// Leave to use the tokenizer for one request. It needs no engine: it answers even while the server drains.
pub(super) struct TokenizerWork {
    pub(super) state: AppState,
    pub(super) model: Arc<ServedModel>,
    pub(super) in_flight: InFlight,
}

impl FromRequestParts<AppState> for TokenizerWork {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let model = state.loaded_model().cloned();
        Ok(Self {
            model: model.ok_or(ApiError::Unavailable { reason: "the model is loading" })?,
            in_flight: state.admit(&tenant_of(parts))?,
            state: of_caller(state, parts).await?,
        })
    }
}

/// Leave to use what is stored. It needs no engine, and so no model.
pub(super) struct StorageWork {
    pub(super) state: AppState,
    /// Whose API the request's head shows it is written for, if it shows it.
    pub(super) dialect: Option<Dialect>,
    pub(super) in_flight: InFlight,
    pub(super) caller: Caller,
    /// Where it is written down.
    pub(super) audit: AuditScope,
}

impl FromRequestParts<AppState> for StorageWork {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let dialect = Dialect::of_head(parts.uri.path(), &parts.headers);
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
        let audit = parts.extensions.get::<AuditScope>().cloned().unwrap_or_default();
        let (in_flight, state) = (state.admit_to_storage(&tenant_of(parts))?, of_caller(state, parts).await?);
        Ok(Self { in_flight, dialect, caller, state, audit })
    }
}

impl StorageWork {
    /// Leave to use the engine as well, for a request whose body asks for it.
    pub(super) fn with_engine(self, parts: &Parts) -> Result<Work, ApiError> {
        Work::admitted(self.state, self.in_flight, parts)
    }
}

/// The server as its caller's tenant sees it, for what the request is about. Requests that the server sends to itself have no caller: their state is that of
/// the tenant that they are sent for.
async fn of_caller(state: &AppState, parts: &Parts) -> Result<AppState, ApiError> {
    let state = match parts.extensions.get::<Caller>().and_then(|caller| caller.principal.as_ref()) {
        Some(principal) => state.of_tenant(principal).await?,
        None => state.clone(),
    };
    Ok(parts.extensions.get::<About>().map_or(state.clone(), |about| state.with_about(about.clone())))
}

/// Whose part of the places a request takes.
pub(super) fn tenant_of(parts: &Parts) -> Arc<str> {
    let principal = parts.extensions.get::<Caller>().and_then(|caller| caller.principal.as_ref());
    principal.map_or(DEFAULT_TENANT, |principal| &principal.asker.tenant).into()
}

/// Whose part of what bodies take a request's own takes. One that the server sends to itself has no caller.
pub(super) fn body_tenant(extensions: &Extensions, state: &AppState) -> Arc<str> {
    let principal = extensions.get::<Caller>().and_then(|caller| caller.principal.as_ref());
    principal.map_or(state.tenant(), |principal| &principal.asker.tenant).into()
}

/// Wraps routes in what every request passes.
pub fn layers(router: Router<AppState>, state: AppState) -> Router {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}

/// Routes for requests that the server sends to itself: they are not counted as a client's.
pub(super) fn inner_layers(router: Router<AppState>, state: AppState) -> Router {
    router.layer(CatchPanicLayer::custom(panicked)).with_state(state)
}

/// Runs work that grows with the body, or costs as much as that of a body of so many bytes: in place if it is short, else
/// where it may take its time. Only a few long bodies are worked on at once, as parsing takes many times their size.
pub(super) async fn off_thread<T: Send + 'static, E: From<ApiError> + Send + 'static>(
    state: &AppState,
    body_len: usize,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    off_thread_of(&state.tenant().into(), state, body_len, work).await
}

/// The same for a tenant: the places are shared among these.
pub(super) async fn off_thread_of<T: Send + 'static, E: From<ApiError> + Send + 'static>(
    tenant: &Arc<str>,
    state: &AppState,
    body_len: usize,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    if body_len <= LONG_BODY_BYTES {
        return work();
    }
    let place = state.long_body_place(tenant).await;
    let work = move || {
        let _place = place; // kept until the work is done, even if the client leaves before
        work()
    };
    joined(tokio::task::spawn_blocking(work)).await
}

/// What a task of its own comes to; a panic of it is one of whoever waits.
pub(super) async fn joined<T, E: From<ApiError>>(task: JoinHandle<Result<T, E>>) -> Result<T, E> {
    match task.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(ApiError::Unavailable { reason: "it is shutting down" }.into()),
    }
}

/// Tells the client a request id other than its header's.
pub(super) fn set_request_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_request_id(id));
    let id = given.map_or_else(new_id, str::to_owned);
    // A client's own path would be an unbounded label.
    let route =
        request.extensions().get::<MatchedPath>().map_or("unmatched".to_owned(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let dialect = Dialect::of_head(request.uri().path(), request.headers()).unwrap_or(Dialect::OpenAi);
    let method = request.method().clone();
    // What panics in a handler is caught below this. Whatever does so on the way there costs its own request and no more.
    let let_in = AssertUnwindSafe(access::let_in(&state, request, next)).catch_unwind().await;
    let mut response = dialect.translated(&method, let_in.unwrap_or_else(panicked));
    if !response.headers().contains_key(&REQUEST_ID) {
        set_request_id(&mut response, &id);
    }
    let status = response.status().as_u16();
    state.http_metrics().answered(&route, status);
    tracing::debug!(route, status, request_id = id, elapsed_ms = began.elapsed().as_millis() as u64, "answered");
    response
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The panic hook has logged what and where.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::Internal { message: "The request failed; this is a bug of the server.".to_owned() }.into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use axum::{body::Body, http::StatusCode, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::{
        api::{http_limits::HttpLimits, state::LONG_BODIES_AT_ONCE},
        store::Store,
    };

    /// Where no layer around the handlers catches it, as where what lets requests in panics itself.
    #[tokio::test]
    async fn a_panic_on_the_way_to_a_handler_costs_its_request_alone() {
        async fn panics() -> &'static str {
            panic!("on purpose")
        }
        let state = AppState::new(HttpLimits::default(), Store::in_memory(1 << 20).expect("memory"));
        let router = Router::new().route("/panic", get(panics)).route("/well", get(async || "well"));
        let router = router.layer(middleware::from_fn_with_state(state.clone(), observe)).with_state(state);
        for (path, status) in [("/panic", StatusCode::INTERNAL_SERVER_ERROR), ("/well", StatusCode::OK)] {
            let request = Request::get(path).header("host", "localhost").body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("the router is infallible");
            assert_eq!(response.status(), status, "{path}");
            assert!(response.headers().contains_key(&REQUEST_ID), "{path}");
        }
    }

    #[tokio::test]
    async fn work_on_a_long_body_keeps_its_place_when_the_client_leaves() {
        let state = AppState::new(HttpLimits::default(), Store::in_memory(1 << 20).expect("memory"));
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let (mut go_on, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..LONG_BODIES_AT_ONCE {
            let (sender, waits) = mpsc::channel::<()>();
            let (state, begun) = (state.clone(), begun.clone());
            let work = move || {
                begun.send(()).expect("the test listens");
                assert!(waits.recv().is_err(), "nothing is sent");
                Ok::<(), ApiError>(())
            };
            clients.push(tokio::spawn(async move { off_thread(&state, LONG_BODY_BYTES + 1, work).await }));
            go_on.push(sender);
        }
        for client in clients {
            begins.recv().await.expect("the work begins");
            client.abort();
            assert!(client.await.is_err(), "the client has left");
        }
        let tenant = state.tenant().into();
        assert!(state.long_body_place(&tenant).now_or_never().is_none(), "the work goes on, so there is no place");
        drop(go_on);
        assert!(state.long_body_place(&tenant).await.is_some());
    }
}
