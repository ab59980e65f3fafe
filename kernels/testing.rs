//! What the operators' tests share: the tolerance table, a comparison that tells where it failed, and
//! reproducible random values.

use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Types that weights and caches come in.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Largest difference allowed, relative to the norm of the reference (`performance` tests compare on the
/// same rounded inputs, so only the arithmetic differs).
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        // Inputs are rounded before both sides see them; arithmetic and outputs stay f32.
        DType::BF16 | DType::F16 => 1e-5,
        other => panic!("no tolerance for {other:?}"),
    }
}

/// Panics with op, shape, index, both values and the largest difference unless every element lies within
/// `tolerance` of the reference, relative to its root mean square (or to 1e-30 where that is nothing).
pub(crate) fn assert_close(op: &str, shape: &[usize], found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{op} {shape:?}: number of elements");
    let mean_square = expected.iter().map(|v| v * v).sum::<f64>() / expected.len().max(1) as f64;
    let scale = mean_square.sqrt().max(1e-30);
    let difference = |i: usize| (f64::from(found[i]) - expected[i]).abs();
    let worst = (0..found.len()).max_by(|&a, &b| difference(a).total_cmp(&difference(b)));
    if let Some(worst) = worst.filter(|&i| difference(i) > tolerance * scale || difference(i).is_nan()) {
        panic!(
            "{op} {shape:?}: element {worst} is {} but should be {}: difference {:e}, allowed {:e}",
            found[worst],
            expected[worst],
            difference(worst),
            tolerance * scale
        );
    }
}

/// Panics with the first element that differs in any bit.
pub(crate) fn assert_same_bits(op: &str, shape: &[usize], found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{op} {shape:?}: number of elements");
    if let Some(i) = (0..found.len()).find(|&i| found[i].to_bits() != expected[i].to_bits()) {
        panic!("{op} {shape:?}: element {i} is {:e} here and {:e} there", found[i], expected[i]);
    }
}

/// Uniform values in `-magnitude..magnitude`.
pub(crate) fn random(seed: u64, len: usize, magnitude: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0f32..1.0) * magnitude).collect()
}

/// A tensor of `values` rounded to `dtype`.
pub(crate) fn tensor(values: &[f32], shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// All elements, widened.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Panics unless pools of 1, 2 and 5 threads compute the same bits.
pub(crate) fn assert_same_in_any_pool(op: &str, shape: &[usize], compute: impl Fn() -> Vec<f32> + Sync) {
    let in_pool_of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            assert_eq!(crate::threads::count(), threads);
            compute()
        })
    };
    let alone = in_pool_of(1);
    for threads in [2, 5] {
        assert_same_bits(&format!("{op} with {threads} threads"), shape, &in_pool_of(threads), &alone);
    }
}
