//! The decoder against the reference implementation, on every case of a directory: `tests/data/golden`, or
//! the one that `TRAMONTANE_GOLDEN_DIR` names. A case of an architecture that is known not to be served is
//! printed by name with the loader's reason; any other case must pass.

use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use tramontane::engine::sampler::token_logprobs;
use tramontane::model::checkpoint::{Checkpoint, CheckpointError, ComputeDtype, NoProgress, Subject};
use tramontane::model::config::Config;
use tramontane::model::gpu::{GpuDecoder, GpuLimits};
use tramontane::model::weights::Weights;
use tramontane::model::{Decoder, ForwardPass, KvCacheConfig};
use tramontane_kernels::gpu::Emulated;

use crate::golden_case::{Case, Expected, Logprobs, PooledText, Prompt};
use crate::golden_pooling::{self, Tolerance};
use crate::golden_run::{BLOCK_SIZE, Chosen, Run, argmax, generate};

/// Largest difference in f32, as a share of the rms of the prompt's reference logits.
pub const F32_MAX: f64 = 1e-4;
/// Largest rms of the differences in bf16, and largest difference.
const BF16_RMS: f64 = 3e-2;
const BF16_MAX: f64 = 0.25;
/// Steps whose two best logits are this near may differ in bf16.
const BF16_GAP: f32 = 0.1;
/// Share of positions at which experts in bf16 must choose the reference's token.
const EXPERTS_ARGMAX: f64 = 0.95;
const LOGPROB: f64 = 1e-4;
/// Lengths of prefill chunks: off the block size and off every vector width.
const CHUNKS: [usize; 4] = [7, 1, 13, 3];
/// Beginnings of the names of cases that are not served. A refusal of any other is a failure.
const NOT_SERVED: [&str; 4] = ["mistral-large4", "mistral3-mistral4", "mistral4", "native-mistral4"];
/// Cases of the repository's own directory that must pass, of adapters their base model.
const COMMITTED: usize = 35;
/// The same through the GPU's kernels.
const COMMITTED_CUDA: usize = 35;

/// What computes.
#[derive(Clone, Copy)]
enum Target {
    Cpu(ComputeDtype),
    /// The kernels and the runner of CUDA in bf16, emulated; on a GPU if `TRAMONTANE_TEST_DEVICE` is `cuda`.
    EmulatedCuda,
}

#[test]
fn golden() {
    check_all(COMMITTED, run);
}

/// The same on the GPU's side: its kernels, its launches and its arrangement of a batch, in bf16.
#[test]
fn golden_cuda() {
    check_all(COMMITTED_CUDA, run_cuda);
}

/// Runs every case of the directory, of which `committed` must pass if it is the repository's own.
fn check_all(committed: usize, run: impl Fn(&Case) -> Result<Outcome>) {
    let named = std::env::var_os("TRAMONTANE_GOLDEN_DIR").map(PathBuf::from);
    let directory = named.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden"));
    let cases = Case::discover(&directory).unwrap();
    let (mut passed, mut failures) = (0, Vec::new());
    for case in &cases {
        match run(case) {
            Ok(Outcome::Passed(summary)) => {
                passed += 1;
                println!("{:<26} {summary}", case.name);
            }
            Ok(Outcome::NotServed(reason)) if NOT_SERVED.iter().any(|name| case.name.starts_with(name)) => {
                println!("{:<26} NOT SERVED: {reason}", case.name);
            }
            Ok(Outcome::NotServed(reason)) => {
                println!("{:<26} FAILED: refused although it is served: {reason}", case.name);
                failures.push(format!("{}: refused although it is served: {reason}", case.name));
            }
            Err(error) => {
                println!("{:<26} FAILED: {error:#}", case.name);
                failures.push(format!("{}: {error:#}", case.name));
            }
        }
        if case.has_adapter {
            println!("{:<26} NOT SERVED: the adapter of this case (only its base model was checked)", case.name);
        }
    }
    println!("{passed} of {} cases passed, {} failed", cases.len(), failures.len());
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
    match named {
        None => assert_eq!(passed, committed, "cases passed in {}", directory.display()),
        Some(_) => assert!(passed > 0, "no case of a served architecture in {}", directory.display()),
    }
}

enum Outcome {
    Passed(String),
    NotServed(String),
}

