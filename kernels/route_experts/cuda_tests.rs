//! The CUDA kernels, emulated, against the reference.

use super::cuda::{GroupByExpert, RouteExperts};
use super::reference;
use crate::gpu::DevicePointer;
use crate::testing::{OnDevice, assert_close, assert_same_bits, each_device, random};

/// What a result must not have after its end.
const GUARD: u32 = 0x7fc0_1234;

/// Experts and weights `(n, k)` of logits `(n, num_experts)`.
fn route(
    device: &OnDevice,
    logits: &[f32],
    slots: Option<&[u32]>,
    num_experts: usize,
    k: usize,
) -> (Vec<u32>, Vec<f32>) {
    let tokens = logits.len() / num_experts;
    let (experts, weights) = (device.u32(&vec![GUARD; tokens * k + 1]), device.u32(&vec![GUARD; tokens * k + 1]));
    let logits = device.f32(logits);
    let slots = slots.map_or(DevicePointer::NULL, |slots| device.u32(slots));
    device.run(&RouteExperts { logits, slots, experts, weights, tokens, num_experts, experts_per_token: k }.launch());
    let (mut experts, mut weights) =
        (device.read_u32(experts, tokens * k + 1), device.read_f32(weights, tokens * k + 1));
    assert_eq!((experts.pop(), weights.pop().map(f32::to_bits)), (Some(GUARD), Some(GUARD)));
    (experts, weights)
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for (tokens, num_experts, k) in [(1, 1, 1), (5, 8, 2), (7, 5, 5), (3, 128, 4), (2, 33, 32), (1, 1024, 3)] {
            for magnitude in [1.0, 1e4, 1e-6] {
                let logits = random(1, tokens * num_experts, magnitude);
                let (experts, weights) = route(device, &logits, None, num_experts, k);
                let (expected_experts, expected) = reference::route_experts(&logits, num_experts, k);
                assert_eq!(experts, expected_experts);
                assert_close("route_experts", &[tokens, num_experts, k], &weights, &expected, 1e-6);
                let last = (tokens - 1) * num_experts;
                let alone = route(device, &logits[last..], None, num_experts, k);
                assert_eq!(alone.0, experts[(tokens - 1) * k..]);
                assert_same_bits("route_experts alone", &[num_experts, k], &alone.1, &weights[(tokens - 1) * k..]);
            }
        }
    });
}

#[test]
fn of_equals_the_lowest_goes_first() {
    each_device(|device| {
        assert_eq!(route(device, &[1.0, 2.0, 2.0, 2.0], None, 4, 2), (vec![1, 2], vec![0.5, 0.5]));
        assert_eq!(route(device, &[0.0; 70], None, 70, 32).0, (0..32).collect::<Vec<_>>());
        // The order of the CPU's operator, in which zeros have signs.
        assert_eq!(route(device, &[-0.0, 0.0, -1.0], None, 3, 2).0, [1, 0]);
    });
}

#[test]
fn nan_gives_experts_that_exist() {
    each_device(|device| {
        assert_eq!(route(device, &[f32::NAN; 4], None, 4, 2).0, [0, 1]);
        assert_eq!(route(device, &[f32::from_bits(u32::MAX); 40], None, 40, 3).0, [0, 1, 2]);
        assert_eq!(route(device, &[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], None, 3, 3).0, [1, 0, 2]);
    });
}

#[test]
fn padded_rows_have_no_experts() {
    each_device(|device| {
        let logits = random(1, 3 * 8, 1.0);
        let (experts, weights) = route(device, &logits, Some(&[7, u32::MAX, 0]), 8, 2);
        let (expected, expected_weights) = route(device, &logits, None, 8, 2);
        assert_eq!(experts, [expected[0], expected[1], u32::MAX, u32::MAX, expected[4], expected[5]]);
        let live = [expected_weights[0], expected_weights[1], 0.0, 0.0, expected_weights[4], expected_weights[5]];
        assert_same_bits("weights", &[3, 2], &weights, &live);
    });
}

fn check_groups(device: &OnDevice, experts: &[u32], num_experts: usize) {
    let assignments = experts.len();
    let (rows, offsets) = (device.u32(&vec![GUARD; assignments + 1]), device.u32(&vec![GUARD; num_experts + 2]));
    let experts_there = device.u32(experts);
    device.run(&GroupByExpert { experts: experts_there, rows, offsets, assignments, num_experts }.launch());
    let (mut expected, mut expected_offsets) = (Vec::new(), vec![0]);
    for expert in 0..num_experts as u32 {
        expected.extend((0..assignments as u32).filter(|&i| experts[i as usize] == expert));
        expected_offsets.push(expected.len() as u32);
    }
    expected.resize(assignments + 1, GUARD);
    expected_offsets.push(GUARD);
    assert_eq!(device.read_u32(offsets, num_experts + 2), expected_offsets);
    assert_eq!(device.read_u32(rows, assignments + 1), expected);
}

#[test]
fn groups_in_order() {
    each_device(|device| {
        check_groups(device, &[], 3);
        check_groups(device, &[0], 1);
        check_groups(device, &[2, 0, 2, 1, u32::MAX, 2], 4);
        check_groups(device, &[u32::MAX; 5], 2);
        let many: Vec<u32> = random(3, 1300, 4.5).into_iter().map(|value| (value + 4.5) as u32).collect();
        check_groups(device, &many, 8); // 8 itself is no expert
    });
}

#[test]
#[should_panic(expected = "5 of 4 experts, at most 4")]
fn refuses_more_experts_than_there_are() {
    each_device(|device| drop(route(device, &[0.0; 4], None, 4, 5)));
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    route(device, &random(1, 3 * 8, 1.0), None, 8, 2);
    check_groups(device, &[2, 0, 2, 1, u32::MAX, 2], 4);
}
