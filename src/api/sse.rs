//! Server-sent events: a task produces them, the connection takes them, a short channel lies between.
//!
//! The channel is what keeps clients apart from each other and from the engine. One that stops reading fills
//! it, and after `stall_timeout` the producer is dropped and its generation cancelled; one that disconnects
//! closes it, with the same effect at once. A panic in the producer becomes the stream's last event.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, Sleep, sleep},
};

use super::{dialect::Dialect, error::ApiError, http_limits::HttpLimits};

/// Events that may wait for the connection.
const CHANNEL_EVENTS: usize = 16;
const PING: &[u8] = b": ping\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Why a stream ended before its `[DONE]`.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nobody reads any more.
    Disconnected,
    /// The client is told.
    Failed(ApiError),
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Chunks that end with `[DONE]`, or with an error in the form of a dialect.
    Chunks(Dialect),
    /// Events with a type, which say themselves that they are the last.
    Typed,
    /// The same, but an error has the number of the event before it: a client that goes on behind the last number that it
    /// has seen misses nothing.
    Resumable,
    /// The same in Mistral's conversations, where nothing is numbered.
    Conversation,
}

impl From<Dialect> for Framing {
    fn from(dialect: Dialect) -> Self {
        Self::Chunks(dialect)
    }
}

/// Where a producer puts its events.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    events: mpsc::Sender<Bytes>,
    stall_timeout: Duration,
    /// Number of the next typed event.
    sequence: Arc<AtomicU64>,
}

impl Sender {
    /// Sends `data: {value}`; waits while the client does not read.
    pub(super) async fn send(&self, value: &impl Serialize) -> Result<(), Broken> {
        let mut event = b"data: ".to_vec();
        serde_json::to_writer(&mut event, value).map_err(|error| ApiError::Internal { message: error.to_string() })?;
        event.extend_from_slice(b"\n\n");
        self.send_bytes(event.into()).await
    }

    /// Sends an event of that type with the next `sequence_number`.
    pub(super) async fn send_typed(&self, kind: &str, members: Map<String, Value>) -> Result<(), Broken> {
        self.send_numbered(self.sequence.load(Ordering::Relaxed), kind, members).await
    }

    /// Sends an event of that type with this `sequence_number`; the next one has the next.
    pub(super) async fn send_numbered(
        &self,
        number: u64,
        kind: &str,
        members: Map<String, Value>,
    ) -> Result<(), Broken> {
        self.count_from(number.saturating_add(1));
        let mut numbered = Map::from_iter([("sequence_number".to_owned(), number.into())]);
        numbered.extend(members);
        self.send_event(kind, numbered).await
    }

    /// The number of the last typed event.
    fn last_number(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The next typed event has this number.
    pub(super) fn count_from(&self, number: u64) {
        self.sequence.store(number, Ordering::Relaxed);
    }

    /// Sends an event of that type without a number.
    pub(super) async fn send_event(&self, kind: &str, members: Map<String, Value>) -> Result<(), Broken> {
        let mut event = Map::from_iter([("type".to_owned(), kind.into())]);
        event.extend(members);
        self.send_bytes(format!("event: {kind}\ndata: {}\n\n", Value::Object(event)).into()).await
    }

    async fn send_bytes(&self, event: Bytes) -> Result<(), Broken> {
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Broken::Disconnected),
            Err(TrySendError::Full(event)) => {
                self.events.send_timeout(event, self.stall_timeout).await.map_err(|_| Broken::Disconnected)
            }
        }
    }
}

/// Answers with the events that `produce` sends, then `[DONE]`. The framing decides how a failure is told. `kept` lives as
/// long as the producer: it is what counts the request, unless the producer has that itself.
pub(super) fn respond<F>(
    framing: impl Into<Framing>,
    limits: &HttpLimits,
    kept: impl Send + 'static,
    produce: impl FnOnce(Sender) -> F,
) -> Response
where
    F: Future<Output = Result<(), Broken>> + Send + 'static,
{
    let (events, received) = mpsc::channel(CHANNEL_EVENTS);
    let sender = Sender { events, stall_timeout: limits.stall_timeout, sequence: Arc::default() };
    let producer = produce(sender.clone());
    let framing = framing.into();
    tokio::spawn(async move {
        run(sender, producer, framing).await;
        drop(kept);
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Asks nginx not to collect events before passing them on.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body(received, limits.ping_interval)).into_response()
}

async fn run(sender: Sender, producer: impl Future<Output = Result<(), Broken>>, framing: Framing) {
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(producer).catch_unwind() => outcome,
        () = sender.events.closed() => return,
    };
    let error = match outcome {
        Ok(Ok(())) => {
            if matches!(framing, Framing::Chunks(_)) {
                let _ = sender.send_bytes(Bytes::from_static(DONE)).await;
            }
            return;
        }
        Ok(Err(Broken::Disconnected)) => return,
        Ok(Err(Broken::Failed(error))) => error,
        // The panic hook has logged it.
        Err(_) => ApiError::Internal { message: "The request failed; this is a bug of the server.".to_owned() },
    };
    tracing::warn!(%error, "stream failed");
    let _ = match framing {
        Framing::Chunks(dialect) => sender.send(&dialect.error_event(&error)).await,
        Framing::Typed => sender.send_typed("error", told_of(&error)).await,
        Framing::Resumable => sender.send_numbered(sender.last_number(), "error", told_of(&error)).await,
        Framing::Conversation => {
            let told = json!({ "message": error.to_string(), "code": error.status().as_u16() });
            let Value::Object(members) = told else { return };
            sender.send_event("conversation.response.error", members).await
        }
    };
}

