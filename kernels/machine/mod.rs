//! What this machine can do at most: how fast its memory is read and how fast its widest instructions multiply
//! and add, on the threads that the kernels use. Not operators: what operators are compared with.

#![expect(unsafe_code, reason = "vector instructions and raw pointers in loops of a target feature")]

#[cfg(test)]
mod tests;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use half::bf16;
use rayon::prelude::*;

use crate::{
    simd::{
        Bf16Pairs, ByteKernel, ByteSums, ByteTiles, Kernel, Multiply, OUTPUTS, Tier, TileShape, Vector, Widened,
        dispatch, dispatch_bytes,
    },
    threads,
};

/// More than the caches of all but a few processors hold.
const READ_BYTES: usize = 1 << 29;
const PASSES: usize = 5;
/// Vectors that one turn of the reading loop takes, each into a sum of its own.
const STREAMS: usize = 8;
const TURNS: usize = 1 << 14;
const MEASURED: Duration = Duration::from_millis(100);

/// Bytes per second at which all threads together read memory. Takes about half a gibibyte while it measures.
pub fn read_bytes_per_s() -> f64 {
    let threads = threads::count();
    let lengths = READ_BYTES / size_of::<f32>() / threads;
    let mut memory: Vec<f32> = vec![0.0; lengths * threads];
    // Each thread writes what it will read: memory is near the processor that first wrote it.
    threads::run(|| memory.par_chunks_exact_mut(lengths).for_each(|part| part.fill(1.0)));
    let pass = || {
        let started = Instant::now();
        threads::on_each(|index| {
            let part = &memory[index * lengths..(index + 1) * lengths];
            // SAFETY: the kernel reads the slice that it holds.
            unsafe { dispatch(Tier::best(), Read { part }) };
        });
        (lengths * threads * size_of::<f32>()) as f64 / started.elapsed().as_secs_f64()
    };
    best(pass)
}

/// Floating-point operations per second of products with weights of f32 or f16, which are computed in f32: a
/// multiply-add is two.
pub fn f32_operations_per_s() -> f64 {
    operations_per_s::<Widened<f32>>(Tier::best())
}

/// The same for weights in bf16.
pub fn bf16_operations_per_s() -> f64 {
    match Tier::best() {
        tier if tier.has_bf16_products() => operations_per_s::<Bf16Pairs>(tier),
        tier => operations_per_s::<Widened<bf16>>(tier),
    }
}

/// The same for quantized weights, whose codes are multiplied as bytes: what scales take comes on top.
pub fn byte_operations_per_s() -> f64 {
    most_operations_per_s(|| {
        let mut products = 0;
        // SAFETY: the kernel has no pointers.
        unsafe { dispatch_bytes(Tier::best(), ByteChains { products: &mut products }) };
        2 * products
    })
}

fn operations_per_s<M: Multiply + 'static>(tier: Tier) -> f64 {
    most_operations_per_s(|| {
        let mut lanes = 0; // of all sums
        // SAFETY: the kernel has no pointers.
        unsafe { dispatch(tier, Chains::<M> { lanes: &mut lanes, kind: std::marker::PhantomData }) };
        2 * TURNS * M::PER_LANE * lanes
    })
}

/// Of all threads; `run` says how many operations it did.
fn most_operations_per_s(run: impl Fn() -> usize + Sync) -> f64 {
    let pass = || {
        let started = Instant::now();
        let operations = threads::on_each(|_| {
            let mut operations = 0.0;
            while started.elapsed() < MEASURED {
                operations += run() as f64;
            }
            operations
        });
        operations.into_iter().sum::<f64>() / started.elapsed().as_secs_f64()
    };
    best(pass)
}

/// The best rate of several passes: what disturbs a pass only makes it slower.
fn best(pass: impl Fn() -> f64) -> f64 {
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

/// Adds up a part of the memory.
struct Read<'a> {
    part: &'a [f32],
}

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: all reads lie within the whole turns that the part has.
        unsafe {
            let turn = STREAMS * V::LANES;
            let mut sums = [V::splat(0.0); STREAMS];
            for turns in self.part.chunks_exact(turn) {
                for (stream, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(V::load(turns.as_ptr().add(stream * V::LANES)));
                }
            }
            for sum in sums {
                black_box(sum.sum());
            }
        }
    }
}

/// Multiplies and adds in registers alone.
struct Chains<'a, M> {
    /// Set to the lanes of all sums.
    lanes: &'a mut usize,
    kind: std::marker::PhantomData<M>,
}

impl<M: Multiply> Kernel for Chains<'_, M> {
    /// As many sums as a tile of products has: enough not to wait for each other, and few enough for the registers.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller has the target feature.
        unsafe {
            *self.lanes = match V::TILE {
                TileShape::Rows4Outputs6 => chains::<V, M, 24>(),
                TileShape::Rows4Outputs3 => chains::<V, M, 12>(),
                TileShape::Rows2Outputs2 => chains::<V, M, 4>(),
            };
        }
    }
}

/// Multiplies and adds bytes in registers alone.
struct ByteChains<'a> {
    /// Set to the number of products.
    products: &'a mut usize,
}

impl ByteKernel for ByteChains<'_> {
    #[inline(always)]
    unsafe fn run<S: ByteSums>(mut self) {
        // SAFETY: the caller has the target feature.
        unsafe { S::in_tiles(&mut self) };
    }
}

impl ByteTiles for ByteChains<'_> {
    /// Sums of two tiles, which do not wait for each other, or of one where two would fill the registers.
    #[inline(always)]
    unsafe fn run<S: ByteSums, const R: usize, const P: usize>(&mut self) {
        let tiles = if 2 * R * P * S::REGISTERS <= 16 { 2 } else { 1 };
        let (codes, row) = (black_box([3u8; 4 * OUTPUTS]), black_box([2i8; 4]));
        // SAFETY: the caller has the target feature; both arrays are as long as what is read of them.
        unsafe {
            let codes = S::codes(codes.as_ptr());
            let mut sums = [[[S::begin(0); P]; R]; 2];
            for sum in sums[..tiles].as_flattened_mut().as_flattened_mut() {
                *sum = black_box(*sum); // else they are known to be the same
            }
            for _ in 0..TURNS {
                for sum in sums[..tiles].as_flattened_mut().as_flattened_mut() {
                    *sum = sum.add_products(codes, row.as_ptr());
                }
            }
            black_box(sums);
        }
        *self.products = TURNS * tiles * R * P * 4 * OUTPUTS;
    }
}

/// # Safety
/// The machine has the target feature of `V`.
#[inline(always)]
unsafe fn chains<V: Vector, M: Multiply, const N: usize>() -> usize {
    // SAFETY: no pointers; the caller has the target feature.
    unsafe {
        // Bits that are small numbers as f32 and as pairs of bf16 alike.
        let (x, w) = (black_box(V::splat(1.0e-3)), black_box(V::splat(1.5e-3)));
        let mut sums = [V::splat(0.0); N];
        for sum in &mut sums {
            *sum = black_box(*sum); // else they are known to be the same
        }
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = M::fma(*sum, x, w);
            }
        }
        for sum in sums {
            black_box(sum.sum());
        }
    }
    N * V::LANES
}
