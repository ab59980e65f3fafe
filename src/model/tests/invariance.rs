//! Bit for bit: what else is in the batch, how a prefill is cut, and where the blocks lie do not matter.

use candle_core::DType;
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tramontane_kernels::PanelFormat;
use tramontane_kernels::gpu::Emulated;

use super::random::{BLOCK_SIZE, Model, NUM_BLOCKS, Progress, batch_of, generated_alone, pooled_alone};
use crate::model::ForwardPass;

/// A row that a step gave.
struct Found {
    sequence: usize,
    position: usize,
    pooled: bool,
    values: Vec<f32>,
}

/// Runs all sequences to their end in random company and chunks, wanting random rows, some of them pooled.
/// `texts` are tokens, and how many of them are the prompt's.
fn mixed(decoder: &mut dyn ForwardPass, texts: &[(Vec<u32>, usize)], rng: &mut impl Rng) -> Vec<Found> {
    let mut blocks: Vec<u32> = (0..NUM_BLOCKS as u32).collect();
    blocks.shuffle(rng);
    let mut take = |len: usize| blocks.split_off(blocks.len() - len.div_ceil(BLOCK_SIZE));
    let mut sequences: Vec<Progress> = texts
        .iter()
        .map(|(tokens, prompt_len)| Progress {
            prompt_len: *prompt_len,
            ..Progress::new(tokens.clone(), take(tokens.len()))
        })
        .collect();
    let mut found = Vec::new();
    while sequences.iter().any(|s| s.done < s.tokens.len()) {
        let mut step: Vec<(usize, &mut Progress, usize)> = Vec::new();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let left = sequence.tokens.len() - sequence.done;
            if left > 0 && rng.random_range(0..3) > 0 {
                let chunk = if rng.random() { 1 } else { rng.random_range(1..=left) };
                step.push((index, sequence, chunk));
            }
        }
        step.shuffle(rng);
        let mut rows = Vec::new();
        for (index, sequence, chunk) in &step {
            rows.extend((sequence.done..sequence.done + chunk).map(|position| (*index, position)));
        }
        let mut batch = batch_of(&mut step.into_iter().map(|(_, s, chunk)| (s, chunk)).collect::<Vec<_>>());
        let share = rng.random_range(0..4);
        batch.output_rows.retain(|_| rng.random_range(0..3) < share);
        let pools = rng.random_range(0..3);
        (batch.pooled_rows, batch.output_rows) = batch.output_rows.iter().partition(|_| rng.random_range(0..3) < pools);
        let logits = decoder.forward(&batch).unwrap();
        let pooled = logits.pooled.chunks(logits.pooled.len().max(1) / batch.pooled_rows.len().max(1));
        let of_logits = batch.output_rows.iter().enumerate().map(|(i, row)| (row, logits.row(i), false));
        for (&row, values, pooled) in of_logits.chain(batch.pooled_rows.iter().zip(pooled).map(|(r, v)| (r, v, true))) {
            let (sequence, position) = rows[row as usize];
            found.push(Found { sequence, position, pooled, values: values.to_vec() });
        }
    }
    found
}

fn check(seed: u64, dtype: DType) {
    let model = Model::random(seed, dtype);
    check_decoder(seed, &model, &mut model.decoder(dtype));
}

fn check_panels(seed: u64, format: PanelFormat) {
    let model = Model::random_in_panels(seed, format);
    check_decoder(seed, &model, &mut model.decoder(DType::BF16));
}

/// On a GPU generated tokens take other kernels than those of a prompt, so each text has some of them: computed one by
/// one as in a decode step, or several at once as after preemption.
fn check_gpu(seed: u64, dtype: DType) {
    let model = Model::random_for_gpu(seed, dtype);
    let emulated = if seed.is_multiple_of(2) { Emulated::default() } else { Emulated::with_library() };
    check_decoder(seed, &model, &mut *model.gpu_decoder(dtype, emulated));
}

