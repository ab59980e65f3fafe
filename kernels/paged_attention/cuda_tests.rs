//! The CUDA kernels, emulated, against the reference, and bit for bit across company, blocks, grids and chunks.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::cuda::{Chunk, NO_TILE, PagedDecode, PagedKeys, PagedPrefill};
use super::{AttentionParams, Heads, PagedAttention, reference};
use crate::gpu::Float16;
use crate::kv_cache::{Arrangement, CacheShape};
use crate::paged_batch::{KvGeometry, PagedBatch, PagedSequence};
use crate::testing::{OnDevice, assert_close, assert_same_bits, each_device, random};

const GUARD: usize = 16;
const BOTH: [Float16; 2] = [Float16::Bf16, Float16::F16];

/// What all sequences of a test share.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: Heads,
    window: Option<usize>,
    block_size: usize,
    magnitude: f32,
    dtype: Float16,
}

/// A sequence whose `query_len` last positions are queries. Its content is a function of `seed` and position.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    seed: u64,
    query_len: usize,
    context_len: usize,
}

/// How a batch is laid out: what must not change a bit.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Of the order of blocks.
    seed: u64,
    /// Contexts that the grid has room for beyond the longest.
    spare_context: usize,
}

const PLAIN: Layout = Layout { seed: 1, spare_context: 0 };

fn case(group: usize, kv_heads: usize, head_dim: usize, dtype: Float16) -> Case {
    Case { heads: Heads { group, kv_heads, head_dim }, window: None, block_size: 16, magnitude: 1.0, dtype }
}

fn decode(seed: u64, context_len: usize) -> Sequence {
    Sequence { seed, query_len: 1, context_len }
}

fn chunk(seed: u64, history: usize, query_len: usize) -> Sequence {
    Sequence { seed, query_len, context_len: history + query_len }
}

/// A batch on the host.
struct Batch {
    case: Case,
    layout: Layout,
    sequences: Vec<Sequence>,
    /// Blocks of each. Those without a position that is seen are block 0, which is NaN, as is what no position owns.
    tables: Vec<Vec<u32>>,
    num_blocks: usize,
    /// `(n, heads * head_dim)`
    q: Vec<f32>,
    cache: Vec<f32>,
}

impl Batch {
    fn new(case: Case, sequences: &[Sequence], layout: Layout) -> Self {
        let blocks_of = |sequence: &Sequence| sequence.context_len.div_ceil(case.block_size);
        let num_blocks = 2 + sequences.iter().map(blocks_of).sum::<usize>();
        let mut blocks: Vec<u32> = (1..num_blocks as u32).collect();
        blocks.shuffle(&mut ChaCha8Rng::seed_from_u64(layout.seed));
        let width = case.heads.kv_heads * case.heads.head_dim;
        let plane = num_blocks * case.block_size * width;
        let mut batch = Self {
            case,
            layout,
            sequences: sequences.to_vec(),
            tables: Vec::new(),
            num_blocks,
            q: Vec::new(),
            cache: vec![f32::NAN; 2 * plane],
        };
        for sequence in sequences {
            let table = blocks.split_off(blocks.len() - blocks_of(sequence));
            let row = case.heads.group * width;
            for position in sequence.context_len.saturating_sub(sequence.query_len)..sequence.context_len {
                batch.q.extend(random(sequence.seed << 32 | position as u64, row, case.magnitude));
            }
            if sequence.context_len == 0 {
                batch.q.extend(vec![f32::NAN; row]);
            }
            for position in 0..sequence.context_len {
                let cell = random(sequence.seed << 32 | 1 << 31 | position as u64, 2 * width, case.magnitude);
                let slot = table[position / case.block_size] as usize * case.block_size + position % case.block_size;
                batch.cache[slot * width..][..width].copy_from_slice(&cell[..width]);
                batch.cache[plane + slot * width..][..width].copy_from_slice(&cell[width..]);
            }
            batch.tables.push(table);
        }
        batch
    }

    fn row(&self) -> usize {
        self.case.heads.group * self.case.heads.kv_heads * self.case.heads.head_dim
    }

    fn shape(&self) -> Vec<usize> {
        let Heads { group, kv_heads, head_dim } = self.case.heads;
        [group, kv_heads, head_dim].into_iter().chain(self.sequences.iter().map(|s| s.context_len)).collect()
    }

    fn params(&self) -> AttentionParams {
        let softmax_scale = 1.0 / (self.case.heads.head_dim as f32).sqrt();
        AttentionParams { softmax_scale, window: self.case.window }
    }

