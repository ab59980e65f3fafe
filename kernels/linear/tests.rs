//! Against the reference on every instruction set, and bit for bit across row counts.

use candle_core::DType;
use half::{bf16, f16};
use proptest::prelude::*;

use super::cpu::{Product, run};
use super::{linear, linear_add, reference};
use crate::simd::Tier;
use crate::storage::Element;
use crate::testing::{
    DTYPES, assert_close, assert_same_bits, assert_same_in_any_pool, random, tensor, tolerance, values,
};
use crate::threads::Store;

/// Rows, in, out.
type Shape = (usize, usize, usize);

/// One, odd, off-vector, around the tiles, past a depth block, past a row block.
const SHAPES: [Shape; 13] = [
    (1, 1, 1),
    (1, 17, 3),
    (2, 16, 8),
    (3, 33, 49),
    (5, 100, 7),
    (4, 1024, 6),
    (7, 1040, 13),
    (15, 64, 97),
    (23, 64, 48),
    (24, 64, 48),
    (25, 1025, 50),
    (130, 37, 101),
    (131, 2100, 55),
];

fn weights<T: Element>(seed: u64, (_, in_features, out_features): Shape, magnitude: f32) -> Vec<T> {
    random(seed, in_features * out_features, magnitude).into_iter().map(T::from_f32).collect()
}

fn product<T: Element>(tier: Tier, x: &[f32], weight: &[T], (rows, in_features, out_features): Shape) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * out_features];
    run(tier, &Product { x, weight, rows, in_features, out_features }, Store::Overwrite, &mut out);
    out
}

fn check<T: Element>(dtype: DType, shape: Shape, magnitude: f32) {
    let (rows, in_features, out_features) = shape;
    let x = random(1, rows * in_features, magnitude);
    let weight: Vec<T> = weights(2, shape, 1.0);
    let expected = reference::linear(&x, &weight, in_features);
    for tier in Tier::supported() {
        let name = format!("linear {dtype:?} {tier:?}");
        let found = product(tier, &x, &weight, shape);
        assert_close(&name, &[rows, in_features, out_features], &found, &expected, tolerance(dtype));
        for row in 0..rows {
            let alone = product(tier, &x[row * in_features..][..in_features], &weight, (1, in_features, out_features));
            let together = &found[row * out_features..][..out_features];
            assert_same_bits(&format!("{name} row {row} alone"), &[rows, in_features, out_features], &alone, together);
        }
    }
}

#[test]
fn agrees_with_the_reference_and_with_itself() {
    for shape in SHAPES {
        for magnitude in [1.0, 1e20, 1e-20] {
            check::<f32>(DType::F32, shape, magnitude);
            check::<bf16>(DType::BF16, shape, magnitude);
            check::<f16>(DType::F16, shape, magnitude);
        }
    }
}

/// Shapes whose work is worth several threads.
#[test]
fn the_number_of_threads_changes_no_bit() {
    for shape in [(1, 1040, 301), (3, 1025, 260), (130, 300, 101)] {
        let (rows, in_features, out_features) = shape;
        let x = random(1, rows * in_features, 1.0);
        for tier in Tier::supported() {
            let shape_of = [rows, in_features, out_features];
            let weight: Vec<bf16> = weights(2, shape, 1.0);
            assert_same_in_any_pool(&format!("linear bf16 {tier:?}"), &shape_of, || product(tier, &x, &weight, shape));
            let weight: Vec<f32> = weights(2, shape, 1.0);
            assert_same_in_any_pool(&format!("linear f32 {tier:?}"), &shape_of, || product(tier, &x, &weight, shape));
        }
    }
}

#[test]
fn nothing_along_in_gives_zeros() {
    for tier in Tier::supported() {
        for rows in [1, 24] {
            assert_eq!(product::<f32>(tier, &[], &[], (rows, 0, 5)), vec![0.0; rows * 5]);
            assert_eq!(product::<bf16>(tier, &[], &[], (rows, 0, 5)), vec![0.0; rows * 5]);
        }
    }
}

#[test]
fn adds_to_the_residual() {
    for dtype in DTYPES {
        for (rows, in_features, out_features) in [(1, 20, 7), (40, 33, 50)] {
            let x = tensor(&random(1, rows * in_features, 1.0), &[rows, in_features], DType::F32);
            let weight = tensor(&random(2, out_features * in_features, 1.0), &[out_features, in_features], dtype);
            let before = random(3, rows * out_features, 1.0);
            let residual = tensor(&before, &[rows, out_features], DType::F32);
            linear_add(&residual, &x, &weight).unwrap();
            let product = values(&linear(&x, &weight).unwrap());
            let expected: Vec<f32> = before.iter().zip(&product).map(|(before, product)| before + product).collect();
            assert_same_bits("linear_add", &[rows, in_features, out_features], &values(&residual), &expected);
        }
    }
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let x = tensor(&[0.0; 6], &[2, 3], DType::F32);
    let weight = tensor(&[0.0; 8], &[2, 4], DType::F32);
    let error = linear(&x, &weight).unwrap_err().to_string();
    assert!(error.contains("x [2, 3] and weight [2, 4] differ in their last dimension"), "{error}");
    let error = linear(&x.to_dtype(DType::BF16).unwrap(), &weight).unwrap_err().to_string();
    assert!(error.contains("x is BF16, expected F32"), "{error}");
    let transposed = weight.t().unwrap(); // (4, 2)
    let error = linear(&tensor(&[0.0; 4], &[2, 2], DType::F32), &transposed).unwrap_err().to_string();
    assert!(error.contains("weight with shape [4, 2] is not contiguous"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(rows in 1usize..40, in_features in 1usize..1100, out_features in 1usize..60) {
        check::<bf16>(DType::BF16, (rows, in_features, out_features), 1.0);
        check::<f32>(DType::F32, (rows, in_features, out_features), 1.0);
    }
}
