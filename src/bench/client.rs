//! The client's side of one request. Main type: [`Target`], a server with what to ask it for.

use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    plan::Planned,
    sample::{Failure, FailureKind, Sample, Tokens},
    sse::EventLines,
};

const MOST_BYTES_OF_AN_ERROR: usize = 64 << 10;
const MOST_BYTES_OF_A_LIST: usize = 4 << 20;
const SHOWN_BYTES_OF_AN_ERROR: usize = 300;
/// Servers close idle connections after some seconds; one that is about to be closed is not used again.
const IDLE: Duration = Duration::from_secs(4);

/// Which of the two APIs the load uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`: the prompt as it is.
    Completions,
    /// `/v1/chat/completions`: the prompt as a user's message.
    Chat,
}

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// `http://host:port` or `https://...`, with or without `/v1`.
    pub url: String,
    /// Which API.
    pub endpoint: Endpoint,
    /// The model to ask for.
    pub model: String,
    /// Sent as `Authorization: Bearer ...`.
    pub api_key: Option<String>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
    /// Further fields of every request.
    pub extra: Map<String, Value>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Target {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    config: TargetConfig,
    base: String,
}

/// What keeps a load from being made at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one.
    #[error("{url:?} is no URL of a server, such as http://127.0.0.1:8000")]
    Url {
        /// As given.
        url: String,
    },
    /// The key cannot be sent.
    #[error("the API key has characters that no HTTP header may have")]
    ApiKey,
    /// TLS needs the system's root certificates.
    #[error("cannot read the system's root certificates: {0}")]
    Certificates(std::io::Error),
    /// It does not answer.
    #[error("no answer from {url}: {problem}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// The chain of causes.
        problem: String,
    },
    /// It answers something else.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// What was asked.
        url: String,
        /// Its status.
        status: StatusCode,
        /// The beginning of its answer.
        body: String,
    },
    /// It has no list of models.
    #[error("{url} did not answer with a list of models; name one with --model")]
    NoModels {
        /// What was asked.
        url: String,
    },
}

impl Target {
    /// Opens no connection yet.
    pub fn new(config: TargetConfig) -> Result<Self, ClientError> {
        let bad_url = || ClientError::Url { url: config.url.clone() };
        let base = config.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let uri: Uri = base.parse().map_err(|_| bad_url())?;
        if uri.authority().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
            return Err(bad_url());
        }
        if config.api_key.as_deref().is_some_and(|key| HeaderValue::from_str(key).is_err()) {
            return Err(ClientError::ApiKey);
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let tls = HttpsConnectorBuilder::new().with_native_roots().map_err(ClientError::Certificates)?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(http);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        Ok(Self { client: client.build(connector), base, config })
    }

    /// The same server, asked for another model.
    pub fn with_model(mut self, model: String) -> Self {
        self.config.model = model;
        self
    }

