//! The launches of `cuda.cu`. Rows are read where the table has them and are zero elsewhere, so that no id and no
//! padding can reach outside: the checks of `mod.rs` are the host's, and these rows come from the device.

use crate::gpu::{DevicePointer, Float16, Launch};

const THREADS: usize = 128;
/// 16-bit units that a thread moves.
const PER_THREAD: usize = 8;

/// The residual's first value: token embeddings, widened.
#[derive(Clone, Copy, Debug)]
pub struct EmbedTokens {
    /// Of type `dtype`, `(size, width)`
    pub table: DevicePointer,
    /// u32 `(rows)`; an id outside the table, as `u32::MAX` of a padded row, gives zeros. With [`EmbedTokens::UNREAD`] it
    /// is an index among `chosen`.
    pub ids: DevicePointer,
    /// u32: tokens that were chosen on the device, see [`Sampling::next`](crate::sampling::cuda::Sampling::next).
    pub chosen: DevicePointer,
    /// f32 `(rows, width)`
    pub out: DevicePointer,
    /// Tokens of the table.
    pub size: usize,
    /// Elements of a row. Multiples of 8 are fast.
    pub width: usize,
    /// Tokens to embed, above 0.
    pub rows: usize,
    /// Of the table.
    pub dtype: Float16,
}

impl EmbedTokens {
    /// The bit of an id that says that the host has not read the token yet.
    pub const UNREAD: u32 = 1 << 31;

    /// A thread per eight elements.
    pub fn launch(&self) -> Launch {
        let kernel = self.dtype.pick("embed_tokens_bf16", "embed_tokens_f16");
        Launch::new(kernel, grid(self.rows, self.width), THREADS as u32, 0)
            .pointer(self.table)
            .pointer(self.ids)
            .pointer(self.chosen)
            .pointer(self.out)
            .int(self.size)
            .int(self.width)
    }
}

/// Selected rows of activations, such as those of the last tokens, in the order of the selection.
#[derive(Clone, Copy, Debug)]
pub struct GatherRows {
    /// `(size, width)`
    pub x: DevicePointer,
    /// u32 `(rows)`; a row outside `x`, as `u32::MAX` of a padded row, gives zeros.
    pub indices: DevicePointer,
    /// `(rows, width)`
    pub out: DevicePointer,
    /// Rows of `x`.
    pub size: usize,
    /// Elements of a row. Rows of whole 16 bytes are fast.
    pub width: usize,
    /// Rows to gather, above 0.
    pub rows: usize,
    /// Bytes of an element, an even number: 2 or 4.
    pub element_bytes: usize,
}

impl GatherRows {
    /// A thread per 16 bytes.
    pub fn launch(&self) -> Launch {
        assert!(self.element_bytes.is_multiple_of(2), "elements of {} bytes", self.element_bytes);
        let units = self.width * self.element_bytes / 2;
        Launch::new("gather_rows", grid(self.rows, units), THREADS as u32, 0)
            .pointer(self.x)
            .pointer(self.indices)
            .pointer(self.out)
            .int(self.size)
            .int(units)
    }
}

fn grid(rows: usize, units: usize) -> [u32; 3] {
    [rows as u32, units.div_ceil(THREADS * PER_THREAD) as u32, 1]
}
