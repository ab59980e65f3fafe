//! The fast paths, one per arrangement of the cache.

mod chunks;
mod panels;
mod rows;

use super::PagedAttention;
use crate::kv_cache::Arrangement;
use crate::simd::Tier;
use crate::storage::Element;

/// `(n, heads * head_dim)`
pub(super) fn paged_attention<T: Element>(tier: Tier, op: &PagedAttention<'_>, q: &[f32], cache: &[T]) -> Vec<f32> {
    match (op.cache.arrangement, T::as_bf16(cache)) {
        (Arrangement::Panels, Some(cache)) => panels::paged_attention(tier, op, q, cache),
        (Arrangement::Panels, None) => unreachable!("the shape of panels is that of a tensor in bf16"),
        (Arrangement::Rows, _) => rows::paged_attention(tier, op, q, cache),
    }
}
