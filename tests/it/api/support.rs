//! A server with a model that says what a test wants, at the pace that a test allows.

mod answer;
mod scripted;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
    },
    middleware::map_request,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::{
    api::{AppState, GenerationDefaults, HttpLimits, ServedModel, app},
    engine::{EngineConfig, EngineHandle, SpeculationMode},
    governance::{Actor, Administration, CreatedKey, Governance, NewKey, Role},
    prompt::{Codec, TekkenFile, TokenizerVersion},
    store::{Store, Stores},
    telemetry::EngineMetrics,
    types::{Pooling, Provenance},
};

use self::scripted::ScriptedModel;
pub use self::{
    answer::{Answer, mistral_error},
    scripted::{Gate, pooled},
};
use crate::fixtures::{Data, read};

pub const EOS: u32 = 2;
pub const END_OF_INSTRUCTION: u32 = 4;
pub const MAX_MODEL_LEN: usize = 4096;
/// Of the vectors that texts are pooled to.
pub const EMBEDDING_WIDTH: usize = 16;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store that is gone with its last user.
pub fn memory() -> Store {
    Store::in_memory(64 << 20).expect("memory")
}

/// The small tokenizer, version 13.
pub fn codec() -> Codec {
    static CODEC: OnceLock<Codec> = OnceLock::new();
    let open = || {
        let name = "tekken-tiny.json";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name);
        let file = TekkenFile::parse(&read(&file), name).expect("a valid tekken file");
        Codec::from_tekken(&file, None).expect("a valid tokenizer")
    };
    CODEC.get_or_init(open).clone()
}

/// The small tokenizer under another version's name.
pub fn codec_of(version: TokenizerVersion) -> Codec {
    let name = "tekken-tiny.json";
    let file = TekkenFile::parse(&Data::of_repository().tokenizer_file(name), name).expect("a valid tekken file");
    Codec::from_tekken(&file, Some(version)).expect("a valid tokenizer")
}

/// Ids of a text without control tokens.
pub fn ids(text: &str) -> Vec<u32> {
    codec().encode_text(text, false)
}

/// The id of a control token.
pub fn control(name: &str) -> u32 {
    let is_it = |id: &u32| codec().is_control(*id) && codec().token_bytes(*id) == name.as_bytes();
    (0..200).find(is_it).expect("the tokenizer has it")
}

/// What a model says next, given everything before.
pub type Script = Box<dyn Fn(&[u32]) -> u32 + Send>;

/// What a model would like to say next, given everything before: ids with their logits. Those of all others are 0.
pub type Preferences = Box<dyn Fn(&[u32]) -> Vec<(u32, f32)> + Send>;

/// Sure of what the script says.
pub fn sure(script: Script) -> Preferences {
    Box::new(move |history| vec![(script(history), 10.0)])
}

/// Answers every instruction with these tokens, then ends.
pub fn answers(tokens: Vec<u32>) -> Script {
    Box::new(move |history| {
        let generated = history.iter().rev().take_while(|&&id| id != END_OF_INSTRUCTION).count();
        tokens.get(generated).copied().unwrap_or(EOS)
    })
}

/// Answers every instruction with this text.
pub fn says(text: &str) -> Script {
    answers(ids(text))
}

/// Thinks "Hm.", then says "Yes.".
pub fn thinks() -> Script {
    answers([vec![control("[THINK]")], ids("Hm."), vec![control("[/THINK]")], ids("Yes.")].concat())
}

/// Continues a prompt with these tokens, then ends.
pub fn continues(prompt_len: usize, tokens: Vec<u32>) -> Script {
    // With log-probabilities of the prompt, the model is asked about its parts too.
    Box::new(move |history| tokens.get(history.len().saturating_sub(prompt_len)).copied().unwrap_or(EOS))
}

/// Never ends.
pub fn babbles() -> Script {
    let word = ids(" la")[0];
    Box::new(move |_| word)
}

/// A server that nothing but a test talks to.
pub struct Harness {
    pub state: AppState,
    pub gate: Gate,
    /// What requests without a credential are given.
    pub credential: Option<String>,
}

/// Limits that a test can reach.
pub fn small_engine() -> EngineConfig {
    EngineConfig {
        block_size: 4,
        num_blocks: 2048,
        max_running: 8,
        max_waiting: 8,
        max_batched_tokens: 512,
        max_model_len: MAX_MODEL_LEN,
        prefix_caching: true,
        ..EngineConfig::default()
    }
}

impl Harness {
    pub fn new(script: Script) -> Self {
        let harness = Self::with(script, small_engine(), HttpLimits::default());
        harness.gate.open();
        harness
    }

