//! How the next token is chosen. The order of the stages is that of vLLM's V1 sampler:
//! `allowed_token_ids`, `bad_words`, `logit_bias`, penalties, temperature, `min_p`, `top_k`, `top_p`; then
//! `typical_p`, which vLLM does not have.

/// Sampling parameters of one request. The defaults are vLLM's: temperature 1, everything else off.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 means greedy: the most likely token after bias and penalties, the lowest id on a tie.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens, and all that tie with the last of them; 0 is off.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens whose mass reaches `top_p`; 1 is off.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely; 0 is off.
    pub min_p: f32,
    /// Keep the ids whose surprise is nearest to the expected one, up to this mass; 1 is off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occur in the output.
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Added to the logits of the given token ids, before everything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Only these ids can be chosen; `None` allows all.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Token sequences that the output never completes.
    pub bad_words: Vec<Vec<u32>>,
    /// Seed of this request's own random stream; `None` takes a fresh one.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            seed: None,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} must be {expected}, got {value}")]
pub struct InvalidSampling {
    /// Name of the field as in the request.
    pub field: &'static str,
    /// The value as given.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

impl SamplingParams {
    /// Checks every range; NaN and infinities are refused everywhere.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        check("temperature", self.temperature, "between 0 and 2", |v| (0.0..=2.0).contains(&v))?;
        check("top_p", self.top_p, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        check("min_p", self.min_p, "between 0 and 1", |v| (0.0..=1.0).contains(&v))?;
        check("typical_p", self.typical_p, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        check("repetition_penalty", self.repetition_penalty, "between 0.01 and 10", |v| (0.01..=10.0).contains(&v))?;
        check("presence_penalty", self.presence_penalty, "between -2 and 2", |v| v.abs() <= 2.0)?;
        check("frequency_penalty", self.frequency_penalty, "between -2 and 2", |v| v.abs() <= 2.0)?;
        for &(_, bias) in &self.logit_bias {
            check("logit_bias", bias, "between -100 and 100", |v| v.abs() <= 100.0)?;
        }
        Ok(())
    }

    /// True if the next token is simply the most likely one.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

fn check(
    field: &'static str,
    value: f32,
    expected: &'static str,
    ok: impl Fn(f32) -> bool,
) -> Result<(), InvalidSampling> {
    if ok(value) { Ok(()) } else { Err(InvalidSampling { field, value: value.to_string(), expected }) }
}
