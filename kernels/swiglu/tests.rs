//! Against the reference on every instruction set.

use super::{cpu, reference};
use crate::simd::Tier;
use crate::testing::{assert_close, assert_same_bits, random, tensor};
use candle_core::DType;

fn check(rows: usize, width: usize, magnitude: f32) {
    let gate_up = random(1, rows * 2 * width, magnitude);
    let expected = reference::swiglu(&gate_up, width);
    for tier in Tier::supported() {
        let found = cpu::swiglu(tier, &gate_up, width);
        assert_close(&format!("swiglu {tier:?}"), &[rows, width], &found, &expected, 2e-6);
        for row in 0..rows {
            let alone = cpu::swiglu(tier, &gate_up[row * 2 * width..][..2 * width], width);
            assert_same_bits("swiglu row alone", &[rows, width], &alone, &found[row * width..][..width]);
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    for (rows, width) in [(1, 1), (3, 7), (2, 16), (5, 33), (40, 1000)] {
        for magnitude in [1.0, 1e-4, 30.0, 1e4, 1e15] {
            check(rows, width, magnitude);
        }
    }
}

#[test]
fn nan_stays_nan() {
    for tier in Tier::supported() {
        let found = cpu::swiglu(tier, &[f32::NAN, 1.0, 1.0, f32::NAN], 2);
        assert!(found.iter().all(|v| v.is_nan()), "{tier:?}: {found:?}");
    }
}

#[test]
fn refuses_an_odd_number_of_columns() {
    let error = super::swiglu(&tensor(&[0.0; 3], &[1, 3], DType::F32)).unwrap_err().to_string();
    assert!(error.contains("gate_up [1, 3] has an odd number of columns"), "{error}");
}
