//! The decoder's tensors in the layout the kernels read: projections that share an input are packed, rows
//! are output features, rotary rows are half-split per head as in the Hugging Face layout.

use candle_core::Tensor;

use super::ModelError;

/// All tensors of a decoder. Matrices are `(out_features, in_features)` in the compute dtype (f32, f16 or
/// bf16), or stand for such and are in panels ([`tramontane_kernels::panel_linear`]); norm weights are f32.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `(vocab_size, hidden_size)`
    pub embed_tokens: Tensor,
    /// One entry per layer.
    pub layers: Vec<LayerWeights>,
    /// Final norm, `(hidden_size)`
    pub norm: Tensor,
    /// `(vocab_size, hidden_size)`; shares storage with `embed_tokens` when tied.
    pub lm_head: Tensor,
}

/// Weights part by part, for whoever copies them elsewhere and need not hold all at once. Shapes and types are those of
/// [`Weights`].
pub trait WeightSource {
    /// The tokens' table.
    fn embed_tokens(&self) -> Result<Tensor, ModelError>;
    /// How many layers there are.
    fn num_layers(&self) -> usize;
    /// Layer `index`, below [`Self::num_layers`].
    fn layer(&self, index: usize) -> Result<LayerWeights, ModelError>;
    /// The final norm.
    fn norm(&self) -> Result<Tensor, ModelError>;
    /// The table of the logits. Not asked for if it is tied to the tokens'.
    fn lm_head(&self) -> Result<Tensor, ModelError>;
}

impl WeightSource for Weights {
    fn embed_tokens(&self) -> Result<Tensor, ModelError> {
        Ok(self.embed_tokens.clone())
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn layer(&self, index: usize) -> Result<LayerWeights, ModelError> {
        Ok(self.layers[index].clone())
    }

    fn norm(&self) -> Result<Tensor, ModelError> {
        Ok(self.norm.clone())
    }

    fn lm_head(&self) -> Result<Tensor, ModelError> {
        Ok(self.lm_head.clone())
    }
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `(hidden_size)`
    pub input_layernorm: Tensor,
    /// Queries, keys, values stacked: `((heads + 2 * kv_heads) * head_dim, hidden_size)`
    pub qkv_proj: Tensor,
    /// `(hidden_size, heads * head_dim)`
    pub o_proj: Tensor,
    /// `(hidden_size)`
    pub post_attention_layernorm: Tensor,
    /// Dense or experts.
    pub feed_forward: FeedForwardWeights,
}

/// The feed-forward part of a layer.
#[derive(Clone, Debug)]
pub enum FeedForwardWeights {
    /// One SwiGLU block.
    Dense(SwiGluWeights),
    /// Experts and their router.
    Experts {
        /// Router, `(num_experts, hidden_size)`
        gate: Tensor,
        /// One SwiGLU block per expert.
        experts: Vec<SwiGluWeights>,
    },
}

/// A SwiGLU block: `down_proj(silu(gate_proj(x)) * up_proj(x))`.
#[derive(Clone, Debug)]
pub struct SwiGluWeights {
    /// Gate rows, then up rows: `(2 * intermediate_size, hidden_size)`
    pub gate_up_proj: Tensor,
    /// `(hidden_size, intermediate_size)`
    pub down_proj: Tensor,
}
