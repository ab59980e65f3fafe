//! Tokens guessed ahead change nothing in an answer, come true where a text repeats itself, and cost nothing but time
//! where they fail: every kind of request with every kind of drafter, in mixes as in `engine_mix`.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use tramontane::{
    engine::{
        EngineConfig, EngineHandle, FinishReason, Request, SpeculationMode, Update,
        draft::{DecoderDrafter, Drafter, Evidence, Wanted},
    },
    model::{
        Decoder, ForwardPass, KvCacheConfig, Logits, ModelError,
        checkpoint::{Checkpoint, ComputeDtype, NoProgress, WeightTypes},
    },
    telemetry::EngineMetrics,
    types::{Batch, SamplingParams},
};
use tramontane_kernels::PanelFormat;

use crate::engine_mix::{NewModel, Subject, check_drafted_mixes, random_requests, run_alone};
use crate::engine_mock::{FIRST_FAULT, PANIC_TOKEN, PagedModel, VOCAB_SIZE, generate, read, request, tokens};

fn paged(config: &EngineConfig) -> Box<dyn ForwardPass> {
    Box::new(PagedModel::new(config.block_size, config.num_blocks))
}

fn decoder_drafter(model: Box<dyn ForwardPass>, config: &EngineConfig) -> Box<dyn Drafter> {
    Box::new(DecoderDrafter::new(model, config.block_size, config.num_blocks, config.max_model_len))
}

/// A drafter whose guesses are cut, wrong from some token on, or not made at all, each in its turn.
struct Unreliable {
    drafter: Box<dyn Drafter>,
    n_ids: u32,
    turn: usize,
}

impl Drafter for Unreliable {
    fn prospect(&mut self, sequence: u64, tokens: &[u32]) -> Option<Evidence> {
        self.turn += 1;
        self.drafter.prospect(sequence, tokens).filter(|_| !self.turn.is_multiple_of(5))
    }

    fn is_free(&self) -> bool {
        self.drafter.is_free()
    }

    fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>> {
        let mut drafts = self.drafter.propose(wanted);
        for draft in &mut drafts {
            self.turn += 1;
            match self.turn % 4 {
                0 => draft.truncate(self.turn % 3),
                1 => draft.iter_mut().skip(self.turn % 6).for_each(|id| *id = (*id + 1) % self.n_ids),
                _ => {}
            }
        }
        drafts
    }

    fn forget(&mut self, sequence: u64) {
        self.drafter.forget(sequence);
    }
}

