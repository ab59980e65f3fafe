//! `params.json` of Mistral's native layout. Defaults are those of mistral-inference (`args.py`,
//! `transformer_layers.py`) and, where that has none, of vLLM's reader of the same files.

use super::bounds::{self, Keys};
use super::error::{CheckpointError, Subject};
use super::hf_config::{ParsedConfig, SERVED, magnitude_scale};
use super::json::Section;
use super::pooling::HeadSettings;
use super::quantization::QuantizationConfig;
use crate::model::config::{
    AttentionConfig, AttentionTemperature, Config, ExpertsConfig, FeedForwardConfig, RopeConfig, RopeScaling,
    YarnConfig,
};

/// Positions that vLLM and mistral-inference assume where the file names none.
const DEFAULT_POSITIONS: usize = 128_000;
/// Keys that stand for another architecture, with its name for the refusal.
const OTHER_ARCHITECTURES: [(&str, &str); 6] = [
    ("q_lora_rank", "native checkpoint with multi-head latent attention (q_lora_rank)"),
    ("kv_lora_rank", "native checkpoint with multi-head latent attention (kv_lora_rank)"),
    ("multimodal", "native checkpoint with an audio encoder (multimodal)"),
    ("lora", "native checkpoint of a LoRA adapter (lora)"),
    ("state_size", "native checkpoint of a state-space model (state_size)"),
    ("ada_rms_norm_t_cond", "native checkpoint with conditioned norms (ada_rms_norm_t_cond)"),
];
/// Keys of `moe` that only other expert layers than Mixtral's have.
const OTHER_EXPERTS: [&str; 3] = ["num_shared_experts", "expert_hidden_dim", "first_k_dense_replace"];
/// Keys of `moe` that change the routing unless they are 1.
const ONLY_ONE: [&str; 3] = ["routed_scale", "num_expert_groups", "num_expert_groups_per_tok"];

/// Reads `params.json`.
pub(super) fn parse(root: &Section<'_>) -> Result<ParsedConfig, CheckpointError> {
    let unserved = |found: String| CheckpointError::Unsupported {
        path: root.path().into(),
        subject: Subject::Architecture,
        found,
        served: SERVED,
    };
    for (key, found) in OTHER_ARCHITECTURES {
        if root.get(key).is_some_and(|value| value != &serde_json::Value::Bool(false)) {
            return Err(unserved(found.into()));
        }
    }
    if root.text("model_type")?.is_some_and(|model_type| model_type != "transformer") {
        return Err(root.refuse("model_type", "\"transformer\""));
    }
    if root.flag("causal")? == Some(false) {
        return Err(root.refuse("causal", "true"));
    }
    let experts = match root.section("moe")? {
        None => None,
        Some(moe) => {
            if let Some(key) = OTHER_EXPERTS.iter().find(|key| moe.get(key).is_some()) {
                return Err(unserved(format!("native checkpoint with experts other than Mixtral's (moe.{key})")));
            }
            for key in ONLY_ONE {
                if moe.get(key).is_some_and(|value| value.as_f64() != Some(1.0)) {
                    return Err(moe.refuse(key, "1"));
                }
            }
            Some(ExpertsConfig {
                num_experts: required(&moe, "num_experts", bounds::EXPERTS)?,
                experts_per_token: required(&moe, "num_experts_per_tok", bounds::EXPERTS)?,
            })
        }
    };
    let config = decoder(root, experts)?;
    let quantization = root.section("quantization")?.map(|section| QuantizationConfig::parse_native(&section));
    let architecture = if experts.is_some() { "native Mixtral" } else { "native Mistral" };
    Ok(ParsedConfig {
        architecture: architecture.into(),
        head: HeadSettings::Logits,
        config,
        quantization: quantization.transpose()?,
        // The native layout leaves the end of sequence to the tokenizer.
        eos_token_ids: Vec::new(),
    })
}