    fn keys(&self, device: &OnDevice) -> PagedKeys {
        let Case { heads, block_size, dtype, window, .. } = self.case;
        let table_stride = self.tables.iter().map(Vec::len).max().unwrap() + 1;
        let mut tables = Vec::new();
        for (sequence, table) in self.sequences.iter().zip(&self.tables) {
            let first_query = sequence.context_len.saturating_sub(sequence.query_len);
            let gone = super::first_visible(first_query, window) / block_size;
            tables.extend((0..table_stride).map(|i| if i < gone { 0 } else { table.get(i).copied().unwrap_or(0) }));
        }
        let lens: Vec<u32> = self.sequences.iter().map(|sequence| sequence.context_len as u32).collect();
        PagedKeys {
            cache: device.rounded(dtype, &self.cache),
            geometry: KvGeometry { num_blocks: self.num_blocks, block_size },
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            context_lens: device.u32(&lens),
            block_tables: device.u32(&tables),
            table_stride,
            dtype,
        }
    }

    fn decode(&self, device: &OnDevice) -> Vec<f32> {
        let (dtype, len) = (self.case.dtype, self.q.len());
        let longest = self.sequences.iter().map(|sequence| sequence.context_len).max().unwrap();
        let mut operands = PagedDecode {
            q: device.rounded(dtype, &self.q),
            out: device.poisoned(dtype, len + GUARD),
            keys: self.keys(device),
            partials: device.poisoned_f32(0),
            counters: device.u32(&[]),
            n: self.sequences.len(),
            heads: self.case.heads.group * self.case.heads.kv_heads,
            max_context: longest.max(1) + self.layout.spare_context,
            params: self.params(),
        };
        let (partials, counters) = (operands.partials_len(), operands.counters_len());
        operands.partials = device.poisoned_f32(partials + GUARD);
        operands.counters = device.u32(&vec![0; counters + GUARD]);
        device.run(&operands.launch());
        let found = device.read(operands.out, dtype, len + GUARD);
        // The counters have to have come back to zero, or a second launch differs.
        device.run(&operands.launch());
        let again = device.read(operands.out, dtype, len + GUARD);
        assert_same_bits("paged_decode again", &self.shape(), &again[..len], &found[..len]);
        assert!(device.read_u32(operands.counters, counters + GUARD).iter().all(|&count| count == 0));
        assert!(device.read_f32(operands.partials, partials + GUARD)[partials..].iter().all(|value| value.is_nan()));
        assert!(found[len..].iter().all(|value| value.is_nan()), "written past the end: {self:?}");
        found[..len].to_vec()
    }

    fn prefill(&self, device: &OnDevice) -> Vec<f32> {
        let (dtype, len, group) = (self.case.dtype, self.q.len(), self.case.heads.group);
        let lens: Vec<u32> = self.sequences.iter().map(|sequence| sequence.query_len as u32).collect();
        let starts: Vec<u32> = (0..lens.len()).map(|i| lens[..i].iter().sum()).collect();
        let as_chunk =
            |(sequence, s): (usize, &Sequence)| Chunk { sequence, query_len: s.query_len, context_len: s.context_len };
        let chunks: Vec<_> = self.sequences.iter().enumerate().map(as_chunk).collect();
        let mut tiles = PagedPrefill::tiles(&chunks, group);
        tiles.insert(1, [NO_TILE, 0]);
        let operands = PagedPrefill {
            q: device.rounded(dtype, &self.q),
            out: device.poisoned(dtype, len + GUARD),
            keys: self.keys(device),
            query_starts: device.u32(&starts),
            query_lens: device.u32(&lens),
            tiles: device.u32(tiles.as_flattened()),
            n_tiles: tiles.len(),
            heads: group * self.case.heads.kv_heads,
            params: self.params(),
        };
        device.run(&operands.launch());
        let found = device.read(operands.out, dtype, len + GUARD);
        assert!(found[len..].iter().all(|value| value.is_nan()), "written past the end: {self:?}");
        found[..len].to_vec()
    }

