//! The launch of `cuda.cu`.

use crate::gpu::{DevicePointer, Float16, Launch};

const THREADS: u32 = 256;
/// Per thread.
const COLUMNS: usize = 8;

/// Operands of SwiGLU on a device. Both begin at multiples of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu {
    /// Of type `dtype`, `(rows, 2 * columns)`: gates, then ups
    pub gate_up: DevicePointer,
    /// Of type `dtype`, `(rows, columns)`
    pub out: DevicePointer,
    /// Above 0.
    pub rows: usize,
    /// A multiple of 8.
    pub columns: usize,
    /// Of both.
    pub dtype: Float16,
}

impl SwiGlu {
    /// One row of blocks per row.
    ///
    /// # Panics
    /// If the operands are not as documented.
    pub fn launch(&self) -> Launch {
        assert!(self.columns.is_multiple_of(COLUMNS), "swiglu: {} columns are not a multiple of 8", self.columns);
        assert!(self.gate_up.0.is_multiple_of(16) && self.out.0.is_multiple_of(16), "swiglu: unaligned: {self:?}");
        let kernel = self.dtype.pick("swiglu_bf16", "swiglu_f16");
        let blocks = self.columns.div_ceil(COLUMNS * THREADS as usize);
        Launch::new(kernel, [self.rows as u32, blocks as u32, 1], THREADS, 0)
            .pointer(self.gate_up)
            .pointer(self.out)
            .int(self.columns)
    }
}
