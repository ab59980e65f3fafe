//! The decoder's tensors in the layout the kernels read: projections that share an input are packed, rows
//! are output features, rotary rows are half-split per head as in the Hugging Face layout.

use candle_core::Tensor;

use super::ModelError;
use crate::types::Outputs;

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
    /// What follows the final norm.
    pub head: Head,
}

/// What follows the final norm.
#[derive(Clone, Debug)]
pub enum Head {
    /// The table of the logits, `(vocab_size, hidden_size)`; shares storage with `embed_tokens` when tied.
    Logits(Tensor),
    /// A row per class, `(classes, hidden_size)`, never in panels.
    Classes(Tensor),
    /// Nothing: the model embeds texts.
    Nothing,
}

impl Head {
    /// Its table, if it has one.
    pub fn table(&self) -> Option<&Tensor> {
        match self {
            Self::Logits(table) | Self::Classes(table) => Some(table),
            Self::Nothing => None,
        }
    }

    /// What a model with this head can be asked for.
    pub fn outputs(&self, hidden_size: usize) -> Outputs {
        match self {
            Self::Logits(_) => Outputs { logits: true, pooled_width: Some(hidden_size) },
            Self::Classes(classes) => Outputs { logits: false, pooled_width: Some(classes.dims()[0]) },
            Self::Nothing => Outputs { logits: false, pooled_width: Some(hidden_size) },
        }
    }
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
    /// What follows the final norm. Not asked for if it is the tokens' table.
    fn head(&self) -> Result<Head, ModelError>;
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

    fn head(&self) -> Result<Head, ModelError> {
        Ok(self.head.clone())
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
