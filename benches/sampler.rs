//! What choosing one token costs, by vocabulary and parameters. `cargo bench --bench sampler`

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tramontane::{
    engine::sampler::{Draw, History, sample, token_logprobs},
    types::SamplingParams,
};

/// Roughly as a language model's: a bell of unlikely ids, and a few that stand out.
fn logits(vocab_size: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut bell = || (0..6).map(|_| random.random_range(-1.0..1.0f32)).sum::<f32>() * 2.0;
    let mut logits: Vec<f32> = (0..vocab_size).map(|_| bell()).collect();
    for rank in 0..40 {
        logits[rank * 97 + 11] += 18.0 - 0.35 * rank as f32;
    }
    logits
}

fn draws(c: &mut Criterion) {
    let off = SamplingParams { temperature: 0.7, ..SamplingParams::default() };
    let cases = [
        ("greedy", SamplingParams { temperature: 0.0, ..off.clone() }),
        ("temperature", off.clone()),
        ("top_p", SamplingParams { top_p: 0.95, ..off.clone() }),
        ("top_k", SamplingParams { top_k: 50, ..off.clone() }),
        ("top_k_top_p", SamplingParams { top_k: 50, top_p: 0.95, ..off.clone() }),
        ("min_p", SamplingParams { min_p: 0.05, ..off.clone() }),
        ("penalties", SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.3, ..off }),
    ];
    let prompt_ids: Vec<u32> = (0..2000).collect();
    let output_ids: Vec<u32> = (0..500).map(|i| i * 3).collect();
    let history = History { prompt_ids: &prompt_ids, output_ids: &output_ids, ..History::default() };
    for vocab_size in [32_768, 131_072] {
        let logits = logits(vocab_size);
        let flat = vec![0.5; vocab_size];
        let mut group = c.benchmark_group(format!("sample_{vocab_size}"));
        for (name, params) in &cases {
            let mut index = 0;
            group.bench_function(*name, |b| {
                b.iter(|| {
                    index += 1;
                    sample(black_box(&logits), params, &history, Draw { seed: 1, index })
                });
            });
        }
        group.bench_function("top_p_of_equal_logits", |b| {
            b.iter(|| sample(black_box(&flat), &cases[2].1, &history, Draw { seed: 1, index: 0 }));
        });
        group.bench_function("top_20_logprobs", |b| b.iter(|| token_logprobs(black_box(&logits), 11, 20)));
        group.finish();
    }
}

criterion_group!(benches, draws);
criterion_main!(benches);
