//! `generation_config.json`: what the model's makers recommend where a request says nothing.

use super::error::CheckpointError;
use super::json::Section;

/// Settings that are not done here, each with the number that turns it off.
const NUMBERS_NOT_DONE: [(&str, f64); 13] = [
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("diversity_penalty", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("typical_p", 1.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
];
/// Settings that are not done here and off only where nothing is said.
const OTHERS_NOT_DONE: [&str; 12] = [
    "bad_words_ids",
    "force_words_ids",
    "sequence_bias",
    "constraints",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "stop_strings",
    "dola_layers",
    "watermarking_config",
];

/// Recommended sampling and the tokens that end a sequence. Absent values are left to the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Divides the logits; 0 is greedy. `do_sample: false` counts as 0.
    pub temperature: Option<f64>,
    /// Mass of the most likely tokens to keep.
    pub top_p: Option<f64>,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: Option<usize>,
    /// Share of the largest probability to keep.
    pub min_p: Option<f64>,
    /// Divides or multiplies the logits of tokens that were seen.
    pub repetition_penalty: Option<f64>,
    /// Tokens that end a sequence, from here or else from the model's configuration. The native layout names
    /// none: there, the list is empty and the tokenizer knows.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationDefaults {
    /// Reads the file; `eos_token_ids` are those of the model's configuration.
    pub(super) fn parse(
        root: &Section<'_>,
        eos_token_ids: Vec<u32>,
        vocab_size: usize,
    ) -> Result<GenerationDefaults, CheckpointError> {
        let ignored = not_done(root);
        if !ignored.is_empty() {
            let path = root.path().display();
            tracing::warn!(%path, settings = ignored.join(", "), "these settings change generation and are ignored");
        }
        let own = token_ids(root, "eos_token_id", vocab_size)?;
        let greedy = root.flag("do_sample")? == Some(false);
        let temperature = root.number("temperature", 0.0..=100.0)?;
        Ok(GenerationDefaults {
            // transformers writes `do_sample: false` by omission; only a stated one means greedy.
            temperature: if greedy { Some(0.0) } else { temperature },
            top_p: root.number("top_p", 0.0..=1.0)?,
            top_k: root.count("top_k", 0..=1 << 24)?,
            min_p: root.number("min_p", 0.0..=1.0)?,
            repetition_penalty: root.number("repetition_penalty", 1e-3..=1e3)?,
            eos_token_ids: if own.is_empty() { eos_token_ids } else { own },
        })
    }
}

/// Settings of the file that change what is generated and are not done here.
pub(super) fn not_done(root: &Section<'_>) -> Vec<&'static str> {
    let numbers = NUMBERS_NOT_DONE.into_iter().filter(|(key, off)| match root.get(key) {
        None => false,
        Some(value) => value.as_f64() != Some(*off),
    });
    let others = OTHERS_NOT_DONE.into_iter().filter(|key| match root.get(key) {
        None => false,
        Some(value) => value.as_array().is_none_or(|list| !list.is_empty()),
    });
    numbers.map(|(key, _)| key).chain(others).collect()
}

/// One token id or a list of them; empty where the key is absent.
pub(super) fn token_ids(section: &Section<'_>, key: &str, vocab_size: usize) -> Result<Vec<u32>, CheckpointError> {
    let Some(value) = section.get(key) else { return Ok(Vec::new()) };
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let ids: Option<Vec<u32>> = values
        .iter()
        .map(|id| id.as_u64().filter(|id| *id < vocab_size as u64).and_then(|id| u32::try_from(id).ok()))
        .collect();
    ids.ok_or_else(|| section.refuse(key, &format!("a token id below {vocab_size}, or a list of them")))
}
