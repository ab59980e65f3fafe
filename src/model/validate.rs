//! What a decoder refuses: configurations that make no sense, weights of another shape, batches that
//! break their contract. Past these checks no index can be out of range.

use candle_core::{DType, Tensor};
use tramontane_kernels::{PagedBatch, PanelFormat};

use super::ModelError;
use super::config::{Config, RopeScaling};
use super::weights::{FeedForwardWeights, Head, LayerWeights, SwiGluWeights, Weights};
use crate::types::{Batch, BatchSequence};

/// Refuses a configuration that contradicts itself.
pub(super) fn config(config: &Config) -> Result<(), ModelError> {
    let attention = &config.attention;
    let positive = |value: usize| value > 0;
    let rope_factor = match &config.rope.scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => *factor,
        RopeScaling::Yarn(yarn) => yarn.factor,
    };
    let checks = [
        (positive(config.vocab_size), "vocab_size", "must be above 0"),
        (config.vocab_size <= u32::MAX as usize, "vocab_size", "must fit a u32"),
        (positive(config.hidden_size), "hidden_size", "must be above 0"),
        (positive(config.num_hidden_layers), "num_hidden_layers", "must be above 0"),
        (positive(attention.num_key_value_heads), "num_key_value_heads", "must be above 0"),
        (positive(attention.num_attention_heads), "num_attention_heads", "must be above 0"),
        (
            attention.num_attention_heads.checked_rem(attention.num_key_value_heads) == Some(0),
            "num_attention_heads",
            "must be a multiple of num_key_value_heads",
        ),
        (positive(attention.head_dim) && attention.head_dim.is_multiple_of(2), "head_dim", "must be even and above 0"),
        (attention.windows.len() == config.num_hidden_layers, "windows", "must have one entry per layer"),
        (!attention.windows.contains(&Some(0)), "windows", "must be above 0"),
        (
            attention.temperature.is_none_or(|t| t.original_max_position_embeddings > 0),
            "temperature.original_max_position_embeddings",
            "must be above 0",
        ),
        (positive(config.feed_forward.intermediate_size), "intermediate_size", "must be above 0"),
        (
            config.feed_forward.experts.is_none_or(|e| (1..=e.num_experts).contains(&e.experts_per_token)),
            "experts_per_token",
            "must be between 1 and num_experts",
        ),
        (config.rope.theta > 0.0 && config.rope.theta.is_finite(), "rope.theta", "must be a positive number"),
        (rope_factor > 0.0 && rope_factor.is_finite(), "rope.scaling.factor", "must be a positive number"),
        (config.rms_norm_eps >= 0.0, "rms_norm_eps", "must not be negative"),
        (positive(config.max_position_embeddings), "max_position_embeddings", "must be above 0"),
    ];
    match checks.into_iter().find(|(holds, _, _)| !holds) {
        Some((_, field, reason)) => Err(ModelError::InvalidConfig { field, reason }),
        None => Ok(()),
    }
}

/// What matrices may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matrices {
    /// Of floats.
    Rows,
    /// Of floats, or in panels.
    RowsOrPanels,
}

/// Refuses weights whose shapes or types are not those of the configuration.
pub(super) fn weights(config: &Config, weights: &Weights) -> Result<(), ModelError> {
    let any = Matrices::RowsOrPanels;
    table("embed_tokens", &weights.embed_tokens, config, any)?;
    match &weights.head {
        Head::Logits(lm_head) => table("lm_head", lm_head, config, any)?,
        Head::Classes(score) => classes(score, config)?,
        Head::Nothing => {}
    }
    norm("norm", &weights.norm, config.hidden_size)?;
    number_of_layers(config, weights.layers.len())?;
    weights.layers.iter().enumerate().try_for_each(|(index, weights)| layer(config, index, weights, any))
}

/// Refuses weights of another number of layers.
pub(super) fn number_of_layers(config: &Config, found: usize) -> Result<(), ModelError> {
    if found == config.num_hidden_layers {
        return Ok(());
    }
    let reason = "differs from the number of layers in the weights";
    Err(ModelError::InvalidConfig { field: "num_hidden_layers", reason })
}

/// A table with a row per token.
pub(super) fn table(name: &str, tensor: &Tensor, config: &Config, may_be: Matrices) -> Result<(), ModelError> {
    matrix(name, tensor, [config.vocab_size, config.hidden_size], may_be)
}

/// A table with a row per class, of which there is at least one.
pub(super) fn classes(score: &Tensor, config: &Config) -> Result<(), ModelError> {
    let found = score.dims().first().copied().unwrap_or(0);
    matrix("score", score, [found.max(1), config.hidden_size], Matrices::Rows)
}

