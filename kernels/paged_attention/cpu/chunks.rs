//! How a batch is split, over a cache in panels, and how results come together again: [`Plan`].
//!
//! The softmax of a chunk of the context is on its own, and those of the chunks are merged in their order, whoever
//! computed them: few queries over a long context are split over threads by chunks.

use std::ops::Range;

use crate::paged_attention::{Heads, PagedAttention, first_visible};
use crate::paged_batch::PagedSequence;
use crate::threads;

/// Positions of a chunk; a multiple of those of a softmax step.
pub(super) const CHUNK: usize = 1024;
/// Queries per piece of work.
const QUERY_BLOCK: usize = 24;
/// Queries of a sequence up to which its chunks are computed apart.
const FEW_QUERIES: usize = 9;

/// Queries of one sequence under a range of KV heads, over some of the chunks that they see.
pub(super) struct Piece<'a> {
    pub(super) sequence: &'a PagedSequence,
    pub(super) queries: Range<usize>,
    pub(super) heads: Range<usize>,
    pub(super) chunks: Range<usize>,
    /// Where the result of the one chunk goes, for all KV heads; `None` if these are all chunks.
    pub(super) part: Option<usize>,
}

/// A sequence whose chunks are computed apart.
pub(super) struct Split<'a> {
    pub(super) sequence: &'a PagedSequence,
    /// Of the first chunk; the others follow.
    pub(super) part: usize,
    pub(super) chunks: usize,
}

pub(super) struct Plan<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    pub(super) splits: Vec<Split<'a>>,
    /// Numbers of all parts.
    pub(super) part_len: usize,
}

impl<'a> Plan<'a> {
    pub(super) fn new(op: &PagedAttention<'a>) -> Self {
        let Heads { group, kv_heads, head_dim } = op.heads;
        let sequences = op.batch.sequences();
        let mut plan = Self { pieces: Vec::new(), splits: Vec::new(), part_len: 0 };
        for sequence in sequences {
            for first in (0..sequence.query_len).step_by(QUERY_BLOCK) {
                let queries = first..(first + QUERY_BLOCK).min(sequence.query_len);
                let start = first_visible(sequence.position(queries.start), op.params.window);
                let chunks = start / CHUNK..sequence.position(queries.end - 1) / CHUNK + 1;
                let apart = sequence.query_len <= FEW_QUERIES && chunks.len() > 1;
                // As many heads together as leave each thread a few pieces: they lie side by side in memory.
                let pieces = sequences.len() * if apart { chunks.len() } else { 1 };
                let together = match sequence.query_len <= FEW_QUERIES {
                    true => (kv_heads * pieces / (4 * threads::count())).clamp(1, kv_heads),
                    false => 1,
                };
                let heads = (0..kv_heads).step_by(together).map(|head| head..(head + together).min(kv_heads));
                if !apart {
                    plan.pieces.extend(heads.map(|heads| Piece {
                        sequence,
                        queries: queries.clone(),
                        heads,
                        chunks: chunks.clone(),
                        part: None,
                    }));
                    continue;
                }
                let part_len = kv_heads * queries.len() * group * (head_dim + 2);
                plan.splits.push(Split { sequence, part: plan.part_len, chunks: chunks.len() });
                for chunk in chunks {
                    let part = Some(plan.part_len);
                    plan.pieces.extend(heads.clone().map(|heads| Piece {
                        sequence,
                        queries: queries.clone(),
                        heads,
                        chunks: chunk..chunk + 1,
                        part,
                    }));
                    plan.part_len += part_len;
                }
            }
        }
        plan
    }
}

impl Split<'_> {
    pub(super) fn merge(&self, heads: Heads, parts: &[f32], out: &mut [f32]) {
        let Heads { group, kv_heads, head_dim } = heads;
        let rows = self.sequence.query_len * group;
        let part_len = kv_heads * rows * (head_dim + 2);
        for kv_head in 0..kv_heads {
            for row in 0..rows {
                let mut all = Softmax::new(head_dim);
                for chunk in 0..self.chunks {
                    let at = self.part + chunk * part_len + (kv_head * rows + row) * (head_dim + 2);
                    let (sum, rest) = parts[at..at + head_dim + 2].split_at(head_dim);
                    all.merge(rest[0], rest[1], sum);
                }
                let token = self.sequence.query_start + row / group;
                let start = ((token * kv_heads + kv_head) * group + row % group) * head_dim;
                all.write(&mut out[start..start + head_dim]);
            }
        }
    }
}

/// A softmax in progress, and the sum of values that it weighs.
pub(super) struct Softmax {
    highest: f32,
    total: f32,
    sum: Vec<f32>,
}

impl Softmax {
    pub(super) fn new(head_dim: usize) -> Self {
        Self { highest: f32::NEG_INFINITY, total: 0.0, sum: vec![0.0; head_dim] }
    }

    /// Takes in that of the chunk that follows. Nothing visible leaves a total of zero.
    #[inline(always)]
    pub(super) fn merge(&mut self, highest: f32, total: f32, sum: &[f32]) {
        if total == 0.0 {
            return;
        }
        if self.total == 0.0 {
            (self.highest, self.total) = (highest, total);
            self.sum.copy_from_slice(sum);
            return;
        }
        let both = if highest > self.highest { highest } else { self.highest };
        let (before, after) = ((self.highest - both).exp(), (highest - both).exp());
        self.highest = both;
        self.total = self.total * before + total * after;
        for (own, sum) in self.sum.iter_mut().zip(sum) {
            *own = *own * before + *sum * after;
        }
    }

    #[inline(always)]
    pub(super) fn write(&self, out: &mut [f32]) {
        for (out, sum) in out.iter_mut().zip(&self.sum) {
            *out = sum / self.total;
        }
    }
}
