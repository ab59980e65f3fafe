//! `paged_attention` as decode steps at 4,096 positions (GB/s of keys and values) and as a prefill.
//!
//! `cargo bench -p tramontane-kernels --bench paged_attention`

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tramontane_kernels::{AttentionParams, KvGeometry, PagedBatch, PagedSequence, paged_attention, threads};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const BLOCK_SIZE: usize = 16;
const PARAMS: AttentionParams = AttentionParams { softmax_scale: 0.088_388_35, window: None };

/// Sequences with `query_len` new tokens at the end of `context_len`, their blocks interleaved.
fn batch(sequences: usize, query_len: usize, context_len: usize) -> PagedBatch {
    let blocks = context_len.div_ceil(BLOCK_SIZE);
    let mut slots = Vec::new();
    let mut paged = Vec::new();
    for index in 0..sequences {
        let block_table: Vec<u32> = (0..blocks).map(|block| (block * sequences + index) as u32).collect();
        let slot = |position: usize| block_table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
        slots.extend((context_len - query_len..context_len).map(|position| slot(position) as u32));
        paged.push(PagedSequence { query_start: index * query_len, query_len, context_len, block_table });
    }
    let geometry = KvGeometry { num_blocks: sequences * blocks, block_size: BLOCK_SIZE };
    PagedBatch::new(slots, paged, geometry).expect("a batch that fits")
}

fn operands(batch: &PagedBatch, dtype: DType) -> (Tensor, Tensor) {
    let random = |shape: &[usize], dtype| {
        Tensor::rand(-1.0f32, 1.0, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("a CPU tensor")
    };
    let cache = [2, batch.geometry().num_blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM];
    (random(&[batch.n_tokens(), HEADS * HEAD_DIM], DType::F32), random(&cache, dtype))
}

fn decode(c: &mut Criterion) {
    for (sequences, dtype) in [(1, DType::BF16), (8, DType::BF16), (8, DType::F32)] {
        let batch = batch(sequences, 1, 4096);
        let (q, cache) = operands(&batch, dtype);
        let mut group = c.benchmark_group("paged_attention/decode");
        group.throughput(Throughput::Bytes((cache.elem_count() * dtype.size_in_bytes()) as u64));
        group.bench_function(format!("{dtype:?} {sequences} x 4096"), |b| {
            b.iter(|| threads::run(|| black_box(paged_attention(&q, &cache, &batch, PARAMS).expect("shapes fit"))))
        });
        group.finish();
    }
}

fn prefill(c: &mut Criterion) {
    let batch = batch(1, 1024, 1024);
    let (q, cache) = operands(&batch, DType::BF16);
    let mut group = c.benchmark_group("paged_attention/prefill");
    group.sample_size(10);
    // Operations of the visible half of the scores and of the weighted sums.
    group.throughput(Throughput::Elements((4 * HEADS * HEAD_DIM * 1024 * 1025 / 2) as u64));
    group.bench_function("BF16 1024", |b| {
        b.iter(|| threads::run(|| black_box(paged_attention(&q, &cache, &batch, PARAMS).expect("shapes fit"))))
    });
    group.finish();
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
