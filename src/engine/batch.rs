//! Turns a scheduler's [`Plan`](super::scheduler::Plan) into the integers a forward pass needs. Pure.

use std::ops::Range;

use super::scheduler::{Scheduled, Scheduler};
use crate::types::{Batch, BatchSequence};

/// Which rows of the logits belong to a sequence of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRows {
    /// Rows that predict prompt tokens, for prompt log-probabilities.
    pub prompt: Range<usize>,
    /// Position in the sequence of the first of them.
    pub first_position: usize,
    /// The row the next token is sampled from; `None` in the middle of a prefill.
    pub next: Option<usize>,
    /// Rows behind it: the token after each drafted one.
    pub drafted: usize,
    /// Which of the batch's pooled rows is the sequence's, in place of `next`.
    pub pooled: Option<usize>,
}

/// Lays the planned tokens end to end. Returns the batch and, per item, its rows of the logits.
pub fn build(items: &[Scheduled], scheduler: &Scheduler) -> (Batch, Vec<OutputRows>) {
    let mut batch = Batch::default();
    let rows = items.iter().map(|&item| append(&mut batch, item, scheduler)).collect();
    (batch, rows)
}

fn append(batch: &mut Batch, item: Scheduled, scheduler: &Scheduler) -> OutputRows {
    let sequence = scheduler.sequence(item.key).expect("planned sequences are queued");
    let block_size = scheduler.block_size();
    let query_start = batch.n_tokens();
    let first = item.first;
    let is_last = item.end() == sequence.num_tokens();
    let drafted = if is_last { sequence.draft().len() } else { 0 };
    let context_len = item.end() + drafted;
    let block_table = sequence.block_table()[..context_len.div_ceil(block_size)].to_vec();
    let known = sequence.tokens_and_draft();
    batch.token_ids.extend_from_slice(&known[first.min(known.len())..context_len.min(known.len())]);
    if context_len > known.len() {
        let row = sequence.unread_row().expect("a token that is unknown is the one unread");
        batch.token_ids.push(Batch::UNREAD | row);
    }
    batch.positions.extend((first..context_len).map(|position| position as u32));
    batch.slots.extend(
        (first..context_len)
            .map(|position| block_table[position / block_size] * block_size as u32 + (position % block_size) as u32),
    );
    let generated = context_len.saturating_sub(first.max(sequence.prompt().len()));
    let query_len = item.query_len + drafted;
    batch.sequences.push(BatchSequence { query_start, query_len, context_len, block_table, generated });

    let positions = sequence.prompt_rows(item.query_len);
    let row_of = |position: usize| (query_start + position - first) as u32;
    let prompt_start = batch.output_rows.len();
    batch.output_rows.extend(positions.clone().map(row_of));
    let prompt = prompt_start..batch.output_rows.len();
    let mut rows = OutputRows { prompt, first_position: positions.start, next: None, drafted, pooled: None };
    if is_last && sequence.is_pooled() {
        rows.pooled = Some(batch.pooled_rows.len());
        batch.pooled_rows.push(row_of(item.end() - 1));
    } else if is_last {
        rows.next = Some(batch.output_rows.len());
        batch.output_rows.extend((item.end() - 1..context_len).map(row_of));
    }
    rows
}
