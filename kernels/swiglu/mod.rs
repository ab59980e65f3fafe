//! `silu(gate) * up` on the packed result of one projection (arXiv 2002.05202).

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::simd::Tier;
use crate::storage::{expect_f32, matrix, operand};

const OP: &str = "swiglu";

/// `gate_up (n, 2 * width)` holds gate columns, then up columns; the result is `(n, width)`, all f32.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (_, columns) = matrix(OP, "gate_up", gate_up)?;
    expect_f32(OP, "gate_up", gate_up)?;
    if columns % 2 != 0 {
        bail!("{OP}: gate_up {:?} has an odd number of columns", gate_up.dims());
    }
    gate_up.apply_op1_no_bwd(&SwiGlu)
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        let out = cpu::swiglu(Tier::best(), operand(OP, "gate_up", gate_up, layout)?, columns / 2);
        Ok((CpuStorage::F32(out), Shape::from((rows, columns / 2))))
    }
}
