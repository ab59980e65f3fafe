//! Plain loops that the compiler vectorises. Writing the cache stays on one thread: it is small, and two
//! tokens that share a slot would otherwise race.

use super::Split;
use crate::kv_cache::{Arrangement, PANEL, key_at, value_at};
use crate::storage::Element;
use crate::threads::for_each_row;

/// `keys` and `values` are the planes of the cache; `slots` lie inside.
pub(super) fn write_keys_values<T: Element>(
    split: Split,
    slots: &[u32],
    (qkv, cos_sin): (&[f32], &[f32]),
    (keys, values): (&mut [T], &mut [T]),
) {
    let Split { heads, kv_heads, head_dim, cache } = split;
    let width = kv_heads * head_dim;
    let mut rotated = vec![0.0; head_dim];
    for (token, &slot) in slots.iter().enumerate() {
        let row = &qkv[token * split.columns()..(token + 1) * split.columns()];
        let cos_sin = &cos_sin[token * head_dim..(token + 1) * head_dim];
        let (key, value) = row[heads * head_dim..].split_at(width);
        for (kv_head, (key, value)) in key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim)).enumerate() {
            rotate(key, cos_sin, 1.0, &mut rotated);
            match cache.arrangement {
                Arrangement::Rows => {
                    let cell = (slot as usize * kv_heads + kv_head) * head_dim;
                    narrow(&rotated, &mut keys[cell..cell + head_dim]);
                    narrow(value, &mut values[cell..cell + head_dim]);
                }
                Arrangement::Panels => {
                    let (start, lane) = cache.panel(slot as usize, kv_head);
                    let panel = start..start + head_dim * PANEL;
                    scatter(&rotated, &mut keys[panel.clone()], |column| key_at(column, lane));
                    scatter(value, &mut values[panel], |column| value_at(column, lane));
                }
            }
        }
    }
}

/// `(n, heads * head_dim)`
pub(super) fn rotate_queries(split: Split, qkv: &[f32], cos_sin: &[f32], scale: &[f32]) -> Vec<f32> {
    let Split { heads, head_dim, .. } = split;
    let mut queries = vec![0.0; scale.len() * heads * head_dim];
    let work = queries.len();
    for_each_row(&mut queries, heads * head_dim, work, |token, out| {
        let row = &qkv[token * split.columns()..][..heads * head_dim];
        let cos_sin = &cos_sin[token * head_dim..(token + 1) * head_dim];
        for (head, out) in row.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            rotate(head, cos_sin, scale[token], out);
        }
    });
    queries
}

fn rotate(head: &[f32], cos_sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = head.len() / 2;
    let (x, y) = head.split_at(half);
    let (cos, sin) = cos_sin.split_at(half);
    let (out_x, out_y) = out.split_at_mut(half);
    for i in 0..half {
        out_x[i] = (x[i] * cos[i] - y[i] * sin[i]) * scale;
        out_y[i] = (y[i] * cos[i] + x[i] * sin[i]) * scale;
    }
}

fn narrow<T: Element>(from: &[f32], to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::from_f32(from);
    }
}

fn scatter<T: Element>(from: &[f32], panel: &mut [T], at: impl Fn(usize) -> usize) {
    for (column, &from) in from.iter().enumerate() {
        panel[at(column)] = T::from_f32(from);
    }
}
