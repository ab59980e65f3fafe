//! Against the reference on every instruction set, and bit for bit across company, chunks and blocks.

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{AttentionParams, Heads, PagedAttention, cpu, paged_attention, reference};
use crate::kv_cache::{Arrangement, CacheShape, PANEL, key_at, value_at};
use crate::paged_batch::{KvGeometry, PagedBatch, PagedSequence};
use crate::simd::Tier;
use crate::storage::{Element, ElementKind};
use crate::testing::{assert_close, assert_same_bits, assert_same_in_any_pool, random, tensor, tolerance};

/// Keys, values and queries of one sequence by position, and how to look at them.
struct Case {
    heads: Heads,
    params: AttentionParams,
    context_len: usize,
    block_size: usize,
    magnitude: f32,
    /// For what fills panels.
    arrangement: Arrangement,
}

impl Case {
    fn new(heads: (usize, usize, usize), context_len: usize, window: Option<usize>, magnitude: f32) -> Self {
        let (group, kv_heads, head_dim) = heads;
        let params = AttentionParams { softmax_scale: 1.0 / (head_dim as f32).sqrt(), window };
        Self {
            heads: Heads { group, kv_heads, head_dim },
            params,
            context_len,
            block_size: 16,
            magnitude,
            arrangement: Arrangement::Panels,
        }
    }

    fn shape(&self) -> [usize; 4] {
        [self.heads.group, self.heads.kv_heads, self.heads.head_dim, self.context_len]
    }

    fn width(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }

    /// Queries of all positions, `(context_len, heads * head_dim)`.
    fn queries(&self) -> Vec<f32> {
        random(1, self.context_len * self.heads.group * self.width(), self.magnitude)
    }

    /// A cache with the sequence in the blocks of `block_table` and NaN everywhere else.
    fn cache<T: Element>(&self, block_table: &[u32], num_blocks: usize) -> Vec<T> {
        let width = self.width();
        let stored = random(2, 2 * self.context_len * width, self.magnitude);
        let mut cache = vec![T::from_f32(f32::NAN); 2 * num_blocks * self.block_size * width];
        for plane in 0..2 {
            for position in 0..self.context_len {
                let slot = self.slot(block_table, position);
                let to = (plane * num_blocks * self.block_size + slot) * width;
                let from = (plane * self.context_len + position) * width;
                for i in 0..width {
                    cache[to + i] = T::from_f32(stored[from + i]);
                }
            }
        }
        cache
    }

    fn slot(&self, block_table: &[u32], position: usize) -> usize {
        block_table[position / self.block_size] as usize * self.block_size + position % self.block_size
    }

    /// How a cache of this type is arranged.
    fn shape_of<T: Element>(&self, num_blocks: usize) -> CacheShape {
        let fills = T::KIND == ElementKind::Bf16 && self.heads.head_dim.is_multiple_of(PANEL);
        let arrangement = if fills { self.arrangement } else { Arrangement::Rows };
        let geometry = KvGeometry { num_blocks, block_size: self.block_size };
        let Heads { kv_heads, head_dim, .. } = self.heads;
        CacheShape { arrangement, geometry, kv_heads, head_dim }
    }

    /// Results of `queries` (positions) computed as one chunk, with a shuffled block table.
    fn chunk<T: Element>(&self, tier: Tier, queries: std::ops::Range<usize>, seed: u64) -> Vec<f32> {
        let (batch, cache) = self.batch::<T>(queries.clone(), seed);
        let width = self.heads.group * self.width();
        let q = &self.queries()[queries.start * width..queries.end * width];
        self.run(tier, &batch, q, &cache)
    }

    /// `cache` is in rows.
    fn run<T: Element>(&self, tier: Tier, batch: &PagedBatch, q: &[f32], cache: &[T]) -> Vec<f32> {
        let op = self.op::<T>(batch);
        match op.cache.arrangement {
            Arrangement::Rows => cpu::paged_attention(tier, &op, q, cache),
            Arrangement::Panels => cpu::paged_attention(tier, &op, q, &in_panels(&op.cache, cache)),
        }
    }

    fn batch<T: Element>(&self, queries: std::ops::Range<usize>, seed: u64) -> (PagedBatch, Vec<T>) {
        let num_blocks = self.context_len.div_ceil(self.block_size) + 3;
        let mut blocks: Vec<u32> = (0..num_blocks as u32).collect();
        blocks.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let cache = self.cache(&blocks, num_blocks);
        let slots = queries.clone().map(|position| self.slot(&blocks, position) as u32).collect();
        blocks.truncate(queries.end.div_ceil(self.block_size));
        let (query_len, context_len) = (queries.len(), queries.end);
        let sequence = PagedSequence { query_start: 0, query_len, context_len, block_table: blocks };
        let geometry = KvGeometry { num_blocks, block_size: self.block_size };
        (PagedBatch::new(slots, vec![sequence], geometry).unwrap(), cache)
    }