    /// The models that the server lists.
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let url = format!("{}/v1/models", self.base);
        let no_answer = |problem: String| ClientError::NoAnswer { url: url.clone(), problem };
        let asked = self.client.request(self.request(Method::GET, &url, Bytes::new()));
        let answer = tokio::time::timeout(self.config.timeout, asked)
            .await
            .map_err(|_| no_answer(format!("nothing within {:?}", self.config.timeout)))?
            .map_err(|error| no_answer(chain(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_BYTES_OF_A_LIST).collect().await;
        let body = body.map_err(|error| no_answer(error.to_string()))?.to_bytes();
        if status != StatusCode::OK {
            return Err(ClientError::Status { url, status, body: shown(&body) });
        }
        let list: List = serde_json::from_slice(&body).map_err(|_| ClientError::NoModels { url })?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// Makes one request, due at `due` within a run that began at `started`, and reads its whole answer.
    pub async fn send(&self, planned: &Planned, started: Instant, due: Instant) -> Sample {
        let sent = Instant::now();
        let mut reading = Reading { due, last: None, sample: Sample::unsent(planned, started, due, sent) };
        let answered = tokio::time::timeout(self.config.timeout, self.exchange(planned, &mut reading)).await;
        let failure = answered.unwrap_or_else(|_| {
            Err(Failure { kind: FailureKind::Timeout, message: format!("not done within {:?}", self.config.timeout) })
        });
        reading.finish(failure.err())
    }

    async fn exchange(&self, planned: &Planned, reading: &mut Reading) -> Result<(), Failure> {
        let path = match self.config.endpoint {
            Endpoint::Completions => "/v1/completions",
            Endpoint::Chat => "/v1/chat/completions",
        };
        let body = Bytes::from(self.body(planned).to_string());
        let request = self.request(Method::POST, &format!("{}{path}", self.base), body);
        let failed = |kind| move |message| Failure { kind, message };
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| failed(FailureKind::Connection)(chain(&error)))?;
        let status = answer.status();
        if status != StatusCode::OK {
            let body = Limited::new(answer.into_body(), MOST_BYTES_OF_AN_ERROR).collect().await;
            let body = body.map(|body| shown(&body.to_bytes())).unwrap_or_default();
            let full = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            let kind = if full { FailureKind::Refused } else { FailureKind::Status };
            return Err(failed(kind)(format!("{status}: {body}")));
        }
        reading.read(answer.into_body()).await.map_err(failed(FailureKind::Stream))
    }

    fn body(&self, planned: &Planned) -> Value {
        let mut body = json!({"model": self.config.model});
        match self.config.endpoint {
            Endpoint::Completions => body["prompt"] = json!(planned.prompt),
            Endpoint::Chat => body["messages"] = json!([{"role": "user", "content": planned.prompt}]),
        }
        body["max_tokens"] = json!(planned.output_tokens);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        for (name, value) in &self.config.extra {
            body[name] = value.clone();
        }
        body
    }

    fn request(&self, method: Method, url: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.config.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request.body(Full::new(body)).expect("the URL and the key were checked")
    }
}

/// An answer that is being read.
struct Reading {
    due: Instant,
    /// When the last piece of text came.
    last: Option<Instant>,
    sample: Sample,
}

/// One event of the stream, of either API.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl Reading {
    async fn read(&mut self, mut body: Incoming) -> Result<(), String> {
        let mut lines = EventLines::default();
        let mut complete = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the stream broke: {}", chain(&error)))?;
            let now = Instant::now();
            let Some(piece) = frame.data_ref() else { continue };
            lines.push(piece).map_err(|error| error.to_string())?;
            while let Some(data) = lines.next_data() {
                complete |= if &data[..] == b"[DONE]" { true } else { self.event(&data, now)? };
            }
        }
        if complete { Ok(()) } else { Err("the stream ended before the answer did".to_owned()) }
    }

    /// Does this event end the answer?
    fn event(&mut self, data: &[u8], now: Instant) -> Result<bool, String> {
        let event: Event =
            serde_json::from_slice(data).map_err(|error| format!("an event is not what the API says: {error}"))?;
        if let Some(error) = event.error {
            return Err(format!("the server reports {error}"));
        }
        if event.choices.iter().any(Choice::has_text) {
            self.piece(now);
        }
        if let Some(usage) = event.usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
            self.sample.counted = Tokens { input: usage.prompt_tokens, output: usage.completion_tokens, cached };
            self.sample.has_usage = true;
        }
        Ok(event.choices.iter().any(|choice| choice.finish_reason.is_some()))
    }

    fn piece(&mut self, now: Instant) {
        match self.last {
            None => self.sample.ttft_s = Some((now - self.due).as_secs_f64()),
            Some(last) => self.sample.gaps_s.push((now - last).as_secs_f32()),
        }
        self.last = Some(now);
    }

    fn finish(mut self, failure: Option<Failure>) -> Sample {
        let pieces = self.sample.gaps_s.len() + usize::from(self.sample.ttft_s.is_some());
        if !self.sample.has_usage {
            self.sample.counted.output = pieces as u32;
        }
        self.sample.end_s = self.due.elapsed().as_secs_f64();
        self.sample.failure = failure;
        self.sample
    }
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.as_ref();
        let texts = [
            self.text.as_ref(),
            delta.and_then(|delta| delta.content.as_ref()),
            delta.and_then(|delta| delta.reasoning_content.as_ref()),
        ];
        texts.into_iter().flatten().any(|text| !text.is_empty())
    }
}

impl Sample {
    fn unsent(planned: &Planned, started: Instant, due: Instant, sent: Instant) -> Self {
        let asked = Tokens { input: planned.input_tokens.unwrap_or(0), output: planned.output_tokens, cached: 0 };
        Self {
            index: planned.index,
            due_s: (due - started).as_secs_f64(),
            send_lag_s: (sent - due).as_secs_f64(),
            ttft_s: None,
            end_s: 0.0,
            gaps_s: Vec::with_capacity(planned.output_tokens.min(4096) as usize),
            asked,
            counted: Tokens::default(),
            has_usage: false,
            failure: None,
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The beginning of a body.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_OF_AN_ERROR)]).into_owned()
}
