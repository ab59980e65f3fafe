//! Logits of one row -> the next token. Pure functions of the logits, the parameters, the sequence so far
//! and, for the draw, of (seed, index of the token): what else is in the batch cannot matter.
//!
//! [`distribution`] and [`sample`] share every stage (`adjust`, then `candidates`); the goldens test the
//! first, so they hold for the second. Knows nothing of batches, blocks or streams.

mod adjust;
mod candidates;
mod delegate;
mod logprobs;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use self::{adjust::adjust, candidates::Candidates};
use crate::types::{SamplingParams, TokenSet};

pub(super) use self::delegate::{Delegate, delegate};
pub use self::logprobs::token_logprobs;

/// The sequence up to the token to be chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// Prompt tokens.
    pub prompt_ids: &'a [u32],
    /// Tokens generated so far.
    pub output_ids: &'a [u32],
    /// Ids that must not be chosen now: end-of-sequence and stop ids before `min_tokens`.
    pub forbidden_ids: &'a [u32],
    /// The only ids that may be chosen now, where the answer has a form.
    pub allowed: Option<&'a TokenSet>,
}

/// Which random number a draw uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Of the request.
    pub seed: u64,
    /// Index of the token in the output.
    pub index: usize,
}

/// No token can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// A logit is NaN or positive infinity.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// Every id is masked.
    #[error("no token is allowed here")]
    NothingAllowed,
}

/// Probabilities that [`sample`] draws from, `(vocab_size)`. Greedy parameters give a one-hot row.
pub fn distribution(logits: &[f32], params: &SamplingParams, history: &History<'_>) -> Result<Vec<f64>, SampleError> {
    let mut scores = logits.to_vec();
    let max = adjust(&mut scores, params, history)?;
    let mut probabilities = vec![0.0; logits.len()];
    if params.is_greedy() {
        probabilities[first_equal(&scores, max)] = 1.0;
    } else {
        Candidates::new(&scores, max, params).write_probabilities(&mut probabilities);
    }
    Ok(probabilities)
}

/// Chooses the next token.
pub fn sample(logits: &[f32], params: &SamplingParams, history: &History<'_>, draw: Draw) -> Result<u32, SampleError> {
    if params.is_greedy() && adjust::changes_nothing(params, history) {
        let max = adjust::finite_max(logits)?;
        return Ok(first_equal(logits, max) as u32);
    }
    let mut scores = logits.to_vec();
    let max = adjust(&mut scores, params, history)?;
    if params.is_greedy() {
        return Ok(first_equal(&scores, max) as u32);
    }
    Ok(Candidates::new(&scores, max, params).pick(uniform(draw)))
}

/// The lowest id whose score is `max`.
fn first_equal(scores: &[f32], max: f32) -> usize {
    scores.iter().position(|&score| score == max).expect("the maximum is one of the scores")
}

/// Number `draw.index` of the seed's stream, in [0, 1) with 53 bits.
fn uniform(draw: Draw) -> f64 {
    const WORDS_PER_DRAW: u128 = 2;
    let mut stream = ChaCha8Rng::seed_from_u64(draw.seed);
    stream.set_word_pos(draw.index as u128 * WORDS_PER_DRAW);
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    fn choose(logits: &[f32], params: &SamplingParams, history: History<'_>) -> Result<u32, SampleError> {
        sample(logits, params, &history, Draw { seed: 1, index: 0 })
    }

    #[test]
    fn greedy_takes_the_lowest_id_on_a_tie_and_after_bias() {
        let logits = [0.0, 2.0, 2.0, 1.0];
        assert_eq!(choose(&logits, &greedy(), History::default()), Ok(1));
        let biased = SamplingParams { logit_bias: vec![(3, 1.0), (2, -0.0)], ..greedy() };
        assert_eq!(choose(&logits, &biased, History::default()), Ok(1));
        let forbidden = History { forbidden_ids: &[1, 900], ..History::default() };
        assert_eq!(choose(&logits, &greedy(), forbidden), Ok(2));
    }

    #[test]
    fn masks_leave_only_what_is_allowed() {
        let logits = [0.0, 5.0, 2.0, 1.0];
        let allowed = SamplingParams { allowed_token_ids: Some(vec![0, 3]), ..SamplingParams::default() };
        let row = distribution(&logits, &allowed, &History::default()).unwrap();
        assert!(row[1] == 0.0 && row[2] == 0.0 && row[0] > 0.0 && row[3] > row[0]);
        let nothing = History { forbidden_ids: &[0, 3], ..History::default() };
        assert_eq!(choose(&logits, &allowed, nothing), Err(SampleError::NothingAllowed));
    }

    #[test]
    fn a_bad_word_is_cut_before_its_last_token() {
        let logits = [0.0, 1.0, 3.0, 2.0];
        let params = SamplingParams { bad_words: vec![vec![1, 2], vec![0, 0, 3]], ..greedy() };
        let after = |output_ids| choose(&logits, &params, History { output_ids, ..History::default() }).unwrap();
        assert_eq!([after(&[][..]), after(&[0]), after(&[0, 1])], [2, 2, 3]);
        let prompt_does_not_count = History { prompt_ids: &[1], ..History::default() };
        assert_eq!(choose(&logits, &params, prompt_does_not_count), Ok(2));
    }

    #[test]
    fn logits_that_are_not_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            for params in [greedy(), SamplingParams::default()] {
                assert_eq!(choose(&[0.0, bad, 1.0], &params, History::default()), Err(SampleError::NotFinite));
            }
        }
        let masked = [f32::NEG_INFINITY, 1.0];
        assert_eq!(choose(&masked, &SamplingParams::default(), History::default()), Ok(1));
    }

    #[test]
    fn a_draw_depends_on_seed_and_index_only() {
        let draws: Vec<f64> = (0..64).map(|index| uniform(Draw { seed: 9, index })).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        assert_eq!(uniform(Draw { seed: 9, index: 40 }), draws[40]);
        assert!((1..64).all(|index| draws[index] != draws[index - 1]));
        assert_ne!(uniform(Draw { seed: 10, index: 0 }), draws[0]);
    }

    #[test]
    fn extreme_temperatures_stay_finite() {
        for temperature in [1e-38, 1e-6, 2.0] {
            let params = SamplingParams { temperature, ..SamplingParams::default() };
            let row = distribution(&[-3e4, 3e4, 2.9e4], &params, &History::default()).unwrap();
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{temperature}: {row:?}");
        }
    }
}
