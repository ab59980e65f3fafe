//! Root-mean-square normalisation.
//!
//! `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::storage::{expect_f32, expect_shape, matrix, operand};

const OP: &str = "rms_norm";

/// Normalises the rows of `x (n, width)` by `weight (width)`, all f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    x.apply_op2_no_bwd(weight, &RmsNorm { eps })
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    let (_, width) = matrix(OP, "x", x)?;
    expect_f32(OP, "x", x)?;
    expect_f32(OP, "weight", weight)?;
    expect_shape(OP, "weight", weight, &[width])
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, weight: &CpuStorage, w_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = operand(OP, "x", x, x_l)?;
        let weight = operand(OP, "weight", weight, w_l)?;
        Ok((CpuStorage::F32(cpu::rms_norm(x, weight, self.eps)), x_l.shape().clone()))
    }
}