    /// With tokens that are guessed ahead, as `serve` does it.
    pub fn guessing(script: Script) -> Self {
        let engine = EngineConfig { speculation: SpeculationMode::Auto, ..small_engine() };
        let harness = Self::with(script, engine, HttpLimits::default());
        harness.gate.open();
        harness
    }

    /// With a tokenizer of another version.
    pub fn with_codec(script: Script, codec: Codec) -> Self {
        let harness = Self::build(sure(script), codec, small_engine(), HttpLimits::default());
        harness.gate.open();
        harness
    }

    /// With a closed gate.
    pub fn with(script: Script, engine: EngineConfig, limits: HttpLimits) -> Self {
        Self::build(sure(script), codec(), engine, limits)
    }

    /// With a store of the test's own.
    pub fn storing(script: Script, limits: HttpLimits, store: Store) -> Self {
        let harness = Self::storing_gated(script, limits, store);
        harness.gate.open();
        harness
    }

    /// The same with a closed gate.
    pub fn storing_gated(script: Script, limits: HttpLimits, store: Store) -> Self {
        Self::build_storing(sure(script), codec(), small_engine(), limits, store)
    }

    /// With a model that pools texts to something else.
    pub fn pooling(pooling: Pooling) -> Self {
        let harness =
            Self::build_pooling(sure(babbles()), codec(), pooling, (small_engine(), HttpLimits::default()), memory());
        harness.gate.open();
        harness
    }

    /// With a model that is not sure what to say, and a closed gate.
    pub fn with_preferences(preferences: Preferences, engine: EngineConfig) -> Self {
        Self::build(preferences, codec(), engine, HttpLimits::default())
    }

    fn build(preferences: Preferences, codec: Codec, engine: EngineConfig, limits: HttpLimits) -> Self {
        Self::build_storing(preferences, codec, engine, limits, memory())
    }

    fn build_storing(
        preferences: Preferences,
        codec: Codec,
        engine: EngineConfig,
        limits: HttpLimits,
        store: Store,
    ) -> Self {
        let pooling = Pooling::Embedding { width: EMBEDDING_WIDTH, normalized: true, max_seq_length: None };
        Self::build_pooling(preferences, codec, pooling, (engine, limits), store)
    }

    fn build_pooling(
        preferences: Preferences,
        codec: Codec,
        pooling: Pooling,
        (engine, limits): (EngineConfig, HttpLimits),
        store: Store,
    ) -> Self {
        Self::serving(AppState::new(limits, store), preferences, codec, pooling, engine)
    }

    /// For those alone who have a key, with an open gate.
    pub fn governed(script: Script, governance: Governance) -> Self {
        Self::governed_storing(script, governance, Stores::in_memory(64 << 20))
    }

    /// The same with stores of the test's own.
    pub fn governed_storing(script: Script, governance: Governance, stores: Stores) -> Self {
        Self::of_state(script, AppState::governed(HttpLimits::default(), stores, governance).expect("they open"))
    }

    /// For those alone who have a key, within other limits.
    pub fn governed_within(script: Script, governance: Governance, limits: HttpLimits) -> Self {
        let state = AppState::governed(limits, Stores::in_memory(64 << 20), governance).expect("memory");
        Self::of_state(script, state)
    }

    /// With an open gate.
    pub fn of_state(script: Script, state: AppState) -> Self {
        Self::of_state_with(script, state, codec(), Self::embeds())
    }

    /// The same with an engine of other limits.
    pub fn of_state_in(script: Script, state: AppState, engine: EngineConfig) -> Self {
        let harness = Self::serving(state, sure(script), codec(), Self::embeds(), engine);
        harness.gate.open();
        harness
    }

    fn embeds() -> Pooling {
        Pooling::Embedding { width: EMBEDDING_WIDTH, normalized: true, max_seq_length: None }
    }

    /// The same with a tokenizer of another version.
    pub fn governed_with(script: Script, governance: Governance, codec: Codec) -> Self {
        Self::governed_pooling(script, governance, codec, Self::embeds())
    }

    /// The same with a model that pools texts to something else.
    pub fn governed_pooling(script: Script, governance: Governance, codec: Codec, pooling: Pooling) -> Self {
        let state = AppState::governed(HttpLimits::default(), Stores::in_memory(64 << 20), governance).expect("memory");
        Self::of_state_with(script, state, codec, pooling)
    }

    fn of_state_with(script: Script, state: AppState, codec: Codec, pooling: Pooling) -> Self {
        let harness = Self::serving(state, sure(script), codec, pooling, small_engine());
        harness.gate.open();
        harness
    }

