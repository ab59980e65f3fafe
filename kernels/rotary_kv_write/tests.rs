//! Against the reference.

use candle_core::{DType, IndexOp};

use super::{RotaryRows, reference, rotary_kv_write};
use crate::kv_cache::cpu_dims;
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

/// Panels as the documentation of `kv_cache` has them, beside the same in rows.
#[test]
fn panels_have_what_rows_have() {
    let (heads, kv_heads) = (4, 2);
    for (block_size, head_dim) in [(16, 16), (32, 48)] {
        let geometry = KvGeometry { num_blocks: 3, block_size };
        // The last tokens of block 2 and the first of block 0.
        let context_len = block_size + 2;
        let sequence = PagedSequence { query_start: 0, query_len: 5, context_len, block_table: vec![2, 0] };
        let slots = (context_len - 5..context_len)
            .map(|position| if position < block_size { 2 * block_size + position } else { position - block_size });
        let slots: Vec<u32> = slots.map(|slot| slot as u32).collect();
        let batch = PagedBatch::new(slots.clone(), vec![sequence], geometry).unwrap();
        let columns = (heads + 2 * kv_heads) * head_dim;
        let qkv = tensor(&random(1, 5 * columns, 1.0), &[5, columns], DType::F32);
        let rows = RotaryRows {
            cos_sin: tensor(&random(2, 5 * head_dim, 1.0), &[5, head_dim], DType::F32),
            query_scale: tensor(&[1.0; 5], &[5], DType::F32),
        };
        let len = 2 * 3 * block_size * kv_heads * head_dim;
        let in_rows = tensor(&vec![9.0; len], &[2, 3, block_size, kv_heads, head_dim], DType::BF16);
        let dims = cpu_dims(geometry, (kv_heads, head_dim), DType::BF16);
        assert_eq!(dims, [2, 3, kv_heads, block_size / 16, head_dim, 16]);
        let in_panels = tensor(&vec![9.0; len], &dims, DType::BF16);
        for cache in [&in_rows, &in_panels] {
            rotary_kv_write(&qkv, cache, &rows, &batch).unwrap();
        }
        let (in_rows, in_panels) = (values(&in_rows), values(&in_panels));
        let mut untouched = len;
        for plane in 0..2 {
            for &slot in &slots {
                for kv_head in 0..kv_heads {
                    for column in 0..head_dim {
                        let slot = slot as usize;
                        let (block, panel, lane) = (slot / block_size, slot % block_size / 16, slot % 16);
                        let panel = ((plane * 3 + block) * kv_heads + kv_head) * (block_size / 16) + panel;
                        let within = match plane {
                            0 => (column / 2 * 16 + lane) * 2 + column % 2,
                            _ => (column / 16 * 128 + lane / 2 * 16 + column % 16) * 2 + lane % 2,
                        };
                        let row = ((plane * 3 * block_size + slot) * kv_heads + kv_head) * head_dim + column;
                        assert_eq!(in_panels[panel * head_dim * 16 + within], in_rows[row]);
                        untouched -= 1;
                    }
                }
            }
        }
        assert_eq!(in_panels.iter().filter(|value| **value == 9.0).count(), untouched);
    }
    let odd = KvGeometry { num_blocks: 3, block_size: 24 };
    assert_eq!(cpu_dims(odd, (2, 16), DType::BF16), [2, 3, 24, 2, 16]);
    assert_eq!(cpu_dims(KvGeometry { num_blocks: 3, block_size: 16 }, (2, 16), DType::F32), [2, 3, 16, 2, 16]);
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
