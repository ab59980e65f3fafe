//! The definition, in f64.

/// Ids and weights, `(n, k)` each.
pub(super) fn route_experts(logits: &[f32], num_experts: usize, k: usize) -> (Vec<u32>, Vec<f64>) {
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in logits.chunks_exact(num_experts) {
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let best = &order[..k];
        let exponential = |&expert: &usize| (f64::from(row[expert]) - f64::from(row[best[0]])).exp();
        let total: f64 = best.iter().map(exponential).sum();
        experts.extend(best.iter().map(|&expert| expert as u32));
        weights.extend(best.iter().map(|expert| exponential(expert) / total));
    }
    (experts, weights)
}
