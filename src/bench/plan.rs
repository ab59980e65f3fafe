//! Which requests a load consists of. Main type: [`Plan`], a pure function from a request's number to the
//! request, so that any client makes the same load from the same seed.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    lengths::Lengths,
    prompts::Prompts,
    trace::{Trace, TraceRow},
};

/// Where lengths come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Distributions.
    Drawn {
        /// Tokens of prompts.
        input: Lengths,
        /// Tokens of answers.
        output: Lengths,
    },
    /// A recorded load, from its beginning again after its end.
    Recorded(Trace),
}

/// All requests.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    source: Source,
    prompts: Prompts,
}

/// A request to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its number, from 0.
    pub index: u64,
    /// The prompt.
    pub prompt: String,
    /// Tokens of the prompt that are wanted, where the plan says so.
    pub input_tokens: Option<u32>,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

impl Plan {
    /// The load of `source` with the texts of `prompts`.
    pub fn new(seed: u64, source: Source, prompts: Prompts) -> Self {
        Self { seed, source, prompts }
    }

    /// The same load for warming up: texts that a trace states are replaced by others of about their length, lest the
    /// server has them in its prefix cache when they count.
    pub fn warm_up(mut self) -> Self {
        if let Source::Recorded(trace) = &mut self.source {
            for row in &mut trace.rows {
                let words = row.prompt.take().map(|prompt| prompt.split_whitespace().count().max(1) as u32);
                row.input_length = row.input_length.or(words);
            }
        }
        self
    }

    /// Request number `index` of a run that begins with number `first`. Blocks that a trace shares are shared
    /// within a run, not with the runs before it.
    pub fn request(&self, first: u64, index: u64) -> Planned {
        match &self.source {
            Source::Drawn { input, output } => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream((index << 2) | 3); // a stream of its own beside those of the texts
                let (input, output) = (input.draw(&mut rng), output.draw(&mut rng));
                let prompt = self.prompts.text(index, input);
                Planned { index, prompt, input_tokens: Some(input), output_tokens: output }
            }
            Source::Recorded(trace) => {
                self.recorded(first, index, &trace.rows[(index - first) as usize % trace.rows.len()])
            }
        }
    }

    fn recorded(&self, first: u64, index: u64, row: &TraceRow) -> Planned {
        let tokens = row.input_length.unwrap_or(1);
        let prompt = match &row.prompt {
            Some(prompt) => prompt.clone(),
            None => self.prompts.hashed_text((first, index), tokens, &row.hash_ids),
        };
        Planned { index, prompt, input_tokens: row.input_length, output_tokens: row.output_length }
    }
}
