//! Tensors only: checkpoint -> weights -> logits. One decoder serves the whole Mistral family; every
//! checkpoint oddity ends in [`config::Config`] and `checkpoint`. This layer knows nothing of requests,
//! scheduling, text or HTTP.

mod attention;
pub mod checkpoint;
pub mod config;
mod decoder;
pub mod gpu;
mod kv_cache;
mod mlp;
mod moe;
mod op_times;
mod rotary;
#[cfg(test)]
mod tests;
mod validate;
pub mod weights;

pub use decoder::Decoder;
pub use kv_cache::KvCacheConfig;
pub use op_times::{Op, OpTimes};

use candle_core::DType;
use tramontane_kernels::{PagedBatchError, gpu::DeviceError};

use crate::types::{Batch, Outputs, RowResult, TokenChoice};

/// Logits of the rows that a [`Batch`] asked for, and what others were pooled to.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    /// Row-major values in f32, `(n_outputs, vocab_size)`.
    pub values: Vec<f32>,
    /// Length of one row.
    pub vocab_size: usize,
    /// Row-major values of the batch's `pooled_rows`, `(n_pooled, pooled_width)`.
    pub pooled: Vec<f32>,
}

impl Logits {
    /// Row `index` of the batch's `output_rows`, `(vocab_size)`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab_size..(index + 1) * self.vocab_size]
    }
}

/// The first id with the largest of the logits `(vocab_size)`; 0 if there are none.
pub fn likeliest(logits: &[f32]) -> u32 {
    let larger = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (0..logits.len()).reduce(larger).unwrap_or_default() as u32
}

/// Why a decoder could not be built, or a forward pass failed. After the latter the batch's sequences are
/// lost; the engine goes on with others.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The tensor library refused an operation: a bug or a device failure.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Weights that cannot be read.
    #[error(transparent)]
    Weights(Box<dyn std::error::Error + Send + Sync>),
    /// The configuration contradicts itself, or the weights.
    #[error("model configuration: {field} {reason}")]
    InvalidConfig {
        /// Field of the configuration.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no memory for the cache.
    #[error("no memory for keys and values: {bytes} bytes; lower --kv-cache-memory or --num-blocks")]
    CacheOutOfMemory {
        /// Size of the cache.
        bytes: usize,
    },
    /// A tensor of another shape than the configuration asks for.
    #[error("weight {tensor} has shape {found:?}, expected {expected:?}")]
    WeightShape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor of a type that the kernels do not read.
    #[error("weight {tensor} is {found:?}, expected {expected}")]
    WeightType {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        found: DType,
        /// The types it could have.
        expected: &'static str,
    },
    /// A per-token list of a batch has another length than its tokens.
    #[error("batch has {found} {field} for {expected} tokens")]
    BatchLength {
        /// Name of the list.
        field: &'static str,
        /// Its length.
        found: usize,
        /// Tokens in the batch.
        expected: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} in row {row} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// Row of the batch.
        row: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A position that the model was not made for.
    #[error("position {position} in row {row} is beyond the model's {max_positions}")]
    PositionOutOfRange {
        /// Row of the batch.
        row: usize,
        /// The position.
        position: u32,
        /// Positions that the model has.
        max_positions: usize,
    },
    /// A position that is not where its sequence's context puts the token.
    #[error("row {row} has position {position}, but its sequence's context says {expected}")]
    PositionMismatch {
        /// Row of the batch.
        row: usize,
        /// The position.
        position: u32,
        /// The position it should have.
        expected: usize,
    },
    /// The batch wants what the model has not.
    #[error("the model has no {what}")]
    NoSuchOutput {
        /// What it has not.
        what: &'static str,
    },
    /// Output rows, and pooled rows, must be strictly increasing rows of the batch, and none of them both.
    #[error("output row {row}, entry {index}, repeats, goes back or is outside the batch of {n_tokens}")]
    OutputRow {
        /// Entry of the list.
        index: usize,
        /// The row.
        row: u32,
        /// Tokens in the batch.
        n_tokens: usize,
    },
    /// More generated tokens than there are.
    #[error("sequence {sequence} has {generated} generated tokens among {query_len}")]
    Generated {
        /// Index of the sequence.
        sequence: usize,
        /// Its generated query tokens.
        generated: usize,
        /// Its query tokens.
        query_len: usize,
    },
    /// A batch of more than the decoder has memory for.
    #[error("batch has {found} {field}, at most {most} were planned for")]
    BatchTooLarge {
        /// What there is too much of.
        field: &'static str,
        /// How much.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// Results of more steps were asked for than have been started.
    #[error("no step has been started whose results could be read")]
    NothingStarted,
    /// The tokens of a sequence cannot be counted for its penalties: the engine broke its promises.
    #[error("penalties cannot be applied: {reason}")]
    Penalties {
        /// What is wrong.
        reason: &'static str,
    },
    /// The GPU refused, or failed.
    #[error("GPU: {0}")]
    Device(#[from] DeviceError),
    /// The batch does not fit the KV cache.
    #[error("batch does not fit the KV cache: {0}")]
    Paging(#[from] PagedBatchError),
}

/// What the engine needs of a model: computes one batch, keeping keys and values in its own paged cache.
///
/// Contract (tested): the logits of a sequence are bit-identical whatever else is in the batch, however
/// its prefill was cut into chunks, and whichever blocks hold its keys and values.
pub trait ForwardPass: Send {
    /// Length of a logits row.
    fn vocab_size(&self) -> usize;
    /// What it can be asked for. A batch that wants anything else fails.
    fn outputs(&self) -> Outputs {
        Outputs::LOGITS
    }
    /// True if a generated token is computed by other arithmetic than the same token in a prompt: a cached block of it
    /// must not stand for a prompt's then.
    fn tells_generated_tokens_apart(&self) -> bool {
        false
    }
    /// Runs the batch: writes keys and values to `batch.slots` and returns `(n_outputs, vocab_size)`.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError>;
    /// The same, and adds where the time went to `times`, where that is known.
    fn forward_timed(&mut self, batch: &Batch, _times: &mut OpTimes) -> Result<Logits, ModelError> {
        self.forward(batch)
    }
    /// The model as one that chooses tokens itself, if it can.
    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        None
    }
}

/// A model that chooses tokens where its logits are and feeds them to the next step there, so that a step can be started
/// while the results of the one before are unread.
///
/// Contract: a choice depends on its row of logits and on what is asked for it, never on other rows.
pub trait Pipeline {
    /// True if such a token can be chosen by the model. Depends on nothing else.
    fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool;
    /// Starts a step. There is a choice per output row of the batch; a row without one gets its logits. A token with
    /// [`Batch::UNREAD`] is that of an output row of the step that was started before this one. If it fails, nothing of
    /// this step is to be finished.
    fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError>;
    /// Waits for the oldest step that has not been finished: a result per output row, then one per pooled row.
    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError>;
    /// Penalties will not be asked for this sequence any more.
    fn forget(&mut self, sequence: u64);
}
