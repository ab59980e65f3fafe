//! The launch of `cuda.cu`.

use crate::gpu::{DevicePointer, Float16, Launch};

const THREADS: u32 = 256;

/// Operands of a norm on a device.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// f32 `(rows, columns)`
    pub residual: DevicePointer,
    /// f32 `(columns)`
    pub weight: DevicePointer,
    /// Of type `dtype`, `(rows, columns)`
    pub out: DevicePointer,
    /// Above 0.
    pub rows: usize,
    /// Any.
    pub columns: usize,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Of the result.
    pub dtype: Float16,
}

impl RmsNorm {
    /// One block per row.
    pub fn launch(&self) -> Launch {
        let kernel = self.dtype.pick("rms_norm_bf16", "rms_norm_f16");
        Launch::new(kernel, [self.rows as u32, 1, 1], THREADS, 0)
            .overlapping()
            .pointer(self.residual)
            .pointer(self.weight)
            .pointer(self.out)
            .int(self.columns)
            .float(self.epsilon)
    }
}
