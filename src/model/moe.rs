//! Mixture of SwiGLU experts as in Mixtral (arXiv 2401.04088).
//!
//! Tokens are grouped by expert, each group goes through its expert as one matrix, and every token adds up
//! its experts in the order of its own ranking: the sum does not depend on the other tokens.

use candle_core::Tensor;
use tramontane_kernels::{ExpertRoutes, combine_experts, embedding, linear, route_experts, swiglu};

use super::ModelError;
use super::config::ExpertsConfig;
use super::weights::SwiGluWeights;

/// Router and experts of one layer.
#[derive(Debug)]
pub(super) struct Experts {
    config: ExpertsConfig,
    /// `(num_experts, hidden_size)`
    gate: Tensor,
    experts: Vec<SwiGluWeights>,
}

/// Which tokens each expert serves, and where each token finds its outputs again.
struct Groups {
    /// Rows of `x` per expert.
    tokens: Vec<Vec<u32>>,
    /// Row among the experts' outputs laid end to end, `(n, experts_per_token)`.
    rows: Vec<u32>,
}

impl Experts {
    pub(super) fn new(config: ExpertsConfig, gate: Tensor, experts: Vec<SwiGluWeights>) -> Self {
        Self { config, gate, experts }
    }

    /// Adds the chosen experts' outputs for `x (n, hidden_size)` to `residual (n, hidden_size)`.
    pub(super) fn add(&self, residual: &Tensor, x: &Tensor) -> Result<(), ModelError> {
        let routes = route_experts(&linear(x, &self.gate)?, self.config.experts_per_token)?;
        let groups = Groups::new(&routes, self.config.num_experts);
        let mut outputs = Vec::new();
        for (expert, tokens) in self.experts.iter().zip(&groups.tokens) {
            if tokens.is_empty() {
                continue;
            }
            let gate_up = linear(&embedding(x, tokens)?, &expert.gate_up_proj)?;
            outputs.push(linear(&swiglu(&gate_up)?, &expert.down_proj)?);
        }
        if outputs.is_empty() {
            return Ok(());
        }
        let outputs = Tensor::cat(&outputs, 0)?; // (n * experts_per_token, hidden_size)
        Ok(combine_experts(residual, &outputs, &groups.rows, &routes.weights)?)
    }
}

impl Groups {
    fn new(routes: &ExpertRoutes, num_experts: usize) -> Self {
        let mut tokens = vec![Vec::new(); num_experts];
        let mut place_in_group = Vec::with_capacity(routes.experts.len());
        for (i, &expert) in routes.experts.iter().enumerate() {
            let group: &mut Vec<u32> = &mut tokens[expert as usize];
            place_in_group.push(group.len() as u32);
            group.push((i / routes.experts_per_token) as u32);
        }
        let mut first_row = Vec::with_capacity(num_experts);
        let mut next = 0;
        for group in &tokens {
            first_row.push(next);
            next += group.len() as u32;
        }
        let row = |(&expert, place): (&u32, u32)| first_row[expert as usize] + place;
        let rows = routes.experts.iter().zip(place_in_group).map(row).collect();
        Self { tokens, rows }
    }
}