fn run(case: &Case) -> Result<Outcome> {
    let checkpoint = match open(case)? {
        Ok(checkpoint) => checkpoint,
        Err(not_served) => return Ok(not_served),
    };
    let summary = match case.expected()? {
        Expected::Causal(prompts) => {
            let f32_max = check_f32(&checkpoint, &prompts).context("f32")?;
            check_engine(&checkpoint, &prompts).context("through the engine")?;
            let cpu = Target::Cpu(ComputeDtype::Bf16);
            let bf16 = check_bf16(&checkpoint, &prompts, case.reference_bf16_rms, cpu).context("bf16")?;
            format!("f32 max {f32_max:.1e}, bf16 {bf16}")
        }
        Expected::Logprobs(expected) => {
            let worst = check_logprobs(&checkpoint, &expected)?;
            format!("log-probabilities within {worst:.1e}")
        }
        Expected::Pooled(texts) => {
            let f32_max = check_pooled(&checkpoint, &texts, Target::Cpu(ComputeDtype::F32)).context("f32")?;
            let bf16_max = check_pooled(&checkpoint, &texts, Target::Cpu(ComputeDtype::Bf16)).context("bf16")?;
            format!("pooled: f32 max {f32_max:.1e}, bf16 max {bf16_max:.1e}")
        }
    };
    Ok(Outcome::Passed(summary))
}

fn run_cuda(case: &Case) -> Result<Outcome> {
    let checkpoint = match open(case)? {
        Ok(checkpoint) => checkpoint,
        Err(not_served) => return Ok(not_served),
    };
    match case.expected()? {
        Expected::Causal(prompts) => {
            let summary = check_bf16(&checkpoint, &prompts, case.reference_bf16_rms, Target::EmulatedCuda)?;
            Ok(Outcome::Passed(summary))
        }
        Expected::Logprobs(_) => Ok(Outcome::Passed("nothing to compare in bf16".to_owned())),
        Expected::Pooled(texts) => {
            let max = check_pooled(&checkpoint, &texts, Target::EmulatedCuda)?;
            Ok(Outcome::Passed(format!("pooled: max {max:.1e}")))
        }
    }
}

/// The case's checkpoint, or why its architecture is not served.
fn open(case: &Case) -> Result<Result<Checkpoint, Outcome>> {
    match Checkpoint::open(&case.checkpoint) {
        Ok(checkpoint) => Ok(Ok(checkpoint)),
        Err(CheckpointError::Unsupported { subject: subject @ Subject::Architecture, found, .. }) => {
            Ok(Err(Outcome::NotServed(format!("{subject} {found}"))))
        }
        Err(error) => Err(error.into()),
    }
}

/// A model with room in its cache for all prompts at once.
pub fn decoder(
    config: &Config,
    weights: Weights,
    dtype: ComputeDtype,
    num_blocks: usize,
) -> Result<impl ForwardPass + use<>> {
    let cache = KvCacheConfig { num_blocks, block_size: BLOCK_SIZE, dtype: dtype.dtype() };
    Ok(Decoder::new(config.clone(), weights, cache)?)
}

fn load(checkpoint: &Checkpoint, target: Target, num_blocks: usize) -> Result<Box<dyn ForwardPass>> {
    let dtype = match target {
        Target::Cpu(dtype) => dtype,
        Target::EmulatedCuda => ComputeDtype::Bf16,
    };
    match target {
        Target::Cpu(_) => {
            let weights = checkpoint.load(dtype, &Device::Cpu, &NoProgress)?;
            Ok(Box::new(decoder(checkpoint.config(), weights, dtype, num_blocks)?))
        }
        Target::EmulatedCuda => {
            let cache = KvCacheConfig { num_blocks, block_size: BLOCK_SIZE, dtype: dtype.dtype() };
            // A prompt of any length in one go, all prompts together.
            let limits = GpuLimits { max_tokens: num_blocks * BLOCK_SIZE, max_sequences: num_blocks };
            gpu_decoder(checkpoint, dtype, cache, limits)
        }
    }
}

/// On the emulated GPU, or on a real one where `TRAMONTANE_TEST_DEVICE` is `cuda`.
pub fn gpu_decoder(
    checkpoint: &Checkpoint,
    dtype: ComputeDtype,
    cache: KvCacheConfig,
    limits: GpuLimits,
) -> Result<Box<dyn ForwardPass>> {
    let (config, weights) = (checkpoint.config().clone(), checkpoint.source(dtype, &NoProgress));
    #[cfg(feature = "cuda")]
    if std::env::var("TRAMONTANE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        let device = tramontane_kernels::gpu::cuda::Cuda::open(0)?;
        return Ok(Box::new(GpuDecoder::new(config, &weights, cache, limits, device)?));
    }
    Ok(Box::new(GpuDecoder::new(config, &weights, cache, limits, Emulated::default())?))
}

