//! One pass of copies.

use crate::storage::Element;

/// `(rows.len(), width)`
pub(super) fn embedding<T: Element>(table: &[T], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        let start = row as usize * width;
        out.extend(table[start..start + width].iter().map(|value| value.to_f32()));
    }
    out
}
