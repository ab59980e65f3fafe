//! The CUDA kernel, emulated, against the reference.

use super::{cuda::RmsNorm, reference};
use crate::gpu::Float16;
use crate::testing::{OnDevice, assert_close, each_device, random};

fn check(device: &OnDevice, dtype: Float16, rows: usize, columns: usize, magnitude: f32) {
    let residual = random(1, rows * columns, magnitude);
    let weight = random(2, columns, 2.0);
    let wide: Vec<f64> = residual.iter().map(|&v| f64::from(v)).collect();
    let expected = reference::rms_norm(&wide, &weight, 1e-5);
    let out = device.poisoned(dtype, rows * columns);
    let (residual, weight) = (device.f32(&residual), device.f32(&weight));
    device.run(&RmsNorm { residual, weight, out, rows, columns, epsilon: 1e-5, dtype }.launch());
    let found = device.read(out, dtype, rows * columns);
    assert_close("rms_norm", &[rows, columns], &found, &expected, device.rounding(dtype));
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for dtype in [Float16::Bf16, Float16::F16] {
            for (rows, columns) in [(1, 1), (1, 7), (3, 64), (2, 257), (5, 1024)] {
                for magnitude in [1.0, 1e-3, 1e15] {
                    check(device, dtype, rows, columns, magnitude);
                }
            }
        }
    });
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    check(device, Float16::Bf16, 2, 257, 1.0);
}