/// Logits of every position within [`F32_MAX`], in one prefill and in chunks, and all greedy tokens equal,
/// each prompt alone and all together. Returns the largest difference.
fn check_f32(checkpoint: &Checkpoint, prompts: &[Prompt]) -> Result<f64> {
    let mut worst: f64 = 0.0;
    for_each_way(checkpoint, prompts, Target::Cpu(ComputeDtype::F32), |way| {
        match way {
            Way::Logits { prompt, logits } => {
                let difference = Difference::between(logits, &prompt.logits)?;
                ensure!(difference.max <= F32_MAX, "{difference}, expected max {F32_MAX:e}");
                worst = worst.max(difference.max);
            }
            Way::Greedy { prompt, tokens } | Way::Followed { prompt, tokens } => {
                check_steps(prompt, tokens, 0..prompt.greedy_ids.len())?;
            }
        }
        Ok(())
    })?;
    Ok(worst)
}

/// The engine, all prompts at once in a cache that just holds them, generates the reference's tokens.
fn check_engine(checkpoint: &Checkpoint, prompts: &[Prompt]) -> Result<()> {
    let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let n_new = prompts.iter().map(|prompt| prompt.greedy_ids.len()).max().unwrap_or(0);
    let num_blocks = Run::blocks_needed(&ids, n_new);
    let model = load(checkpoint, Target::Cpu(ComputeDtype::F32), num_blocks)?;
    let wanted = iter::zip(ids, prompts.iter().map(|prompt| prompt.greedy_ids.len()));
    for (index, tokens) in generate(model, num_blocks, wanted)?.iter().enumerate() {
        let prompt = &prompts[index];
        check_steps(prompt, tokens, 0..prompt.greedy_ids.len()).with_context(|| format!("prompt {index}"))?;
    }
    Ok(())
}

/// What texts are pooled to, within the tolerances of logits. Returns the largest difference.
fn check_pooled(checkpoint: &Checkpoint, texts: &[PooledText], target: Target) -> Result<f64> {
    let tolerance = match target {
        Target::Cpu(ComputeDtype::F32) => Tolerance { rms: F32_MAX, max: F32_MAX },
        Target::Cpu(_) | Target::EmulatedCuda => Tolerance { rms: BF16_RMS, max: BF16_MAX },
    };
    golden_pooling::check(|num_blocks| load(checkpoint, target, num_blocks), checkpoint.pooling(), texts, tolerance)
}

/// The same in bf16 with its tolerances; returns them as a summary.
fn check_bf16(
    checkpoint: &Checkpoint,
    prompts: &[Prompt],
    reference_rms: Option<f64>,
    target: Target,
) -> Result<String> {
    let has_experts = checkpoint.config().feed_forward.experts.is_some();
    let vocab_size = checkpoint.config().vocab_size;
    let (mut rms, mut max, mut steps): (f64, f64, usize) = (0.0, 0.0, 0);
    for_each_way(checkpoint, prompts, target, |way| {
        match way {
            Way::Logits { prompt, logits } => {
                let difference = Difference::between(logits, &prompt.logits)?;
                let share = argmax_share(logits, &prompt.logits, vocab_size);
                if has_experts {
                    let within = reference_rms.is_some_and(|reference| difference.rms <= 2.0 * reference);
                    ensure!(within || share >= EXPERTS_ARGMAX, "{difference}, argmax equal at {share:.3} of positions");
                } else {
                    let within = difference.rms <= BF16_RMS && difference.max <= BF16_MAX;
                    ensure!(within, "{difference}, expected rms {BF16_RMS:e} and max {BF16_MAX}");
                }
                rms = rms.max(difference.rms);
                max = max.max(difference.max);
            }
            Way::Greedy { .. } | Way::Followed { .. } if has_experts => {}
            Way::Greedy { prompt, tokens } => {
                let wide = prompt.greedy_gap.iter().take_while(|gap| **gap > BF16_GAP).count();
                steps += check_steps(prompt, tokens, 0..wide)?;
            }
            Way::Followed { prompt, tokens } => {
                let wide = (0..tokens.len()).filter(|step| prompt.greedy_gap[*step] > BF16_GAP);
                steps += check_steps(prompt, tokens, wide)?;
            }
        }
        Ok(())
    })?;
    Ok(format!("rms {rms:.1e} max {max:.1e}, {steps} greedy steps compared"))
}

