//! The CUDA kernel, emulated, against the reference.

use super::cuda::{RotaryHeads, RotaryKvWrite, RotaryTables};
use super::reference;
use crate::gpu::{DevicePointer, Float16};
use crate::testing::{OnDevice, assert_close, assert_same_bits, each_device, random};

const NUM_SLOTS: usize = 6;
const MAX_POSITIONS: usize = 5;
/// Row 1 is padded, row 4 has a slot that the cache lacks.
const SLOTS: [u32; 5] = [5, u32::MAX, 0, 1, NUM_SLOTS as u32];
/// That of row 1 must not be read, that of row 3 counts as 4.
const POSITIONS: [u32; 5] = [0, u32::MAX, 4, 7, 2];
const ROWS: usize = SLOTS.len();
const GUARD: usize = 8;

struct Case {
    heads: RotaryHeads,
    dtype: Float16,
    magnitude: f32,
    scaled: bool,
}

/// Queries and cache after a launch, with what lies after them.
struct Found {
    queries: Vec<f32>,
    cache: Vec<f32>,
}

impl Case {
    fn qkv(&self) -> Vec<f32> {
        let RotaryHeads { heads, kv_heads, head_dim } = self.heads;
        random(1, ROWS * (heads + 2 * kv_heads) * head_dim, self.magnitude)
    }

    fn cos_sin(&self) -> Vec<f32> {
        random(2, MAX_POSITIONS * self.heads.head_dim, 1.0)
    }

    fn scale(&self, position: usize) -> f32 {
        if self.scaled { 1.0 + position as f32 / 8.0 } else { 1.0 }
    }

    /// Runs rows `first..` only.
    fn run(&self, device: &OnDevice, first: usize) -> Found {
        let RotaryHeads { heads, kv_heads, head_dim } = self.heads;
        let n_rows = ROWS - first;
        let scales: Vec<f32> = (0..MAX_POSITIONS).map(|position| self.scale(position)).collect();
        let rows = RotaryTables {
            cos_sin: device.f32(&self.cos_sin()),
            query_scale: if self.scaled { device.f32(&scales) } else { DevicePointer::NULL },
            positions: device.u32(&POSITIONS[first..]),
            slots: device.u32(&SLOTS[first..]),
            max_positions: MAX_POSITIONS,
        };
        let qkv = device.rounded(self.dtype, &self.qkv()[first * (heads + 2 * kv_heads) * head_dim..]);
        let queries_len = n_rows * heads * head_dim + GUARD;
        let cache_len = 2 * NUM_SLOTS * kv_heads * head_dim + GUARD;
        let (queries, cache) = (device.poisoned(self.dtype, queries_len), device.poisoned(self.dtype, cache_len));
        let (heads, dtype) = (self.heads, self.dtype);
        let operands = RotaryKvWrite { qkv, queries, cache, rows, heads, n_rows, num_slots: NUM_SLOTS, dtype };
        device.run(&operands.launch());
        Found { queries: device.read(queries, dtype, queries_len), cache: device.read(cache, dtype, cache_len) }
    }
}

fn check(device: &OnDevice, case: &Case) {
    let RotaryHeads { heads, kv_heads, head_dim } = case.heads;
    let shape = [heads, kv_heads, head_dim];
    let (columns, width) = ((heads + 2 * kv_heads) * head_dim, kv_heads * head_dim);
    let qkv = {
        let rounded = device.rounded(case.dtype, &case.qkv());
        device.read(rounded, case.dtype, ROWS * columns)
    };
    let cos_sin = case.cos_sin();
    let found = case.run(device, 0);
    let rounding = device.rounding(case.dtype);
    let mut written = [false; NUM_SLOTS];
    for row in 0..ROWS {
        let queries = &found.queries[row * heads * head_dim..][..heads * head_dim];
        let slot = SLOTS[row] as usize;
        if slot >= NUM_SLOTS {
            assert!(queries.iter().all(|&value| value == 0.0), "queries of padded row {row}");
            continue;
        }
        written[slot] = true;
        let position = (POSITIONS[row] as usize).min(MAX_POSITIONS - 1);
        let rotated = |head: usize| {
            let x = &qkv[row * columns + head * head_dim..][..head_dim];
            reference::rotate(x, &cos_sin[position * head_dim..][..head_dim])
        };
        let scale = f64::from(case.scale(position));
        let expected: Vec<f64> = (0..heads).flat_map(&rotated).map(|value| value * scale).collect();
        assert_close("rotary queries", &shape, queries, &expected, rounding);
        let expected: Vec<f64> = (heads..heads + kv_heads).flat_map(&rotated).collect();
        assert_close("rotary keys", &shape, &found.cache[slot * width..][..width], &expected, rounding);
        let values = &qkv[row * columns + (heads + kv_heads) * head_dim..][..width];
        assert_same_bits("values", &shape, &found.cache[(NUM_SLOTS + slot) * width..][..width], values);
    }
    for plane in 0..2 {
        for slot in (0..NUM_SLOTS).filter(|&slot| !written[slot]) {
            let cell = &found.cache[(plane * NUM_SLOTS + slot) * width..][..width];
            assert!(cell.iter().all(|value| value.is_nan()), "slot {slot} is not of this batch: {shape:?}");
        }
    }
    let guards = found.queries[ROWS * heads * head_dim..].iter().chain(&found.cache[2 * NUM_SLOTS * width..]);
    assert!(guards.into_iter().all(|value| value.is_nan()), "something was written past the end: {shape:?}");
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for dtype in [Float16::Bf16, Float16::F16] {
            for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 1, 6), (6, 3, 16), (8, 2, 66), (32, 8, 128), (5, 5, 32)]
            {
                for (magnitude, scaled) in [(1.0, false), (1e4, true)] {
                    let heads = RotaryHeads { heads, kv_heads, head_dim };
                    check(device, &Case { heads, dtype, magnitude, scaled });
                }
            }
        }
    });
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    each_device(|device| {
        for head_dim in [6, 64] {
            let heads = RotaryHeads { heads: 4, kv_heads: 2, head_dim };
            let case = Case { heads, dtype: Float16::Bf16, magnitude: 1.0, scaled: true };
            let (all, last) = (case.run(device, 0), case.run(device, 2));
            let width = heads.heads * head_dim;
            let rows = |found: &Found, first: usize| found.queries[first * width..][..3 * width].to_vec();
            assert_same_bits("rotary queries", &[head_dim], &rows(&all, 2), &rows(&last, 0));
        }
    });
}

#[test]
#[should_panic(expected = "heads of 7 elements do not divide into pairs")]
fn refuses_odd_heads() {
    each_device(|device| {
        let heads = RotaryHeads { heads: 1, kv_heads: 1, head_dim: 7 };
        Case { heads, dtype: Float16::Bf16, magnitude: 1.0, scaled: false }.run(device, 0);
    });
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    let heads = RotaryHeads { heads: 4, kv_heads: 2, head_dim: 16 };
    check(device, &Case { heads, dtype: Float16::Bf16, magnitude: 1.0, scaled: true });
}