    fn op<'a, T: Element>(&self, batch: &'a PagedBatch) -> PagedAttention<'a> {
        let cache = self.shape_of::<T>(batch.geometry().num_blocks);
        PagedAttention { heads: self.heads, cache, batch, params: self.params }
    }

    /// What rounding probabilities may do, relative to the root mean square of `expected`: half a unit in the last
    /// place of bf16 of the largest value.
    fn rounding<T: Element>(&self, expected: &[f64]) -> f64 {
        if self.shape_of::<T>(1).arrangement == Arrangement::Rows {
            return 0.0;
        }
        let mean_square = expected.iter().map(|value| value * value).sum::<f64>() / expected.len() as f64;
        f64::from(self.magnitude) / 512.0 / mean_square.sqrt()
    }

    /// The whole sequence at once against the reference, then in random chunks against itself.
    fn check<T: Element>(&self, dtype: DType) {
        let (batch, cache) = self.batch::<T>(0..self.context_len, 0);
        let expected = reference::paged_attention(&self.op::<T>(&batch), &self.queries(), &cache);
        for tier in Tier::supported() {
            let name = format!("paged_attention {dtype:?} {tier:?} window {:?}", self.params.window);
            let whole = self.chunk::<T>(tier, 0..self.context_len, 0);
            let allowed = tolerance(dtype) * f64::from(self.magnitude.max(1.0)).powi(2) + self.rounding::<T>(&expected);
            assert_close(&name, &self.shape(), &whole, &expected, allowed);
            let mut rng = ChaCha8Rng::seed_from_u64(self.context_len as u64);
            let mut chunks = Vec::new();
            let mut start = 0;
            while start < self.context_len {
                let most = (self.context_len - start).min(if rng.random() { 4 } else { 50 });
                let end = start + rng.random_range(1..=most);
                chunks.extend(self.chunk::<T>(tier, start..end, end as u64));
                start = end;
            }
            assert_same_bits(&format!("{name} in chunks"), &self.shape(), &chunks, &whole);
        }
    }
}

/// The same cells in panels.
fn in_panels<T: Element>(shape: &CacheShape, rows: &[T]) -> Vec<T> {
    let CacheShape { kv_heads, head_dim, .. } = *shape;
    let mut panels = rows.to_vec();
    let half = rows.len() / 2;
    for (cell, row) in rows.chunks_exact(head_dim).enumerate() {
        let (plane, cell) = (cell / (half / head_dim), cell % (half / head_dim));
        let (start, lane) = shape.panel(cell / kv_heads, cell % kv_heads);
        for (column, value) in row.iter().enumerate() {
            let at = if plane == 0 { key_at(column, lane) } else { value_at(column, lane) };
            panels[plane * half + start + at] = *value;
        }
    }
    panels
}

#[test]
fn agrees_with_the_reference_and_with_itself() {
    let heads = [(1, 1, 2), (1, 3, 6), (2, 1, 16), (3, 2, 34), (4, 2, 128), (8, 1, 64), (5, 1, 48)];
    for heads in heads {
        for context_len in [1, 31, 33, 100] {
            for window in [None, Some(1), Some(32), Some(45)] {
                let mut case = Case::new(heads, context_len, window, 1.0);
                case.check::<bf16>(DType::BF16);
                case.arrangement = Arrangement::Rows;
                case.check::<bf16>(DType::BF16);
            }
            Case::new(heads, context_len, None, 1.0).check::<f32>(DType::F32);
            Case::new(heads, context_len, Some(7), 1.0).check::<f16>(DType::F16);
        }
    }
}

/// Contexts of several chunks, which a few queries split and many do not; blocks of several panels.
#[test]
fn chunks_of_the_context_are_merged_alike() {
    for (context_len, window) in [(1024, None), (1025, None), (2200, None), (2200, Some(1100)), (2200, Some(90))] {
        let mut case = Case::new((4, 2, 16), context_len, window, 1.0);
        case.block_size = 48;
        let width = case.heads.group * case.width();
        let (batch, cache) = case.batch::<bf16>(0..context_len, 0);
        let expected = reference::paged_attention(&case.op::<bf16>(&batch), &case.queries(), &cache);
        for tier in Tier::supported() {
            let name = format!("paged_attention {tier:?} {context_len} window {window:?}");
            let whole = case.chunk::<bf16>(tier, 0..context_len, 0);
            assert_close(&name, &case.shape(), &whole, &expected, case.rounding::<bf16>(&expected));
            for queries in [context_len - 1..context_len, context_len - 9..context_len, 1014..1024, 1000..1024] {
                let found = case.chunk::<bf16>(tier, queries.clone(), 9);
                let expected = &whole[queries.start * width..queries.end * width];
                assert_same_bits(&format!("{name} {queries:?}"), &case.shape(), &found, expected);
            }
        }
    }
}

