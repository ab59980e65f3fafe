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

use crate::panel_linear::{panels, unpack_rows, weight_shape};
use crate::storage::{operand, with_element};

const OP: &str = "embedding";

/// Rows `rows (n)` of `table (size, width)` in f32, bf16, f16 or in panels: `(n, width)` in f32.
/// Fails if a row is outside the table.
pub fn embedding(table: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (size, _) = weight_shape(OP, "table", table.dtype(), table.layout())?;
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
        let (_, width) = weight_shape(OP, "table", table.dtype(), layout)?;
        if let Some((format, bytes)) = panels(OP, "table", (table, layout))? {
            let out = unpack_rows(format, bytes, width, self.rows);
            return Ok((CpuStorage::F32(out), Shape::from((self.rows.len(), width))));
        }
        let out = with_element!(OP, table.dtype(), T => {
            Ok(cpu::embedding(operand::<T>(OP, "table", table, layout)?, width, self.rows))
        })?;
        Ok((CpuStorage::F32(out), Shape::from((self.rows.len(), width))))
    }
}
