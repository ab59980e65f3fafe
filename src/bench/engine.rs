//! What the model does without a server: steps of the shapes that the scheduler makes, timed, and compared with
//! what the machine could do at most. Main function: [`measure`]. Keys and values that a decode step reads are of no
//! meaning: their values do not change the time.
//!
//! The bound is the roofline (Williams, Waterman and Patterson 2009): a step takes at least the time to read the
//! bytes that it must read, and at least the time for its multiplications and additions.

use std::{ops::Range, time::Instant};

use serde::Serialize;

use crate::{
    model::{ForwardPass, ModelError, Op, OpTimes, config::Config},
    types::{Batch, BatchSequence},
};

/// A step, or the steps of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A prompt of so many tokens, alone.
    Prefill {
        /// Its length.
        tokens: usize,
    },
    /// One further token of each sequence.
    Decode {
        /// Sequences.
        batch: usize,
        /// Tokens of each, the new one included.
        context: usize,
    },
}

/// How the engine cuts its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens per block of the cache.
    pub block_size: usize,
    /// Blocks of the cache.
    pub num_blocks: usize,
    /// Tokens per step.
    pub max_batched_tokens: usize,
}

/// The model's size.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSize {
    /// Its shape.
    pub config: Config,
    /// Bytes per element of weights.
    pub weight_bytes: f64,
    /// The same of the output matrix.
    pub head_bytes: f64,
    /// Bytes per element of keys and values.
    pub kv_bytes: f64,
}

/// What the machine does at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Memory reads.
    pub read_bytes_per_s: f64,
    /// Arithmetic in the type of the weights.
    pub operations_per_s: f64,
}

/// What a case has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Bytes that have to be read.
    pub read_bytes: f64,
    /// Multiplications and additions.
    pub operations: f64,
}

/// A case's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence at the end.
    pub context: usize,
    /// Median over the repetitions, in milliseconds.
    pub median_ms: f64,
    /// The fastest repetition.
    pub best_ms: f64,
    /// Tokens computed per second of the median.
    pub tokens_per_s: f64,
    /// What it has to do.
    pub cost: Cost,
    /// Share of the machine's memory bandwidth that the median reaches; above 1 where caches hold what is read.
    pub of_bandwidth: f64,
    /// Share of its arithmetic.
    pub of_arithmetic: f64,
    /// Share of the bound: the larger of the two.
    pub of_roofline: f64,
    /// Shares of the time by part of the model, `other` among them; empty where the model does not tell.
    pub op_shares: Vec<OpShare>,
}

/// A part's share of the time.
#[derive(Clone, Debug, Serialize)]
pub struct OpShare {
    /// Which part.
    pub op: &'static str,
    /// From 0 to 1.
    pub share: f64,
}

