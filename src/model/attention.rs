//! Self-attention of one layer.

use candle_core::Tensor;
use tramontane_kernels::{AttentionParams, PagedBatch, RotaryRows, linear, paged_attention, rotary_kv_write};

use super::ModelError;
use super::config::Config;

/// What the layers of one forward pass share.
pub(super) struct Pass {
    /// Where keys and values live.
    pub(super) batch: PagedBatch,
    /// Rotations of the tokens.
    pub(super) rotary: RotaryRows,
}

/// One attention block; the output projection is the decoder's, which adds it to the residual.
#[derive(Debug)]
pub(super) struct Attention {
    /// `((heads + 2 * kv_heads) * head_dim, hidden_size)`
    qkv_proj: Tensor,
    params: AttentionParams,
}

impl Attention {
    pub(super) fn new(config: &Config, layer: usize, qkv_proj: Tensor) -> Self {
        let softmax_scale = 1.0 / (config.attention.head_dim as f64).sqrt();
        let params = AttentionParams { softmax_scale: softmax_scale as f32, window: config.attention.windows[layer] };
        Self { qkv_proj, params }
    }

    /// Writes the keys and values of `x (n_tokens, hidden_size)` to `kv_cache`; gives the queries,
    /// `(n_tokens, heads * head_dim)`.
    pub(super) fn write(&self, x: &Tensor, kv_cache: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let qkv = linear(x, &self.qkv_proj)?;
        Ok(rotary_kv_write(&qkv, kv_cache, &pass.rotary, &pass.batch)?)
    }

    /// What the queries see, `(n_tokens, heads * head_dim)`.
    pub(super) fn attend(&self, q: &Tensor, kv_cache: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        Ok(paged_attention(q, kv_cache, &pass.batch, self.params)?)
    }
}