fn count(metrics: &EngineMetrics, name: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with(&format!("vllm:{name}{{"))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn accepted(metrics: &EngineMetrics) -> u64 {
    count(metrics, "spec_decode_num_accepted_tokens_total")
}

fn drafted(metrics: &EngineMetrics) -> u64 {
    count(metrics, "spec_decode_num_draft_tokens_total")
}

/// Room for everything, hardly any, and small steps; each with drafts whenever they can be had, and when they pay.
fn limits() -> Vec<EngineConfig> {
    let roomy = EngineConfig::default();
    let tiny = EngineConfig { block_size: 4, num_blocks: 13, ..roomy.clone() };
    let mut limits = Vec::new();
    for speculation in [SpeculationMode::Always(8), SpeculationMode::Always(3), SpeculationMode::Auto] {
        limits.extend([
            EngineConfig { speculation, ..roomy.clone() },
            EngineConfig { speculation, ..tiny.clone() },
            EngineConfig { speculation, prefix_caching: false, max_running: 5, ..tiny.clone() },
            EngineConfig { speculation, block_size: 1, num_blocks: 60, max_batched_tokens: 7, ..roomy.clone() },
            EngineConfig { speculation, max_model_len: 48, block_size: 3, num_blocks: 40, ..roomy.clone() },
        ]);
    }
    limits
}

/// Few ids, so that texts repeat themselves and end in the middle of what was guessed.
fn repetitive_requests() -> Vec<Request> {
    let mut requests = random_requests(24, 5, 11);
    for (index, request) in requests.iter_mut().enumerate() {
        request.sampling.allowed_token_ids = Some((0..5).collect());
        request.sampling.logit_bias = vec![(1, 2.5), (3, 4.5)];
        request.sampling.bad_words.truncate(2);
        if index % 2 == 0 {
            request.stop.eos_token_ids = vec![50];
            request.stop.stop_token_ids = vec![(index % 5) as u32];
            request.stop.min_tokens = request.stop.max_tokens / 2;
        }
    }
    requests
}

#[test]
fn lookups_do_not_change_what_is_answered() {
    let metrics = Arc::default();
    let subject = Subject { new_model: &paged, new_drafter: &|_| None, metrics: &metrics };
    let totals = check_drafted_mixes(subject, &repetitive_requests(), &limits(), 4);
    assert!(totals.preemptions > 100 && totals.cached_tokens > 1000, "{totals:?}");
    let (accepted, drafted) = (accepted(&metrics), drafted(&metrics));
    assert!(accepted > 1000 && drafted - accepted > 1000, "{accepted} of {drafted} came");
}

/// Makes no guesses of its own.
struct Silent;

impl Drafter for Silent {
    fn prospect(&mut self, _: u64, _: &[u32]) -> Option<Evidence> {
        None
    }

    fn is_free(&self) -> bool {
        true
    }

    fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>> {
        vec![Vec::new(); wanted.len()]
    }

    fn forget(&mut self, _: u64) {}
}

/// Some are right, some leave a token out, some are right about nothing but the tokens, some are nothing.
#[test]
fn predictions_do_not_change_what_is_answered() {
    let mut requests = random_requests(24, FIRST_FAULT, 5);
    for (index, request) in requests.iter_mut().enumerate() {
        let alone = run_alone(&paged, request);
        let mut prediction = tokens(&alone).0;
        match index % 4 {
            0 => {}
            1 => drop(prediction.remove(prediction.len() / 2)),
            2 => prediction.reverse(),
            _ => prediction.clear(),
        }
        request.prediction = prediction;
        assert_eq!(run_alone(&paged, request), alone);
    }
    let metrics = Arc::default();
    let new_drafter = |_: &EngineConfig| -> Option<Box<dyn Drafter>> { Some(Box::new(Silent)) };
    let subject = Subject { new_model: &paged, new_drafter: &new_drafter, metrics: &metrics };
    let totals = check_drafted_mixes(subject, &requests, &limits(), 4);
    assert!(totals.preemptions > 100 && totals.cached_tokens > 1000, "{totals:?}");
    let (accepted, drafted) = (accepted(&metrics), drafted(&metrics));
    assert!(accepted > 1000 && drafted > accepted, "{accepted} of {drafted} came");
}

#[test]
fn a_prediction_must_be_in_the_vocabulary() {
    let config = EngineConfig::default();
    let engine = EngineHandle::spawn(paged(&config), config, Arc::default());
    let refused = engine.submit(Request { prediction: vec![u32::MAX], ..request(&[3], 4) });
    assert!(refused.is_err());
}

#[test]
fn a_draft_model_does_not_change_what_is_answered() {
    let metrics = Arc::default();
    let new_drafter = |config: &EngineConfig| -> Option<Box<dyn Drafter>> {
        let drafter = decoder_drafter(paged(config), config);
        Some(Box::new(Unreliable { drafter, n_ids: FIRST_FAULT, turn: 0 }))
    };
    let subject = Subject { new_model: &paged, new_drafter: &new_drafter, metrics: &metrics };
    let totals = check_drafted_mixes(subject, &random_requests(24, FIRST_FAULT, 1), &limits(), 4);
    assert!(totals.preemptions > 100 && totals.cached_tokens > 1000, "{totals:?}");
    let (accepted, drafted) = (accepted(&metrics), drafted(&metrics));
    assert!(accepted > 1000 && drafted - accepted > 1000, "{accepted} of {drafted} came");
}

/// Whatever is preempted, shared or cached, the draft model has seen exactly the tokens that the model has: guesses of
/// the same model all come true.
#[test]
fn a_draft_model_knows_its_sequences() {
    let metrics = Arc::default();
    let mut requests = random_requests(24, FIRST_FAULT, 5);
    for request in &mut requests {
        request.sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        request.stop.min_tokens = 0;
    }
    let new_drafter = |config: &EngineConfig| Some(decoder_drafter(paged(config), config));
    let subject = Subject { new_model: &paged, new_drafter: &new_drafter, metrics: &metrics };
    let totals = check_drafted_mixes(subject, &requests, &limits(), 3);
    assert!(totals.preemptions > 100 && totals.cached_tokens > 1000, "{totals:?}");
    let (accepted, drafted) = (accepted(&metrics), drafted(&metrics));
    // What a sequence's end cuts off is not counted as come.
    assert!(drafted > 3000 && accepted * 20 > drafted * 19, "{accepted} of {drafted} came");
}

#[test]
fn drafts_save_steps() {
    let config = EngineConfig { speculation: SpeculationMode::Always(4), ..EngineConfig::default() };
    let metrics: Arc<EngineMetrics> = Arc::default();
    let drafter = Some(decoder_drafter(paged(&config), &config));
    let engine = EngineHandle::spawn_with_drafter(paged(&config), drafter, config, Arc::clone(&metrics));
    let updates = read(engine.submit(request(&[1, 2], 41)).unwrap());
    assert_eq!(tokens(&updates), (generate(&[1, 2], 41), FinishReason::Length));
    // Eight steps give five tokens each, that of the prompt among them, and one the last.
    assert_eq!(count(&metrics, "iteration_tokens_total_count"), 9);
    assert_eq!((count(&metrics, "spec_decode_num_drafts_total"), drafted(&metrics), accepted(&metrics)), (8, 32, 32));
    assert_eq!(count(&metrics, "generation_tokens_total"), 41);
}

/// Says 0, 1, .. 6 again and again.
struct Counting;

impl ForwardPass for Counting {
    fn vocab_size(&self) -> usize {
        7
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let mut values = vec![0.0; batch.output_rows.len() * 7];
        for (values, &row) in values.chunks_mut(7).zip(&batch.output_rows) {
            values[(batch.token_ids[row as usize] as usize + 1) % 7] = 1.0;
        }
        Ok(Logits { values, vocab_size: 7, ..Logits::default() })
    }
}

#[test]
fn a_text_that_repeats_itself_is_looked_up() {
    let config = EngineConfig { speculation: SpeculationMode::Always(8), ..EngineConfig::default() };
    let metrics: Arc<EngineMetrics> = Arc::default();
    let engine = EngineHandle::spawn(Box::new(Counting), config, Arc::clone(&metrics));
    let updates = read(engine.submit(request(&[0], 100)).unwrap());
    assert_eq!(tokens(&updates).0, (1..=100).map(|id| id % 7).collect::<Vec<u32>>());
    // Two tokens of the second round are there after the ninth; from then on nine come in a step.
    let steps = count(&metrics, "iteration_tokens_total_count");
    assert_eq!((steps, drafted(&metrics)), (8 + 11, accepted(&metrics)));
}

#[test]
fn a_draft_that_breaks_the_model_is_only_left_out() {
    struct Breaking;
    impl Drafter for Breaking {
        fn prospect(&mut self, _: u64, tokens: &[u32]) -> Option<Evidence> {
            assert!(tokens.len() != 9, "a drafter that panics");
            Some(0)
        }
        fn is_free(&self) -> bool {
            true
        }
        fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>> {
            wanted.iter().map(|_| vec![PANIC_TOKEN; 3]).collect()
        }
        fn forget(&mut self, _: u64) {}
    }
    let config = EngineConfig { speculation: SpeculationMode::Always(2), ..EngineConfig::default() };
    let metrics: Arc<EngineMetrics> = Arc::default();
    let engine =
        EngineHandle::spawn_with_drafter(paged(&config), Some(Box::new(Breaking)), config, Arc::clone(&metrics));
    let streams = [[1, 2], [3, 4]].map(|prompt| (prompt, engine.submit(request(&prompt, 12)).unwrap()));
    for (prompt, stream) in streams {
        assert_eq!(tokens(&read(stream)), (generate(&prompt, 12), FinishReason::Length));
    }
    assert_eq!(accepted(&metrics), 0);
}

/// A failure behind tokens that were guessed right ends the request there, and no sooner.
#[test]
fn logits_that_are_not_numbers_end_a_request_after_what_came_before() {
    struct Ending;
    impl ForwardPass for Ending {
        fn vocab_size(&self) -> usize {
            VOCAB_SIZE
        }
        fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
            let mut values = vec![0.0; batch.output_rows.len() * VOCAB_SIZE];
            for (values, &row) in values.chunks_mut(VOCAB_SIZE).zip(&batch.output_rows) {
                match batch.positions[row as usize] {
                    20.. => values.fill(f32::NAN),
                    _ => values[5] = 1.0,
                }
            }
            Ok(Logits { values, vocab_size: VOCAB_SIZE, ..Logits::default() })
        }
    }
    for speculation in [SpeculationMode::Off, SpeculationMode::Always(8), SpeculationMode::Always(5)] {
        let config = EngineConfig { speculation, ..EngineConfig::default() };
        let engine = EngineHandle::spawn(Box::new(Ending), config, Arc::default());
        let (ids, reason) = tokens(&read(engine.submit(request(&[5, 5], 60)).unwrap()));
        assert_eq!(ids, [5; 19], "{speculation:?}");
        assert_eq!(reason, FinishReason::Failed("the model's logits are not finite".to_owned()));
    }
}

