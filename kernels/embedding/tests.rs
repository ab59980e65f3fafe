//! Against the reference.

use candle_core::DType;
use half::{bf16, f16};

use super::{cpu, embedding, reference};
use crate::storage::Element;
use crate::testing::{assert_close, random, tensor};

fn check<T: Element>(width: usize, rows: &[u32], magnitude: f32) {
    let table: Vec<T> = random(1, 9 * width, magnitude).into_iter().map(T::from_f32).collect();
    let expected = reference::embedding(&table, width, rows);
    assert_close("embedding", &[9, width], &cpu::embedding(&table, width, rows), &expected, 0.0);
}

#[test]
fn copies_rows() {
    for width in [1, 7, 64] {
        for magnitude in [1.0, 6e4] {
            check::<f32>(width, &[8, 0, 0, 3], magnitude);
            check::<bf16>(width, &[8, 0, 0, 3], magnitude);
            check::<f16>(width, &[], magnitude);
        }
    }
}

#[test]
fn refuses_rows_outside_the_table() {
    let error = embedding(&tensor(&[0.0; 6], &[2, 3], DType::BF16), &[1, 2]).unwrap_err().to_string();
    assert!(error.contains("row 2 of a table of 2"), "{error}");
}
