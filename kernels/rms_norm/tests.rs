//! Against the reference.

use candle_core::DType;

use super::{reference, rms_norm};
use crate::testing::{assert_close, random, tensor, tolerance, values};

fn check(rows: usize, width: usize, magnitude: f32) {
    let x = random(1, rows * width, magnitude);
    let weight = random(2, width, 2.0);
    let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let expected = reference::rms_norm(&wide, &weight, 1e-5);
    let (x, weight) = (tensor(&x, &[rows, width], DType::F32), tensor(&weight, &[width], DType::F32));
    let found = rms_norm(&x, &weight, 1e-5).unwrap();
    assert_close("rms_norm", &[rows, width], &values(&found), &expected, tolerance(DType::F32));
}

#[test]
fn agrees_with_the_reference() {
    for (rows, width) in [(1, 1), (1, 7), (3, 8), (2, 33), (70, 2048)] {
        for magnitude in [1.0, 1e-3, 1e30] {
            check(rows, width, magnitude);
        }
    }
}

#[test]
fn refuses_a_weight_of_another_width() {
    let x = tensor(&[0.0; 6], &[2, 3], DType::F32);
    let error = rms_norm(&x, &tensor(&[1.0; 2], &[2], DType::F32), 1e-5).unwrap_err().to_string();
    assert!(error.contains("weight has shape [2], expected [3]"), "{error}");
}
