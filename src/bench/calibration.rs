//! How a server counts the words of a prompt. Main type: [`Calibration`]. The server is asked, as it alone knows
//! its tokenizer and what its chat template adds.

use std::time::Instant;

use serde::Serialize;

use super::{
    client::{Target, Times},
    plan::Planned,
    prompts::Prompts,
    run::Unwatched,
    sample::{Failure, Sample},
};

/// Words of the two prompts that are counted; far enough apart that one token more or less does not matter.
const WORDS: [u32; 2] = [16, 272];

/// What the server counts for a prompt of words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Tokens that any prompt has besides its words, such as those of the chat template.
    pub overhead_tokens: f64,
    /// Tokens of one word.
    pub tokens_per_word: f64,
    /// Did the server say so? Otherwise it is assumed.
    pub measured: bool,
}

impl Calibration {
    /// One token per word and nothing else.
    pub const ASSUMED: Self = Self { overhead_tokens: 0.0, tokens_per_word: 1.0, measured: false };

    /// Makes two short requests. [`Self::ASSUMED`] if the server answers them but does not count.
    pub async fn measure(target: &Target) -> Result<Self, Failure> {
        let prompts = Prompts::new(0, 0.0, Self::ASSUMED);
        let mut counts = Vec::new();
        for words in WORDS {
            let index = u64::MAX >> 2; // no request of a run has this number, so none finds these texts cached
            let prompt = prompts.text(index - u64::from(words), words);
            let planned = Planned { index, prompt, input_tokens: Some(words), output_tokens: 1 };
            let sample = target.send(&planned, Times { started: Instant::now(), due: None }, &Unwatched).await;
            let Sample { counted, has_usage, failure, .. } = sample;
            match failure {
                Some(failure) => return Err(failure),
                None if !has_usage => return Ok(Self::ASSUMED),
                None => counts.push((words, counted.input)),
            }
        }
        Ok(Self::from_counts(counts[0], counts[1]).unwrap_or(Self::ASSUMED))
    }

    /// From what the server counted for two prompts, each `(words, tokens)`, the shorter one first.
    pub fn from_counts(short: (u32, u32), long: (u32, u32)) -> Option<Self> {
        let more_tokens = long.1.checked_sub(short.1).filter(|more| *more > 0)?;
        let more_words = long.0.checked_sub(short.0).filter(|more| *more > 0)?;
        let tokens_per_word = f64::from(more_tokens) / f64::from(more_words);
        let overhead_tokens = f64::from(short.1) - f64::from(short.0) * tokens_per_word;
        Some(Self { overhead_tokens, tokens_per_word, measured: true })
    }

    /// Words of a prompt of so many tokens; at least one, as no server takes an empty prompt.
    pub fn words(&self, tokens: u32) -> usize {
        ((f64::from(tokens) - self.overhead_tokens) / self.tokens_per_word).round().max(1.0) as usize
    }
}
