//! What the audit log costs, with an engine that takes no time. `cargo bench --bench audit`
//!
//! Requests for one token come at a set rate, each at its own moment whether others are answered or not, to a server without a
//! log and to one with it, in turns. Told are latency, processor time, and what the server can do at most.

#![allow(missing_docs, reason = "a program")]

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod fixtures;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header::CONTENT_TYPE},
};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep_until};
use tower::ServiceExt;
use tramontane::{
    api::{AppState, GenerationDefaults, HttpLimits, ServedModel, app},
    engine::{EngineConfig, EngineHandle, SpeculationMode},
    governance::{
        Governance,
        audit::{Audit, AuditOptions, Evidence, verify},
    },
    model::{ForwardPass, Logits, ModelError, Pipeline},
    store::Stores,
    telemetry::{AuditMetrics, EngineMetrics},
    types::{Batch, Pooling, Provenance, RowResult, TokenChoice},
};

const PER_SECOND: u32 = 2000;
const MEASURED: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
/// At once, to see what the server can do.
const CLIENTS: usize = 64;
const TOKEN: u32 = 1500;

/// Chooses one token for every row, at once.
struct NoModel {
    vocab_size: usize,
    started: Vec<usize>,
}

impl ForwardPass for NoModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let values = vec![0.0; batch.output_rows.len() * self.vocab_size];
        Ok(Logits { values, vocab_size: self.vocab_size, ..Logits::default() })
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        Some(self)
    }
}

impl Pipeline for NoModel {
    fn can_choose(&mut self, _choice: &TokenChoice<'_>) -> bool {
        true
    }

    fn start(&mut self, batch: &Batch, _choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        self.started.push(batch.output_rows.len());
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        Ok(vec![RowResult::Token { id: TOKEN, logprobs: None }; self.started.remove(0)])
    }

    fn forget(&mut self, _sequence: u64) {}
}

/// What one run at the set rate came to.
struct Run {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Processor time per request, in microseconds.
    cpu_us: f64,
}

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder on a disk");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    println!("| log | p50 ms | p99 ms | processor time per request, us | most requests/s |\n|---|---|---|---|---|");
    let audit = Audit::open(folder.path(), AuditOptions::default(), AuditMetrics::default()).expect("a log");
    for _ in 0..ROUNDS {
        for (name, audit) in [("off", Audit::default()), ("on", audit.clone())] {
            let router = server(audit);
            let run = runtime.block_on(at_rate(&router));
            let most = runtime.block_on(at_most(&router));
            let quantile = |share: f64| run.latencies[((run.latencies.len() - 1) as f64 * share) as usize];
            println!("| {name} | {:.3} | {:.3} | {:.1} | {most:.0} |", quantile(0.5), quantile(0.99), run.cpu_us);
        }
    }
    audit.close();
    let report = verify(folder.path(), &Evidence::default()).expect("intact");
    let bytes: u64 = fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum();
    println!("\n{} records, {} bytes per record, all intact", report.records, bytes / report.records);
}

fn server(audit: Audit) -> Router {
    let codec = fixtures::codec("v3-tekken").clone();
    let engine = EngineConfig {
        num_blocks: 1 << 12,
        max_running: 256,
        max_waiting: 1 << 14,
        max_model_len: 256,
        speculation: SpeculationMode::Off,
        ..EngineConfig::default()
    };
    let metrics = Arc::new(EngineMetrics::new("none", engine.max_model_len));
    let model = NoModel { vocab_size: codec.vocab_size(), started: Vec::new() };
    let governance = Governance::in_memory().expect("memory").with_audit(audit);
    let limits = HttpLimits { max_requests: 1 << 14, ..HttpLimits::default() };
    let state = AppState::governed(limits, Stores::in_memory(1 << 20), governance).expect("memory");
    state.set_model(ServedModel {
        names: vec!["none".to_owned()],
        codec,
        max_model_len: engine.max_model_len,
        engine: EngineHandle::spawn(Box::new(model), engine, Arc::clone(&metrics)),
        metrics,
        defaults: GenerationDefaults::default(),
        pooling: Pooling::Embedding { width: 1, normalized: true, max_seq_length: None },
        digest: "none".to_owned(),
        provenance: Provenance::default(),
    });
    app(state)
}

async fn ask(router: Router) {
    let body = json!({ "model": "none", "prompt": "The quick brown fox jumps over the lazy dog.", "max_tokens": 1 });
    let request = Request::post("/v1/completions").header(CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string())).expect("a valid request");
    let Ok(response) = router.oneshot(request).await;
    assert!(response.status().is_success(), "{}", response.status());
    to_bytes(response.into_body(), 1 << 20).await.expect("a body");
}

async fn at_rate(router: &Router) -> Run {
    let count = PER_SECOND * MEASURED.as_secs() as u32;
    let began = Instant::now() + Duration::from_millis(100);
    let cpu_before = cpu_seconds();
    let mut asked = JoinSet::new();
    for number in 0..count {
        let due = began + number * Duration::from_secs(1) / PER_SECOND;
        sleep_until(due.into()).await;
        let router = router.clone();
        asked.spawn(async move {
            let begun = Instant::now();
            ask(router).await;
            begun.elapsed().as_secs_f64() * 1e3
        });
    }
    let mut latencies = asked.join_all().await;
    latencies.sort_by(f64::total_cmp);
    Run { latencies, cpu_us: (cpu_seconds() - cpu_before) * 1e6 / f64::from(count) }
}

/// Requests a second that are answered to clients who ask again at once.
async fn at_most(router: &Router) -> f64 {
    let until = Instant::now() + MEASURED;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let router = router.clone();
        clients.spawn(async move {
            let mut count = 0.0;
            while Instant::now() < until {
                ask(router.clone()).await;
                count += 1.0;
            }
            count
        });
    }
    clients.join_all().await.into_iter().sum::<f64>() / MEASURED.as_secs_f64()
}

/// Processor time of all threads so far (Linux; zero elsewhere).
fn cpu_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}