    /// Rows of padding are zero.
    fn expected(&self, device: &OnDevice) -> Vec<f64> {
        let Case { heads, block_size, dtype, .. } = self.case;
        let rounded = |values: &[f32]| device.read(device.rounded(dtype, values), dtype, values.len());
        let (q, cache) = (rounded(&self.q), rounded(&self.cache));
        let geometry = KvGeometry { num_blocks: self.num_blocks, block_size };
        let mut start = 0;
        let mut expected = Vec::new();
        for (sequence, table) in self.sequences.iter().zip(&self.tables) {
            let rows = &q[start..start + sequence.query_len * self.row()];
            start += rows.len();
            let &Sequence { query_len, context_len, .. } = sequence;
            if context_len == 0 {
                expected.extend(vec![0.0; rows.len()]);
                continue;
            }
            let slot =
                |position: usize| table[position / block_size] * block_size as u32 + (position % block_size) as u32;
            let slots = (context_len - query_len..context_len).map(slot).collect();
            let paged = PagedSequence { query_start: 0, query_len, context_len, block_table: table.clone() };
            let batch = PagedBatch::new(slots, vec![paged], geometry).unwrap();
            let geometry = batch.geometry();
            let Heads { kv_heads, head_dim, .. } = heads;
            let shape = CacheShape { arrangement: Arrangement::Rows, geometry, kv_heads, head_dim };
            let op = PagedAttention { heads, cache: shape, batch: &batch, params: self.params() };
            expected.extend(reference::paged_attention(&op, rows, &cache));
        }
        expected
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.case, self.layout, self.sequences)
    }
}

/// Weights are rounded to the type before they meet the values, and the result is rounded too: single elements may be
/// off by a unit in the last place and a half, all of them together by much less.
fn assert_attended(name: &str, batch: &Batch, found: &[f32], expected: &[f64]) {
    let (single, together) = match batch.case.dtype {
        Float16::Bf16 => (3.2e-2, 5e-3),
        Float16::F16 => (4e-3, 6.5e-4),
    };
    assert_close(name, &batch.shape(), found, expected, single);
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let error = square(&mut found.iter().zip(expected).map(|(&found, expected)| f64::from(found) - expected));
    let share = (error / square(&mut expected.iter().copied()).max(1e-60)).sqrt();
    assert!(
        share <= together,
        "{name} {:?}: the error is {share:e} of the result, allowed {together:e}",
        batch.shape()
    );
}

fn check_decode(device: &OnDevice, case: Case, contexts: &[usize]) {
    let sequences: Vec<_> = contexts.iter().enumerate().map(|(i, &len)| decode(i as u64, len)).collect();
    let batch = Batch::new(case, &sequences, PLAIN);
    let name = format!("paged_decode {case:?}");
    assert_attended(&name, &batch, &batch.decode(device), &batch.expected(device));
}

fn check_prefill(device: &OnDevice, case: Case, sequences: &[Sequence]) {
    let batch = Batch::new(case, sequences, PLAIN);
    let name = format!("paged_prefill {case:?}");
    assert_attended(&name, &batch, &batch.prefill(device), &batch.expected(device));
}

#[test]
fn decode_agrees_at_the_edges_of_tiles_and_splits() {
    each_device(|device| {
        for dtype in BOTH {
            check_decode(device, case(4, 1, 32, dtype), &[1, 0, 15, 16, 17, 127, 128, 129, 0, 255, 257, 400]);
        }
    });
}

#[test]
fn decode_agrees_for_groups_and_head_dims() {
    each_device(|device| {
        for (group, kv_heads, head_dim) in
            [(1, 3, 64), (2, 2, 32), (8, 1, 96), (4, 2, 128), (5, 1, 64), (12, 1, 32), (19, 2, 32)]
        {
            check_decode(device, case(group, kv_heads, head_dim, Float16::Bf16), &[140, 3]);
        }
        check_decode(device, case(8, 1, 128, Float16::F16), &[150]);
    });
}

#[test]
fn decode_agrees_for_windows_and_block_sizes() {
    each_device(|device| {
        for (window, block_size) in [(1, 8), (7, 16), (129, 32), (300, 64), (300, 1), (128, 256)] {
            let case = Case { window: Some(window), block_size, ..case(2, 1, 32, Float16::Bf16) };
            check_decode(device, case, &[1, 130, 256, 301, 390]);
        }
    });
}

/// 32 splits of 128, then 17 of 256; a window that spans 32 and one more than 32 of them.
#[test]
fn long_contexts_have_longer_splits() {
    let case = case(1, 1, 32, Float16::Bf16);
    let device = &OnDevice::forward();
    check_decode(device, case, &[4096, 4097]);
    for window in [3970, 3972] {
        check_decode(device, Case { window: Some(window), ..case }, &[4100]);
    }
}

#[test]
fn prefill_agrees_for_chunks_with_and_without_history() {
    each_device(|device| {
        for dtype in BOTH {
            let sequences = [chunk(1, 0, 1), chunk(2, 0, 40), chunk(3, 70, 33), chunk(4, 31, 1), chunk(5, 64, 32)];
            check_prefill(device, case(4, 1, 32, dtype), &sequences);
        }
    });
}

