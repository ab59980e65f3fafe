//! Matrix product with a weight: `x (n, in)` f32 times `weight (out, in)` gives `(n, out)` f32.
//!
//! Each element is accumulated in f32 along `in` in one fixed order, whatever `n` is. Where the weight is bf16, so
//! are the rows that it is multiplied with: `x` is rounded to it. A weight may be in panels (`panel_linear`).

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, InplaceOp3, Layout, Result, Shape, Tensor};

use crate::panel_linear::{self, panels, weight_shape};
use crate::simd::Tier;
use crate::storage::{expect_f32, expect_shape, matrix, operand, operand_mut, with_element};
use crate::threads::Store;

const OP: &str = "linear";

/// `x (n, in)` in f32 times the transpose of `weight (out, in)` in f32, bf16, f16 or in panels: `(n, out)` in f32.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    check(x, weight)?;
    x.apply_op2_no_bwd(weight, &Linear)
}

/// Adds `linear(x, weight)` to `residual (n, out)` in place.
pub fn linear_add(residual: &Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
    let (rows, out_features) = check(x, weight)?;
    expect_f32(OP, "residual", residual)?;
    expect_shape(OP, "residual", residual, &[rows, out_features])?;
    residual.inplace_op3(x, weight, &LinearAdd)
}

/// Returns the shape of the result.
fn check(x: &Tensor, weight: &Tensor) -> Result<(usize, usize)> {
    let (rows, in_features) = matrix(OP, "x", x)?;
    let (out_features, weight_in) = weight_shape(OP, "weight", weight.dtype(), weight.layout())?;
    expect_f32(OP, "x", x)?;
    if in_features != weight_in {
        candle_core::bail!("{OP}: x {:?} and weight {:?} differ in their last dimension", x.dims(), weight.dims());
    }
    Ok((rows, out_features))
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, w: &CpuStorage, w_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_l.shape().dims2()?;
        let (out_features, _) = weight_shape(OP, "weight", w.dtype(), w_l)?;
        let mut out = vec![0.0; rows * out_features];
        multiply((x, x_l), (w, w_l), Store::Overwrite, &mut out)?;
        Ok((CpuStorage::F32(out), Shape::from((rows, out_features))))
    }
}

struct LinearAdd;

impl InplaceOp3 for LinearAdd {
    fn name(&self) -> &'static str {
        "linear_add"
    }

    fn cpu_fwd(
        &self,
        residual: &mut CpuStorage,
        residual_l: &Layout,
        x: &CpuStorage,
        x_l: &Layout,
        w: &CpuStorage,
        w_l: &Layout,
    ) -> Result<()> {
        multiply((x, x_l), (w, w_l), Store::Add, operand_mut(OP, "residual", residual, residual_l)?)
    }
}

fn multiply(
    (x, x_l): (&CpuStorage, &Layout),
    (w, w_l): (&CpuStorage, &Layout),
    store: Store,
    out: &mut [f32],
) -> Result<()> {
    let (rows, in_features) = x_l.shape().dims2()?;
    let (out_features, _) = weight_shape(OP, "weight", w.dtype(), w_l)?;
    let x = operand(OP, "x", x, x_l)?;
    if let Some((format, weight)) = panels(OP, "weight", (w, w_l))? {
        let product = panel_linear::Product { x, weight, rows, in_features, out_features };
        panel_linear::run(Tier::best(), format, &product, store, out);
        return Ok(());
    }
    with_element!(OP, w.dtype(), T => {
        let weight = operand::<T>(OP, "weight", w, w_l)?;
        cpu::run(Tier::best(), &cpu::Product { x, weight, rows, in_features, out_features }, store, out);
        Ok(())
    })
}
