//! Against the reference.

use candle_core::DType;

use super::{cpu, reference, route_experts};
use crate::testing::{assert_close, random, tensor};

#[test]
fn agrees_with_the_reference() {
    for (tokens, num_experts, k) in [(1, 1, 1), (5, 8, 2), (7, 5, 5), (3, 128, 4)] {
        for magnitude in [1.0, 1e4, 1e-6] {
            let logits = random(1, tokens * num_experts, magnitude);
            let found = cpu::route_experts(&logits, num_experts, k);
            let (experts, weights) = reference::route_experts(&logits, num_experts, k);
            assert_eq!(found.experts, experts);
            assert_close("route_experts", &[tokens, num_experts, k], &found.weights, &weights, 1e-6);
        }
    }
}

#[test]
fn of_equals_the_lowest_goes_first() {
    let found = route_experts(&tensor(&[1.0, 2.0, 2.0, 2.0], &[1, 4], DType::F32), 2).unwrap();
    assert_eq!((found.experts, found.weights), (vec![1, 2], vec![0.5, 0.5]));
}

#[test]
fn nan_does_not_panic() {
    let found = cpu::route_experts(&[f32::NAN; 4], 4, 2);
    assert_eq!(found.experts, [0, 1]);
}

#[test]
fn refuses_more_experts_than_there_are() {
    let error = route_experts(&tensor(&[0.0; 4], &[1, 4], DType::F32), 5).unwrap_err().to_string();
    assert!(error.contains("5 of 4 experts"), "{error}");
}
