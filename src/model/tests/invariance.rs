//! Bit for bit: what else is in the batch, how a prefill is cut, and where the blocks lie do not matter.

use candle_core::DType;
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::random::{BLOCK_SIZE, Model, NUM_BLOCKS, Progress, alone, batch_of};
use crate::model::{Decoder, ForwardPass};

/// Runs all sequences to their end in random company and chunks, wanting random rows; gives the logits
/// that were asked for as (sequence, position, row).
fn mixed(decoder: &mut Decoder, prompts: &[Vec<u32>], rng: &mut impl Rng) -> Vec<(usize, usize, Vec<f32>)> {
    let mut blocks: Vec<u32> = (0..NUM_BLOCKS as u32).collect();
    blocks.shuffle(rng);
    let mut take = |len: usize| blocks.split_off(blocks.len() - len.div_ceil(BLOCK_SIZE));
    let mut sequences: Vec<Progress> = prompts.iter().map(|p| Progress::new(p.clone(), take(p.len()))).collect();
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
        let logits = decoder.forward(&batch).unwrap();
        for (i, &row) in batch.output_rows.iter().enumerate() {
            let (index, position) = rows[row as usize];
            found.push((index, position, logits.row(i).to_vec()));
        }
    }
    found
}

fn check(seed: u64, dtype: DType) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let model = Model::random(seed, dtype);
    let prompts: Vec<Vec<u32>> =
        (0..rng.random_range(1..=5)).map(|i| model.tokens(seed ^ i, rng.random_range(1..=45))).collect();
    let mut decoder = model.decoder(dtype);
    let expected: Vec<Vec<f32>> = prompts.iter().map(|prompt| alone(&mut decoder, prompt)).collect();
    let vocab_size = model.config.vocab_size;
    for (index, position, row) in mixed(&mut decoder, &prompts, &mut rng) {
        let expected = &expected[index][position * vocab_size..(position + 1) * vocab_size];
        let differs = (0..vocab_size).find(|&i| row[i].to_bits() != expected[i].to_bits());
        if let Some(i) = differs {
            let (here, there) = (row[i], expected[i]);
            panic!("sequence {index}, position {position}, logit {i}: {here:e}, alone {there:e}\n{:#?}", model.config);
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
