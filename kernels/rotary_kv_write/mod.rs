//! Takes the packed result of the query/key/value projection apart: rotates queries and keys, writes keys
//! and values to the paged cache, gives the queries.
//!
//! The rotation is half-split (arXiv 2104.09864 in the Hugging Face layout): dimension `i` of a head is
//! paired with `i + head_dim / 2`.

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, InplaceOp3, Layout, Result, Shape, Tensor, bail};

use crate::kv_cache::CacheShape;
use crate::paged_batch::PagedBatch;
use crate::storage::{expect_f32, expect_shape, matrix, operand, operand_mut, with_element};

const OP: &str = "rotary_kv_write";

/// The rotation of each token, the same for all layers.
#[derive(Clone, Debug)]
pub struct RotaryRows {
    /// Cosines of the pairs, then their sines, f32 `(n, head_dim)`.
    pub cos_sin: Tensor,
    /// Factor of each token's rotated queries, f32 `(n)`; 1 where a model has none.
    pub query_scale: Tensor,
}

/// Splits `qkv (n, (heads + 2 * kv_heads) * head_dim)` in f32. Keys and values go to the batch's slots of
/// `kv_cache`, in rows in f32, bf16 or f16 or in panels of bf16 ([`crate::kv_cache`]); the rotated
/// queries come back as `(n, heads * head_dim)` in f32.
pub fn rotary_kv_write(qkv: &Tensor, kv_cache: &Tensor, rows: &RotaryRows, batch: &PagedBatch) -> Result<Tensor> {
    let split = Split::new(qkv, kv_cache, batch)?;
    expect_f32(OP, "qkv", qkv)?;
    expect_f32(OP, "cos_sin", &rows.cos_sin)?;
    expect_f32(OP, "query_scale", &rows.query_scale)?;
    expect_shape(OP, "cos_sin", &rows.cos_sin, &[batch.n_tokens(), split.head_dim])?;
    expect_shape(OP, "query_scale", &rows.query_scale, &[batch.n_tokens()])?;
    kv_cache.inplace_op3(qkv, &rows.cos_sin, &WriteKeysValues { split, batch })?;
    qkv.apply_op3_no_bwd(&rows.cos_sin, &rows.query_scale, &RotateQueries { split })
}

/// How a row of `qkv` divides.
#[derive(Clone, Copy, Debug)]
struct Split {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    cache: CacheShape,
}

impl Split {
    fn new(qkv: &Tensor, kv_cache: &Tensor, batch: &PagedBatch) -> Result<Self> {
        let (tokens, columns) = matrix(OP, "qkv", qkv)?;
        let cache = CacheShape::of(OP, kv_cache)?;
        let CacheShape { kv_heads, head_dim, .. } = cache;
        if cache.geometry != batch.geometry() || tokens != batch.n_tokens() {
            bail!("{OP}: {tokens} rows and cache {:?} for a batch of {:?}", kv_cache.dims(), batch.geometry());
        }
        let total_heads = columns.checked_div(head_dim).unwrap_or(0);
        if head_dim % 2 != 0 || total_heads * head_dim != columns || total_heads <= 2 * kv_heads {
            bail!("{OP}: qkv {:?} does not divide into heads of cache {:?}", qkv.dims(), kv_cache.dims());
        }
        Ok(Self { heads: total_heads - 2 * kv_heads, kv_heads, head_dim, cache })
    }

    fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

struct WriteKeysValues<'a> {
    split: Split,
    batch: &'a PagedBatch,
}

impl InplaceOp3 for WriteKeysValues<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_l: &Layout,
        qkv: &CpuStorage,
        qkv_l: &Layout,
        cos_sin: &CpuStorage,
        cos_sin_l: &Layout,
    ) -> Result<()> {
        let qkv = operand(OP, "qkv", qkv, qkv_l)?;
        let cos_sin = operand(OP, "cos_sin", cos_sin, cos_sin_l)?;
        with_element!(OP, cache.dtype(), T => {
            let cache = operand_mut::<T>(OP, "kv_cache", cache, cache_l)?;
            let (keys, values) = cache.split_at_mut(cache.len() / 2);
            cpu::write_keys_values(self.split, self.batch.slots(), (qkv, cos_sin), (keys, values));
            Ok(())
        })
    }
}

struct RotateQueries {
    split: Split,
}

impl CustomOp3 for RotateQueries {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_l: &Layout,
        cos_sin: &CpuStorage,
        cos_sin_l: &Layout,
        scale: &CpuStorage,
        scale_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = operand(OP, "qkv", qkv, qkv_l)?;
        let cos_sin = operand(OP, "cos_sin", cos_sin, cos_sin_l)?;
        let scale: &[f32] = operand(OP, "query_scale", scale, scale_l)?;
        let queries = cpu::rotate_queries(self.split, qkv, cos_sin, scale);
        let shape = Shape::from((scale.len(), self.split.heads * self.split.head_dim));
        Ok((CpuStorage::F32(queries), shape))
    }
}
