//! A request's tokens do not depend on what else the engine computes: each is run alone, then inside random
//! mixes with preemption, prefix hits, chunked prefills and cancellations, and every update must be equal.
//! [`check_mixes`] takes any model.

use std::{
    path::Path,
    sync::{Arc, mpsc::channel},
};

use candle_core::Device;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use tramontane::{
    engine::{
        EngineConfig, EngineHandle, Health, Precedence, Request, RequestStream, Snapshot, StopRules, Task, Update,
        draft::Drafter,
    },
    model::{
        Decoder, ForwardPass, KvCacheConfig, Logits, ModelError,
        checkpoint::{Checkpoint, ComputeDtype, NoProgress},
        gpu::GpuLimits,
    },
    telemetry::EngineMetrics,
    types::{Batch, Constraint, ConstraintError, Outputs, SamplingParams, TokenSet},
};

use crate::engine_mock::{Ahead, FIRST_FAULT, Gated, PagedModel, inspect, read};
use crate::golden::gpu_decoder;

/// Builds a fresh model whose cache has the pool of the given limits.
pub type NewModel<'a> = &'a dyn Fn(&EngineConfig) -> Box<dyn ForwardPass>;

/// The engine's drafter, if it has one of its own.
pub type NewDrafter<'a> = &'a dyn Fn(&EngineConfig) -> Option<Box<dyn Drafter>>;

/// Runs every request alone without prefix cache or chunks, then `rounds` mixes under each of `limits`.
/// Returns the totals of all mixes, from which the caller sees whether preemptions and hits took place.
pub fn check_mixes(new_model: NewModel<'_>, requests: &[Request], limits: &[EngineConfig], rounds: u64) -> Snapshot {
    check_drafted_mixes(
        Subject { new_model, new_drafter: &|_| None, metrics: &Arc::default() },
        requests,
        limits,
        rounds,
    )
}

/// What is tested.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub new_model: NewModel<'a>,
    pub new_drafter: NewDrafter<'a>,
    /// Of the mixes.
    pub metrics: &'a Arc<EngineMetrics>,
}

/// The same with drafts in the mixes, as `limits` say.
pub fn check_drafted_mixes(
    subject: Subject<'_>,
    requests: &[Request],
    limits: &[EngineConfig],
    rounds: u64,
) -> Snapshot {
    let new_model = subject.new_model;
    let alone: Vec<_> = requests.iter().map(|request| run_alone(new_model, request)).collect();
    let mut totals = Snapshot::default();
    for (index, config) in limits.iter().enumerate() {
        for round in 0..rounds {
            let seed = index as u64 * 1000 + round;
            let snapshot = check_mix(subject, requests, &alone, config, seed);
            totals.preemptions += snapshot.preemptions;
            totals.cached_tokens += snapshot.cached_tokens;
        }
    }
    totals
}

/// Requests of many kinds over the ids below `n_ids`, with shared beginnings. Prompts have up to 28 tokens,
/// outputs up to 20, so that a sequence fits in 48.
pub fn random_requests(count: usize, n_ids: u32, seed: u64) -> Vec<Request> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let texts: [Vec<u32>; 2] = std::array::from_fn(|_| (0..24).map(|_| random.random_range(0..n_ids)).collect());
    (0..count)
        .map(|index| {
            let mut prompt_ids = texts[random.random_range(0..2)][..random.random_range(0..=24)].to_vec();
            prompt_ids.extend((0..random.random_range(1..=4)).map(|_| random.random_range(0..n_ids)));
            let max_tokens = random.random_range(1..=20);
            Request {
                prompt_ids,
                task: Task::Generate,
                sampling: random_sampling(&mut random, n_ids),
                stop: StopRules {
                    max_tokens,
                    min_tokens: if random.random_bool(0.2) { max_tokens / 2 } else { 0 },
                    eos_token_ids: vec![random.random_range(0..n_ids)],
                    stop_token_ids: vec![random.random_range(0..n_ids)],
                    ignore_eos: random.random_bool(0.3),
                },
                logprobs: random.random_bool(0.3).then_some(3),
                prompt_logprobs: random.random_bool(0.15).then_some(2),
                precedence: Precedence::ALL[usize::from(random.random_bool(0.3))],
                priority: random.random_range(-1..=1),
                deadline: None,
                cache_salt: random.random_bool(0.2).then(|| "tenant".to_owned()),
                share: ["a", "b", "c"][index % 3].into(),
                constraint: random.random_bool(0.2).then(|| Box::new(Pattern { place: 0 }) as Box<dyn Constraint>),
                prediction: Vec::new(),
            }
        })
        .collect()
}

/// The same requests, and some of them again that want no tokens.
fn with_other_tasks(mut requests: Vec<Request>, n_ids: u32) -> Vec<Request> {
    let others = requests.clone().into_iter().step_by(4).enumerate().map(|(index, request)| {
        let task = if index % 2 == 0 { Task::Pool } else { Task::Weigh(vec![1, n_ids - 1, 0]) };
        Request { task, ..request }
    });
    requests.extend(others);
    requests
}