    fn serving(
        state: AppState,
        preferences: Preferences,
        codec: Codec,
        pooling: Pooling,
        engine: EngineConfig,
    ) -> Self {
        let gate = Gate::default();
        let model = ScriptedModel {
            vocab_size: codec.vocab_size(),
            block_size: engine.block_size,
            cache: vec![0; engine.block_size * engine.num_blocks],
            preferences,
            pooling: pooling.clone(),
            gate: gate.clone(),
        };
        let metrics = Arc::new(EngineMetrics::new("tiny", engine.max_model_len));
        let max_model_len = engine.max_model_len;
        state.set_model(ServedModel {
            names: vec!["tiny".to_owned(), "alias".to_owned()],
            codec,
            engine: EngineHandle::spawn(Box::new(model), engine, Arc::clone(&metrics)),
            metrics,
            defaults: GenerationDefaults {
                temperature: Some(0.0),
                eos_token_ids: vec![EOS],
                ..GenerationDefaults::default()
            },
            max_model_len,
            pooling,
            digest: "sha256:0123456789abcdef".to_owned(),
            provenance: Provenance { tokenizer_digest: "fedcba9876543210".to_owned(), ..Provenance::default() },
        });
        Self { state, gate, credential: None }
    }

    pub fn app(&self) -> Router {
        let app = app(self.state.clone());
        let Some(credential) = self.credential.clone() else { return app };
        app.layer(map_request(move |mut request: Request<Body>| {
            let credential = credential.parse().expect("a header");
            request.headers_mut().entry(AUTHORIZATION).or_insert(credential);
            std::future::ready(request)
        }))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.app(), Request::get(path).body(Body::empty()).expect("a valid request")).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    /// As a client that tells its name.
    pub async fn post_as(&self, client: &str, path: &str, body: &Value) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").header(USER_AGENT, client);
        send(self.app(), request.body(body.to_string().into()).expect("a valid request")).await
    }

    pub async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(body.into());
        send(self.app(), request.expect("a valid request")).await
    }

    /// A chat request with one message and more fields.
    pub async fn chat(&self, more: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(more)).await
    }

    /// Waits until the engine has nothing to do.
    pub async fn idle(&self) {
        let engine = self.state.loaded_model().expect("a model is set").engine.clone();
        eventually("the engine is idle", || {
            let load = engine.snapshot();
            load.running == 0 && load.waiting == 0 && load.held_blocks == 0
        })
        .await;
        eventually("no request is in flight", || self.state.in_flight() == 0).await;
    }

    /// The value of a metric without labels of its own.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.state.loaded_model().expect("a model is set").metrics.render();
        let start = format!("{name}{{engine=\"0\",model_name=\"tiny\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.gate.open(); // a blocked engine thread would never end
    }
}

/// What whoever has the machine may do, as the command line does it.
pub fn command_line(governance: &Governance) -> Administration<'_> {
    governance.administered_by(&Actor::CommandLine)
}

/// A new key of a tenant, for somebody who does this.
pub fn new_key(governance: &Governance, name: &str, tenant: &str, role: Role) -> CreatedKey {
    let new = NewKey {
        name: name.to_owned(),
        tenant: tenant.to_owned(),
        roles: [role].into(),
        attributes: Default::default(),
        expires_at: None,
    };
    command_line(governance).create_key(&new, 1).expect("it is made")
}

/// The body of a chat request with one message and more fields.
pub fn chat(more: Value) -> Value {
    merged(json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] }), more)
}

/// `base` with the members of `more`, which win.
pub fn merged(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        base[key] = value.clone();
    }
    base
}

pub async fn send(app: Router, request: Request<Body>) -> Answer {
    let response = app.oneshot(request).await.expect("the router is infallible");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a complete body").to_bytes();
    let body = String::from_utf8(bytes.into()).expect("UTF-8");
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// Waits for something that must happen soon, whatever thread makes it happen.
pub async fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !happens() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// The same for what is seen only by asking, or comes only with a push each time.
pub async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Replaces what differs between runs: ids and times.
pub fn redacted(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        for (key, stand_in) in
            [("id", json!("<id>")), ("created", json!(0)), ("system_fingerprint", json!("<fingerprint>"))]
        {
            if object.contains_key(key) {
                object[key] = stand_in;
            }
        }
    }
    value
}

/// Events one a line, redacted, without what all of them repeat.
pub fn lines(events: &[Value]) -> String {
    let line = |event: &Value| {
        let mut event = redacted(event);
        if let Some(object) = event.as_object_mut() {
            for key in ["id", "object", "created", "model", "system_fingerprint"] {
                assert!(object.shift_remove(key).is_some(), "{key} is missing");
            }
        }
        format!("{event}\n")
    };
    events.iter().map(line).collect()
}