fn open(folder: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
}

fn decoder(checkpoint: &Checkpoint, types: WeightTypes, config: &EngineConfig) -> Box<dyn ForwardPass> {
    let weights = checkpoint.load(types, &Device::Cpu, &NoProgress).unwrap();
    let EngineConfig { num_blocks, block_size, .. } = *config;
    let cache = KvCacheConfig { num_blocks, block_size, dtype: types.dtype.dtype() };
    Box::new(Decoder::new(checkpoint.config().clone(), weights, cache).unwrap())
}

/// With real decoders, which also draft for themselves.
#[test]
fn a_decoder_gives_the_same_tokens_with_drafts_and_without() {
    let always = EngineConfig { speculation: SpeculationMode::Always(6), ..EngineConfig::default() };
    let rows = [
        EngineConfig { block_size: 4, num_blocks: 13, ..always.clone() },
        EngineConfig { block_size: 3, num_blocks: 40, max_batched_tokens: 11, ..always.clone() },
    ];
    // Blocks of bf16 that fill panels, as those of the sequences that are computed alone do.
    let panels = [
        EngineConfig { num_blocks: 4, ..always.clone() },
        EngineConfig { num_blocks: 8, max_batched_tokens: 11, ..always },
    ];
    let quantized = |format| WeightTypes { dtype: ComputeDtype::F32, panels: Some(format) };
    for (case, types) in [
        ("tests/data/golden/mistral-v01-swa", ComputeDtype::F32.into()),
        ("tests/data/golden/mixtral-8x2", ComputeDtype::F32.into()),
        ("tests/data/golden/ministral3", ComputeDtype::F32.into()),
        ("tests/data/golden/mistral-v03", ComputeDtype::Bf16.into()),
        ("models/tiny", quantized(PanelFormat::Q8)),
        ("models/tiny", quantized(PanelFormat::Q4)),
    ] {
        let checkpoint = open(case);
        let new_model = |config: &EngineConfig| decoder(&checkpoint, types, config);
        let by_itself = |config: &EngineConfig| {
            let n_ids = checkpoint.config().vocab_size as u32;
            let drafter = decoder_drafter(new_model(config), config);
            Some(Box::new(Unreliable { drafter, n_ids, turn: 0 }) as Box<dyn Drafter>)
        };
        let requests = random_requests(12, checkpoint.config().vocab_size as u32, 2);
        let metrics = Arc::default();
        let subject = Subject { new_model: &new_model as NewModel<'_>, new_drafter: &by_itself, metrics: &metrics };
        let configs = if types.dtype == ComputeDtype::Bf16 { &panels } else { &rows };
        let totals = check_drafted_mixes(subject, &requests, configs, 1);
        assert!(totals.preemptions > 0 && totals.cached_tokens > 0, "{case}: {totals:?}");
        assert!(accepted(&metrics) > 50, "{case}: {} came", accepted(&metrics));
    }
}

/// The model that comes with the repository, on a prompt that it can only quote: most of what is looked up comes.
#[test]
fn the_tiny_model_quotes_what_is_looked_up() {
    let checkpoint = open("models/tiny");
    let new_model = |config: &EngineConfig| decoder(&checkpoint, ComputeDtype::F32.into(), config);
    let line: Vec<u32> = (300..340).collect();
    let prompt = [line.clone(), line.clone(), line[..6].to_vec()].concat();
    let mut wanted = request(&prompt, 40);
    wanted.sampling.allowed_token_ids = Some((300..340).collect());
    let alone = run_alone(&new_model, &wanted);
    let config = EngineConfig { speculation: SpeculationMode::Always(8), ..EngineConfig::default() };
    let metrics: Arc<EngineMetrics> = Arc::default();
    let engine = EngineHandle::spawn(new_model(&config), config, Arc::clone(&metrics));
    let updates = read(engine.submit(wanted).unwrap());
    assert!(matches!(updates[0], Update::Started { .. }));
    assert_eq!(updates[1..], alone);
    let (steps, accepted) = (count(&metrics, "iteration_tokens_total_count"), accepted(&metrics));
    assert_eq!(steps, 40 - accepted, "every accepted token saves a step");
    assert!(accepted >= 10, "{accepted} came in {steps} steps");
}
