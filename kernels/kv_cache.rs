//! How the keys and values of a layer lie in memory.
//!
//! In rows, `(2, num_blocks, block_size, kv_heads, head_dim)`, keys first. Or, for the CPU's attention over bf16, in
//! panels of sixteen positions, `(2, num_blocks, kv_heads, block_size / 16, head_dim, 16)`, of which a panel of keys is
//! `(head_dim / 2, 16 positions, 2 columns)` and one of values `(head_dim / 16, 8, 16 columns, 2 positions)`: a score
//! is then a lane's sum, and so is a weighted column, and a head's keys of a block are one run of memory.

use candle_core::{DType, Result, Tensor, bail};

use crate::paged_batch::KvGeometry;
use crate::simd::OUTPUTS;

/// Positions of a panel.
pub(crate) const PANEL: usize = OUTPUTS;

/// How keys and values are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    Rows,
    /// Of bf16.
    Panels,
}

/// The shape of a layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) arrangement: Arrangement,
    pub(crate) geometry: KvGeometry,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl CacheShape {
    pub(crate) fn of(op: &str, cache: &Tensor) -> Result<Self> {
        match (cache.dims(), cache.dtype()) {
            (&[2, num_blocks, block_size, kv_heads, head_dim], _) => {
                let geometry = KvGeometry { num_blocks, block_size };
                Ok(Self { arrangement: Arrangement::Rows, geometry, kv_heads, head_dim })
            }
            (&[2, num_blocks, kv_heads, panels, head_dim, PANEL], DType::BF16) if head_dim.is_multiple_of(PANEL) => {
                let geometry = KvGeometry { num_blocks, block_size: panels * PANEL };
                Ok(Self { arrangement: Arrangement::Panels, geometry, kv_heads, head_dim })
            }
            (dims, dtype) => bail!("{op}: kv_cache has shape {dims:?} in {dtype:?}"),
        }
    }

    /// Elements of a plane before the panel that a slot is in, of a cache in panels, and the slot's lane there.
    #[inline(always)]
    pub(crate) fn panel(&self, slot: usize, kv_head: usize) -> (usize, usize) {
        let block_size = self.geometry.block_size;
        let (block, offset) = (slot / block_size, slot % block_size);
        let panel = (block * self.kv_heads + kv_head) * (block_size / PANEL) + offset / PANEL;
        (panel * self.head_dim * PANEL, offset % PANEL)
    }
}

/// Where column `column` of a key is in its panel.
#[inline(always)]
pub(crate) fn key_at(column: usize, lane: usize) -> usize {
    (column / 2 * PANEL + lane) * 2 + column % 2
}

/// Where column `column` of a value is in its panel.
#[inline(always)]
pub(crate) fn value_at(column: usize, lane: usize) -> usize {
    ((column / PANEL * (PANEL / 2) + lane / 2) * PANEL + column % PANEL) * 2 + lane % 2
}

/// The shape of a cache for the CPU: panels where it is bf16 and they are filled, rows elsewhere.
pub fn cpu_dims(geometry: KvGeometry, (kv_heads, head_dim): (usize, usize), dtype: DType) -> Vec<usize> {
    let KvGeometry { num_blocks, block_size } = geometry;
    if dtype == DType::BF16 && block_size.is_multiple_of(PANEL) && head_dim.is_multiple_of(PANEL) {
        vec![2, num_blocks, kv_heads, block_size / PANEL, head_dim, PANEL]
    } else {
        vec![2, num_blocks, block_size, kv_heads, head_dim]
    }
}
