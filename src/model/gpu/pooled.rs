//! What rows of the residual are pooled to. It is done on the host: a text has one such row, of a few thousand numbers.
//!
//! Main type: [`PooledReader`]. Each row is read for itself, so that its bits do not depend on the others.

use candle_core::{Device, Tensor};
use tramontane_kernels::{linear, rms_norm};

use crate::model::ModelError;

/// The final norm and the table of classes, if there is one, in the memory of the host.
#[derive(Debug)]
pub(super) struct PooledReader {
    /// f32 `(hidden_size)`
    pub(super) norm: Tensor,
    /// `(classes, hidden_size)`
    pub(super) classes: Option<Tensor>,
    pub(super) rms_norm_eps: f32,
}

impl PooledReader {
    /// Values that a row is pooled to.
    pub(super) fn width(&self) -> usize {
        self.classes.as_ref().unwrap_or(&self.norm).dims()[0]
    }

    /// Values of one row of the residual, `(hidden_size)` to `(pooled_width)`.
    pub(super) fn read(&self, residual: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        let row = Tensor::from_vec(residual, (1, self.norm.elem_count()), &Device::Cpu)?;
        let mut pooled = rms_norm(&row, &self.norm, self.rms_norm_eps)?; // (1, hidden_size)
        if let Some(classes) = &self.classes {
            pooled = linear(&pooled, classes)?; // (1, classes)
        }
        Ok(pooled.flatten_all()?.to_vec1()?)
    }
}
