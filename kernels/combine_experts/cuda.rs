//! The launch of `cuda.cu`. Unlike on the CPU, outputs lie by token and rank, not by expert.

use crate::gpu::{DevicePointer, Float16, Launch};

const THREADS: usize = 128;
/// Columns that a thread takes.
const PER_THREAD: usize = 8;

/// Operands of the sum on a device.
#[derive(Clone, Copy, Debug)]
pub struct CombineExperts {
    /// f32 `(tokens, width)`, added to.
    pub residual: DevicePointer,
    /// Of type `dtype`, `(tokens * experts_per_token, width)`, that of a token and rank in row `token * k + rank`.
    pub outputs: DevicePointer,
    /// f32 `(tokens, experts_per_token)`. An output of weight 0 is not read.
    pub weights: DevicePointer,
    /// Padded ones among them, above 0.
    pub tokens: usize,
    /// Columns. Multiples of 8 are fast.
    pub width: usize,
    /// `k`
    pub experts_per_token: usize,
    /// Of the outputs.
    pub dtype: Float16,
}

impl CombineExperts {
    /// A thread per eight columns of a token.
    pub fn launch(&self) -> Launch {
        let kernel = self.dtype.pick("combine_experts_bf16", "combine_experts_f16");
        let parts = self.width.div_ceil(THREADS * PER_THREAD) as u32;
        Launch::new(kernel, [self.tokens as u32, parts, 1], THREADS as u32, 0)
            .pointer(self.residual)
            .pointer(self.outputs)
            .pointer(self.weights)
            .int(self.width)
            .int(self.experts_per_token)
    }
}
