//! Connections: accepting, with TLS or without, limits on what a client may hold, and an orderly end.
//!
//! Invariants: a client that sends too slowly or stops reading loses its connection and nothing else; a connection
//! without a request is closed in time, and a running request never cut for that; once shutdown begins no new work
//! starts, and [`serve`] returns within `drain_timeout`.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use axum::{Router, http::Request, routing::future::RouteFuture};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tower::util::{MapFuture, MapRequest};

use super::{
    access::{Peer, prune_captured, watch_issuers, watch_keys, watch_tenants, write_usage},
    app,
    batches::run as run_batches,
    guarded::{Beginning, Guarded},
    http_limits::HttpLimits,
    idle::OpenRequests,
    responses::run as run_background_responses,
    state::AppState,
    tls::Tls,
};
use crate::governance::ShownCertificate;

const HTTP2_MAX_STREAMS: u32 = 128;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// After an error such as "too many open files", which the next connection would meet too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every running request finished.
    Complete,
    /// Time was over and this many connections were cut.
    TimedOut {
        /// Connections that were still open.
        connections: usize,
    },
}

/// Where clients come in.
pub struct Door {
    /// Where they connect.
    pub listener: TcpListener,
    /// What they speak there, if not plain HTTP.
    pub tls: Option<Tls>,
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }
}

/// Serves until `shutdown` resolves, then lets running requests finish for at most `drain_timeout`.
pub async fn serve(door: impl Into<Door>, state: AppState, shutdown: impl Future<Output = ()>) -> Drained {
    let Door { listener, tls } = door.into();
    if let Some(tls) = &tls {
        state.governance().judge_certificates_by(Box::new(tls.clone()));
    }
    let server = Server::new(state, tls);
    let mut connections = JoinSet::new();
    // Ends with this function however that ends.
    let mut workers = JoinSet::new();
    workers.spawn(work_for_tenants(server.state.clone()));
    // Until the last request has ended: what is being answered must end with its key.
    let mut watchers = JoinSet::new();
    watchers.spawn(watch_keys(server.state.governance().clone()));
    watchers.spawn(write_usage(server.state.governance().clone()));
    watchers.spawn(prune_captured(server.state.governance().clone()));
    watchers.spawn(watch_issuers(server.state.governance().clone()));
    if let Some(tls) = &server.tls {
        watchers.spawn(tls.clone().watch(server.state.governance().clone()));
    }
    watchers.spawn(watch_tenants(server.state.clone()));
    let running = watch::Sender::new(());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = server.accept(&listener) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => drop(connections.spawn(server.connection(stream, permit, running.subscribe()))),
            // A client that left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // Lines and responses under way are asked again by the next process.
    workers.shutdown().await;
    let drained = server.drain(running, connections).await;
    watchers.shutdown().await;
    drained
}

/// Works on what each tenant has left to be done, for as long as it is polled.
async fn work_for_tenants(state: AppState) {
    let Some(mut opened) = state.take_opened() else { return };
    let mut workers = JoinSet::new();
    while let Some(tenancy) = opened.recv().await {
        let state = state.with(tenancy);
        workers.spawn(state.until_closed(run_batches(state.clone())));
        workers.spawn(state.until_closed(run_background_responses(state.clone())));
    }
}

struct Server {
    state: AppState,
    router: Router,
    protocol: auto::Builder<TokioExecutor>,
    tls: Option<Tls>,
    slots: Arc<Semaphore>,
}

/// A connection that has begun to speak.
struct Begun<S> {
    stream: Beginning<S>,
    /// Who is at the other end, if TLS tells.
    peer: Option<Peer>,
}

impl Server {
    fn new(state: AppState, tls: Option<Tls>) -> Self {
        let limits = state.limits();
        Self {
            protocol: protocol(limits),
            tls,
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            router: app(state.clone()),
            state,
        }
    }

