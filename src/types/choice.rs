//! The choice of a token by the model itself, where its logits are: what is asked, and what becomes of it.

/// How the token after a row of logits is chosen. Stages and their order are those of
/// [`SamplingParams`](super::SamplingParams).
#[derive(Clone, Debug)]
pub struct TokenChoice<'a> {
    /// The number of the draw, in [0, 1).
    pub uniform: f64,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// Only these ids can be chosen.
    pub allowed_token_ids: Option<&'a [u32]>,
    /// Added to scores; negative infinity forbids an id.
    pub biases: Vec<(u32, f32)>,
    /// What the score of an id loses for occurring before.
    pub penalties: Option<Penalties<'a>>,
    /// How many of the most likely ids get log-probabilities beside the chosen one; `None` asks for none at all.
    pub logprobs: Option<usize>,
}

/// Penalties, and the tokens that they are for.
#[derive(Clone, Copy, Debug)]
pub struct Penalties<'a> {
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// The sequence, whose tokens are counted from one choice to the next.
    pub sequence: u64,
    /// Its prompt.
    pub prompt_ids: &'a [u32],
    /// What has been generated, as far as it has been read.
    pub output_ids: &'a [u32],
    /// Further tokens that have been generated, all of them by the model's own choice.
    pub num_unread: usize,
}

/// What became of a row of logits.
#[derive(Clone, Debug, PartialEq)]
pub enum RowResult {
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// If asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The model's logits are not finite.
    NotFinite,
    /// Every id is masked.
    NothingAllowed,
    /// No choice was asked for: the row, `(vocab_size)`.
    Logits(Vec<f32>),
    /// What the row is pooled to, `(pooled_width)`.
    Pooled(Vec<f32>),
}

/// Natural-log probabilities at one position, from the logits before any sampling stage.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token at this position.
    pub logprob: f32,
    /// Its rank, 1 for the most likely.
    pub rank: u32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}
