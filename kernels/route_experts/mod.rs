//! Chooses each token's experts as Mixtral does: softmax over all experts, the best `k`, renormalised.

mod cpu;
pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use crate::storage::{expect_f32, matrix};

const OP: &str = "route_experts";

/// Each token's experts, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertRoutes {
    /// Experts per token, `k`.
    pub experts_per_token: usize,
    /// Expert ids, `(n, k)`.
    pub experts: Vec<u32>,
    /// Their weights, which add up to 1 for each token, `(n, k)`.
    pub weights: Vec<f32>,
}

/// Routes by `logits (n, num_experts)` in f32. Of equal logits the lower expert goes first.
pub fn route_experts(logits: &Tensor, experts_per_token: usize) -> Result<ExpertRoutes> {
    let (_, num_experts) = matrix(OP, "logits", logits)?;
    expect_f32(OP, "logits", logits)?;
    if experts_per_token == 0 || experts_per_token > num_experts {
        bail!("{OP}: {experts_per_token} of {num_experts} experts");
    }
    let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    Ok(cpu::route_experts(&logits, num_experts, experts_per_token))
}
