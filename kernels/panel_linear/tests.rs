//! Against the reference, bit for bit between row counts and, of codes, instruction sets, and what quantizing does to a
//! weight.

use candle_core::{DType, Tensor};
use proptest::prelude::*;

use super::{GROUP, PANEL, PanelFormat, Product, reference, run};
use crate::embedding;
use crate::linear::{linear, linear_add};
use crate::simd::Tier;
use crate::storage;
use crate::testing::{
    DTYPES, assert_close, assert_same_bits, assert_same_in_any_pool, random, tensor, tolerance, values,
};
use crate::threads::Store;

const FORMATS: [PanelFormat; 3] = [PanelFormat::Bf16, PanelFormat::Q8, PanelFormat::Q4];
const QUANTIZED: [PanelFormat; 2] = [PanelFormat::Q8, PanelFormat::Q4];

/// A weight in panels: its tensor, and what its bytes stand for.
struct Weight {
    format: PanelFormat,
    tensor: Tensor,
    values: Vec<f32>,
    out_features: usize,
    in_features: usize,
}

impl Weight {
    fn new(format: PanelFormat, (out_features, in_features): (usize, usize), magnitude: f32) -> Self {
        let stored = random(2, out_features * in_features, magnitude);
        let tensor = format.pack(&tensor(&stored, &[out_features, in_features], DType::F32)).unwrap();
        let values = values(&embedding(&tensor, &(0..out_features as u32).collect::<Vec<_>>()).unwrap());
        Self { format, tensor, values, out_features, in_features }
    }

    fn times(&self, tier: Tier, x: &[f32]) -> Vec<f32> {
        let &Self { format, in_features, out_features, .. } = self;
        let rows = x.len() / in_features;
        let mut out = vec![f32::NAN; rows * out_features];
        let (stored, layout) = self.tensor.storage_and_layout();
        let candle_core::Storage::Cpu(stored) = &*stored else { panic!("not on the CPU") };
        let weight = storage::bytes("test", "weight", stored, layout).unwrap();
        assert!(weight.as_ptr().addr().is_multiple_of(64), "panels begin at a line of the cache");
        run(tier, format, &Product { x, weight, rows, in_features, out_features }, Store::Overwrite, &mut out);
        out
    }
}

fn check(format: PanelFormat, (rows, out_features, in_features): (usize, usize, usize), magnitude: f32) {
    let weight = Weight::new(format, (out_features, in_features), magnitude);
    let x = random(1, rows * in_features, magnitude);
    let shape = [rows, in_features, out_features];
    let expected = reference::linear(format, &x, &weight.values, in_features);
    let first = weight.times(Tier::supported()[0], &x);
    for tier in Tier::supported() {
        let name = format!("{format:?} {tier:?}");
        let found = weight.times(tier, &x);
        assert_close(&name, &shape, &found, &expected, tolerance(DType::F32));
        if format != PanelFormat::Bf16 {
            assert_same_bits(&format!("{name} beside the plainest"), &shape, &found, &first);
        }
        for row in 0..rows {
            let alone = weight.times(tier, &x[row * in_features..][..in_features]);
            let together = &found[row * out_features..][..out_features];
            assert_same_bits(&format!("{name} row {row} alone"), &shape, &alone, together);
        }
    }
}

#[test]
fn agrees_with_the_reference_and_with_itself() {
    check_all(&[
        (1, 16, 32),
        (2, 32, 64),
        (3, 48, 96),
        (4, 64, 2048),
        (7, 112, 160),
        (9, 16, 1024),
        (17, 48, 5120),
        (33, 80, 64),
    ]);
}

/// Apart, as it takes by far the longest: scripts/check-kernels-aarch64 leaves it out.
#[test]
fn very_many_rows_agree_with_the_reference_and_with_themselves() {
    check_all(&[(400, 16, 2112)]);
}

fn check_all(shapes: &[(usize, usize, usize)]) {
    for format in FORMATS {
        for &shape in shapes {
            for magnitude in [1.0, 1e15, 1e-15] {
                check(format, shape, magnitude);
            }
        }
    }
}

