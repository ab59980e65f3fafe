//! The definition, in f64: of the product with what a weight's bytes stand for, and what becomes of rows of x.

use super::{GROUP, PanelFormat};

/// `(rows, out_features)` of rounded or quantized `x (rows, in_features)` and the weight that the bytes stand for.
pub(super) fn linear(format: PanelFormat, x: &[f32], weight: &[f32], in_features: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks_exact(in_features) {
        let row: Vec<f64> = match format {
            PanelFormat::Bf16 => row.iter().map(|value| half::bf16::from_f32(*value).to_f64()).collect(),
            PanelFormat::Quantized(_) => row.chunks_exact(GROUP).flat_map(quantize).collect(),
        };
        for weights in weight.chunks_exact(in_features) {
            out.push(row.iter().zip(weights).map(|(x, w)| x * f64::from(*w)).sum());
        }
    }
    out
}

/// A group of a row as its codes have it. Halves are the only values whose code depends on how f32 rounds.
fn quantize(group: &[f32]) -> Vec<f64> {
    let largest = group.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest == 0.0 {
        return vec![0.0; group.len()];
    }
    let (per_one, scale) = (127.0 / largest, f64::from(largest / 127.0));
    group.iter().map(|value| f64::from((value * per_one).round_ties_even()) * scale).collect()
}