/// Prefills and a decode whose work is worth several threads.
#[test]
fn the_number_of_threads_changes_no_bit() {
    for (heads, window) in [((4, 2, 64), None), ((2, 3, 34), Some(45)), ((1, 8, 128), None)] {
        let case = Case::new(heads, 300, window, 1.0);
        for tier in Tier::supported() {
            for queries in [0..300, 170..300, 299..300] {
                let name = format!("paged_attention {tier:?} {queries:?}");
                assert_same_in_any_pool(&name, &case.shape(), || case.chunk::<bf16>(tier, queries.clone(), 3));
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for magnitude in [30.0, 1e3] {
        Case::new((4, 1, 64), 70, None, magnitude).check::<f32>(DType::F32);
        Case::new((4, 1, 64), 70, None, magnitude).check::<bf16>(DType::BF16);
    }
}

/// A value that is not finite is for those alone who see it, in whatever company.
#[test]
fn what_is_not_seen_does_not_matter() {
    for window in [None, Some(20)] {
        let case = Case::new((4, 2, 32), 100, window, 1.0);
        let width = case.heads.group * case.width();
        let (batch, cache) = case.batch::<bf16>(0..100, 5);
        for value in [bf16::INFINITY, bf16::NAN] {
            let mut spoilt = cache.clone();
            let slot = batch.slots()[70] as usize;
            let at = cache.len() / 2 + slot * case.width();
            spoilt[at..at + case.width()].fill(value);
            for tier in Tier::supported() {
                let found = case.run(tier, &batch, &case.queries(), &spoilt);
                let expected = case.run(tier, &batch, &case.queries(), &cache);
                let unseen = |position: usize| position < 70 || window.is_some_and(|window| position >= 70 + window);
                for position in 0..100 {
                    let row = position * width..(position + 1) * width;
                    if unseen(position) {
                        let name = format!("{tier:?} {window:?} query {position}");
                        assert_same_bits(&name, &case.shape(), &found[row.clone()], &expected[row]);
                    } else {
                        assert!(found[row].iter().all(|value| !value.is_finite()), "{tier:?} query {position}");
                    }
                }
            }
        }
    }
}

#[test]
fn sequences_do_not_see_each_other() {
    let case = Case::new((4, 2, 32), 70, None, 1.0);
    let width = case.heads.group * case.width();
    let (solo, cache) = case.batch::<f32>(0..70, 5);
    let expected = case.run(Tier::best(), &solo, &case.queries(), &cache);
    // The same sequence thrice: its middle, its last token, its beginning.
    let mut sequences = Vec::new();
    let (mut slots, mut q, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for queries in [20..50, 69..70, 0..1] {
        let block_table = solo.sequences()[0].block_table.clone();
        let (query_start, query_len) = (slots.len(), queries.len());
        sequences.push(PagedSequence { query_start, query_len, context_len: queries.end, block_table });
        slots.extend_from_slice(&solo.slots()[queries.clone()]);
        q.extend_from_slice(&case.queries()[queries.start * width..queries.end * width]);
        rows.extend_from_slice(&expected[queries.start * width..queries.end * width]);
    }
    let batch = PagedBatch::new(slots, sequences, solo.geometry()).unwrap();
    let found = case.run(Tier::best(), &batch, &q, &cache);
    assert_same_bits("paged_attention, three sequences", &case.shape(), &found, &rows);
}

#[test]
fn refuses_tensors_that_do_not_fit() {
    let case = Case::new((2, 1, 4), 3, None, 1.0);
    let (batch, _) = case.batch::<f32>(0..3, 0);
    let cache = Tensor::zeros((2, 4, 16, 1, 4), DType::F32, &candle_core::Device::Cpu).unwrap();
    let refused = |q: &Tensor, cache: &Tensor| paged_attention(q, cache, &batch, case.params).unwrap_err().to_string();
    let error = refused(&tensor(&[0.0; 18], &[3, 6], DType::F32), &cache);
    assert!(error.contains("q [3, 6] does not divide into the heads"), "{error}");
    let error = refused(&tensor(&[0.0; 8], &[1, 8], DType::F32), &cache);
    assert!(error.contains("1 rows and cache [2, 4, 16, 1, 4]"), "{error}");
    let error = refused(&tensor(&[0.0; 24], &[3, 8], DType::F32), &cache.narrow(1, 0, 3).unwrap());
    assert!(error.contains("3 rows and cache [2, 3, 16, 1, 4]"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        group in 1usize..9,
        kv_heads in 1usize..4,
        half in 1usize..40,
        context_len in 1usize..130,
        window in proptest::option::of(1usize..140),
    ) {
        Case::new((group, kv_heads, 2 * half), context_len, window, 1.0).check::<bf16>(DType::BF16);
    }
}
