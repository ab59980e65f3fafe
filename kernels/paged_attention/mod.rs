//! Causal grouped-query attention of a ragged batch over the paged cache.
//!
//! A query walks the positions it sees from the first to the last in tiles that begin at multiples of a
//! constant, with an online softmax: the order and the tile boundaries depend on its own position only. Over a
//! cache in panels, queries and probabilities are rounded to bf16.

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::kv_cache::CacheShape;
use crate::paged_batch::PagedBatch;
use crate::simd::Tier;
use crate::storage::{expect_f32, matrix, operand, with_element};

const OP: &str = "paged_attention";

/// What is the same for all sequences of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub softmax_scale: f32,
    /// Position i sees j with `0 <= i - j < window`; `None` sees everything before it.
    pub window: Option<usize>,
}

/// Queries `q (n, heads * head_dim)` in f32, already rotated, over `kv_cache`, in rows in f32, bf16 or f16 or in panels
/// of bf16 ([`crate::kv_cache`]), into which the batch has been written. Query head `h` uses KV head `h / (heads /
/// kv_heads)`. The result is `(n, heads * head_dim)` in f32.
pub fn paged_attention(q: &Tensor, kv_cache: &Tensor, batch: &PagedBatch, params: AttentionParams) -> Result<Tensor> {
    let (tokens, columns) = matrix(OP, "q", q)?;
    expect_f32(OP, "q", q)?;
    let cache = CacheShape::of(OP, kv_cache)?;
    let CacheShape { kv_heads, head_dim, .. } = cache;
    if cache.geometry != batch.geometry() || tokens != batch.n_tokens() {
        bail!("{OP}: {tokens} rows and cache {:?} for a batch of {:?}", kv_cache.dims(), batch.geometry());
    }
    let width = kv_heads * head_dim;
    if width == 0 || columns == 0 || columns % width != 0 {
        bail!("{OP}: q {:?} does not divide into the heads of cache {:?}", q.dims(), kv_cache.dims());
    }
    if params.window == Some(0) {
        bail!("{OP}: a window of 0 sees nothing");
    }
    let heads = Heads { group: columns / width, kv_heads, head_dim };
    q.apply_op2_no_bwd(kv_cache, &PagedAttention { heads, cache, batch, params })
}

/// How queries share keys and values.
#[derive(Clone, Copy, Debug)]
struct Heads {
    /// Query heads per KV head.
    group: usize,
    kv_heads: usize,
    head_dim: usize,
}

struct PagedAttention<'a> {
    heads: Heads,
    cache: CacheShape,
    batch: &'a PagedBatch,
    params: AttentionParams,
}

impl CustomOp2 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, q: &CpuStorage, q_l: &Layout, cache: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let q = operand(OP, "q", q, q_l)?;
        let out = with_element!(OP, cache.dtype(), T => {
            Ok(cpu::paged_attention(Tier::best(), self, q, operand::<T>(OP, "kv_cache", cache, l)?))
        })?;
        Ok((CpuStorage::F32(out), q_l.shape().clone()))
    }
}

/// First position that a query at `position` sees.
fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}
