//! The fast paths: products of pairs of bf16, and of bytes.

mod bytes;
mod pairs;

use super::{PanelFormat, QuantizedFormat};
use crate::simd::Tier;
use crate::threads::Store;

/// The operands: `x (rows, in_features)` and the bytes of `weight (out_features, in_features)`.
pub(crate) struct Product<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
}

/// Computes `out (rows, out_features)`.
pub(crate) fn run(tier: Tier, format: PanelFormat, product: &Product<'_>, store: Store, out: &mut [f32]) {
    let &Product { x, weight, rows, in_features, out_features } = product;
    assert!(format.refuses((out_features, in_features)).is_none(), "whole panels and groups");
    assert_eq!(x.len(), rows * in_features, "x has rows * in_features elements");
    assert_eq!(weight.len(), format.weight_bytes((out_features, in_features)), "weight has its panels");
    assert_eq!(out.len(), rows * out_features, "out has rows * out_features elements");
    match format {
        PanelFormat::Bf16 => pairs::run(tier, product, store, out),
        PanelFormat::Quantized(QuantizedFormat::Q8) => bytes::run::<bytes::Eight>(tier, product, store, out),
        PanelFormat::Quantized(QuantizedFormat::Q4) => bytes::run::<bytes::Four>(tier, product, store, out),
    }
}
