//! What the server costs beside its model: scheduling, detokenizing, JSON, server-sent events, TCP. `cargo bench --bench http`
//!
//! The model is a clock: its step takes a set time, and the token of every row names the step. So a client knows when the
//! model had computed what it reads, and the difference is the latency that the server adds. Server, engine and client
//! are threads of this process, each with its own share of the processor time; the connections are TCP on loopback.

#![allow(missing_docs, reason = "a program")]

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod fixtures;

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tramontane::{
    api::{AppState, GenerationDefaults, HttpLimits, ServedModel, serve},
    engine::{EngineConfig, EngineHandle, SpeculationMode},
    model::{ForwardPass, Logits, ModelError, Pipeline},
    prompt::{Codec, SpecialTokens},
    store::Store,
    telemetry::EngineMetrics,
    types::{Batch, Pooling, Provenance, RowResult, TokenChoice},
};

/// Steps that a token can tell apart: more than a token is late, unless more is asked for than the server can do.
const STEPS: usize = 512;
const CORES: usize = 2;
/// Of each load, after the streams have begun.
const MEASURED: Duration = Duration::from_secs(4);
/// Time for all streams to begin.
const WARM_UP: Duration = Duration::from_secs(1);
/// A length of answer that no run reaches: its readers leave when the time is over.
const ENDLESS: usize = 1 << 20;

/// A model's steps, as model and client both see them.
struct Clock {
    began: Instant,
    /// Nanoseconds from the beginning to the end of each of the last steps, by its number modulo [`STEPS`].
    ends: Vec<AtomicU64>,
    /// Nanoseconds that the engine was in the model.
    in_model: AtomicU64,
    steps: AtomicU64,
}

impl Clock {
    fn new() -> Arc<Self> {
        let ends = (0..STEPS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { began: Instant::now(), ends, in_model: AtomicU64::new(0), steps: AtomicU64::new(0) })
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

/// Where a step's results are made.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// The model chooses tokens and is one step ahead, as on a GPU.
    Device,
    /// The engine chooses from logits, as on a CPU.
    Host,
}

/// Takes `step_time` per step, and says which step it was.
struct ClockModel {
    clock: Arc<Clock>,
    step_time: Duration,
    side: Side,
    tokens: Arc<Vec<u32>>,
    vocab_size: usize,
    next_end: Instant,
    /// Rows of the steps that were started.
    started: Vec<usize>,
}

impl ClockModel {
    /// Waits for the end of a step; returns its token.
    fn end_step(&mut self) -> u32 {
        // A step begins when the one before has ended and it has been asked for.
        self.next_end = self.next_end.max(Instant::now() - self.step_time) + self.step_time;
        thread::sleep(self.next_end.saturating_duration_since(Instant::now()));
        let step = self.clock.steps.fetch_add(1, Ordering::Relaxed) as usize % STEPS;
        self.clock.ends[step].store(self.clock.now(), Ordering::Relaxed);
        self.tokens[step]
    }
}

impl ForwardPass for ClockModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let asked = self.clock.now();
        // Not zeros: the system would give those as pages that are only made when they are read, outside the model.
        let mut values = vec![-1.0; batch.output_rows.len() * self.vocab_size];
        let token = self.end_step() as usize;
        values.chunks_mut(self.vocab_size).for_each(|row| row[token] = 20.0);
        self.clock.in_model.fetch_add(self.clock.now() - asked, Ordering::Relaxed);
        Ok(Logits { values, vocab_size: self.vocab_size, ..Logits::default() })
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        match self.side {
            Side::Device => Some(self),
            Side::Host => None,
        }
    }
}

impl Pipeline for ClockModel {
    fn can_choose(&mut self, _choice: &TokenChoice<'_>) -> bool {
        true
    }

    fn start(&mut self, batch: &Batch, _choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        self.started.push(batch.output_rows.len());
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        let asked = self.clock.now();
        let id = self.end_step();
        self.clock.in_model.fetch_add(self.clock.now() - asked, Ordering::Relaxed);
        Ok(vec![RowResult::Token { id, logprobs: None }; self.started.remove(0)])
    }

    fn forget(&mut self, _sequence: u64) {}
}

/// A tokenizer of 32,768 and more ids, and one for each step whose text is a word of its own.
struct Words {
    codec: Codec,
    tokens: Arc<Vec<u32>>,
    step_of: HashMap<Vec<u8>, usize>,
}