/// Codes at both ends, whose products are the largest that there are: of a group all but one, which sets the scale.
#[test]
fn the_largest_codes_do_not_overflow() {
    for (format, first, others) in [
        (PanelFormat::Q8, 127.0, 127.0),
        (PanelFormat::Q8, 127.0, -127.0),
        (PanelFormat::Q4, -8.0, 7.0),
        (PanelFormat::Q4, -8.0, -8.0),
    ] {
        let of_group = |column: usize| if column.is_multiple_of(GROUP) { first } else { others };
        let stored: Vec<f32> = (0..PANEL * 4096).map(of_group).collect();
        let weight = format.pack(&tensor(&stored, &[PANEL, 4096], DType::F32)).unwrap();
        let rows = values(&embedding(&weight, &[0]).unwrap());
        assert_eq!(rows, stored[..4096], "{format:?}");
        for sign in [1.0, -1.0] {
            let x = vec![sign; 4096];
            let expected = reference::linear(format, &x, &stored, 4096);
            let found = values(&linear(&tensor(&x, &[1, 4096], DType::F32), &weight).unwrap());
            assert_close(&format!("{format:?}"), &[1, 4096, PANEL], &found, &expected, tolerance(DType::F32));
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for format in FORMATS {
        let weight = Weight::new(format, (304, 1024), 1.0);
        for rows in [1, 3, 40] {
            let x = random(1, rows * 1024, 1.0);
            for tier in Tier::supported() {
                assert_same_in_any_pool(&format!("{format:?} {tier:?}"), &[rows], || weight.times(tier, &x));
            }
        }
    }
}

/// Half a step off at most where the largest value has a code, twice that where a smaller scale is better on the whole.
#[test]
fn codes_are_near_the_weight() {
    let (out_features, in_features) = (32, 256);
    for (format, most, relative) in [(PanelFormat::Q8, 0.51 / 127.0, 0.006), (PanelFormat::Q4, 1.6 / 8.0, 0.085)] {
        // Sums of uniform numbers, whose tails are like those of trained weights.
        let parts: Vec<Vec<f32>> = (0..6).map(|seed| random(10 + seed, out_features * in_features, 0.1)).collect();
        let stored: Vec<f32> =
            (0..out_features * in_features).map(|i| parts.iter().map(|part| part[i]).sum()).collect();
        for dtype in DTYPES {
            let weight = tensor(&stored, &[out_features, in_features], dtype);
            let quantized = format.pack(&weight).unwrap();
            let rows: Vec<u32> = (0..out_features as u32).collect();
            let (found, stored) = (values(&embedding(&quantized, &rows).unwrap()), values(&weight));
            let mut squares = (0.0, 0.0);
            for (found, stored) in found.chunks(GROUP).zip(stored.chunks(GROUP)) {
                let largest = stored.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                for (found, stored) in found.iter().zip(stored) {
                    assert!((found - stored).abs() <= most * largest, "{format:?}: {found} for {stored}");
                    squares.0 += f64::from(found - stored).powi(2);
                    squares.1 += f64::from(*stored).powi(2);
                }
            }
            let found = (squares.0 / squares.1).sqrt();
            assert!(found < relative, "{format:?} {dtype:?}: {found}");
        }
    }
}

/// What is bf16 already comes back as it was.
#[test]
fn bf16_is_exact() {
    let stored = tensor(&random(1, 48 * 96, 1.0), &[48, 96], DType::BF16);
    let rows = [47, 0, 16, 31];
    let found = embedding(&PanelFormat::Bf16.pack(&stored).unwrap(), &rows).unwrap();
    assert_eq!(values(&found), values(&embedding(&stored, &rows).unwrap()));
}

#[test]
fn zeros_stay_zeros() {
    for format in FORMATS {
        let weight = format.pack(&tensor(&[0.0; 16 * 32], &[16, 32], DType::BF16)).unwrap();
        assert_eq!(values(&embedding(&weight, &[3]).unwrap()), [0.0; 32]);
        let x = tensor(&random(1, 32, 1.0), &[1, 32], DType::F32);
        assert_eq!(values(&linear(&x, &weight).unwrap()), [0.0; 16]);
        let weight = Weight::new(format, (16, 32), 1.0);
        assert_eq!(weight.times(Tier::best(), &[0.0; 32]), [0.0; 16]);
    }
}

/// What is not finite must show in the results, as it does with other weights.
#[test]
fn rows_that_are_not_finite_give_results_that_are_not() {
    for format in FORMATS {
        let weight = Weight::new(format, (16, 64), 1.0);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random(1, 128, 1.0);
            x[37] = value;
            for tier in Tier::supported() {
                let found = weight.times(tier, &x);
                let all = found[..16].iter().all(|found| !found.is_finite());
                assert!(all, "{format:?} {tier:?} {value}: {found:?}");
                assert!(found[16..].iter().all(|value| value.is_finite()), "{format:?} {tier:?}: other rows");
            }
        }
    }
}

/// So small that one over their scale is infinite: they count as zero.
#[test]
fn the_smallest_rows_give_no_nonsense() {
    for format in FORMATS {
        let weight = Weight::new(format, (16, 32), 1.0);
        for value in [f32::from_bits(1), 1e-38] {
            for tier in Tier::supported() {
                let found = weight.times(tier, &[value; 32]);
                assert!(
                    found.iter().all(|found| found.abs() <= 32.0 * value),
                    "{format:?} {tier:?} {value}: {found:?}"
                );
            }
        }
    }
}

/// Of groups of any size, the codes that the same group has at another size.
#[test]
fn the_size_of_a_group_does_not_matter() {
    for format in QUANTIZED {
        let of_size = |magnitude: f32| Weight::new(format, (16, 64), magnitude).values;
        let at_one = of_size(1.0);
        for exponent in [-110, -70, 60, 90] {
            let size = 2f32.powi(exponent);
            let found: Vec<f32> = of_size(size).iter().map(|value| value / size).collect();
            assert_eq!(found, at_one, "{format:?} {exponent}");
        }
    }
}

#[test]
fn nothing_gives_nothing() {
    for format in FORMATS {
        let weight = Weight::new(format, (32, 64), 1.0);
        let x = tensor(&[], &[0, 64], DType::F32);
        assert_eq!(linear(&x, &weight.tensor).unwrap().dims(), [0, 32]);
        let weight = format.pack(&tensor(&[], &[32, 0], DType::F32)).unwrap();
        let x = tensor(&[], &[3, 0], DType::F32);
        assert_eq!(values(&linear(&x, &weight).unwrap()), [0.0; 96]);
    }
}

#[test]
fn adds_to_the_residual() {
    for format in FORMATS {
        let weight = Weight::new(format, (48, 64), 1.0);
        let x = tensor(&random(1, 3 * 64, 1.0), &[3, 64], DType::F32);
        let before = random(3, 3 * 48, 1.0);
        let residual = tensor(&before, &[3, 48], DType::F32);
        linear_add(&residual, &x, &weight.tensor).unwrap();
        let product = values(&linear(&x, &weight.tensor).unwrap());
        let expected: Vec<f32> = before.iter().zip(&product).map(|(before, product)| before + product).collect();
        assert_same_bits("linear_add", &[3, 64, 48], &values(&residual), &expected);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let refused = |shape: [usize; 2], value: f32, expected: &str| {
        let weight = tensor(&vec![value; shape[0] * shape[1]], &shape, DType::F32);
        let error = PanelFormat::Q4.pack(&weight).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused([15, 32], 0.0, "15 rows are not a multiple of 16");
    refused([16, 40], 0.0, "40 columns are not a multiple of 32");
    refused([16, 32], f32::NAN, "a weight is NaN, which cannot be quantized");
    refused([16, 32], f32::NEG_INFINITY, "a weight is -inf, which cannot be quantized");
    // A number that is not finite is one in bf16 as well.
    let weight = tensor(&[f32::NAN; 512], &[16, 32], DType::F32);
    assert!(values(&embedding(&PanelFormat::Bf16.pack(&weight).unwrap(), &[0]).unwrap())[0].is_nan());
    let weight = Weight::new(PanelFormat::Q8, (16, 64), 1.0);
    let x = tensor(&[0.0; 32], &[1, 32], DType::F32);
    let error = linear(&x, &weight.tensor).unwrap_err().to_string();
    assert!(error.contains("differ in their last dimension"), "{error}");
    let error = embedding(&weight.tensor, &[16]).unwrap_err().to_string();
    assert!(error.contains("row 16 of a table of 16"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(rows in 1usize..40, panels in 1usize..9, groups in 1usize..20, format in 0usize..3) {
        check(FORMATS[format], (rows, panels * PANEL, groups * GROUP), 1.0);
    }
}
