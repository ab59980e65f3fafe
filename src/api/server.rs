//! Connections: accepting, limits on what a client may hold, and an orderly end.
//!
//! Invariants: a client that sends too slowly or stops reading loses its connection and nothing else; a connection
//! without a request is closed in time, and a running request never cut for that; once shutdown begins no new work
//! starts, and [`serve`] returns within `drain_timeout`.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, routing::future::RouteFuture};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Sleep, sleep},
};
use tower::util::MapFuture;

use super::{
    access::{watch_issuers, watch_keys, write_usage},
    app,
    batches::run as run_batches,
    idle::OpenRequests,
    responses::run as run_background_responses,
    state::{AppState, HttpLimits},
};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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

/// Serves until `shutdown` resolves, then lets running requests finish for at most `drain_timeout`.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()>) -> Drained {
    let server = Server::new(state);
    let mut connections = JoinSet::new();
    // Ends with this function however that ends.
    let mut workers = JoinSet::new();
    workers.spawn(work_for_tenants(server.state.clone()));
    // Until the last request has ended: what is being answered must end with its key.
    let mut watchers = JoinSet::new();
    watchers.spawn(watch_keys(server.state.governance().clone()));
    watchers.spawn(write_usage(server.state.governance().clone()));
    watchers.spawn(watch_issuers(server.state.governance().clone()));
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
        workers.spawn(run_batches(state.clone()));
        workers.spawn(run_background_responses(state));
    }
}

struct Server {
    state: AppState,
    router: Router,
    protocol: auto::Builder<TokioExecutor>,
    slots: Arc<Semaphore>,
}

impl Server {
    fn new(state: AppState) -> Self {
        let limits = state.limits();
        Self {
            protocol: protocol(limits),
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
        let protocol = self.protocol.clone();
        let idle_timeout = self.state.limits().header_timeout;
        let stream = Guarded::new(stream, self.state.limits());
        let requests = OpenRequests::none();
        let counting = requests.clone();
        let counted = move |answer: RouteFuture<Infallible>| counting.open().until_answered(answer);
        let service = TowerToHyperService::new(MapFuture::new(self.router.clone(), counted));
        async move {
            let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
            let over = async {
                tokio::select! {
                    () = requests.idle_for(idle_timeout) => {}
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
            drop(permit);
        }
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

/// A connection that fails if its client takes too long to begin, or to read what is sent.
struct Guarded {
    stream: TcpStream,
    stall_timeout: Duration,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs until it is known which protocol the client speaks. Hyper's own timeouts begin only then.
    beginning: Option<Pin<Box<Sleep>>>,
    /// Bytes of the HTTP/2 preface seen so far.
    preface_len: usize,
}

impl Guarded {
    fn new(stream: TcpStream, limits: &HttpLimits) -> Self {
        Self {
            stream,
            stall_timeout: limits.stall_timeout,
            stalled: None,
            beginning: Some(Box::pin(sleep(limits.header_timeout))),
            preface_len: 0,
        }
    }

    /// Stops the first timer once the bytes can only be HTTP/1, or are a complete preface.
    fn note_beginning(&mut self, read: &[u8]) {
        let rest = &HTTP2_PREFACE[self.preface_len..];
        let len = read.len().min(rest.len());
        self.preface_len += len;
        if read[..len] != rest[..len] || self.preface_len == HTTP2_PREFACE.len() {
            self.beginning = None;
        }
    }

    /// Fails once a write has waited too long.
    fn watch_write<T>(&mut self, context: &mut Context, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stall_timeout = self.stall_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_timeout)));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(timer) = self.beginning.as_mut() else { return polled };
        match polled {
            Poll::Pending if timer.as_mut().poll(context).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends no request")))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.note_beginning(&buffer.filled()[before..]);
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch_write(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        buffers: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.watch_write(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