impl Words {
    fn new() -> Self {
        let codec = fixtures::codec("v3-tekken").clone();
        let is_word = |text: &str| text.len() >= 3 && text.bytes().all(|byte| byte.is_ascii_lowercase());
        let words: Vec<(u32, String)> = (0..codec.vocab_size() as u32)
            .map(|id| (id, codec.decode(&[id], SpecialTokens::Keep)))
            .filter(|(_, text)| is_word(text))
            .take(STEPS)
            .collect();
        assert_eq!(words.len(), STEPS, "a tokenizer has so many words");
        let step_of = words.iter().enumerate().map(|(step, (_, text))| (text.clone().into_bytes(), step)).collect();
        Self { codec, tokens: Arc::new(words.into_iter().map(|(id, _)| id).collect()), step_of }
    }
}

/// A load, and what came of it.
struct Load {
    streams: usize,
    step_time: Duration,
    side: Side,
}

struct Measured {
    tokens_per_s: f64,
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Between two steps of the model, on average.
    outside_model_us: f64,
    /// Processor seconds per second of the engine, the server and the client.
    cores: [f64; 3],
}

impl Measured {
    fn latency(&self, share: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * share) as usize]
    }
}

/// What one stream's reader notes.
struct Reader<'a> {
    words: &'a Words,
    clock: &'a Clock,
    from: u64,
    to: u64,
    unread: Vec<u8>,
    latencies: Vec<f32>,
}

impl Reader<'_> {
    /// Takes in what has arrived; false once the time is over.
    fn read(&mut self, bytes: &[u8]) -> bool {
        const BEFORE: &[u8] = b"\"content\":\"";
        let now = self.clock.now();
        self.unread.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(at) = memchr::memmem::find(&self.unread[done..], BEFORE) {
            let text = &self.unread[done + at + BEFORE.len()..];
            let Some(len) = memchr::memchr(b'"', text) else { break };
            if let Some(&step) = self.words.step_of.get(&text[..len])
                && (self.from..self.to).contains(&now)
            {
                let computed = self.clock.ends[step].load(Ordering::Relaxed);
                self.latencies.push(now.saturating_sub(computed) as f32 / 1e6);
            }
            done += at + BEFORE.len() + len;
        }
        self.unread.drain(..done);
        now < self.to
    }
}

