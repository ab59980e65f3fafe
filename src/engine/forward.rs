//! The model as the engine thread calls it: every kind of failure, panics included, becomes a message. The
//! main type is [`GuardedModel`]. Knows nothing of requests.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    model::{ForwardPass, Logits},
    types::{Batch, BatchSequence},
};

pub(super) struct GuardedModel {
    forward_pass: Box<dyn ForwardPass>,
    vocab_size: usize,
}

impl GuardedModel {
    pub(super) fn new(forward_pass: Box<dyn ForwardPass>) -> Self {
        Self { vocab_size: forward_pass.vocab_size(), forward_pass }
    }

    pub(super) fn tells_generated_tokens_apart(&self) -> bool {
        self.forward_pass.tells_generated_tokens_apart()
    }

    /// Logits of the shape the batch asks for, or why there are none. Keys and values of the batch's own
    /// slots are undefined after a failure; all others are as before.
    pub(super) fn forward(&mut self, batch: &Batch) -> Result<Logits, String> {
        let logits = catch_unwind(AssertUnwindSafe(|| self.forward_pass.forward(batch)))
            .map_err(|panic| format!("the forward pass panicked: {}", panic_message(&*panic)))?
            .map_err(|error| error.to_string())?;
        let (rows, values, vocab_size) = (batch.output_rows.len(), logits.values.len(), self.vocab_size);
        if logits.vocab_size == vocab_size && values == rows * vocab_size {
            Ok(logits)
        } else {
            Err(format!("the forward pass returned {values} logits for {rows} rows of {vocab_size}"))
        }
    }

    /// Can a plain token still be computed? Uses the first slot of a block that nobody holds.
    pub(super) fn probe(&mut self, block: u32, block_size: usize) -> Result<(), String> {
        let sequence =
            BatchSequence { query_start: 0, query_len: 1, context_len: 1, block_table: vec![block], generated: 0 };
        let batch = Batch {
            token_ids: vec![0],
            positions: vec![0],
            slots: vec![block * block_size as u32],
            sequences: vec![sequence],
            output_rows: vec![0],
        };
        self.forward(&batch).map(drop)
    }
}

impl std::fmt::Debug for GuardedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedModel").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

/// What a caught panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
