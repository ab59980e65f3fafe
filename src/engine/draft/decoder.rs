//! A smaller model drafts: greedily, one token after the other, for all sequences of a step together. The main type is
//! [`DecoderDrafter`].
//!
//! Its cache has the geometry of the engine's pool, and it uses the same blocks for the same positions. So there are no
//! books to keep on them: cached prefixes, preemption and rejected drafts are the engine's affair. Each slot remembers
//! for which tokens, from the first to its own, its keys and values were computed; a slot that was written for others,
//! or never, is computed anew.
//!
//! Invariant: drafts are made from keys and values of the sequence's own tokens. What fails here costs drafts only.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Drafter, Evidence, N_EVIDENCE, Wanted};
use crate::{
    engine::forward::GuardedModel,
    model::{ForwardPass, likeliest},
    types::{Batch, BatchSequence},
};

/// Tokens of a step by which a sequence that the drafter does not know yet is caught up with; bounds how long others
/// wait.
const MOST_CATCHING_UP: usize = 256;
/// Failures in a row after which no more drafts are made.
const MOST_FAILURES: usize = 3;

/// Drafts by a model with the same vocabulary.
#[derive(Debug)]
pub struct DecoderDrafter {
    model: GuardedModel,
    block_size: usize,
    /// Longest sequence that the model was made for.
    max_positions: usize,
    /// By slot: the prefix whose last token's keys and values it holds.
    written: Vec<Prefix>,
    sequences: HashMap<u64, Known>,
    failures: usize,
}

/// The tokens of a sequence from the first to some position, as a number. Two that are equal by accident cost a draft.
type Prefix = u64;
const NOTHING: Prefix = 0;

#[derive(Debug, Default)]
struct Known {
    /// By position.
    prefixes: Vec<Prefix>,
    /// Positions from the first on whose keys and values are there.
    computed: usize,
}

/// Tokens of one sequence to be computed next.
struct Share<'a> {
    block_table: &'a [u32],
    first: usize,
    token_ids: &'a [u32],
    /// The token after the last of them is wanted.
    leads_on: bool,
}

impl DecoderDrafter {
    /// `model`'s cache has `num_blocks` blocks of `block_size` positions, as the engine's pool.
    pub fn new(model: Box<dyn ForwardPass>, block_size: usize, num_blocks: usize, max_positions: usize) -> Self {
        Self {
            model: GuardedModel::new(model),
            block_size,
            max_positions,
            written: vec![NOTHING; block_size * num_blocks],
            sequences: HashMap::new(),
            failures: 0,
        }
    }

