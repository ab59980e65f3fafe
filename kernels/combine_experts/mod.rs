//! Adds the weighted outputs of each token's experts to the residual, in the order of the token's own
//! ranking, so that the result does not depend on how tokens were grouped by expert.

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

use crate::storage::{expect_f32, matrix, operand, operand_mut};

const OP: &str = "combine_experts";

/// For each token `t`, adds the sum over ranks `r` of `weights[t, r] * outputs[rows[t, r]]` to
/// `residual[t]` in place. `residual (n, width)` and `outputs (m, width)` are f32; `rows` and `weights`
/// are `(n, k)`. Fails if a row is outside `outputs`.
pub fn combine_experts(residual: &Tensor, outputs: &Tensor, rows: &[u32], weights: &[f32]) -> Result<()> {
    let (tokens, width) = matrix(OP, "residual", residual)?;
    let (available, outputs_width) = matrix(OP, "outputs", outputs)?;
    expect_f32(OP, "residual", residual)?;
    expect_f32(OP, "outputs", outputs)?;
    if width != outputs_width {
        bail!("{OP}: residual {:?} and outputs {:?} differ in width", residual.dims(), outputs.dims());
    }
    if rows.len() != weights.len() || (tokens == 0 && !rows.is_empty()) || !rows.len().is_multiple_of(tokens.max(1)) {
        bail!("{OP}: {} rows and {} weights for {tokens} tokens", rows.len(), weights.len());
    }
    if let Some(&row) = rows.iter().find(|&&row| row as usize >= available) {
        bail!("{OP}: row {row} of {available} outputs");
    }
    if tokens == 0 {
        return Ok(());
    }
    residual.inplace_op2(outputs, &CombineExperts { rows, weights, experts_per_token: rows.len() / tokens })
}

struct CombineExperts<'a> {
    rows: &'a [u32],
    weights: &'a [f32],
    experts_per_token: usize,
}

impl InplaceOp2 for CombineExperts<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, residual: &mut CpuStorage, residual_l: &Layout, outputs: &CpuStorage, l: &Layout) -> Result<()> {
        let (_, width) = l.shape().dims2()?;
        let residual = operand_mut(OP, "residual", residual, residual_l)?;
        let outputs = operand(OP, "outputs", outputs, l)?;
        cpu::combine_experts(residual, outputs, width, self);
        Ok(())
    }
}
