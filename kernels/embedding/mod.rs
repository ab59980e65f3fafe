//! Gathers rows of a table and widens them to f32.

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::quantized_linear::{self, QuantizedFormat};
use crate::storage::{bytes, matrix, operand, with_element};

const OP: &str = "embedding";

/// Rows `rows (n)` of `table (size, width)` in f32, bf16, f16 or quantized: `(n, width)` in f32.
/// Fails if a row is outside the table.
pub fn embedding(table: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (size, _) = match QuantizedFormat::of(table) {
        Some(_) => quantized_linear::shape(table.layout())?,
        None => matrix(OP, "table", table)?,
    };
    if let Some(&row) = rows.iter().find(|&&row| row as usize >= size) {
        bail!("{OP}: row {row} of a table of {size}");
    }
    table.apply_op1_no_bwd(&Embedding { rows })
}

struct Embedding<'a> {
    rows: &'a [u32],
}

impl CustomOp1 for Embedding<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if let Some(format) = QuantizedFormat::of_bytes(table.dtype(), layout.dims()) {
            let (_, width) = quantized_linear::shape(layout)?;
            let out = quantized_linear::unpack_rows(format, bytes(OP, "table", table, layout)?, width, self.rows);
            return Ok((CpuStorage::F32(out), Shape::from((self.rows.len(), width))));
        }
        let (_, width) = layout.shape().dims2()?;
        let out = with_element!(OP, table.dtype(), T => {
            Ok(cpu::embedding(operand::<T>(OP, "table", table, layout)?, width, self.rows))
        })?;
        Ok((CpuStorage::F32(out), Shape::from((self.rows.len(), width))))
    }
}
