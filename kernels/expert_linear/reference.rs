//! The definition, in f64.

/// Sizes of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Elements of a row of `x`.
    pub(super) depth: usize,
    /// Elements of a row of the result.
    pub(super) width: usize,
    /// Assignments that share a row of `x`.
    pub(super) rows_per_source: usize,
}

/// `(experts.len(), width)`; `weights` are `(num_experts, width, depth)`. Rows without an expert are empty.
pub(super) fn expert_linear(x: &[f32], weights: &[f32], experts: &[u32], sizes: Sizes) -> Vec<Vec<f64>> {
    let Sizes { depth, width, rows_per_source } = sizes;
    let num_experts = weights.len() / (width * depth);
    let row = |(i, &expert): (usize, &u32)| {
        if expert as usize >= num_experts {
            return Vec::new();
        }
        let x = &x[i / rows_per_source * depth..][..depth];
        let weights = &weights[expert as usize * width * depth..][..width * depth];
        let dot = |feature: &[f32]| feature.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        weights.chunks_exact(depth).map(dot).collect()
    };
    experts.iter().enumerate().map(row).collect()
}

/// The same for experts of `(2 * width, depth)`: gates, then ups.
pub(super) fn expert_swiglu(x: &[f32], weights: &[f32], experts: &[u32], sizes: Sizes) -> Vec<Vec<f64>> {
    let both = expert_linear(x, weights, experts, Sizes { width: 2 * sizes.width, ..sizes });
    let gated = |row: Vec<f64>| {
        let (gate, up) = row.split_at(row.len() / 2);
        gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    };
    both.into_iter().map(gated).collect()
}
