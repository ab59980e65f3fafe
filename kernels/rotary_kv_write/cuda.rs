//! The launch of `cuda.cu`.

use crate::gpu::{DevicePointer, Float16, Launch};

const THREADS: usize = 128;

/// Operands of the rotation and the write to the cache on a device.
#[derive(Clone, Copy, Debug)]
pub struct RotaryKvWrite {
    /// Of type `dtype`, `(rows, (heads + 2 * kv_heads) * head_dim)`
    pub qkv: DevicePointer,
    /// Of type `dtype`, `(rows, heads * head_dim)`: the rotated queries.
    pub queries: DevicePointer,
    /// Of type `dtype`, `(2, num_slots, kv_heads, head_dim)`, keys first, of one layer; a slot is
    /// `block * block_size + place`.
    pub cache: DevicePointer,
    /// What the rows are at this step.
    pub rows: RotaryTables,
    /// How a row of `qkv` divides.
    pub heads: RotaryHeads,
    /// Rows of `qkv`, padded ones among them, above 0.
    pub n_rows: usize,
    /// Blocks of the cache times their size.
    pub num_slots: usize,
    /// Of activations and cache.
    pub dtype: Float16,
}

/// The rotation by position, and each row's position and slot. The first two are uploaded once, the others change
/// with every step.
#[derive(Clone, Copy, Debug)]
pub struct RotaryTables {
    /// f32 `(max_positions, head_dim)`: cosines of the pairs, then their sines.
    pub cos_sin: DevicePointer,
    /// f32 `(max_positions)`: factor of the rotated queries, or [`DevicePointer::NULL`] for 1.
    pub query_scale: DevicePointer,
    /// u32 `(n_rows)`. One outside the tables counts as their last; that of a padded row is not read.
    pub positions: DevicePointer,
    /// u32 `(n_rows)`, each at most once. `u32::MAX`, or any other that the cache does not have, is a padded row: its
    /// queries are zero and the cache stays as it is.
    pub slots: DevicePointer,
    /// Rows of the tables, above 0.
    pub max_positions: usize,
}

/// Heads of a row.
#[derive(Clone, Copy, Debug)]
pub struct RotaryHeads {
    /// Query heads.
    pub heads: usize,
    /// Key heads, and as many value heads.
    pub kv_heads: usize,
    /// Even. Multiples of 16 are fast.
    pub head_dim: usize,
}

impl RotaryKvWrite {
    /// A thread per eight pairs of elements, or per pair where a head does not divide into eights.
    pub fn launch(&self) -> Launch {
        let RotaryHeads { heads, kv_heads, head_dim } = self.heads;
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "heads of {head_dim} elements do not divide into pairs");
        assert!(self.rows.max_positions > 0, "tables of no positions");
        let vectors = head_dim.is_multiple_of(16);
        let kernel = match vectors {
            true => self.dtype.pick("rotary_kv_write_bf16", "rotary_kv_write_f16"),
            false => self.dtype.pick("rotary_kv_write_bf16_any", "rotary_kv_write_f16_any"),
        };
        let items = (heads + 2 * kv_heads) * if vectors { head_dim / 16 } else { head_dim / 2 };
        Launch::new(kernel, [self.n_rows as u32, items.div_ceil(THREADS) as u32, 1], THREADS as u32, 0)
            .overlapping()
            .pointer(self.qkv)
            .pointer(self.queries)
            .pointer(self.cache)
            .pointer(self.rows.slots)
            .pointer(self.rows.positions)
            .pointer(self.rows.cos_sin)
            .pointer(self.rows.query_scale)
            .int(heads)
            .int(kv_heads)
            .int(head_dim)
            .int(self.num_slots)
            .int(self.rows.max_positions)
    }
}