fn decoder(root: &Section<'_>, experts: Option<ExpertsConfig>) -> Result<Config, CheckpointError> {
    let hidden_size = required(root, "dim", bounds::WIDTH)?;
    let num_hidden_layers = required(root, "n_layers", bounds::LAYERS)?;
    let heads = required(root, "n_heads", bounds::HEADS)?;
    let windows = windows(root, num_hidden_layers)?;
    let positions = match root.count("max_position_embeddings", bounds::POSITIONS)? {
        Some(positions) => Some(positions),
        None => root.count("max_seq_len", bounds::POSITIONS)?,
    };
    let default_theta = if windows.iter().any(Option::is_some) { 1e4 } else { 1e6 };
    let epsilon = root.number("norm_eps", bounds::EPSILON)?;
    let config = Config {
        vocab_size: required(root, "vocab_size", bounds::VOCABULARY)?,
        hidden_size,
        num_hidden_layers,
        attention: AttentionConfig {
            num_attention_heads: heads,
            num_key_value_heads: root.count("n_kv_heads", bounds::HEADS)?.unwrap_or(heads),
            head_dim: root.count("head_dim", bounds::HEAD_DIM)?.unwrap_or(hidden_size / heads),
            windows,
            temperature: temperature(root)?,
        },
        feed_forward: FeedForwardConfig { intermediate_size: required(root, "hidden_dim", bounds::WIDTH)?, experts },
        rms_norm_eps: epsilon.ok_or_else(|| root.refuse("norm_eps", "a number"))? as f32,
        rope: RopeConfig {
            theta: root.number("rope_theta", bounds::THETA)?.unwrap_or(default_theta),
            scaling: yarn(root)?.map_or(RopeScaling::None, RopeScaling::Yarn),
        },
        tie_word_embeddings: root.flag("tied_embeddings")?.unwrap_or(false),
        max_position_embeddings: positions.unwrap_or(DEFAULT_POSITIONS),
    };
    let keys = Keys {
        heads: "n_heads",
        kv_heads: "n_kv_heads",
        head_dim: "head_dim",
        experts_per_token: "moe.num_experts_per_tok",
    };
    bounds::check_relations(&config, root, &keys)?;
    Ok(config)
}

/// `sliding_window` is null, one number, or a list whose pattern repeats over the layers (Ministral 8B);
/// `_sliding_window` is its second name in mistral-inference.
fn windows(root: &Section<'_>, layers: usize) -> Result<Vec<Option<usize>>, CheckpointError> {
    let key = if root.get("sliding_window").is_some() { "sliding_window" } else { "_sliding_window" };
    if !root.get(key).is_some_and(serde_json::Value::is_array) {
        return Ok(vec![root.count(key, bounds::POSITIONS)?; layers]);
    }
    let expected = "windows or nulls, as many as divide the number of layers";
    let pattern = root.list(key)?.unwrap_or_default();
    if pattern.is_empty() || !layers.is_multiple_of(pattern.len()) {
        return Err(root.refuse(key, expected));
    }
    let mut windows = Vec::with_capacity(pattern.len());
    for window in pattern {
        let size = window.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| bounds::POSITIONS.contains(n));
        if size.is_none() && !window.is_null() {
            return Err(root.refuse(key, expected));
        }
        windows.push(size);
    }
    Ok((0..layers).map(|layer| windows[layer % windows.len()]).collect())
}

fn yarn(root: &Section<'_>) -> Result<Option<YarnConfig>, CheckpointError> {
    let Some(yarn) = root.section("yarn")? else { return Ok(None) };
    let factor = yarn.number("factor", bounds::FACTOR)?.ok_or_else(|| yarn.refuse("factor", "a number"))?;
    let beta_fast = yarn.number("beta", bounds::ROTATIONS)?.unwrap_or(32.0);
    let beta_slow = yarn.number("alpha", bounds::ROTATIONS)?.unwrap_or(1.0);
    if beta_slow > beta_fast {
        return Err(yarn.refuse("alpha", &format!("at most beta = {beta_fast}")));
    }
    let scaled = yarn.flag("apply_scale")?.unwrap_or(true);
    Ok(Some(YarnConfig {
        factor,
        original_max_position_embeddings: required(&yarn, "original_max_position_embeddings", bounds::POSITIONS)?,
        beta_fast,
        beta_slow,
        attention_factor: if scaled { magnitude_scale(factor, 1.0) } else { 1.0 },
        truncate: true,
    }))
}

fn temperature(root: &Section<'_>) -> Result<Option<AttentionTemperature>, CheckpointError> {
    let Some(scaling) = root.section("llama_4_scaling")? else { return Ok(None) };
    let beta = scaling.number("beta", bounds::BETA)?.ok_or_else(|| scaling.refuse("beta", "a number"))?;
    let original_max_position_embeddings = required(&scaling, "original_max_position_embeddings", bounds::POSITIONS)?;
    Ok((beta != 0.0).then_some(AttentionTemperature { beta, original_max_position_embeddings }))
}

fn required(
    section: &Section<'_>,
    key: &str,
    bounds: std::ops::RangeInclusive<usize>,
) -> Result<usize, CheckpointError> {
    section.count(key, bounds)?.ok_or_else(|| section.refuse(key, "a whole number"))
}
