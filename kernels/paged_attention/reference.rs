//! The definition, in f64: all scores, one softmax, one weighted sum.

use half::bf16;

use super::{PagedAttention, first_visible};
use crate::kv_cache::Arrangement;
use crate::storage::Element;

/// `(n, heads * head_dim)`; `cache` is in rows even where `op` says panels, which are then what it is compared with.
pub(super) fn paged_attention<T: Element>(op: &PagedAttention<'_>, q: &[f32], cache: &[T]) -> Vec<f64> {
    let head_dim = op.heads.head_dim;
    let heads = op.heads.group * op.heads.kv_heads;
    let block_size = op.batch.geometry().block_size;
    let (keys, values) = cache.split_at(cache.len() / 2);
    let rounds = op.cache.arrangement == Arrangement::Panels;
    let mut out = Vec::new();
    for sequence in op.batch.sequences() {
        for index in 0..sequence.query_len {
            let position = sequence.position(index);
            let visible: Vec<usize> = (first_visible(position, op.params.window)..=position)
                .map(|j| sequence.block_table[j / block_size] as usize * block_size + j % block_size)
                .collect();
            for head in 0..heads {
                let start = ((sequence.query_start + index) * heads + head) * head_dim;
                let rounded = |value: &f32| if rounds { bf16::from_f32(*value).to_f32() } else { *value };
                let query: Vec<f32> = q[start..start + head_dim].iter().map(rounded).collect();
                let cell = |slot: usize| (slot * op.heads.kv_heads + head / op.heads.group) * head_dim;
                let score = |&slot: &usize| {
                    let key = &keys[cell(slot)..cell(slot) + head_dim];
                    let dot: f64 = query.iter().zip(key).map(|(&q, k)| f64::from(q) * f64::from(k.to_f32())).sum();
                    dot * f64::from(op.params.softmax_scale)
                };
                let scores: Vec<f64> = visible.iter().map(score).collect();
                let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
                out.extend((0..head_dim).map(|i| {
                    let term = |(&slot, score): (&usize, &f64)| {
                        (score - highest).exp() / total * f64::from(values[cell(slot) + i].to_f32())
                    };
                    visible.iter().zip(&scores).map(term).sum::<f64>()
                }));
            }
        }
    }
    out
}
