//! A few experts per token: no vectors needed. The softmax over all experts cancels out in the
//! renormalisation, so only the chosen ones are exponentiated.

use super::ExpertRoutes;

pub(super) fn route_experts(logits: &[f32], num_experts: usize, k: usize) -> ExpertRoutes {
    let tokens = logits.len() / num_experts;
    let mut routes = ExpertRoutes {
        experts_per_token: k,
        experts: Vec::with_capacity(tokens * k),
        weights: Vec::with_capacity(tokens * k),
    };
    let mut order: Vec<u32> = Vec::with_capacity(num_experts);
    for row in logits.chunks_exact(num_experts) {
        order.clear();
        order.extend(0..num_experts as u32);
        // The sort is stable: of equal logits the lower expert goes first.
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        let best = &order[..k];
        let highest = row[best[0] as usize];
        let start = routes.weights.len();
        routes.experts.extend_from_slice(best);
        routes.weights.extend(best.iter().map(|&expert| (row[expert as usize] - highest).exp()));
        let total: f32 = routes.weights[start..].iter().sum();
        routes.weights[start..].iter_mut().for_each(|weight| *weight /= total);
    }
    routes
}