/// Layer `index`.
pub(super) fn layer(config: &Config, index: usize, layer: &LayerWeights, may_be: Matrices) -> Result<(), ModelError> {
    let hidden = config.hidden_size;
    let attention = &config.attention;
    let q_width = attention.num_attention_heads * attention.head_dim;
    let kv_width = attention.num_key_value_heads * attention.head_dim;
    let name = |tensor: &str| format!("layers.{index}.{tensor}");
    norm(&name("input_layernorm"), &layer.input_layernorm, hidden)?;
    matrix(&name("qkv_proj"), &layer.qkv_proj, [q_width + 2 * kv_width, hidden], may_be)?;
    matrix(&name("o_proj"), &layer.o_proj, [hidden, q_width], may_be)?;
    norm(&name("post_attention_layernorm"), &layer.post_attention_layernorm, hidden)?;
    match &layer.feed_forward {
        FeedForwardWeights::Dense(dense) => swiglu(&name("mlp"), dense, config, may_be),
        FeedForwardWeights::Experts { gate, experts } => {
            let num_experts = config.feed_forward.experts.map_or(0, |experts| experts.num_experts);
            matrix(&name("gate"), gate, [num_experts, hidden], may_be)?;
            if experts.len() != num_experts {
                let reason = "differs from the number of experts in the weights";
                return Err(ModelError::InvalidConfig { field: "num_experts", reason });
            }
            let mut experts = experts.iter().enumerate();
            experts
                .try_for_each(|(expert, weights)| swiglu(&name(&format!("experts.{expert}")), weights, config, may_be))
        }
    }
}

/// Refuses lists of different lengths, tokens outside the vocabulary, positions beyond the model's reach
/// and output rows that are not strictly increasing rows of the batch. A token that is unread must be one of
/// `num_unread`.
pub(super) fn batch(
    batch: &Batch,
    vocab_size: usize,
    max_positions: usize,
    num_unread: usize,
) -> Result<(), ModelError> {
    let n_tokens = batch.n_tokens();
    for (field, len) in [("positions", batch.positions.len()), ("slots", batch.slots.len())] {
        if len != n_tokens {
            return Err(ModelError::BatchLength { field, found: len, expected: n_tokens });
        }
    }
    for (row, (&token, &position)) in batch.token_ids.iter().zip(&batch.positions).enumerate() {
        let known = (token as usize) < vocab_size;
        let unread = token & Batch::UNREAD != 0 && ((token & !Batch::UNREAD) as usize) < num_unread;
        if !known && !unread {
            return Err(ModelError::TokenOutOfRange { row, token, vocab_size });
        }
        if position as usize >= max_positions {
            return Err(ModelError::PositionOutOfRange { row, position, max_positions });
        }
    }
    for rows in [&batch.output_rows, &batch.pooled_rows] {
        let mut next = 0;
        for (index, &row) in rows.iter().enumerate() {
            if (row as usize) < next || row as usize >= n_tokens {
                return Err(ModelError::OutputRow { index, row, n_tokens });
            }
            next = row as usize + 1;
        }
    }
    let is_both = |row: &u32| batch.output_rows.binary_search(row).is_ok();
    match batch.pooled_rows.iter().enumerate().find(|(_, row)| is_both(row)) {
        Some((index, &row)) => Err(ModelError::OutputRow { index, row, n_tokens }),
        None => Ok(()),
    }
}

/// Refuses positions that are not the last of their sequence's context, in order.
pub(super) fn positions(batch: &Batch, paged: &PagedBatch) -> Result<(), ModelError> {
    for sequence in paged.sequences() {
        for index in 0..sequence.query_len {
            let row = sequence.query_start + index;
            let expected = sequence.position(index);
            if batch.positions[row] as usize != expected {
                return Err(ModelError::PositionMismatch { row, position: batch.positions[row], expected });
            }
        }
    }
    Ok(())
}

/// Refuses more generated tokens than a sequence has.
pub(super) fn generated(batch: &Batch) -> Result<(), ModelError> {
    match batch.sequences.iter().enumerate().find(|(_, sequence)| sequence.generated > sequence.query_len) {
        Some((sequence, &BatchSequence { generated, query_len, .. })) => {
            Err(ModelError::Generated { sequence, generated, query_len })
        }
        None => Ok(()),
    }
}

fn swiglu(name: &str, weights: &SwiGluWeights, config: &Config, may_be: Matrices) -> Result<(), ModelError> {
    let (hidden, width) = (config.hidden_size, config.feed_forward.intermediate_size);
    matrix(&format!("{name}.gate_up_proj"), &weights.gate_up_proj, [2 * width, hidden], may_be)?;
    matrix(&format!("{name}.down_proj"), &weights.down_proj, [hidden, width], may_be)
}

fn matrix(name: &str, tensor: &Tensor, expected: [usize; 2], may_be: Matrices) -> Result<(), ModelError> {
    if let (Matrices::RowsOrPanels, Some((_, found))) = (may_be, PanelFormat::of(tensor)) {
        return same_shape(name, &found, &expected);
    }
    shape(name, tensor, &expected)?;
    let expected = match may_be {
        Matrices::Rows => "F32, BF16 or F16",
        Matrices::RowsOrPanels => "F32, BF16, F16 or in panels",
    };
    match tensor.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        found => Err(ModelError::WeightType { tensor: name.to_owned(), found, expected }),
    }
}

/// The weight of a norm.
pub(super) fn norm(name: &str, tensor: &Tensor, width: usize) -> Result<(), ModelError> {
    shape(name, tensor, &[width])?;
    match tensor.dtype() {
        DType::F32 => Ok(()),
        found => Err(ModelError::WeightType { tensor: name.to_owned(), found, expected: "F32" }),
    }
}

fn shape(name: &str, tensor: &Tensor, expected: &[usize]) -> Result<(), ModelError> {
    same_shape(name, tensor.dims(), expected)
}

fn same_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::WeightShape { tensor: name.to_owned(), found: found.to_vec(), expected: expected.to_vec() })
}
