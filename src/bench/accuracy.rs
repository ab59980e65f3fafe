//! What quantizing changes: the distributions of two decoders over the same tokens, one of which is the reference. Main
//! functions: [`own_text`], which lets a model write what it finds likely, and [`compare`].

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::engine::push;
use crate::{
    model::{ForwardPass, ModelError, likeliest},
    types::Batch,
};

/// Tokens per step: their logits are all kept until they are compared.
const CHUNK: usize = 128;

/// How far a model's distributions are from the reference's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Tokens whose distributions were compared.
    pub tokens: usize,
    /// The reference's, of the tokens as they follow.
    pub reference_perplexity: f64,
    /// The other's.
    pub perplexity: f64,
    /// Kullback-Leibler divergence of the other from the reference in nats, the mean over all tokens.
    pub kl_mean: f64,
    /// That which one token of a hundred exceeds.
    pub kl_p99: f64,
    /// Share of the tokens after which both find the same one most likely.
    pub same_top_share: f64,
}

/// How a model writes by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Writing {
    /// Texts.
    pub sequences: usize,
    /// Tokens of each, the first one included.
    pub tokens: usize,
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Of the choice of tokens.
    pub seed: u64,
}

/// Texts that the model writes after `first`. Its cache holds all of them at once.
pub fn own_text(
    model: &mut dyn ForwardPass,
    writing: Writing,
    first: u32,
    block_size: usize,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(writing.seed);
    let mut texts = vec![vec![first]; writing.sequences];
    let blocks = writing.tokens.div_ceil(block_size);
    for position in 0..writing.tokens.saturating_sub(1) {
        let mut batch = Batch::default();
        for (index, text) in texts.iter().enumerate() {
            push_all(&mut batch, text, position..position + 1, (index * blocks, block_size));
        }
        let logits = model.forward(&batch)?;
        for (text, row) in texts.iter_mut().zip(logits.values.chunks_exact(logits.vocab_size)) {
            text.push(choose(row, writing.temperature, rng.random()));
        }
    }
    Ok(texts)
}

/// Compares the distributions after every token but the last one of each text. Calls `done` with the number of tokens.
pub fn compare(
    reference: &mut dyn ForwardPass,
    other: &mut dyn ForwardPass,
    texts: &[Vec<u32>],
    block_size: usize,
    done: &dyn Fn(usize),
) -> Result<Accuracy, ModelError> {
    let mut divergences = Vec::new();
    let (mut reference_loss, mut loss, mut same) = (0.0, 0.0, 0usize);
    for text in texts {
        let last = text.len().saturating_sub(1);
        for start in (0..last).step_by(CHUNK) {
            let positions = start..(start + CHUNK).min(last);
            let mut batch = Batch::default();
            push_all(&mut batch, text, positions.clone(), (0, block_size));
            let (found, expected) = (other.forward(&batch)?, reference.forward(&batch)?);
            let rows =
                expected.values.chunks_exact(expected.vocab_size).zip(found.values.chunks_exact(found.vocab_size));
            for ((expected, found), position) in rows.zip(positions.clone()) {
                let next = text[position + 1] as usize;
                let (p, q) = (log_softmax(expected), log_softmax(found));
                divergences.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
                reference_loss -= p[next];
                loss -= q[next];
                same += usize::from(likeliest(expected) == likeliest(found));
            }
            done(positions.len());
        }
    }
    let tokens = divergences.len();
    divergences.sort_by(f64::total_cmp);
    let mean = |sum: f64| sum / tokens.max(1) as f64;
    Ok(Accuracy {
        tokens,
        reference_perplexity: mean(reference_loss).exp(),
        perplexity: mean(loss).exp(),
        kl_mean: mean(divergences.iter().sum()),
        kl_p99: divergences.get(tokens * 99 / 100).copied().unwrap_or(0.0),
        same_top_share: mean(same as f64),
    })
}

