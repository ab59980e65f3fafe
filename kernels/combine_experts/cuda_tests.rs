//! The CUDA kernel, emulated, against the reference.

use super::cuda::CombineExperts;
use super::reference;
use crate::gpu::Float16;
use crate::testing::{OnDevice, assert_close, assert_same_bits, each_device, random};

const GUARD: usize = 8;

struct Case {
    tokens: usize,
    width: usize,
    k: usize,
    dtype: Float16,
    magnitude: f32,
}

impl Case {
    /// Tokens `first..`, with `weights` for all.
    fn run(&self, device: &OnDevice, weights: &[f32], first: usize) -> Vec<f32> {
        let Self { tokens, width, k, dtype, magnitude } = *self;
        let mut residual = random(1, tokens * width, magnitude);
        residual.extend(vec![f32::NAN; GUARD]);
        let len = residual.len() - first * width;
        let residual = device.f32(&residual[first * width..]);
        let mut outputs = random(2, tokens * k * width, magnitude);
        for (output, _) in outputs.chunks_mut(width).zip(weights).filter(|(_, weight)| **weight == 0.0) {
            output.fill(f32::NAN); // what nobody wrote
        }
        let outputs = device.rounded(dtype, &outputs[first * k * width..]);
        let weights = device.f32(&weights[first * k..]);
        let tokens = tokens - first;
        device.run(&CombineExperts { residual, outputs, weights, tokens, width, experts_per_token: k, dtype }.launch());
        let mut found = device.read_f32(residual, len);
        assert!(found.split_off(len - GUARD).iter().all(|value| value.is_nan()), "written past the end");
        found
    }
}

fn check(device: &OnDevice, case: &Case) {
    let Case { tokens, width, k, dtype, magnitude } = *case;
    let mut weights = random(3, tokens * k, 1.0);
    weights[tokens / 2 * k..][..k].fill(0.0); // padding
    let rounded = device.rounded(dtype, &random(2, tokens * k * width, magnitude));
    let outputs = device.read(rounded, dtype, tokens * k * width);
    let rows: Vec<u32> = (0..(tokens * k) as u32).collect();
    let residual = random(1, tokens * width, magnitude);
    let expected = reference::combine_experts(&residual, &outputs, width, &rows, &weights);
    let found = case.run(device, &weights, 0);
    assert_close("combine_experts", &[tokens, width, k], &found, &expected, 1e-6);
    let padding = tokens / 2 * width..(tokens / 2 + 1) * width;
    assert_same_bits("padding", &[tokens, width, k], &found[padding.clone()], &residual[padding]);
    let alone = case.run(device, &weights, tokens - 1);
    assert_same_bits("the last token alone", &[tokens, width, k], &alone, &found[(tokens - 1) * width..]);
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for dtype in [Float16::Bf16, Float16::F16] {
            for (tokens, width, k) in [(1, 1, 1), (3, 7, 2), (2, 8, 5), (5, 1000, 4), (2, 1036, 2), (2, 2048, 2)] {
                for magnitude in [1.0, 6e4] {
                    check(device, &Case { tokens, width, k, dtype, magnitude });
                }
            }
        }
    });
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    check(device, &Case { tokens: 2, width: 20, k: 2, dtype: Float16::Bf16, magnitude: 1.0 });
}
