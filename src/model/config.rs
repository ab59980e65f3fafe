//! The shape of a Mistral-family decoder, free of checkpoint oddities: whatever `config.json` or
//! `params.json` spell differently has been resolved before a [`Config`] exists.

/// Everything the decoder needs to know beside the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens in the vocabulary, also rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers; `windows` has one entry each.
    pub num_hidden_layers: usize,
    /// Attention shape.
    pub attention: AttentionConfig,
    /// Feed-forward shape.
    pub feed_forward: FeedForwardConfig,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// `lm_head` is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Per layer: position i sees j with `0 <= i - j < window`; `None` sees everything before it.
    pub windows: Vec<Option<usize>>,
    /// Llama-4 query scaling, if any.
    pub temperature: Option<AttentionTemperature>,
}

/// After rotary embedding, queries are multiplied by
/// `1 + beta * ln(1 + floor(position / original_max_position_embeddings))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionTemperature {
    /// Strength; 0 is off.
    pub beta: f64,
    /// Positions per step.
    pub original_max_position_embeddings: usize,
}

/// Dense SwiGLU, or a mixture of SwiGLU experts.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardConfig {
    /// Width between the projections, of each expert if there are experts.
    pub intermediate_size: usize,
    /// Mixture of experts, if any.
    pub experts: Option<ExpertsConfig>,
}

/// Mixtral routing: softmax over all experts, the best `experts_per_token`, renormalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Experts per layer.
    pub num_experts: usize,
    /// Experts that each token visits.
    pub experts_per_token: usize,
}

/// Rotary embedding as computed: one inverse frequency per pair of a head's dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Context extension.
    pub scaling: RopeScaling,
}

/// Context extension of the rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Ratio of the new context to the old.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn(YarnConfig),
}

/// Parameters of YaRN after the checkpoint's spelling has been resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnConfig {
    /// Ratio of the new context to the old.
    pub factor: f64,
    /// Context before extension, in tokens.
    pub original_max_position_embeddings: usize,
    /// Rotations above which a dimension is left alone.
    pub beta_fast: f64,
    /// Rotations below which a dimension is fully interpolated.
    pub beta_slow: f64,
    /// Multiplies cos and sin.
    pub attention_factor: f64,
    /// Floor and ceil the ends of the ramp.
    pub truncate: bool,
}
