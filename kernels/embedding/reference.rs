//! The definition, in f64.

use crate::storage::Element;

pub(super) fn embedding<T: Element>(table: &[T], width: usize, rows: &[u32]) -> Vec<f64> {
    let element = |&row: &u32, column: usize| f64::from(table[row as usize * width + column].to_f32());
    rows.iter().flat_map(|row| (0..width).map(move |column| element(row, column))).collect()
}