fn main() {
    let words = Arc::new(Words::new());
    println!("{CORES} threads each for server and client\n");
    println!(
        "| tokens chosen by | streams | step | tokens/s asked | tokens/s | added latency p50 | p99 | outside the model, per step | cores: engine | server | client |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let load = |side, streams, micros| Load { streams, side, step_time: Duration::from_micros(micros) };
    for load in [
        load(Side::Device, 1, 5_000),
        load(Side::Device, 16, 5_000),
        load(Side::Host, 1, 5_000),
        load(Side::Host, 16, 5_000),
        load(Side::Device, 32, 320),
        load(Side::Device, 64, 640),
        load(Side::Device, 128, 1_280),
        load(Side::Device, 256, 2_560),
        load(Side::Device, 64, 0),
        load(Side::Device, 256, 0),
    ] {
        print(&load, &measure(&words, &load));
    }
}

fn print(load: &Load, measured: &Measured) {
    let side = if load.side == Side::Device { "the model" } else { "the engine" };
    let asked = load.streams as f64 / load.step_time.as_secs_f64();
    let asked = if asked.is_finite() { format!("{asked:.0}") } else { "all".to_owned() };
    // Steps without end are further apart than their tokens can tell.
    let latency = |share| match load.step_time.is_zero() {
        true => "-".to_owned(),
        false => format!("{:.2} ms", measured.latency(share)),
    };
    let [engine, server, client] = measured.cores;
    println!(
        "| {side} | {} | {:.2} ms | {asked} | {:.0} | {} | {} | {:.0} us | {engine:.2} | {server:.2} | {client:.2} |",
        load.streams,
        load.step_time.as_secs_f64() * 1e3,
        measured.tokens_per_s,
        latency(0.5),
        latency(0.99),
        measured.outside_model_us,
    );
}

fn measure(words: &Arc<Words>, load: &Load) -> Measured {
    let clock = Clock::new();
    let (server, client) = (runtime("server"), runtime("client"));
    let state = AppState::new(HttpLimits::default(), Store::in_memory(1 << 20).expect("memory"));
    let listener = server.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("it listens");
    state.set_model(served(words, load, &clock));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.spawn(serve(listener, state, async { drop(stopped.await) }));

    let from = clock.now() + WARM_UP.as_nanos() as u64;
    let to = from + MEASURED.as_nanos() as u64;
    let at = |from: u64| clock.began + Duration::from_nanos(from);
    let readers = client.spawn({
        let (words, clock, streams) = (Arc::clone(words), Arc::clone(&clock), load.streams);
        async move {
            let mut readers = JoinSet::new();
            for number in 0..streams {
                let (words, clock) = (Arc::clone(&words), Arc::clone(&clock));
                readers.spawn(async move {
                    let (words, clock) = (&*words, &*clock);
                    let reader = Reader { words, clock, from, to, unread: Vec::new(), latencies: Vec::new() };
                    read_stream(address, number, reader).await
                });
            }
            readers.join_all().await.concat()
        }
    });
    let observed =
        || (Instant::now(), cores(), clock.steps.load(Ordering::Relaxed), clock.in_model.load(Ordering::Relaxed));
    thread::sleep(at(from).saturating_duration_since(Instant::now()));
    let (began, cores_before, steps_before, in_model_before) = observed();
    thread::sleep(at(to).saturating_duration_since(Instant::now()));
    let (ended, cores_after, steps, in_model) = observed();
    let mut latencies: Vec<f64> =
        client.block_on(readers).expect("readers do not panic").into_iter().map(f64::from).collect();
    latencies.sort_by(f64::total_cmp);
    let _ = stop.send(());
    server.block_on(serving).expect("the server does not panic");
    let seconds = (ended - began).as_secs_f64();
    let outside = seconds * 1e9 - (in_model - in_model_before) as f64;
    Measured {
        tokens_per_s: latencies.len() as f64 / MEASURED.as_secs_f64(),
        latencies,
        outside_model_us: outside / (steps - steps_before) as f64 / 1e3,
        cores: [0, 1, 2].map(|i| (cores_after[i] - cores_before[i]) / seconds),
    }
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(CORES).thread_name(name).enable_all().build().expect("threads")
}

fn served(words: &Words, load: &Load, clock: &Arc<Clock>) -> ServedModel {
    let engine = EngineConfig {
        block_size: 16,
        num_blocks: load.streams * (1 << 14),
        max_running: load.streams,
        max_model_len: ENDLESS * 2,
        speculation: SpeculationMode::Off,
        ..EngineConfig::default()
    };
    let metrics = Arc::new(EngineMetrics::new("clock", engine.max_model_len));
    let model = ClockModel {
        clock: Arc::clone(clock),
        step_time: load.step_time,
        side: load.side,
        tokens: Arc::clone(&words.tokens),
        vocab_size: words.codec.vocab_size(),
        next_end: Instant::now(),
        started: Vec::new(),
    };
    ServedModel {
        names: vec!["clock".to_owned()],
        codec: words.codec.clone(),
        max_model_len: engine.max_model_len,
        engine: EngineHandle::spawn(Box::new(model), engine, Arc::clone(&metrics)),
        metrics,
        defaults: GenerationDefaults { temperature: Some(0.0), ..GenerationDefaults::default() },
        pooling: Pooling::Embedding { width: 1, normalized: true, max_seq_length: None },
        digest: "none".to_owned(),
        provenance: Provenance::default(),
    }
}

async fn read_stream(address: std::net::SocketAddr, number: usize, mut reader: Reader<'_>) -> Vec<f32> {
    let body = json!({
        "model": "clock", "stream": true, "max_tokens": ENDLESS,
        "messages": [{"role": "user", "content": format!("Count, number {number}.")}],
    })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = stream.read(&mut buffer).await.expect("the server answers");
        assert_ne!(len, 0, "the server ended a stream: {}", String::from_utf8_lossy(&reader.unread));
        if !reader.read(&buffer[..len]) {
            return reader.latencies;
        }
    }
}

/// Processor seconds of the threads of engine, server and client (proc_pid_schedstat of Linux); zeros elsewhere.
fn cores() -> [f64; 3] {
    let mut seconds = [0.0; 3];
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name = read("comm");
        let owner = ["engine", "server", "client"].iter().position(|owner| name.trim() == *owner);
        let nanoseconds = read("schedstat").split(' ').next().and_then(|first| first.parse::<f64>().ok());
        if let (Some(owner), Some(nanoseconds)) = (owner, nanoseconds) {
            seconds[owner] += nanoseconds / 1e9;
        }
    }
    seconds
}