/// Every other token is even.
#[derive(Clone, Debug)]
struct Pattern {
    place: u32,
}

impl Constraint for Pattern {
    fn allowed(&mut self) -> Result<TokenSet, ConstraintError> {
        let mut allowed = TokenSet::default();
        (0..1024)
            .filter(|id: &u32| self.place.is_multiple_of(2) || id.is_multiple_of(2))
            .for_each(|id| allowed.insert(id));
        Ok(allowed)
    }

    fn advance(&mut self, _: u32) -> Result<(), ConstraintError> {
        self.place += 1;
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

fn random_sampling(random: &mut ChaCha8Rng, n_ids: u32) -> SamplingParams {
    let plain = SamplingParams { seed: Some(random.random()), ..SamplingParams::default() };
    match random.random_range(0..7) {
        0 | 1 => SamplingParams { temperature: 0.0, ..plain },
        2 => SamplingParams { temperature: 0.0, repetition_penalty: 1.3, frequency_penalty: 0.4, ..plain },
        3 => SamplingParams { temperature: 0.8, top_p: 0.9, presence_penalty: 0.5, ..plain },
        4 => SamplingParams { typical_p: 0.9, ..plain },
        5 => {
            let bad_words = (0..n_ids).map(|id| vec![id, (id + random.random_range(0..2)) % n_ids]).collect();
            SamplingParams { bad_words, temperature: 0.5, ..plain }
        }
        _ => SamplingParams { top_k: 20, logit_bias: vec![(random.random_range(0..n_ids), 3.0)], ..plain },
    }
}

pub fn run_alone(new_model: NewModel<'_>, request: &Request) -> Vec<Update> {
    let config = EngineConfig { num_blocks: 64, prefix_caching: false, ..EngineConfig::default() };
    let engine = EngineHandle::spawn(new_model(&config), config, Arc::default());
    without_start(read(engine.submit(request.clone()).unwrap()))
}

/// How much came from the prefix cache is the one thing that may differ.
fn without_start(mut updates: Vec<Update>) -> Vec<Update> {
    assert!(matches!(updates.remove(0), Update::Started { .. }));
    updates
}

/// Every request twice, the second time when something else is already under way, between others that are
/// cancelled at random moments.
fn check_mix(
    subject: Subject<'_>,
    requests: &[Request],
    alone: &[Vec<Update>],
    config: &EngineConfig,
    seed: u64,
) -> Snapshot {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (release, gate) = channel();
    let model = Box::new(Gated { model: (subject.new_model)(config), gate });
    let (drafter, metrics) = ((subject.new_drafter)(config), Arc::clone(subject.metrics));
    let engine = EngineHandle::spawn_with_drafter(model, drafter, config.clone(), metrics);
    let submit = |index: usize| engine.submit(requests[index].clone()).unwrap();

    let mut order: Vec<usize> = (0..requests.len()).chain(0..requests.len()).collect();
    order.shuffle(&mut random);
    let (early, late) = order.split_at(requests.len());
    let mut mix: Vec<Reader> = Vec::new();
    let mut cancelled: Vec<RequestStream> = Vec::new();
    for &index in early {
        mix.push(Reader::new(index, submit(index)));
        if random.random_bool(0.3) {
            cancelled.push(submit(random.random_range(0..requests.len())));
        }
    }
    drop(release);
    for &index in late {
        let reader = random.random_range(0..mix.len());
        mix[reader].read_one();
        if random.random_bool(0.5) {
            cancelled.pop();
        }
        mix.push(Reader::new(index, submit(index)));
    }
    drop(cancelled);
    for reader in mix {
        let (index, got) = (reader.index, reader.read_all());
        assert_eq!(got, alone[index], "request {index}, seed {seed}, {config:?}: {:?}", requests[index]);
    }
    let snapshot = inspect(&engine);
    assert_eq!((snapshot.held_blocks, snapshot.running, snapshot.waiting), (0, 0, 0));
    assert_eq!(engine.health(), Health::Ready);
    snapshot
}

struct Reader {
    index: usize,
    stream: RequestStream,
    updates: Vec<Update>,
}

impl Reader {
    fn new(index: usize, stream: RequestStream) -> Self {
        Self { index, stream, updates: Vec::new() }
    }

    fn read_one(&mut self) {
        self.updates.extend(self.stream.blocking_next());
    }

    fn read_all(mut self) -> Vec<Update> {
        self.updates.extend(read(self.stream));
        without_start(self.updates)
    }
}

#[test]
fn a_request_gives_the_same_tokens_alone_and_in_any_mix() {
    let roomy = EngineConfig::default();
    // 13 blocks of 4 tokens hold one and a bit of the longest sequences.
    let tiny = EngineConfig { block_size: 4, num_blocks: 13, ..roomy.clone() };
    let limits = [
        roomy.clone(),
        tiny.clone(),
        EngineConfig { prefix_caching: false, max_running: 5, ..tiny.clone() },
        EngineConfig { block_size: 1, num_blocks: 60, max_batched_tokens: 7, ..roomy.clone() },
        EngineConfig { block_size: 3, num_blocks: 40, max_batched_tokens: 3, max_running: 4, ..roomy },
    ];
    let new_model = |config: &EngineConfig| -> Box<dyn ForwardPass> {
        Box::new(PagedModel::new(config.block_size, config.num_blocks))
    };
    let ahead = |config: &EngineConfig| -> Box<dyn ForwardPass> { Box::new(Ahead::new(new_model(config))) };
    let requests = with_other_tasks(random_requests(24, FIRST_FAULT, 1), FIRST_FAULT);
    for new_model in [&new_model as NewModel<'_>, &ahead] {
        let totals = check_mixes(new_model, &requests, &limits, 12);
        assert!(totals.preemptions > 100 && totals.cached_tokens > 1000, "{totals:?}");
    }
    // Who chooses does not matter either.
    for request in &requests {
        assert_eq!(run_alone(&ahead, request), run_alone(&new_model, request), "{request:?}");
    }
}

/// A model that is always a step ahead, whose tokens are chosen by the emulated GPU, or by a real one where
/// `TRAMONTANE_TEST_DEVICE` is `cuda`.
#[test]
fn a_gpu_gives_the_same_tokens_alone_and_in_any_mix() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/mistral-v03");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let new_model = |config: &EngineConfig| -> Box<dyn ForwardPass> {
        let EngineConfig { num_blocks, block_size, .. } = *config;
        let cache = KvCacheConfig { num_blocks, block_size, dtype: ComputeDtype::Bf16.dtype() };
        let limits = GpuLimits { max_tokens: 64, max_sequences: 64 };
        gpu_decoder(&checkpoint, ComputeDtype::Bf16, cache, limits).unwrap()
    };
    let limits = [
        EngineConfig { block_size: 4, num_blocks: 13, max_batched_tokens: 64, ..EngineConfig::default() },
        EngineConfig { block_size: 2, num_blocks: 60, max_batched_tokens: 11, ..EngineConfig::default() },
    ];
    let n_ids = checkpoint.config().vocab_size as u32;
    let requests = with_other_tasks(random_requests(10, n_ids, 3), n_ids);
    let totals = check_mixes(&new_model, &requests, &limits, 1);
    assert!(totals.preemptions > 0 && totals.cached_tokens > 0, "{totals:?}");
    // The engine's own sampler chooses the same from the GPU's logits.
    let on_the_host = |config: &EngineConfig| -> Box<dyn ForwardPass> { Box::new(WithoutChoice(new_model(config))) };
    for request in &requests {
        let ids = |updates: Vec<Update>| -> Vec<u32> {
            updates
                .iter()
                .filter_map(|update| if let Update::Token { id, .. } = update { Some(*id) } else { None })
                .collect()
        };
        assert_eq!(ids(run_alone(&new_model, request)), ids(run_alone(&on_the_host, request)), "{request:?}");
    }
}