    /// The next connection, once there is a place for it.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        // Tokens are small, and each should leave at once. It fails if the client has gone already.
        let _ = stream.set_nodelay(true);
        Ok((stream, permit))
    }

    /// A future that serves one connection to its end, which comes once it is idle or the sender of `running` is
    /// gone.
    fn connection(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        mut running: watch::Receiver<()>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let tls = self.tls.clone();
        let conversation = self.conversation();
        let state = self.state.clone();
        async move {
            match tls {
                None => conversation.hold(Begun::plain(stream, state.limits()), running).await,
                Some(tls) => {
                    let begun = tokio::select! {
                        begun = Begun::with_tls(stream, &tls, state.limits()) => begun,
                        _ = running.changed() => return,
                    };
                    match begun {
                        Ok(begun) => conversation.hold(begun, running).await,
                        Err(error) => {
                            state.http_metrics().handshake_failed();
                            tracing::debug!(%error, "a connection never spoke TLS");
                        }
                    }
                }
            }
            drop(permit);
        }
    }

    fn conversation(&self) -> Conversation {
        let idle_timeout = self.state.limits().header_timeout;
        Conversation { protocol: self.protocol.clone(), router: self.router.clone(), idle_timeout }
    }

    async fn drain(self, running: watch::Sender<()>, mut connections: JoinSet<()>) -> Drained {
        self.state.start_draining();
        drop(running); // which every connection notices
        let finished = async {
            while connections.join_next().await.is_some() {}
            if let Some(model) = self.state.loaded_model() {
                model.engine.drain().await;
            }
        };
        let drained = tokio::time::timeout(self.state.limits().drain_timeout, finished).await;
        while connections.try_join_next().is_some() {}
        let open = connections.len();
        connections.shutdown().await;
        match drained {
            Ok(()) => Drained::Complete,
            Err(_) => Drained::TimedOut { connections: open },
        }
    }
}

impl Begun<Guarded> {
    fn plain(stream: TcpStream, limits: &HttpLimits) -> Self {
        let deadline = Instant::now() + limits.header_timeout;
        Self { stream: Beginning::new(Guarded::new(stream, limits.stall_timeout), deadline), peer: None }
    }
}

impl Begun<TlsStream<Guarded>> {
    /// After the handshake: that and the first request's beginning may take as long as a request's head. Whether the client
    /// reads is watched below TLS, which takes what is written before it is sent.
    async fn with_tls(stream: TcpStream, tls: &Tls, limits: &HttpLimits) -> io::Result<Self> {
        let deadline = Instant::now() + limits.header_timeout;
        let stream = timeout_at(deadline, tls.accept(Guarded::new(stream, limits.stall_timeout))).await??;
        let chain = stream.get_ref().1.peer_certificates();
        let chain = chain.map(|chain| chain.iter().map(|certificate| certificate.to_vec()).collect());
        let peer = match chain.map(ShownCertificate::of_chain).transpose() {
            Ok(certificate) => certificate.map(|certificate| Peer { certificate: Arc::new(certificate) }),
            Err(error) => return Err(io::Error::other(error)),
        };
        Ok(Self { stream: Beginning::new(stream, deadline), peer })
    }
}

/// Requests and answers of one connection.
struct Conversation {
    protocol: auto::Builder<TokioExecutor>,
    router: Router,
    idle_timeout: Duration,
}

impl Conversation {
    async fn hold<S>(self, begun: Begun<S>, mut running: watch::Receiver<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Begun { stream, peer } = begun;
        let requests = OpenRequests::none();
        let counting = requests.clone();
        let counted = move |answer: RouteFuture<Infallible>| counting.open().until_answered(answer);
        let introduced = MapRequest::new(self.router, move |mut request: Request<Incoming>| {
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            request
        });
        let service = TowerToHyperService::new(MapFuture::new(introduced, counted));
        let mut connection = pin!(self.protocol.serve_connection(TokioIo::new(stream), service));
        let over = async {
            tokio::select! {
                () = requests.idle_for(self.idle_timeout) => {}
                _ = running.changed() => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = over => {
                // Requests that run are still answered. HTTP/2 clients are told by GOAWAY and connect anew.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // A client that goes away or misbehaves is no event worth more than this.
        if let Err(error) = ended {
            tracing::debug!(error, "connection ended");
        }
    }
}

fn protocol(limits: &HttpLimits) -> auto::Builder<TokioExecutor> {
    const SMALLEST_BUFFER: usize = 8192; // hyper accepts no less
    let header_bytes = limits.header_bytes.max(SMALLEST_BUFFER);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_MAX_STREAMS)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(limits.stall_timeout);
    builder
}