/// Compares the tokens of some greedy steps; returns how many.
fn check_steps(prompt: &Prompt, tokens: &[u32], steps: impl Iterator<Item = usize>) -> Result<usize> {
    ensure!(tokens.len() == prompt.greedy_ids.len(), "{} tokens, expected {}", tokens.len(), prompt.greedy_ids.len());
    let mut compared = 0;
    for step in steps {
        let (found, expected, gap) = (tokens[step], prompt.greedy_ids[step], prompt.greedy_gap[step]);
        ensure!(found == expected, "greedy step {step} is token {found}, expected {expected}, gap {gap}");
        compared += 1;
    }
    Ok(compared)
}

/// One way of computing one prompt.
enum Way<'a> {
    /// Logits of all positions.
    Logits { prompt: &'a Prompt, logits: &'a [f32] },
    /// A greedy continuation.
    Greedy { prompt: &'a Prompt, tokens: &'a [u32] },
    /// The most likely token of each step, given the reference's tokens before it.
    Followed { prompt: &'a Prompt, tokens: &'a [u32] },
}

/// Computes every prompt in one prefill, in chunks (which must change no bit), along the reference's
/// continuation, greedily alone (on the CPU), and greedily with all others.
fn for_each_way(
    checkpoint: &Checkpoint,
    prompts: &[Prompt],
    target: Target,
    mut check: impl FnMut(Way<'_>) -> Result<()>,
) -> Result<()> {
    let all: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let n_new = prompts.iter().map(|prompt| prompt.greedy_ids.len()).max().unwrap_or(0);
    let vocab_size = checkpoint.config().vocab_size;
    let mut model = load(checkpoint, target, Run::blocks_needed(&all, n_new))?;
    for (index, prompt) in prompts.iter().enumerate() {
        let ids = &[all[index]];
        let whole = Run::new(&mut *model, ids, 0).prefill(&[usize::MAX])?;
        check(Way::Logits { prompt, logits: &whole }).with_context(|| format!("prompt {index}, one prefill"))?;
        let chunked = Run::new(&mut *model, ids, 0).prefill(&CHUNKS)?;
        check(Way::Logits { prompt, logits: &chunked }).with_context(|| format!("prompt {index}, in chunks"))?;
        let same = whole.iter().zip(&chunked).all(|(a, b)| a.to_bits() == b.to_bits());
        ensure!(same && whole.len() == chunked.len(), "prompt {index}: chunks of {CHUNKS:?} change the logits");
        let n_steps = prompt.greedy_ids.len();
        let path = [&prompt.input_ids, &prompt.greedy_ids[..n_steps.saturating_sub(1)]].concat();
        let followed = Run::new(&mut *model, &[&path], 0).prefill(&[usize::MAX])?;
        let tokens: Vec<u32> = followed.chunks(vocab_size).skip(prompt.input_ids.len() - 1).map(argmax).collect();
        check(Way::Followed { prompt, tokens: &tokens }).with_context(|| format!("prompt {index}, followed"))?;
        if matches!(target, Target::EmulatedCuda) {
            // Slow, and known to be the same bits as with the others: `model/tests/invariance.rs`.
            continue;
        }
        let alone = Run::new(&mut *model, ids, n_new).greedy(n_new)?;
        let tokens: Vec<u32> = alone[0].iter().map(|chosen| chosen.token).collect();
        check(Way::Greedy { prompt, tokens: &tokens }).with_context(|| format!("prompt {index}, alone"))?;
    }
    let together = Run::new(&mut *model, &all, n_new).greedy(n_new)?;
    for (index, (prompt, chosen)) in prompts.iter().zip(&together).enumerate() {
        let tokens: Vec<u32> = chosen.iter().map(|chosen| chosen.token).collect();
        check(Way::Greedy { prompt, tokens: &tokens }).with_context(|| format!("prompt {index}, with the others"))?;
    }
    Ok(())
}

/// Differences of logits, as a share of the reference's rms.
pub struct Difference {
    pub rms: f64,
    pub max: f64,
    /// Where `max` is, and both values there.
    worst: (usize, f32, f32),
}

impl Difference {
    pub fn between(found: &[f32], expected: &[f32]) -> Result<Difference> {
        ensure!(found.len() == expected.len(), "{} logits, expected {}", found.len(), expected.len());
        let rms = |squares: f64| (squares / expected.len() as f64).sqrt();
        let scale = rms(expected.iter().map(|value| f64::from(*value).powi(2)).sum());
        let (mut squares, mut max, mut worst) = (0.0, 0.0, (0, 0.0, 0.0));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (f64::from(*found) - f64::from(*expected)).abs();
            // A NaN is the worst of all.
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            squares += difference * difference;
            if difference > max {
                (max, worst) = (difference, (index, *found, *expected));
            }
        }
        Ok(Difference { rms: rms(squares) / scale, max: max / scale, worst })
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (index, found, expected) = self.worst;
        write!(f, "rms {:.2e}, max {:.2e} at {index}: {found}, expected {expected}", self.rms, self.max)
    }
}