/// A model whose tokens the engine chooses.
struct WithoutChoice(Box<dyn ForwardPass>);

impl ForwardPass for WithoutChoice {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn outputs(&self) -> Outputs {
        self.0.outputs()
    }

    fn tells_generated_tokens_apart(&self) -> bool {
        self.0.tells_generated_tokens_apart()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.0.forward(batch)
    }
}

/// The same with real decoders on the processor: a sliding window, experts, and long-context scaling.
#[test]
fn the_decoder_gives_the_same_tokens_alone_and_in_any_mix() {
    let rows = [
        EngineConfig { block_size: 4, num_blocks: 13, ..EngineConfig::default() },
        EngineConfig { block_size: 3, num_blocks: 40, max_batched_tokens: 11, ..EngineConfig::default() },
    ];
    // Blocks of bf16 that fill panels, as those of the sequences that are computed alone do.
    let panels = [
        EngineConfig { num_blocks: 4, ..EngineConfig::default() },
        EngineConfig { num_blocks: 8, max_batched_tokens: 11, ..EngineConfig::default() },
    ];
    for (case, dtype) in [
        ("mistral-v01-swa", ComputeDtype::F32),
        ("mixtral-8x2", ComputeDtype::F32),
        ("ministral3", ComputeDtype::F32),
        ("mistral-v03", ComputeDtype::Bf16),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(case);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let new_model = |config: &EngineConfig| -> Box<dyn ForwardPass> {
            let weights = checkpoint.load(dtype, &Device::Cpu, &NoProgress).unwrap();
            let EngineConfig { num_blocks, block_size, .. } = *config;
            let cache = KvCacheConfig { num_blocks, block_size, dtype: dtype.dtype() };
            Box::new(Decoder::new(checkpoint.config().clone(), weights, cache).unwrap())
        };
        let n_ids = checkpoint.config().vocab_size as u32;
        let requests = with_other_tasks(random_requests(12, n_ids, 2), n_ids);
        let configs = if dtype == ComputeDtype::Bf16 { &panels } else { &rows };
        let totals = check_mixes(&new_model, &requests, configs, 2);
        assert!(totals.preemptions > 0 && totals.cached_tokens > 0, "{case}: {totals:?}");
    }
}