    /// Computes what the model has not yet seen of the sequences, as far as a step may take that long. Returns the next
    /// token of those that it knows in whole then.
    fn catch_up(&mut self, wanted: &[Wanted<'_>]) -> Result<Vec<Option<u32>>, String> {
        let mut budget = MOST_CATCHING_UP;
        let mut shares = Vec::new();
        let mut taken = HashSet::new();
        for wanted in wanted {
            let (first, len) = (self.computed(wanted), wanted.tokens.len());
            let mut end = len.min(first + budget);
            let mut slots = (first..end).map(|position| slot(wanted.block_table, position, self.block_size));
            if !slots.all(|slot| taken.insert(slot)) {
                // A sequence with which it shares a cached prefix computes that in this very step.
                end = first;
            }
            budget -= end - first;
            let token_ids = &wanted.tokens[first..end];
            shares.push(Share { block_table: wanted.block_table, first, token_ids, leads_on: end == len });
        }
        let next = self.compute(&shares)?;
        for (wanted, share) in wanted.iter().zip(&shares) {
            let known = self.sequences.entry(wanted.sequence).or_default();
            known.computed = share.first + share.token_ids.len();
            for (position, &prefix) in known.prefixes.iter().enumerate().take(known.computed).skip(share.first) {
                self.written[slot(wanted.block_table, position, self.block_size)] = prefix;
            }
        }
        Ok(next)
    }

    /// How many positions of a sequence have their keys and values; its last token is to be computed in any case.
    fn computed(&mut self, wanted: &Wanted<'_>) -> usize {
        let known = self.sequences.entry(wanted.sequence).or_default();
        for &token in &wanted.tokens[known.prefixes.len()..] {
            known.prefixes.push(extend(known.prefixes.last().copied(), token));
        }
        let is_written = |position: usize, prefix: Prefix| {
            self.written[slot(wanted.block_table, position, self.block_size)] == prefix
        };
        let behind = known.prefixes.iter().enumerate().skip(known.computed);
        let n_written = behind.take_while(|&(position, &prefix)| is_written(position, prefix)).count();
        (known.computed + n_written).min(wanted.tokens.len() - 1)
    }

    /// Feeds the drafts their own tokens until they are as long as wanted.
    fn lead_on(&mut self, wanted: &[Wanted<'_>], drafts: &mut [Vec<u32>]) -> Result<(), String> {
        loop {
            let mut at = Vec::new();
            let mut shares = Vec::new();
            for (index, (wanted, draft)) in wanted.iter().zip(&*drafts).enumerate() {
                let first = wanted.tokens.len() + draft.len().saturating_sub(1);
                if !draft.is_empty() && draft.len() < wanted.most && first < self.max_positions {
                    at.push(index);
                    let token_ids = &draft[draft.len() - 1..];
                    shares.push(Share { block_table: wanted.block_table, first, token_ids, leads_on: true });
                }
            }
            if shares.is_empty() {
                return Ok(());
            }
            let next = self.compute(&shares)?;
            for (index, token) in at.into_iter().zip(next) {
                let Wanted { sequence, tokens, block_table, .. } = wanted[index];
                let draft = &mut drafts[index];
                let known = &self.sequences[&sequence];
                let prefix = draft.iter().fold(known.prefixes.last().copied(), |prefix, &id| Some(extend(prefix, id)));
                let position = tokens.len() + draft.len() - 1;
                self.written[slot(block_table, position, self.block_size)] = prefix.unwrap_or(NOTHING);
                draft.extend(token);
            }
        }
    }

    /// One forward pass over the shares that are not empty. The likeliest next token of those that lead on.
    fn compute(&mut self, shares: &[Share<'_>]) -> Result<Vec<Option<u32>>, String> {
        let mut batch = Batch::default();
        for share in shares.iter().filter(|share| !share.token_ids.is_empty()) {
            append(&mut batch, share, self.block_size);
        }
        for &slot in &batch.slots {
            // Until the pass has succeeded.
            self.written[slot as usize] = NOTHING;
        }
        let logits = self.model.forward(&batch)?;
        let mut rows = 0..batch.output_rows.len();
        let next = |share: &Share<'_>| {
            let row = if share.leads_on { rows.next() } else { None };
            row.map(|row| likeliest(logits.row(row)))
        };
        Ok(shares.iter().map(next).collect())
    }
}

impl Drafter for DecoderDrafter {
    fn prospect(&mut self, _: u64, tokens: &[u32]) -> Option<Evidence> {
        let can = self.failures < MOST_FAILURES && tokens.len() < self.max_positions;
        can.then_some(N_EVIDENCE - 1)
    }

    fn is_free(&self) -> bool {
        false
    }

    fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>> {
        let mut drafts = vec![Vec::new(); wanted.len()];
        let drafted = self.catch_up(wanted).and_then(|next| {
            drafts.iter_mut().zip(next).for_each(|(draft, token)| draft.extend(token));
            self.lead_on(wanted, &mut drafts)
        });
        match drafted {
            Ok(()) => self.failures = 0,
            Err(failure) => {
                self.failures += 1;
                let off = self.failures >= MOST_FAILURES;
                tracing::error!(failure, off, "the draft model failed");
            }
        }
        drafts
    }

    fn forget(&mut self, sequence: u64) {
        self.sequences.remove(&sequence);
    }
}

fn append(batch: &mut Batch, share: &Share<'_>, block_size: usize) {
    let Share { block_table, first, token_ids, leads_on } = *share;
    let (query_start, query_len) = (batch.n_tokens(), token_ids.len());
    let context_len = first + query_len;
    batch.token_ids.extend_from_slice(token_ids);
    batch.positions.extend((first..context_len).map(|position| position as u32));
    batch.slots.extend((first..context_len).map(|position| slot(block_table, position, block_size) as u32));
    let block_table = block_table[..context_len.div_ceil(block_size)].to_vec();
    batch.sequences.push(BatchSequence { query_start, query_len, context_len, block_table, generated: 0 });
    if leads_on {
        batch.output_rows.push((query_start + query_len - 1) as u32);
    }
}

fn slot(block_table: &[u32], position: usize, block_size: usize) -> usize {
    block_table[position / block_size] as usize * block_size + position % block_size
}

/// The prefix that is one token longer.
fn extend(prefix: Option<Prefix>, token: u32) -> Prefix {
    let mut hasher = DefaultHasher::new();
    (prefix, token).hash(&mut hasher);
    hasher.finish().max(NOTHING + 1)
}