/// Times `case`, `repeats` times after one that does not count.
pub fn measure(
    model: &mut dyn ForwardPass,
    (size, limits): (&ModelSize, Limits),
    case: Case,
    repeats: usize,
    machine: Machine,
) -> Result<Measured, ModelError> {
    let batches = case.batches(size.config.vocab_size, limits);
    let mut times = OpTimes::default();
    let mut seconds = Vec::new();
    for repeat in 0..=repeats {
        let started = Instant::now();
        for batch in &batches {
            match repeat {
                0 => model.forward(batch)?,
                _ => model.forward_timed(batch, &mut times)?,
            };
        }
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    let total_s: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    let median_s = seconds[seconds.len() / 2];
    let cost = size.cost(case, limits);
    let of_bandwidth = cost.read_bytes / machine.read_bytes_per_s / median_s;
    let of_arithmetic = cost.operations / machine.operations_per_s / median_s;
    let (phase, batch, context, computed) = match case {
        Case::Prefill { tokens } => ("prefill", 1, tokens, tokens),
        Case::Decode { batch, context } => ("decode", batch, context, batch),
    };
    let timed_s = times.total().as_secs_f64();
    let share = |op: Op| OpShare { op: op.name(), share: times.of(op).as_secs_f64() / total_s };
    let other = OpShare { op: "other", share: (total_s - timed_s) / total_s };
    Ok(Measured {
        phase,
        batch,
        context,
        median_ms: median_s * 1e3,
        best_ms: seconds[0] * 1e3,
        tokens_per_s: computed as f64 / median_s,
        cost,
        of_bandwidth,
        of_arithmetic,
        of_roofline: of_bandwidth.max(of_arithmetic),
        op_shares: if timed_s > 0.0 { Op::ALL.into_iter().map(share).chain([other]).collect() } else { Vec::new() },
    })
}

impl Limits {
    /// Positions of the steps that a prompt of so many tokens is cut into.
    fn chunks(self, tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.max_batched_tokens;
        (0..tokens).step_by(step).map(move |start| start..(start + step).min(tokens))
    }
}

impl Case {
    /// Blocks of the cache that it takes.
    pub fn blocks(self, block_size: usize) -> usize {
        match self {
            Self::Prefill { tokens } => tokens.div_ceil(block_size),
            Self::Decode { batch, context } => batch * context.div_ceil(block_size),
        }
    }

    /// The steps as the scheduler would make them.
    fn batches(self, vocab_size: usize, limits: Limits) -> Vec<Batch> {
        match self {
            Self::Prefill { tokens } => limits
                .chunks(tokens)
                .map(|positions| {
                    let mut batch = Batch::default();
                    let last_row = (positions.end == tokens).then(|| (positions.len() - 1) as u32);
                    push(&mut batch, (positions, 0), limits.block_size, any_token(0, vocab_size));
                    batch.output_rows.extend(last_row);
                    batch
                })
                .collect(),
            Self::Decode { batch: count, context } => {
                let blocks = context.div_ceil(limits.block_size);
                let mut batch = Batch::default();
                for sequence in 0..count {
                    let first_block = sequence * blocks;
                    let token = any_token(first_block, vocab_size);
                    push(&mut batch, (context - 1..context, first_block), limits.block_size, token);
                    batch.sequences[sequence].generated = 1;
                    batch.output_rows.push(sequence as u32);
                }
                vec![batch]
            }
        }
    }
}

/// Any tokens by position, but not all the same: experts are chosen by them.
fn any_token(first_block: usize, vocab_size: usize) -> impl Fn(usize) -> u32 {
    move |position| ((first_block + position) * 7919 % vocab_size) as u32
}

/// Adds the tokens at `positions` of a sequence whose blocks are consecutive from `first_block` on.
pub(super) fn push(
    batch: &mut Batch,
    (positions, first_block): (Range<usize>, usize),
    block_size: usize,
    token: impl Fn(usize) -> u32,
) {
    let query_start = batch.n_tokens();
    let block = |index: usize| (first_block + index) as u32;
    batch.sequences.push(BatchSequence {
        query_start,
        query_len: positions.len(),
        context_len: positions.end,
        block_table: (0..positions.end.div_ceil(block_size)).map(block).collect(),
        generated: 0,
    });
    for position in positions {
        batch.token_ids.push(token(position));
        batch.positions.push(position as u32);
        batch.slots.push(block(position / block_size) * block_size as u32 + (position % block_size) as u32);
    }
}

impl ModelSize {
    /// What has to be read and computed. Weights are read once per step, of experts as many as tokens that choose at
    /// random have in the mean. Beyond its keys and values, the last layer serves the rows of wanted logits only.
    pub fn cost(&self, case: Case, limits: Limits) -> Cost {
        match case {
            Case::Prefill { tokens } => {
                let step = |positions: Range<usize>| {
                    let outputs = usize::from(positions.end == tokens);
                    self.weights(positions.len(), outputs).plus(self.attention(positions, outputs))
                };
                limits.chunks(tokens).map(step).fold(Cost::default(), Cost::plus)
            }
            Case::Decode { batch, context } => {
                let one = self.attention(context - 1..context, 1);
                self.weights(batch, batch).plus(one.times(batch as f64))
            }
        }
    }

    /// Products with weights: of `tokens` rows in all layers but in the last one's later half, of `outputs` rows there
    /// and with the output matrix.
    fn weights(&self, tokens: usize, outputs: usize) -> Cost {
        let config = &self.config;
        let attention = &config.attention;
        let (hidden, head_dim) = (config.hidden_size as f64, attention.head_dim as f64);
        let (heads, kv_heads) = (attention.num_attention_heads as f64, attention.num_key_value_heads as f64);
        let of_bytes = |bytes: f64, elements: f64, rows: usize| Cost {
            read_bytes: if rows > 0 { bytes * elements } else { 0.0 },
            operations: 2.0 * elements * rows as f64,
        };
        let product = |elements, rows| of_bytes(self.weight_bytes, elements, rows);
        let qkv = product(hidden * head_dim * (heads + 2.0 * kv_heads), tokens);
        let later_half = |rows: usize| {
            let expert = product(3.0 * hidden * config.feed_forward.intermediate_size as f64, rows);
            let feed_forward = match config.feed_forward.experts {
                None => expert,
                Some(experts) => {
                    let (all, chosen) = (experts.num_experts as f64, experts.experts_per_token as f64);
                    let met = all * (1.0 - (1.0 - chosen / all).powf(rows as f64));
                    Cost { read_bytes: expert.read_bytes * met, operations: expert.operations * chosen }
                }
            };
            feed_forward.plus(product(heads * head_dim * hidden, rows))
        };
        let layers = config.num_hidden_layers as f64;
        qkv.times(layers).plus(later_half(tokens).times(layers - 1.0)).plus(later_half(outputs)).plus(of_bytes(
            self.head_bytes,
            config.vocab_size as f64 * hidden,
            outputs,
        ))
    }

    /// Keys and values that the tokens at `positions` see: each is read once, and multiplied with by every query. The
    /// last layer attends only where there is an output.
    fn attention(&self, positions: Range<usize>, outputs: usize) -> Cost {
        let attention = &self.config.attention;
        let (heads, kv_heads) = (attention.num_attention_heads as f64, attention.num_key_value_heads as f64);
        let head_dim = attention.head_dim as f64;
        let layer = |window: &Option<usize>| {
            let seen = |position: usize| (position + 1).min(window.unwrap_or(usize::MAX)) as f64;
            let read = positions.end.min(window.map_or(usize::MAX, |window| window + positions.len() - 1)) as f64;
            Cost {
                read_bytes: 2.0 * kv_heads * head_dim * self.kv_bytes * read,
                operations: 4.0 * heads * head_dim * positions.clone().map(seen).sum::<f64>(),
            }
        };
        let layers = attention.windows.len() - usize::from(outputs == 0);
        attention.windows[..layers].iter().map(layer).fold(Cost::default(), Cost::plus)
    }
}

impl Cost {
    fn times(self, count: f64) -> Self {
        Self { read_bytes: self.read_bytes * count, operations: self.operations * count }
    }

    fn plus(self, other: Self) -> Self {
        Self { read_bytes: self.read_bytes + other.read_bytes, operations: self.operations + other.operations }
    }
}