fn argmax_share(found: &[f32], expected: &[f32], vocab_size: usize) -> f64 {
    let rows = found.chunks(vocab_size).zip(expected.chunks(vocab_size));
    let (equal, all) = rows.fold((0, 0), |(equal, all), (a, b)| (equal + usize::from(argmax(a) == argmax(b)), all + 1));
    f64::from(u32::try_from(equal).unwrap_or(0)) / f64::from(all)
}

/// What the sampler reports of the prompt's tokens, of the most likely ones and of a greedy continuation.
fn check_logprobs(checkpoint: &Checkpoint, expected: &Logprobs) -> Result<f64> {
    let vocab_size = checkpoint.config().vocab_size;
    let ids: &[&[u32]] = &[&expected.input_ids];
    let n_new = expected.greedy_ids.len();
    let mut model = load(checkpoint, Target::Cpu(ComputeDtype::F32), Run::blocks_needed(ids, n_new))?;
    let logits = Run::new(&mut *model, ids, 0).prefill(&[usize::MAX])?;
    let rows: Vec<&[f32]> = logits.chunks(vocab_size).collect();
    ensure!(rows.len() == expected.top.len() && rows.len() == expected.prompt.len() + 1, "{} rows", rows.len());
    let mut worst: f64 = 0.0;
    for (position, (row, top)) in rows.iter().zip(&expected.top).enumerate() {
        // Any token does for the most likely ones.
        worst = worst.max(check_top(row, 0, top).with_context(|| format!("position {position}"))?);
    }
    for (position, (row, (logprob, rank))) in rows.iter().zip(&expected.prompt).enumerate() {
        let token = expected.input_ids[position + 1];
        let found = token_logprobs(row, token, 0);
        let difference = (f64::from(found.logprob) - logprob).abs();
        ensure!(difference <= LOGPROB, "prompt token {token}: {}, expected {logprob}", found.logprob);
        worst = worst.max(difference);
        // Tokens as likely as this one may be on either side of it.
        let above = |margin: f32| row.iter().filter(|other| **other > row[token as usize] + margin).count();
        let ranks = above(2.0 * LOGPROB as f32) + 1..=above(-2.0 * LOGPROB as f32);
        ensure!(ranks.contains(rank), "prompt token {token}: rank within {ranks:?}, expected {rank}");
        ensure!(ranks.contains(&(found.rank as usize)), "prompt token {token}: rank {}, not {rank}", found.rank);
    }
    let chosen = Run::new(&mut *model, ids, n_new).greedy(n_new)?.remove(0);
    for (step, Chosen { token, logits }) in chosen.iter().enumerate() {
        ensure!(*token == expected.greedy_ids[step], "greedy step {step}: {token}, not {}", expected.greedy_ids[step]);
        let found = token_logprobs(logits, *token, 0);
        ensure!(found.rank == 1, "greedy step {step}: rank {}", found.rank);
        let difference = (f64::from(found.logprob) - expected.greedy[step]).abs();
        ensure!(difference <= LOGPROB, "greedy step {step}: log-probability differs by {difference:e}");
        let top = check_top(logits, *token, &expected.greedy_top[step]).with_context(|| format!("step {step}"))?;
        worst = worst.max(difference).max(top);
    }
    Ok(worst)
}

/// The sampler's list agrees place by place, and token by token except among equals at its end.
fn check_top(row: &[f32], token: u32, expected: &[(u32, f64)]) -> Result<f64> {
    let found = token_logprobs(row, token, expected.len()).top;
    ensure!(found.len() == expected.len(), "{} most likely tokens, expected {}", found.len(), expected.len());
    let last = expected.iter().map(|(_, logprob)| *logprob).fold(f64::INFINITY, f64::min);
    let mut worst: f64 = 0.0;
    for ((id, logprob), (_, at_place)) in found.iter().zip(expected) {
        let logprob = f64::from(*logprob);
        let of_token = expected.iter().find(|(other, _)| other == id).map_or(last, |(_, logprob)| *logprob);
        let difference = (logprob - at_place).abs().max((logprob - of_token).abs());
        ensure!(difference <= LOGPROB, "token {id}: {logprob}, expected {of_token} and {at_place} at its place");
        worst = worst.max(difference);
    }
    Ok(worst)
}