/// An error as the members of an event.
fn told_of(error: &ApiError) -> Map<String, Value> {
    let members =
        [("code", error.code().into()), ("message", error.to_string().into()), ("param", error.param().into())];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The events, and a ping whenever none has come for so long. There is one timer, which is moved only when it fires: at a
/// hundred thousand events a second, setting it anew for each would be a tenth of the work.
fn body(received: mpsc::Receiver<Bytes>, ping_interval: Duration) -> Body {
    let quiet = Quiet { received, ping_interval, since: Instant::now(), timer: Box::pin(sleep(ping_interval)) };
    let next = async |mut quiet: Quiet| Some((Ok::<_, Infallible>(quiet.next().await?), quiet));
    Body::from_stream(stream::unfold(quiet, next))
}

/// Events of which the last came `since`.
struct Quiet {
    received: mpsc::Receiver<Bytes>,
    ping_interval: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Quiet {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                event = self.received.recv() => {
                    self.since = Instant::now();
                    return event;
                }
                () = self.timer.as_mut() => {}
            }
            let due = self.since + self.ping_interval;
            let now = Instant::now();
            if now < due {
                self.timer.as_mut().reset(due);
                continue;
            }
            self.since = now;
            self.timer.as_mut().reset(now + self.ping_interval);
            return Some(Bytes::from_static(PING));
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{api::AppState, store::Store};

    fn state(limits: &HttpLimits) -> AppState {
        AppState::new(limits.clone(), Store::in_memory(1 << 20).expect("memory"))
    }

    async fn text<F>(limits: HttpLimits, produce: impl FnOnce(Sender) -> F) -> String
    where
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let in_flight = state(&limits).admit(&"tenant".into()).expect("nothing is running");
        let body = respond(Dialect::OpenAi, &limits, in_flight, produce).into_body();
        let bytes = body.collect().await.expect("the body is infallible").to_bytes();
        String::from_utf8(bytes.into()).expect("UTF-8")
    }

    #[tokio::test]
    async fn a_stream_ends_with_done() {
        let text = text(HttpLimits::default(), async |sender| sender.send(&1).await).await;
        assert_eq!(text, "data: 1\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn a_failure_is_the_last_event() {
        let text = text(HttpLimits::default(), async |sender: Sender| {
            sender.send(&1).await?;
            Err(ApiError::DeadlineExceeded.into())
        });
        let expected = r#"data: {"error":{"message":"The request was not finished in time.","type":"timeout_error","param":null,"code":"deadline_exceeded"}}"#;
        assert_eq!(text.await, format!("data: 1\n\n{expected}\n\n"));
    }

    #[tokio::test]
    async fn typed_events_are_numbered_and_end_without_done() {
        let limits = HttpLimits::default();
        let in_flight = state(&limits).admit(&"tenant".into()).expect("nothing is running");
        let body = respond(Framing::Typed, &limits, in_flight, async |sender: Sender| {
            sender.send_typed("a", Map::new()).await?;
            Err(ApiError::DeadlineExceeded.into())
        });
        let bytes = body.into_body().collect().await.expect("the body is infallible").to_bytes();
        let expected = "event: a\ndata: {\"type\":\"a\",\"sequence_number\":0}\n\n\
                        event: error\ndata: {\"type\":\"error\",\"sequence_number\":1,\"code\":\"deadline_exceeded\",\
                        \"message\":\"The request was not finished in time.\",\"param\":null}\n\n";
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_stays_inside_its_stream() {
        let text = text(HttpLimits::default(), async |_| panic!("on purpose")).await;
        assert!(text.starts_with("data: {\"error\":{"), "{text}");
        assert!(text.contains("server_error"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_pings() {
        let limits = HttpLimits { ping_interval: Duration::from_secs(1), ..HttpLimits::default() };
        let text = text(limits, async |sender: Sender| {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            sender.send(&1).await
        });
        assert_eq!(text.await, ": ping\n\n: ping\n\ndata: 1\n\ndata: [DONE]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_loses_its_stream() {
        let limits = HttpLimits::default();
        let state = state(&limits);
        let in_flight = state.admit(&"tenant".into()).expect("nothing is running");
        let response = respond(Dialect::OpenAi, &limits, in_flight, async |sender: Sender| {
            loop {
                sender.send(&"more").await?;
            }
        });
        assert_eq!(state.in_flight(), 1);
        tokio::time::sleep(limits.stall_timeout * 2).await; // the clock is paused: this waits for the producer only
        assert_eq!(state.in_flight(), 0);
        drop(response);
    }
}