/// A step of generated tokens alone is recorded and replayed; with a prompt beside them it is launched kernel by
/// kernel.
fn check_replays(seed: u64, dtype: DType) {
    let model = Model::random_for_gpu(seed, dtype);
    let mut decoder = model.gpu_decoder(dtype, Emulated::default());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sequences: Vec<Progress> = (0..rng.random_range(1..=5))
        .map(|i: u64| {
            let len: usize = rng.random_range(2..=30);
            let first_block = 8 * i as u32; // as many as 30 tokens fill
            let blocks = (first_block..first_block + len.div_ceil(BLOCK_SIZE) as u32).collect();
            Progress { prompt_len: len - 1, ..Progress::new(model.tokens(seed ^ i, len), blocks) }
        })
        .collect();
    let mut prompts = Vec::new();
    for sequence in &mut sequences {
        let prompt_len = sequence.prompt_len;
        prompts.push((sequence, prompt_len));
    }
    decoder.forward(&batch_of(&mut prompts)).unwrap();
    let mut in_company = sequences.clone();
    let alone = batch_of(&mut sequences.iter_mut().map(|s| (s, 1)).collect::<Vec<_>>());
    let mut prompt = Progress::new(model.tokens(!seed, 9), (40..43).collect());
    let mut with_prompt: Vec<_> = in_company.iter_mut().map(|s| (s, 1)).chain([(&mut prompt, 9)]).collect();
    let expected = decoder.forward(&batch_of(&mut with_prompt)).unwrap();
    for call in ["recorded", "replayed", "replayed again"] {
        let found = decoder.forward(&alone).unwrap();
        for row in 0..alone.n_tokens() {
            let bits = |logits: &[f32]| logits.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(found.row(row)), bits(expected.row(row)), "{call}, row {row}\n{:#?}", model.config);
        }
    }
}

fn check_decoder(seed: u64, model: &Model, decoder: &mut dyn ForwardPass) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let texts: Vec<(Vec<u32>, usize)> = (0..rng.random_range(1..=5))
        .map(|i| {
            let len = rng.random_range(1..=45);
            (model.tokens(seed ^ i, len), rng.random_range(1..=len))
        })
        .collect();
    let expected: Vec<Vec<f32>> =
        texts.iter().map(|(tokens, prompt_len)| generated_alone(decoder, tokens, *prompt_len)).collect();
    let expected_pooled: Vec<Vec<f32>> =
        texts.iter().map(|(tokens, prompt_len)| pooled_alone(decoder, tokens, *prompt_len)).collect();
    for Found { sequence, position, pooled, values } in mixed(decoder, &texts, &mut rng) {
        let (width, what, expected) = match pooled {
            false => (model.config.vocab_size, "logit", &expected),
            true => (model.config.hidden_size, "pooled value", &expected_pooled),
        };
        assert_eq!(values.len(), width);
        let expected = &expected[sequence][position * width..(position + 1) * width];
        let differs = (0..width).find(|&i| values[i].to_bits() != expected[i].to_bits());
        if let Some(i) = differs {
            let (here, there) = (values[i], expected[i]);
            panic!(
                "sequence {sequence}, position {position}, {what} {i}: {here:e}, alone {there:e}\n{:#?}",
                model.config
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn company_chunks_and_blocks_do_not_matter_f32(seed: u64) {
        check(seed, DType::F32);
    }

    #[test]
    fn company_chunks_and_blocks_do_not_matter_bf16(seed: u64) {
        check(seed, DType::BF16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn company_chunks_and_blocks_do_not_matter_to_weights_in_panels(seed: u64, format in 0usize..3) {
        check_panels(seed, [PanelFormat::Bf16, PanelFormat::Q8, PanelFormat::Q4][format]);
    }

    #[test]
    fn company_chunks_and_blocks_do_not_matter_on_a_gpu(seed: u64, bf16: bool) {
        check_gpu(seed, if bf16 { DType::BF16 } else { DType::F16 });
    }

    #[test]
    fn a_replayed_step_has_the_bits_of_single_launches_on_a_gpu(seed: u64, bf16: bool) {
        check_replays(seed, if bf16 { DType::BF16 } else { DType::F16 });
    }
}
