//! Against the reference.

use candle_core::{DType, IndexOp};

use super::{RotaryRows, reference, rotary_kv_write};
use crate::paged_batch::{KvGeometry, PagedBatch, PagedSequence};
use crate::testing::{DTYPES, assert_close, assert_same_bits, random, tensor, tolerance, values};

const GEOMETRY: KvGeometry = KvGeometry { num_blocks: 3, block_size: 2 };

/// Positions 1, 2, 3 of a sequence in blocks 2, 0.
fn batch() -> PagedBatch {
    let sequence = PagedSequence { query_start: 0, query_len: 3, context_len: 4, block_table: vec![2, 0] };
    PagedBatch::new(vec![5, 0, 1], vec![sequence], GEOMETRY).unwrap()
}

fn check(dtype: DType, heads: usize, kv_heads: usize, head_dim: usize, magnitude: f32) {
    let columns = (heads + 2 * kv_heads) * head_dim;
    let shape = [heads, kv_heads, head_dim];
    let qkv = random(1, 3 * columns, magnitude);
    let cos_sin = random(2, 3 * head_dim, 1.0);
    let scale = [1.0, 2.0, 0.3];
    let rows = RotaryRows {
        cos_sin: tensor(&cos_sin, &[3, head_dim], DType::F32),
        query_scale: tensor(&scale, &[3], DType::F32),
    };
    let before = random(3, 2 * 6 * kv_heads * head_dim, 1.0);
    let cache = tensor(&before, &[2, 3, 2, kv_heads, head_dim], dtype);
    let untouched = values(&cache);
    let q = rotary_kv_write(&tensor(&qkv, &[3, columns], DType::F32), &cache, &rows, &batch()).unwrap();
    let (mut queries, mut keys) = (Vec::new(), Vec::new());
    for token in 0..3 {
        for head in 0..heads + kv_heads {
            let x = &qkv[token * columns + head * head_dim..][..head_dim];
            let rotated = reference::rotate(x, &cos_sin[token * head_dim..][..head_dim]);
            match head < heads {
                true => queries.extend(rotated.iter().map(|v| v * f64::from(scale[token]))),
                false => keys.extend(rotated),
            }
        }
    }
    assert_close("rotary queries", &shape, &values(&q), &queries, tolerance(DType::F32));
    let rounding = match dtype {
        DType::F32 => tolerance(dtype),
        DType::F16 => 2e-3,
        _ => 2e-2,
    };
    let width = kv_heads * head_dim;
    for (token, slot) in [(0, (2, 1)), (1, (0, 0)), (2, (0, 1))] {
        let key = values(&cache.i((0, slot.0, slot.1)).unwrap());
        assert_close("rotary keys", &shape, &key, &keys[token * width..][..width], rounding);
        let value = &qkv[token * columns + (heads + kv_heads) * head_dim..][..width];
        let rounded = values(&tensor(value, &[width], dtype));
        assert_same_bits("values", &shape, &values(&cache.i((1, slot.0, slot.1)).unwrap()), &rounded);
    }
    let after = values(&cache);
    for plane in 0..2 {
        // Slots 2, 3 and 4 belong to others.
        let others = (plane * 6 + 2) * width..(plane * 6 + 5) * width;
        assert_same_bits("slots of others", &shape, &after[others.clone()], &untouched[others]);
    }
}

#[test]
fn agrees_with_the_reference() {
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 1, 6), (6, 3, 16), (8, 2, 66)] {
            for magnitude in [1.0, 1e4] {
                check(dtype, heads, kv_heads, head_dim, magnitude);
            }
        }
    }
}

#[test]
fn refuses_what_does_not_divide_into_heads() {
    let rows = RotaryRows {
        cos_sin: tensor(&[0.0; 6], &[3, 2], DType::F32),
        query_scale: tensor(&[1.0; 3], &[3], DType::F32),
    };
    let cache = tensor(&[0.0; 24], &[2, 3, 2, 1, 2], DType::F32);
    let error = rotary_kv_write(&tensor(&[0.0; 12], &[3, 4], DType::F32), &cache, &rows, &batch()).unwrap_err();
    assert!(error.to_string().contains("does not divide into heads"), "{error}");
}