#[test]
fn prefill_agrees_for_groups_and_head_dims() {
    each_device(|device| {
        for (group, kv_heads, head_dim) in [(1, 2, 64), (2, 1, 96), (8, 1, 32), (4, 2, 128), (5, 1, 64), (12, 1, 32)] {
            check_prefill(device, case(group, kv_heads, head_dim, Float16::Bf16), &[chunk(1, 3, 35)]);
        }
        check_prefill(device, case(1, 1, 128, Float16::F16), &[chunk(1, 5, 130)]);
    });
}

#[test]
fn prefill_agrees_for_windows_and_block_sizes() {
    each_device(|device| {
        for (window, block_size) in [(1, 8), (20, 16), (33, 32), (64, 64), (100, 1)] {
            let case = Case { window: Some(window), block_size, ..case(4, 1, 32, Float16::Bf16) };
            check_prefill(device, case, &[chunk(1, 50, 90), chunk(2, 0, 40)]);
        }
    });
}

/// Scores reach 10,000.
#[test]
fn large_scores_do_not_overflow() {
    each_device(|device| {
        for dtype in BOTH {
            for window in [None, Some(40)] {
                let case = Case { magnitude: 100.0, window, ..case(4, 1, 32, dtype) };
                check_decode(device, case, &[1, 200]);
                check_prefill(device, case, &[chunk(1, 9, 60)]);
            }
        }
    });
}

#[test]
fn a_decode_row_has_the_same_bits_in_any_batch_block_and_grid() {
    each_device(|device| {
        for window in [None, Some(200)] {
            let case = Case { window, ..case(4, 2, 32, Float16::Bf16) };
            let alone = Batch::new(case, &[decode(7, 300)], PLAIN);
            let expected = alone.decode(device);
            let company = [decode(1, 5), decode(0, 0), decode(7, 300), decode(2, 450)];
            let together = Batch::new(case, &company, Layout { seed: 9, spare_context: 9000 });
            let found = &together.decode(device)[2 * together.row()..][..together.row()];
            assert_same_bits("paged_decode", &alone.shape(), found, &expected);
            let small_blocks = Batch::new(Case { block_size: 8, ..case }, &[decode(7, 300)], PLAIN);
            assert_same_bits("paged_decode", &alone.shape(), &small_blocks.decode(device), &expected);
        }
        let unlimited = Batch::new(case(4, 2, 32, Float16::Bf16), &[decode(7, 300)], PLAIN);
        let case = Case { window: Some(300), ..unlimited.case };
        let limited = Batch::new(case, &[decode(7, 300)], PLAIN);
        assert_same_bits("paged_decode", &limited.shape(), &limited.decode(device), &unlimited.decode(device));
    });
}

#[test]
fn a_prefill_row_has_the_same_bits_in_any_batch_block_and_chunk() {
    each_device(|device| {
        for (group, window) in [(4, None), (3, Some(37))] {
            let case = Case { window, ..case(group, 1, 32, Float16::Bf16) };
            let whole = Batch::new(case, &[chunk(7, 0, 110)], PLAIN);
            let expected = whole.prefill(device);
            for bounds in [[0, 50, 51, 110], [0, 1, 96, 110], [0, 32, 64, 110]] {
                let parts: Vec<_> = bounds.windows(2).map(|pair| chunk(7, pair[0], pair[1] - pair[0])).collect();
                let parts = Batch::new(case, &parts, Layout { seed: 4, ..PLAIN });
                assert_same_bits("paged_prefill", &whole.shape(), &parts.prefill(device), &expected);
            }
        }
    });
}

#[test]
fn tiles_of_queries_that_see_most_come_first() {
    let chunk = |sequence, query_len, context_len| Chunk { sequence, query_len, context_len };
    let tiles = PagedPrefill::tiles(&[chunk(0, 70, 70), chunk(3, 1, 50), chunk(2, 33, 1000)], 4);
    assert_eq!(PagedPrefill::queries_per_tile(4), 32);
    assert_eq!(tiles, [[2, 32], [2, 0], [0, 64], [3, 0], [0, 32], [0, 0]]);
}

#[test]
#[should_panic(expected = "head_dim 80 is none of [32, 64, 96, 128]")]
fn refuses_head_dims_that_are_not_compiled() {
    each_device(|device| check_decode(device, case(1, 1, 80, Float16::Bf16), &[1]));
}

#[test]
#[should_panic(expected = "a block size of 12 is not a power of two")]
fn refuses_block_sizes_that_are_no_power_of_two() {
    each_device(|device| check_decode(device, Case { block_size: 12, ..case(1, 1, 32, Float16::Bf16) }, &[1]));
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    let case = case(4, 1, 32, Float16::Bf16);
    check_decode(device, case, &[1, 300]);
    check_prefill(device, case, &[chunk(1, 20, 40), chunk(2, 0, 3)]);
}
