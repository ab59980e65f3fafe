//! Tensors only: checkpoint -> weights -> logits. One decoder serves the whole Mistral family; every
//! checkpoint oddity ends in [`config::Config`] and `checkpoint`. This layer knows nothing of requests,
//! scheduling, text or HTTP.

pub mod checkpoint;
pub mod config;
pub mod weights;

use crate::types::Batch;

/// Logits of the rows that a [`Batch`] asked for.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    /// Row-major values in f32, `(n_outputs, vocab_size)`.
    pub values: Vec<f32>,
    /// Length of one row.
    pub vocab_size: usize,
}

impl Logits {
    /// Row `index` of the batch's `output_rows`, `(vocab_size)`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab_size..(index + 1) * self.vocab_size]
    }
}

/// Why a forward pass failed. The batch's sequences are lost; the engine goes on with others.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The tensor library refused an operation: a bug or a device failure.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// What the engine needs of a model: computes one batch, keeping keys and values in its own paged cache.
///
/// Contract (tested): the logits of a sequence are bit-identical whatever else is in the batch, however
/// its prefill was cut into chunks, and whichever blocks hold its keys and values.
pub trait ForwardPass: Send {
    /// Length of a logits row.
    fn vocab_size(&self) -> usize;
    /// Runs the batch: writes keys and values to `batch.slots` and returns `(n_outputs, vocab_size)`.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError>;
}