/// Adds the tokens at `positions` of a text whose blocks are consecutive from `first_block` on, all with logits.
fn push_all(batch: &mut Batch, text: &[u32], positions: Range<usize>, (first_block, block_size): (usize, usize)) {
    let first_row = batch.n_tokens() as u32;
    push(batch, (positions, first_block), block_size, |position| text[position]);
    batch.output_rows.extend(first_row..batch.n_tokens() as u32);
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|logit| f64::from(*logit) - f64::from(largest));
    let sum = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|logit| logit - sum).collect()
}

/// `uniform` is in 0..1.
fn choose(logits: &[f32], temperature: f64, uniform: f64) -> u32 {
    if temperature == 0.0 {
        return likeliest(logits);
    }
    let scaled: Vec<f32> = logits.iter().map(|logit| (f64::from(*logit) / temperature) as f32).collect();
    let mut left = uniform;
    for (id, log_probability) in log_softmax(&scaled).into_iter().enumerate() {
        left -= log_probability.exp();
        if left <= 0.0 {
            return id as u32;
        }
    }
    likeliest(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Logits;

    /// Finds token `(last + 1) % 4` likely, by as much as it is told.
    struct Counting {
        lead: f32,
    }

    impl ForwardPass for Counting {
        fn vocab_size(&self) -> usize {
            4
        }

        fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
            let lead = self.lead;
            let row = |&row: &u32| {
                let next = (batch.token_ids[row as usize] + 1) % 4;
                (0..4).map(move |id| if id == next { lead } else { 0.0 })
            };
            Ok(Logits { values: batch.output_rows.iter().flat_map(row).collect(), vocab_size: 4, ..Logits::default() })
        }
    }

    #[test]
    fn a_model_writes_what_it_finds_likely() {
        let writing = Writing { sequences: 2, tokens: 6, temperature: 0.0, seed: 1 };
        let texts = own_text(&mut Counting { lead: 1.0 }, writing, 2, 4).unwrap();
        assert_eq!(texts, [[2, 3, 0, 1, 2, 3], [2, 3, 0, 1, 2, 3]]);
        let sampled = Writing { sequences: 1, tokens: 4000, temperature: 1.0, seed: 1 };
        let text = &own_text(&mut Counting { lead: 1.0 }, sampled, 0, 16).unwrap()[0];
        let likely = text.windows(2).filter(|pair| pair[1] == (pair[0] + 1) % 4).count() as f64 / 3999.0;
        let expected = 1f64.exp() / (1f64.exp() + 3.0);
        assert!((likely - expected).abs() < 0.03, "{likely} of the tokens, not {expected}");
    }

    #[test]
    fn a_model_is_no_distance_from_itself() {
        let text = vec![vec![0, 1, 2, 3, 0, 1]; 3];
        let found = compare(&mut Counting { lead: 2.0 }, &mut Counting { lead: 2.0 }, &text, 16, &|_| ()).unwrap();
        assert_eq!((found.tokens, found.kl_mean, found.kl_p99, found.same_top_share), (15, 0.0, 0.0, 1.0));
        assert!((found.perplexity - (1.0 + 3.0 * (-2f64).exp())).abs() < 1e-6, "{found:?}");
        assert!((found.perplexity - found.reference_perplexity).abs() < 1e-12);
    }

    #[test]
    fn the_divergence_is_kullback_and_leiblers() {
        let found =
            compare(&mut Counting { lead: 1.0 }, &mut Counting { lead: -1.0 }, &[vec![0; 300]], 16, &|_| ()).unwrap();
        let distribution = |lead: f64| {
            let sum = lead.exp() + 3.0;
            [lead.exp() / sum, 1.0 / sum, 1.0 / sum, 1.0 / sum]
        };
        let (p, q) = (distribution(1.0), distribution(-1.0));
        let expected: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        assert_eq!(found.tokens, 299);
        assert!((found.kl_mean - expected).abs() < 1e-6 && (found.kl_p99 - expected).abs() < 1e-6, "{found:?}");
        assert_eq!(found.same_top_share, 0.0);
        // Token 0 is the likelier one to the second.
        let perplexities = (found.reference_perplexity, found.perplexity);
        assert!((perplexities.0 - 1.0 / p[1]).abs() < 1e-5 && (perplexities.1 - 1.0 / q[1]).abs() < 1e-5, "{found:?}");
    }
}
