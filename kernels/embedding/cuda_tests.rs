//! The CUDA kernels, emulated, against the reference.

use half::{bf16, f16};

use super::cuda::{EmbedTokens, GatherRows};
use super::reference;
use crate::gpu::Float16;
use crate::storage::Element;
use crate::testing::{OnDevice, assert_same_bits, each_device, random};

const SIZE: usize = 9;
/// Beside rows of the table, what must not be read: one past its end, and padding.
const IDS: [u32; 6] = [8, 0, u32::MAX, 0, SIZE as u32, 3];
/// The same with two tokens that only the device knows, and what it knows.
const UNREAD_IDS: [u32; 6] = [8, 1 | EmbedTokens::UNREAD, u32::MAX, 0, SIZE as u32, EmbedTokens::UNREAD];
const CHOSEN: [u32; 2] = [3, 0];
/// Elements after the result that must stay as they are.
const GUARD: usize = 8;

fn expected<T: Element>(values: &[f32], width: usize) -> Vec<f32> {
    let mut table: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
    table.extend(vec![T::from_f32(0.0); width]);
    let rows: Vec<u32> = IDS.iter().map(|&id| id.min(SIZE as u32)).collect(); // the last is a row of zeros
    reference::embedding(&table, width, &rows).into_iter().map(|value| value as f32).collect()
}

fn expected_of(dtype: Float16, values: &[f32], width: usize) -> Vec<f32> {
    match dtype {
        Float16::Bf16 => expected::<bf16>(values, width),
        Float16::F16 => expected::<f16>(values, width),
    }
}

fn check(device: &OnDevice, dtype: Float16, width: usize, magnitude: f32) {
    let values = random(1, SIZE * width, magnitude);
    let len = IDS.len() * width;
    let (table, ids) = (device.rounded(dtype, &values), device.u32(&IDS));
    let expected = expected_of(dtype, &values, width);

    let out = device.poisoned_f32(len + GUARD);
    let (unread_ids, chosen) = (device.u32(&UNREAD_IDS), device.u32(&CHOSEN));
    device
        .run(&EmbedTokens { table, ids: unread_ids, chosen, out, size: SIZE, width, rows: IDS.len(), dtype }.launch());
    let found = device.read_f32(out, len + GUARD);
    assert_same_bits("embed_tokens", &[SIZE, width], &found[..len], &expected);
    assert!(found[len..].iter().all(|value| value.is_nan()), "embed_tokens wrote past its rows of {width}");

    let out = device.poisoned(dtype, len + GUARD);
    let rows = IDS.len();
    device.run(&GatherRows { x: table, indices: ids, out, size: SIZE, width, rows, element_bytes: 2 }.launch());
    let found = device.read(out, dtype, len + GUARD);
    assert_same_bits("gather_rows", &[SIZE, width], &found[..len], &expected);
    assert!(found[len..].iter().all(|value| value.is_nan()), "gather_rows wrote past its rows of {width}");
}

#[test]
fn copies_rows_and_zeroes_those_outside() {
    each_device(|device| {
        for dtype in [Float16::Bf16, Float16::F16] {
            for width in [1, 7, 8, 64, 1028, 2056] {
                for magnitude in [1.0, 6e4] {
                    check(device, dtype, width, magnitude);
                }
            }
        }
    });
}

#[test]
fn gathers_f32() {
    each_device(|device| {
        for width in [1, 6, 516] {
            let values = random(1, SIZE * width, 1e30);
            let len = IDS.len() * width;
            let (x, indices, out) = (device.f32(&values), device.u32(&IDS), device.poisoned_f32(len + GUARD));
            let rows = IDS.len();
            device.run(&GatherRows { x, indices, out, size: SIZE, width, rows, element_bytes: 4 }.launch());
            let found = device.read_f32(out, len + GUARD);
            assert_same_bits("gather_rows", &[SIZE, width], &found[..len], &expected::<f32>(&values, width));
            assert!(found[len..].iter().all(|value| value.is_nan()), "gather_rows wrote past its rows of {width}");
        }
    });
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    check(device, Float16::Bf16, 20, 1.0);
}
