//! One forward pass as integers: which tokens of which sequences to compute, and where their keys and
//! values live. The engine fills a `Batch`, the model consumes it; neither looks behind the other.

use super::Outputs;

/// A ragged batch of query tokens, prefill chunks and decode steps mixed.
///
/// The tokens of all sequences are laid end to end; `n_tokens` is their total number.
/// Invariants: the sequences' query ranges tile `0..n_tokens` in order, and each slot is written once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids to embed, `(n_tokens)`. With [`Batch::UNREAD`] it is an index among the results of the step before, which
    /// chose the token: see [`Pipeline`](crate::model::Pipeline).
    pub token_ids: Vec<u32>,
    /// Position of each token in its own sequence, counted from 0, `(n_tokens)`.
    pub positions: Vec<u32>,
    /// KV slot of each token, `block_id * block_size + offset_in_block`, `(n_tokens)`.
    pub slots: Vec<u32>,
    /// The sequences, in the order of their tokens.
    pub sequences: Vec<BatchSequence>,
    /// Rows of `0..n_tokens` whose logits are wanted, strictly increasing, `(n_outputs)`.
    pub output_rows: Vec<u32>,
    /// Rows of `0..n_tokens` that are pooled, strictly increasing, none of them in `output_rows`, `(n_pooled)`.
    pub pooled_rows: Vec<u32>,
}

/// One sequence's share of a [`Batch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchSequence {
    /// First row of this sequence's query tokens in the batch.
    pub query_start: usize,
    /// Number of query tokens (1 for a decode step).
    pub query_len: usize,
    /// Tokens whose keys and values exist once this batch has been written, query tokens included.
    /// The last query token therefore has position `context_len - 1`.
    pub context_len: usize,
    /// KV blocks that hold positions `0..context_len`, in order.
    pub block_table: Vec<u32>,
    /// How many of the last query tokens were generated; those before are the prompt's. A decode step has 1, a chunk of
    /// a prompt 0, and a sequence that begins again after preemption may have both kinds.
    pub generated: usize,
}

impl Batch {
    /// The bit of a token id that says that nobody has read the token yet.
    pub const UNREAD: u32 = 1 << 31;

    /// Token 0 alone, in the first slot of `block`, with its logits, or pooled if there are none: for a computation outside
    /// any sequence.
    pub fn of_one_token(block: u32, block_size: usize, outputs: Outputs) -> Self {
        let sequence =
            BatchSequence { query_start: 0, query_len: 1, context_len: 1, block_table: vec![block], generated: 0 };
        Self {
            token_ids: vec![0],
            positions: vec![0],
            slots: vec![block * block_size as u32],
            sequences: vec![sequence],
            output_rows: outputs.logits.then_some(0).into_iter().collect(),
            pooled_rows: (!outputs.logits).then_some(0).into_iter().collect(),
        }
    }

    /// Number of query tokens.
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }
}
