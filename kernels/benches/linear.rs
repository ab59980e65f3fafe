//! `linear` as a decode step and as a prefill: GB/s of weights and operations per second.
//!
//! `cargo bench -p tramontane-kernels --bench linear`; compare with the memory bandwidth and the f32
//! multiply-add rate of the same machine in the same minute.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tramontane_kernels::{linear, threads};

fn random(shape: (usize, usize), dtype: DType) -> Tensor {
    Tensor::rand(-1.0f32, 1.0, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("a CPU tensor")
}

/// Enough copies of the weight that none stays in cache between two uses.
const COLD_BYTES: usize = 1 << 30;

fn decode(c: &mut Criterion) {
    for (rows, out_features, in_features) in [(1, 7168, 2048), (1, 2048, 7168), (4, 7168, 2048)] {
        let x = random((rows, in_features), DType::F32);
        let weight = random((out_features, in_features), DType::BF16);
        let bytes = out_features * in_features * 2;
        let copies: Vec<Tensor> = (0..COLD_BYTES / bytes).map(|_| weight.force_contiguous().expect("a copy")).collect();
        let mut group = c.benchmark_group("linear/decode");
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut next = 0;
        group.bench_function(format!("bf16 {rows}x{in_features}x{out_features}"), |b| {
            b.iter(|| {
                next = (next + 1) % copies.len();
                threads::run(|| black_box(linear(&x, &copies[next]).expect("shapes fit")))
            })
        });
        group.finish();
    }
}

fn prefill(c: &mut Criterion) {
    for (rows, out_features, in_features) in
        [(16, 7168, 2048), (24, 7168, 2048), (128, 7168, 2048), (1024, 7168, 2048), (1024, 2048, 7168)]
    {
        let x = random((rows, in_features), DType::F32);
        let weight = random((out_features, in_features), DType::BF16);
        let mut group = c.benchmark_group("linear/prefill");
        group.sample_size(10);
        // Elements are floating-point operations here: Gelem/s is GFLOP/s.
        group.throughput(Throughput::Elements(2 * (rows * out_features * in_features) as u64));
        group.bench_function(format!("bf16 {rows}x{in_features}x{out_features}"), |b| {
            b.iter(|| threads::run(|| black_box(linear(&x, &weight).expect("shapes fit"))))
        });
        group.finish();
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
