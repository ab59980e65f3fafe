//! The definition, in f64. A row that meets a weight in bf16 is rounded to bf16, as tensor cores and the
//! matrix instructions of processors take it.

use half::bf16;

use crate::storage::{Element, ElementKind};

/// `(rows, out_features)`
pub(super) fn linear<T: Element>(x: &[f32], weight: &[T], in_features: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks_exact(in_features) {
        for weights in weight.chunks_exact(in_features) {
            out.push(row.iter().zip(weights).map(|(&x, w)| f64::from(met::<T>(x)) * f64::from(w.to_f32())).sum());
        }
    }
    out
}

/// `silu(gate) * up` of a product with a packed weight: `(rows, out_features)` of `(rows, 2 * out_features)`.
pub(super) fn swiglu(product: &[f64], out_features: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in product.chunks_exact(2 * out_features) {
        let (gate, up) = row.split_at(out_features);
        out.extend(gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up));
    }
    out
}

/// An element of a row as it is multiplied with a weight of this type.
fn met<T: Element>(x: f32) -> f32 {
    match T::KIND {
        ElementKind::Bf16 => bf16::from_f32(x).to_f32(),
        ElementKind::F32 | ElementKind::F16 => x,
    }
}
