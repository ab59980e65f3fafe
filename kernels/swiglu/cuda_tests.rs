//! The CUDA kernel, emulated, against the reference.

use super::{cuda::SwiGlu, reference};
use crate::gpu::Float16;
use crate::testing::{OnDevice, assert_rounded, each_device, random};

/// Elements after the result that must stay as they are.
const GUARD: usize = 64;

fn check(device: &OnDevice, dtype: Float16, rows: usize, columns: usize, magnitude: f32) {
    let gate_up = device.rounded(dtype, &random(1, rows * 2 * columns, magnitude));
    let rounded = device.read(gate_up, dtype, rows * 2 * columns);
    let expected = reference::swiglu(&rounded, columns);
    let out = device.poisoned(dtype, rows * columns + GUARD);
    device.run(&SwiGlu { gate_up, out, rows, columns, dtype }.launch());
    let found = device.read(out, dtype, rows * columns + GUARD);
    let (found, guard) = found.split_at(rows * columns);
    assert_rounded("swiglu", &[rows, columns], found, &expected, (dtype, 1.0));
    assert!(guard.iter().all(|value| value.is_nan()), "swiglu {rows} x {columns} wrote past its end");
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for (rows, columns) in [(1, 8), (3, 24), (2, 2056), (7, 512)] {
            for magnitude in [1.0, 1e-4, 100.0] {
                check(device, Float16::Bf16, rows, columns, magnitude);
                check(device, Float16::F16, rows, columns, magnitude);
            }
            check(device, Float16::Bf16, rows, columns, 1e15);
        }
    });
}

#[test]
fn nan_stays_nan() {
    each_device(|device| {
        for dtype in [Float16::Bf16, Float16::F16] {
            let mut values = [1.0; 16];
            (values[0], values[9]) = (f32::NAN, f32::NAN);
            let (gate_up, out) = (device.rounded(dtype, &values), device.rounded(dtype, &[0.0; 8]));
            device.run(&SwiGlu { gate_up, out, rows: 1, columns: 8, dtype }.launch());
            let found = device.read(out, dtype, 8);
            assert!(found[0].is_nan() && found[1].is_nan() && found[2].is_finite(), "{found:?}");
        }
    });
}

#[test]
#[should_panic(expected = "swiglu: 12 columns are not a multiple of 8")]
fn refuses_columns_that_are_no_vectors() {
    let null = crate::gpu::DevicePointer::NULL;
    SwiGlu { gate_up: null, out: null, rows: 1, columns: 12, dtype: Float16::Bf16 }.launch();
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    check(device, Float16::Bf16, 2, 24, 1.0);
}
