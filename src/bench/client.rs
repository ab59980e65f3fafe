//! The client's side of one request. Main type: [`Target`], a server with what to ask it for.

use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, ResponseFuture, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    plan::Planned,
    reading::Reading,
    run::Watcher,
    sample::{Failure, FailureKind, Sample},
};

const MOST_BYTES_OF_AN_ERROR: usize = 64 << 10;
const MOST_BYTES_OF_A_LIST: usize = 4 << 20;
const SHOWN_BYTES_OF_AN_ERROR: usize = 300;

/// Which of the two APIs the load uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`: the prompt as it is.
    Completions,
    /// `/v1/chat/completions`: the prompt as a user's message.
    Chat,
}

impl Endpoint {
    /// Its path on every server.
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
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
    /// Further fields of every request; null leaves a field out.
    pub extra: Map<String, Value>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Target {
    connections: Connections,
    config: TargetConfig,
    base: String,
}

/// When a request is made.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The beginning of the run.
    pub started: Instant,
    /// When it is due; as soon as it can be sent where that is not said.
    pub due: Option<Instant>,
}

/// Opens a connection for each request: a server may close one that it had kept just when the next request is on its way,
/// which llama.cpp's does, and a request may not be sent twice.
#[derive(Clone, Debug)]
enum Connections {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Connections {
    /// Plain ones need no certificates of the system.
    fn new(scheme: &str) -> Result<Self, ClientError> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_max_idle_per_host(0);
        if scheme == "http" {
            return Ok(Self::Plain(client.build(http)));
        }
        http.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_native_roots().map_err(ClientError::Certificates)?;
        Ok(Self::Tls(client.build(tls.https_only().enable_http1().wrap_connector(http))))
    }

    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Self::Plain(client) => client.request(request),
            Self::Tls(client) => client.request(request),
        }
    }
}

/// What keeps a load from being made at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one.
    #[error(
        "{url:?} is no URL of a server: write scheme, host and port, such as http://127.0.0.1:8000, and a key with --api-key"
    )]
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
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https")).ok_or_else(bad_url)?;
        // A name and a password would end up in the reports, and whatever follows a # nowhere.
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || base.contains(['?', '#']) {
            return Err(bad_url());
        }
        if config.api_key.as_deref().is_some_and(|key| HeaderValue::from_str(key).is_err()) {
            return Err(ClientError::ApiKey);
        }
        Ok(Self { connections: Connections::new(scheme)?, base, config })
    }

    /// The model that is asked for.
    pub fn model(&self) -> &str {
        &self.config.model
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
        let exchange = async {
            let answer = self.connections.request(self.request(Method::GET, &url, Bytes::new())).await;
            let answer = answer.map_err(|error| no_answer(chain(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST_BYTES_OF_A_LIST).collect().await;
            Ok((status, body.map_err(|error| no_answer(error.to_string()))?.to_bytes()))
        };
        let timed_out = |_| no_answer(format!("nothing within {:?}", self.config.timeout));
        let (status, body) = tokio::time::timeout(self.config.timeout, exchange).await.map_err(timed_out)??;
        if status != StatusCode::OK {
            return Err(ClientError::Status { url, status, body: shown(&body) });
        }
        let list: List = serde_json::from_slice(&body).map_err(|_| ClientError::NoModels { url })?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// Makes one request and reads its whole answer.
    pub async fn send(&self, planned: &Planned, times: Times, watcher: &dyn Watcher) -> Sample {
        let path = self.config.endpoint.path();
        let body = Bytes::from(self.body(planned).to_string());
        let request = self.request(Method::POST, &format!("{}{path}", self.base), body);
        let sent = Instant::now();
        let mut reading = Reading::new(planned, times, sent, watcher);
        let answered = tokio::time::timeout(self.config.timeout, self.exchange(request, &mut reading)).await;
        let failure = answered.unwrap_or_else(|_| {
            Err(Failure { kind: FailureKind::Timeout, message: format!("not done within {:?}", self.config.timeout) })
        });
        reading.finish(failure.err())
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, reading: &mut Reading<'_>) -> Result<(), Failure> {
        let failed = |kind| move |message| Failure { kind, message };
        let answer = self.connections.request(request).await;
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
            match (value, body.as_object_mut()) {
                (Value::Null, Some(fields)) => drop(fields.remove(name)),
                _ => body[name] = value.clone(),
            }
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

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The beginning of a body.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_OF_AN_ERROR)]).into_owned()
}
