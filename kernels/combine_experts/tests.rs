//! Against the reference.

use candle_core::DType;

use super::{combine_experts, reference};
use crate::testing::{assert_close, random, tensor, tolerance, values};

#[test]
fn agrees_with_the_reference() {
    for (tokens, width, k) in [(1, 1, 1), (3, 7, 2), (50, 1000, 4)] {
        let residual = random(1, tokens * width, 1.0);
        let outputs = random(2, tokens * k * width, 1.0);
        let weights = random(3, tokens * k, 1.0);
        let rows: Vec<u32> = (0..(tokens * k) as u32).rev().collect();
        let expected = reference::combine_experts(&residual, &outputs, width, &rows, &weights);
        let found = tensor(&residual, &[tokens, width], DType::F32);
        let outputs = tensor(&outputs, &[tokens * k, width], DType::F32);
        combine_experts(&found, &outputs, &rows, &weights).unwrap();
        assert_close("combine_experts", &[tokens, width, k], &values(&found), &expected, tolerance(DType::F32));
    }
}

#[test]
fn refuses_rows_that_are_not_there() {
    let (residual, outputs) = (tensor(&[0.0; 4], &[2, 2], DType::F32), tensor(&[0.0; 4], &[2, 2], DType::F32));
    for (rows, weights, expected) in [
        (&[0, 2][..], &[1.0, 1.0][..], "row 2 of 2 outputs"),
        (&[0, 1], &[1.0], "2 rows and 1 weights for 2 tokens"),
        (&[0, 1, 1], &[1.0, 1.0, 1.0], "3 rows and 3 weights for 2 tokens"),
    ] {
        let error = combine_experts(&residual, &outputs, rows, weights).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
