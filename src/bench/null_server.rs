//! A server without a model: it answers the two APIs with words at a pace that is known. Main type:
//! [`NullServer`]. What a client measures of it beyond that pace is the client's own doing.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::client::Endpoint;

/// The name of its only model.
pub const MODEL: &str = "null";
const DEFAULT_TOKENS: u32 = 16;

/// How fast each answer comes, in steps of a millisecond: that of the runtime's timer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// From the request to the first token.
    pub first: Duration,
    /// From one token to the next.
    pub next: Duration,
}

/// A listening socket with its routes.
#[derive(Debug)]
pub struct NullServer {
    listener: TcpListener,
    pace: Pace,
}

impl NullServer {
    /// Listens; port 0 is any free one.
    pub async fn bind(address: SocketAddr, pace: Pace) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, pace })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    pub async fn serve(self) -> std::io::Result<()> {
        let routes = Router::new()
            .route(
                "/v1/models",
                get(|| async { Json(json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]})) }),
            )
            .route(Endpoint::Completions.path(), post(complete))
            .route(Endpoint::Chat.path(), post(complete))
            .with_state(self.pace);
        let listener = self.listener.tap_io(|stream| {
            // A token that waits for the next one to fill a packet would be late; if it cannot be set, it is late.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, routes).await
    }
}

#[derive(Deserialize)]
struct Asked {
    max_tokens: Option<u32>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

async fn complete(State(pace): State<Pace>, Json(asked): Json<Asked>) -> Response {
    let started = Instant::now();
    let tokens = asked.max_tokens.unwrap_or(DEFAULT_TOKENS);
    let endpoint = if asked.messages.is_some() { Endpoint::Chat } else { Endpoint::Completions };
    let text = asked.prompt.or_else(|| asked.messages?.pop().map(|message| message.content)).unwrap_or_default();
    let words = text.split_whitespace().count();
    let piece = Bytes::from(event(&choice(endpoint, " word", Value::Null)));
    let end = Bytes::from(format!(
        "{}{}data: [DONE]\n\n",
        event(&choice(endpoint, "", json!("length"))),
        event(&usage(words, tokens))
    ));
    let events = stream::unfold(0, move |number| {
        let (piece, end) = (piece.clone(), end.clone());
        async move {
            if number > tokens {
                return None;
            }
            if number == tokens {
                return Some((Ok::<_, Infallible>(end), number + 1));
            }
            tokio::time::sleep_until((started + pace.first + pace.next * number).into()).await;
            Some((Ok(piece), number + 1))
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn choice(endpoint: Endpoint, text: &str, finish_reason: Value) -> Value {
    let choice = match endpoint {
        Endpoint::Chat => json!({"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}),
        Endpoint::Completions => json!({"index": 0, "text": text, "finish_reason": finish_reason}),
    };
    json!({"id": "null", "object": "chunk", "model": MODEL, "choices": [choice]})
}

fn usage(input: usize, output: u32) -> Value {
    let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output as usize});
    json!({"id": "null", "object": "chunk", "model": MODEL, "choices": [], "usage": usage})
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
