//! Drives a model as the engine does: ragged batches over a paged cache whose blocks are scattered and have
//! been used before; or has the engine itself drive it.

use std::sync::Arc;

use anyhow::{Result, bail};
use tramontane::engine::{EngineConfig, EngineHandle, FinishReason, Precedence, Request, StopRules, Task, Update};
use tramontane::model::{ForwardPass, Logits};
use tramontane::types::{Batch, BatchSequence, SamplingParams};

/// Positions per block.
pub const BLOCK_SIZE: usize = 16;

/// Sequences that live in the cache of one model.
pub struct Run<'a> {
    model: &'a mut dyn ForwardPass,
    sequences: Vec<Sequence>,
}

/// A token and the logits that it was chosen from.
pub struct Chosen {
    pub token: u32,
    pub logits: Vec<f32>,
}

struct Sequence {
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    block_table: Vec<u32>,
}

impl<'a> Run<'a> {
    /// Gives each prompt blocks for itself and `n_new` more tokens.
    pub fn new(model: &'a mut dyn ForwardPass, prompts: &[&[u32]], n_new: usize) -> Run<'a> {
        let blocks = |prompt: &&[u32]| (prompt.len() + n_new).div_ceil(BLOCK_SIZE);
        let total: usize = prompts.iter().map(blocks).sum();
        // Every second block downwards, then the others: neighbours in a sequence are none in the cache.
        let mut free =
            (0..total as u32).rev().filter(|id| id % 2 == 1).chain((0..total as u32).filter(|id| id % 2 == 0));
        let sequences = prompts
            .iter()
            .map(|prompt| Sequence {
                tokens: prompt.to_vec(),
                prompt_len: prompt.len(),
                computed: 0,
                block_table: free.by_ref().take(blocks(prompt)).collect(),
            })
            .collect();
        Run { model, sequences }
    }

    /// Blocks that a run of these prompts needs.
    pub fn blocks_needed(prompts: &[&[u32]], n_new: usize) -> usize {
        prompts.iter().map(|prompt| (prompt.len() + n_new).div_ceil(BLOCK_SIZE)).sum()
    }

    /// The logits of every token of the first sequence, in one go or cut into chunks of the given lengths,
    /// repeated.
    pub fn prefill(&mut self, chunks: &[usize]) -> Result<Vec<f32>> {
        let n_tokens = self.sequences[0].tokens.len();
        let mut logits = Vec::new();
        for chunk in chunks.iter().cycle() {
            let done = self.sequences[0].computed;
            if done == n_tokens {
                break;
            }
            let n_query = (*chunk).min(n_tokens - done);
            logits.extend(self.step(&[n_query], |_, row| (0..n_query).contains(&row))?.values);
        }
        Ok(logits)
    }

    /// Continues all sequences greedily, prefill of all in one batch and then a step at a time. Returns per
    /// sequence what was chosen.
    pub fn greedy(&mut self, n_new: usize) -> Result<Vec<Vec<Chosen>>> {
        let mut chosen: Vec<Vec<Chosen>> = self.sequences.iter().map(|_| Vec::new()).collect();
        for _ in 0..n_new {
            let lengths: Vec<usize> = self.sequences.iter().map(|s| s.tokens.len() - s.computed).collect();
            let logits = self.step(&lengths, |sequence, row| row + 1 == lengths[sequence])?;
            for (index, sequence) in self.sequences.iter_mut().enumerate() {
                let row = logits.row(index);
                let token = argmax(row);
                sequence.tokens.push(token);
                chosen[index].push(Chosen { token, logits: row.to_vec() });
            }
        }
        Ok(chosen)
    }

    /// Computes the next `n_query` tokens of each sequence; `wanted(sequence, row of its query)`.
    fn step(&mut self, n_query: &[usize], wanted: impl Fn(usize, usize) -> bool) -> Result<Logits> {
        let mut batch = Batch::default();
        for (index, (sequence, n_query)) in self.sequences.iter_mut().zip(n_query).enumerate() {
            let query_start = batch.n_tokens();
            let context_len = sequence.computed + n_query;
            for position in sequence.computed..context_len {
                if wanted(index, position - sequence.computed) {
                    batch.output_rows.push(batch.n_tokens() as u32);
                }
                batch.token_ids.push(sequence.tokens[position]);
                batch.positions.push(position as u32);
                let block = sequence.block_table[position / BLOCK_SIZE] as usize;
                batch.slots.push((block * BLOCK_SIZE + position % BLOCK_SIZE) as u32);
            }
            let used = context_len.div_ceil(BLOCK_SIZE);
            let block_table = sequence.block_table[..used].to_vec();
            let generated = context_len - sequence.prompt_len.clamp(sequence.computed, context_len);
            let query_len = *n_query;
            batch.sequences.push(BatchSequence { query_start, query_len, context_len, block_table, generated });
            sequence.computed = context_len;
        }
        Ok(self.model.forward(&batch)?)
    }
}

/// Has an engine continue all prompts greedily, each by so many tokens, prefills cut small. Nothing ends a
/// sequence early.
pub fn generate<'a>(
    model: Box<dyn ForwardPass>,
    num_blocks: usize,
    wanted: impl Iterator<Item = (&'a [u32], usize)>,
) -> Result<Vec<Vec<u32>>> {
    let config = EngineConfig { block_size: BLOCK_SIZE, num_blocks, max_batched_tokens: 13, ..EngineConfig::default() };
    let vocabulary = 0..model.vocab_size() as u32;
    let engine = EngineHandle::spawn(model, config, Arc::default());
    let request = |(prompt_ids, max_tokens): (&[u32], usize)| Request {
        prompt_ids: prompt_ids.to_vec(),
        task: Task::Generate,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopRules {
            max_tokens,
            min_tokens: 0,
            eos_token_ids: vocabulary.clone().collect(),
            stop_token_ids: Vec::new(),
            ignore_eos: true,
        },
        logprobs: None,
        prompt_logprobs: None,
        precedence: Precedence::Interactive,
        priority: 0,
        deadline: None,
        cache_salt: None,
        share: Default::default(),
        constraint: None,
        prediction: Vec::new(),
    };
    let streams = wanted.map(|wanted| engine.submit(request(wanted))).collect::<Result<Vec<_>, _>>()?;
    let mut outputs = Vec::new();
    for mut stream in streams {
        let mut tokens = Vec::new();
        loop {
            match stream.blocking_next() {
                Some(Update::Token { id, .. }) => tokens.push(id),
                Some(Update::Finished(FinishReason::Length)) => break,
                Some(Update::Started { .. } | Update::PromptLogprobs(_) | Update::Values(_)) => {}
                Some(Update::Finished(reason)) => bail!("the engine ended a request: {reason:?}"),
                None => bail!("the engine is gone"),
            }
        }
        outputs.push(tokens);
    }
    Ok(outputs)
}

/// The index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best as u32
}
