//! Random models against the f64 reference. Errors are relative to the root mean square of the logits.

use candle_core::DType;
use proptest::prelude::*;
use tramontane_kernels::gpu::Emulated;

use super::random::{Model, alone, generated_alone};
use super::reference;

/// Root mean square and maximum of the error.
fn errors(found: &[f32], expected: &[f64]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let rms = |squares: f64| (squares / expected.len() as f64).sqrt();
    let scale = rms(expected.iter().map(|v| v * v).sum());
    let error = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() / scale;
    let each = || found.iter().zip(expected).map(error);
    (rms(each().map(|e| e * e).sum()), each().fold(0.0, f64::max))
}

fn check(seed: u64, len: usize, weights: DType, cache: DType, allowed: (f64, f64)) {
    let model = Model::random(seed, weights);
    let tokens = model.tokens(seed, len);
    let found = alone(&mut model.decoder(cache), &tokens);
    let (rms, max) = errors(&found, &reference::logits(&model, &tokens));
    let what = format!("{weights:?} weights, {cache:?} cache, {len} tokens, {:#?}", model.config);
    assert!(rms <= allowed.0 && max <= allowed.1, "rms {rms:e}, max {max:e}, allowed {allowed:?}: {what}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f32_agrees_with_f64(seed: u64, len in 1usize..60) {
        check(seed, len, DType::F32, DType::F32, (2e-5, 1e-4));
    }

    #[test]
    fn f16_weights_are_computed_exactly(seed: u64, len in 1usize..60) {
        check(seed, len, DType::F16, DType::F32, (2e-5, 1e-4));
    }
}

/// Rows that are rounded to meet weights in bf16, and a rounded cache, move expert choices now and then, so dense
/// models only.
#[test]
fn rounded_rows_and_caches_stay_near() {
    let dense = (0..40).filter(|&seed| Model::random(seed, DType::BF16).config.feed_forward.experts.is_none());
    for seed in dense {
        check(seed, 40, DType::BF16, DType::F32, (3e-2, 0.25));
        check(seed, 40, DType::BF16, DType::BF16, (3e-2, 0.25));
        check(seed, 40, DType::F16, DType::F16, (5e-3, 5e-2));
    }
}

/// The emulated GPU, dense models only for the same reason; half of each text as if it had been generated.
#[test]
fn a_gpu_stays_near() {
    let models = (0..24).map(|seed| (seed, Model::random_for_gpu(seed, DType::F16)));
    for (seed, model) in models.filter(|(_, model)| model.config.feed_forward.experts.is_none()) {
        let tokens = model.tokens(seed, 40);
        let expected = reference::logits(&model, &tokens);
        for emulated in [Emulated::default(), Emulated::with_library()] {
            let found = generated_alone(&mut *model.gpu_decoder(DType::F16, emulated), &tokens, 20);
            let (rms, max) = errors(&found, &expected);
            assert!(rms <= 6e-3 && max <= 6e-2, "rms {rms:e}, max {max:e}: {:#?}", model.config);
        }
    }
}
