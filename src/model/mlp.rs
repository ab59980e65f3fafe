//! The feed-forward block: dense SwiGLU, or experts.

use candle_core::Tensor;
use tramontane_kernels::{linear, linear_add, swiglu};

use super::ModelError;
use super::config::FeedForwardConfig;
use super::moe::Experts;
use super::weights::{FeedForwardWeights, SwiGluWeights};

/// The feed-forward part of a layer.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(SwiGluWeights),
    Experts(Experts),
}

impl FeedForward {
    pub(super) fn new(config: &FeedForwardConfig, weights: FeedForwardWeights) -> Result<Self, ModelError> {
        match (weights, config.experts) {
            (FeedForwardWeights::Dense(weights), None) => Ok(Self::Dense(weights)),
            (FeedForwardWeights::Experts { gate, experts }, Some(config)) => {
                Ok(Self::Experts(Experts::new(config, gate, experts)))
            }
            (FeedForwardWeights::Dense(_), Some(_)) | (FeedForwardWeights::Experts { .. }, None) => {
                let reason = "and the weights disagree on whether there are experts";
                Err(ModelError::InvalidConfig { field: "feed_forward.experts", reason })
            }
        }
    }

    /// Adds the block's output for `x (n, hidden_size)` to `residual (n, hidden_size)`.
    pub(super) fn add(&self, residual: &Tensor, x: &Tensor) -> Result<(), ModelError> {
        match self {
            Self::Dense(weights) => {
                let gate_up = linear(x, &weights.gate_up_proj)?; // (n, 2 * intermediate_size)
                Ok(linear_add(residual, &swiglu(&gate_up)?, &weights.down_proj)?)
            }
            Self::Experts(experts) => experts.add(residual, x),
        }
    }
}
