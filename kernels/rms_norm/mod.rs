//! Root-mean-square normalisation, alone or fused with the residual addition before it.
//!
//! `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).

mod cpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::storage::{expect_f32, expect_shape, matrix, operand};

const OP: &str = "rms_norm";

/// Normalises the rows of `x (n, width)` by `weight (width)`, all f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    x.apply_op2_no_bwd(weight, &RmsNorm { eps })
}

/// `sum = residual + x` and `rms_norm(sum, weight, eps)`, all `(n, width)` in f32. Returns both.
pub fn add_rms_norm(residual: &Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    expect_f32(OP, "residual", residual)?;
    expect_shape(OP, "residual", residual, x.dims())?;
    let both = residual.apply_op3_no_bwd(x, weight, &AddRmsNorm { eps })?;
    Ok((both.get(0)?, both.get(1)?))
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

struct AddRmsNorm {
    eps: f32,
}

impl CustomOp3 for AddRmsNorm {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn cpu_fwd(
        &self,
        residual: &CpuStorage,
        residual_l: &Layout,
        x: &CpuStorage,
        x_l: &Layout,
        weight: &CpuStorage,
        w_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = x_l.shape().dims2()?;
        let residual = operand(OP, "residual", residual, residual_l)?;
        let x = operand(OP, "x", x, x_l)?;
        let weight = operand(OP, "weight", weight, w_l)?;
        let out = cpu::add_rms_norm(residual, x, weight, self.eps);
        Ok((CpuStorage::F32(out), Shape::from((2, rows, width))))
    }
}
