//! `config.json` of the Hugging Face layout, in the spelling of transformers 4.x (`rope_theta`,
//! `rope_scaling`) and of 5.x (`rope_parameters`). A missing key means what it means in transformers: the
//! default of the model's configuration class, which [`Defaults`] lists per `model_type`.

use serde_json::{Value, json};

use super::bounds::{self, Keys};
use super::error::{CheckpointError, Subject, quote};
use super::json::Section;
use super::pooling::{self, HeadSettings};
use super::quantization::QuantizationConfig;
use crate::model::config::{
    AttentionConfig, AttentionTemperature, Config, ExpertsConfig, FeedForwardConfig, RopeConfig, RopeScaling,
    YarnConfig,
};

/// What is served, for error messages.
pub(super) const SERVED: &str = "mistral (MistralForCausalLM, MistralModel, MistralForSequenceClassification), mixtral (MixtralForCausalLM), \
    ministral (MinistralForCausalLM), ministral3 (Ministral3ForCausalLM), \
    and mistral3 (Mistral3ForConditionalGeneration) with a text_config of mistral, ministral or ministral3";
const SERVED_ROPE: &str = "default, linear, yarn";

/// What the rest of the loader needs of a configuration file.
pub(super) struct ParsedConfig {
    pub(super) architecture: String,
    pub(super) head: HeadSettings,
    /// `tie_word_embeddings` is as configured; whether it applies is decided by the tensors.
    pub(super) config: Config,
    pub(super) quantization: Option<QuantizationConfig>,
    pub(super) eos_token_ids: Vec<u32>,
}

/// The text decoders that are served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Mistral,
    Mixtral,
    Ministral,
    Ministral3,
}

/// Defaults of transformers' configuration class, where a missing key has one that matters.
struct Defaults {
    vocab_size: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    rope_theta: f64,
    /// Window where the key is missing; null always means none.
    sliding_window: Option<usize>,
}

/// Reads `config.json`.
pub(super) fn parse(root: &Section<'_>) -> Result<ParsedConfig, CheckpointError> {
    let model_type = root.text("model_type")?.ok_or_else(|| root.refuse("model_type", "a string"))?;
    let architecture = architecture(root, model_type)?;
    let head = pooling::head(root, &architecture)?;
    let nested = if model_type == "mistral3" {
        Some(root.section("text_config")?.ok_or_else(|| root.refuse("text_config", "an object"))?)
    } else {
        None
    };
    let (text, text_type) = match &nested {
        None => (root, model_type),
        Some(text) => (text, text.text("model_type")?.unwrap_or("mistral")),
    };
    let family = match (text_type, &nested) {
        ("mistral", _) => Family::Mistral,
        ("mixtral", None) => Family::Mixtral,
        ("ministral", _) => Family::Ministral,
        ("ministral3", _) => Family::Ministral3,
        (other, None) => return Err(unserved(root, quote(other))),
        (other, Some(_)) => return Err(unserved(root, format!("mistral3 with text_config {}", quote(other)))),
    };
    refuse_variants(text, family)?;

    let defaults = Defaults::of(family);
    let mut config = decoder(text, family, &defaults)?;
    // The class default of a Mistral 3 is true, and released files lack the key.
    config.tie_word_embeddings = match root.flag("tie_word_embeddings")? {
        Some(tied) => tied,
        None => nested.is_some(),
    };
    let quantization = match root.section("quantization_config")? {
        Some(section) => Some(QuantizationConfig::parse(&section)?),
        None => match text.section("quantization_config")? {
            Some(section) => Some(QuantizationConfig::parse(&section)?),
            None => None,
        },
    };
    let mut eos_token_ids = super::generation::token_ids(root, "eos_token_id", config.vocab_size)?;
    if eos_token_ids.is_empty() {
        eos_token_ids = super::generation::token_ids(text, "eos_token_id", config.vocab_size)?;
    }
    Ok(ParsedConfig { architecture, head, config, quantization, eos_token_ids })
}

/// The one of `architectures`, which must be a class of this `model_type` that is served; the one that generates text if
/// there is none.
fn architecture(root: &Section<'_>, model_type: &str) -> Result<String, CheckpointError> {
    let served: &[&str] = match model_type {
        "mistral" => &["MistralForCausalLM", pooling::EMBEDDER, pooling::CLASSIFIER],
        "mixtral" => &["MixtralForCausalLM"],
        "ministral" => &["MinistralForCausalLM"],
        "ministral3" => &["Ministral3ForCausalLM"],
        "mistral3" => &["Mistral3ForConditionalGeneration"],
        other => return Err(unserved(root, quote(other))),
    };
    let mut found = None;
    for architecture in root.list("architectures")?.unwrap_or_default() {
        let name = architecture.as_str().ok_or_else(|| root.refuse("architectures", "a list of strings"))?;
        if !served.contains(&name) {
            return Err(unserved(root, format!("{} with model_type {model_type}", quote(name))));
        }
        if found.is_some_and(|other| other != name) {
            return Err(root.refuse("architectures", "one architecture"));
        }
        found = Some(name);
    }
    Ok(found.unwrap_or(served[0]).into())
}

fn unserved(section: &Section<'_>, found: String) -> CheckpointError {
    CheckpointError::Unsupported { path: section.path().into(), subject: Subject::Architecture, found, served: SERVED }
}

/// Settings that would change the computation in a way that the decoder does not do.
fn refuse_variants(text: &Section<'_>, family: Family) -> Result<(), CheckpointError> {
    if text.text("hidden_act")?.is_some_and(|act| act != "silu") {
        return Err(text.refuse("hidden_act", "\"silu\""));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if text.flag(key)? == Some(true) {
            return Err(text.refuse(key, "false"));
        }
    }
    if text.number("partial_rotary_factor", 0.0..=1.0)?.is_some_and(|factor| factor != 1.0) {
        return Err(text.refuse("partial_rotary_factor", "1"));
    }
    for key in ["q_lora_rank", "kv_lora_rank", "n_routed_experts"] {
        if text.get(key).is_some() {
            return Err(text.refuse(key, "nothing: latent attention and shared experts are not served"));
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if text.get(key).is_some() {
            return Err(text.refuse(key, "nothing: logits are not capped"));
        }
    }
    for key in ["no_rope_layers", "no_rope_layer_interval"] {
        if text.get(key).is_some() {
            return Err(text.refuse(key, "nothing: every layer rotates queries and keys"));
        }
    }
    if family != Family::Mixtral && text.get("num_local_experts").is_some() {
        return Err(text.refuse("num_local_experts", "nothing, unless model_type is mixtral"));
    }
    Ok(())
}

fn decoder(text: &Section<'_>, family: Family, defaults: &Defaults) -> Result<Config, CheckpointError> {
    let hidden_size = text.count("hidden_size", bounds::WIDTH)?.unwrap_or(4096);
    let heads = text.count("num_attention_heads", bounds::HEADS)?.unwrap_or(32);
    // Absent means 8, as in transformers; null means one per query head.
    let default_kv_heads = if text.contains("num_key_value_heads") { heads } else { 8 };
    let num_hidden_layers = text.count("num_hidden_layers", bounds::LAYERS)?.unwrap_or(defaults.num_hidden_layers);
    let default_head_dim =
        if text.contains("head_dim") { hidden_size / heads } else { defaults.head_dim.unwrap_or(hidden_size / heads) };
    let max_position_embeddings =
        text.count("max_position_embeddings", bounds::POSITIONS)?.unwrap_or(defaults.max_position_embeddings);
    let (rope, temperature) = rope(text, family, defaults, max_position_embeddings)?;
    let experts = match family {
        Family::Mixtral => Some(ExpertsConfig {
            num_experts: text.count("num_local_experts", bounds::EXPERTS)?.unwrap_or(8),
            experts_per_token: text.count("num_experts_per_tok", bounds::EXPERTS)?.unwrap_or(2),
        }),
        Family::Mistral | Family::Ministral | Family::Ministral3 => None,
    };
    let config = Config {
        vocab_size: text.count("vocab_size", bounds::VOCABULARY)?.unwrap_or(defaults.vocab_size),
        hidden_size,
        num_hidden_layers,
        attention: AttentionConfig {
            num_attention_heads: heads,
            num_key_value_heads: text.count("num_key_value_heads", bounds::HEADS)?.unwrap_or(default_kv_heads),
            head_dim: text.count("head_dim", bounds::HEAD_DIM)?.unwrap_or(default_head_dim),
            windows: windows(text, family, defaults, num_hidden_layers)?,
            temperature,
        },
        feed_forward: FeedForwardConfig {
            intermediate_size: text.count("intermediate_size", bounds::WIDTH)?.unwrap_or(14336),
            experts,
        },
        rms_norm_eps: text.number("rms_norm_eps", bounds::EPSILON)?.unwrap_or(defaults.rms_norm_eps) as f32,
        rope,
        tie_word_embeddings: false,
        max_position_embeddings,
    };
    let keys = Keys {
        heads: "num_attention_heads",
        kv_heads: "num_key_value_heads",
        head_dim: "head_dim",
        experts_per_token: "num_experts_per_tok",
    };
    bounds::check_relations(&config, text, &keys)?;
    Ok(config)
}

/// The window of each layer. Only `ministral` mixes them, by `layer_types`; elsewhere transformers ignores
/// that key, so one that says something else than `sliding_window` is refused.
fn windows(
    text: &Section<'_>,
    family: Family,
    defaults: &Defaults,
    layers: usize,
) -> Result<Vec<Option<usize>>, CheckpointError> {
    let window = text.count("sliding_window", bounds::POSITIONS)?;
    let window = if text.contains("sliding_window") { window } else { defaults.sliding_window };
    let Some(layer_types) = text.list("layer_types")? else { return Ok(vec![window; layers]) };
    if layer_types.len() != layers {
        return Err(text.refuse("layer_types", &format!("a list of {layers}, one entry per layer")));
    }
    let expected = "a list of \"full_attention\" and \"sliding_attention\", the latter with a sliding_window";
    let mut windows = Vec::with_capacity(layers);
    for layer_type in layer_types {
        windows.push(match (layer_type.as_str(), window) {
            (Some("full_attention"), _) => None,
            (Some("sliding_attention"), Some(window)) => Some(window),
            _ => return Err(text.refuse("layer_types", expected)),
        });
    }
    if family != Family::Ministral && windows.iter().any(|other| *other != window) {
        return Err(text.refuse("layer_types", "the same window in every layer, unless model_type is ministral"));
    }
    Ok(windows)
}

/// Rotary embedding and query scaling, from `rope_parameters`, or else `rope_scaling` and `rope_theta`.
fn rope(
    text: &Section<'_>,
    family: Family,
    defaults: &Defaults,
    max_position_embeddings: usize,
) -> Result<(RopeConfig, Option<AttentionTemperature>), CheckpointError> {
    let class_default = ministral3_rope();
    let section = match text.section("rope_parameters")? {
        Some(section) => Some(section),
        None => text.section("rope_scaling")?,
    };
    let section = match (section, family) {
        (None, Family::Ministral3) => Some(Section::root(text.path(), &class_default)?),
        (section, _) => section,
    };
    let Some(section) = section else {
        let theta = text.number("rope_theta", bounds::THETA)?.unwrap_or(defaults.rope_theta);
        return Ok((RopeConfig { theta, scaling: RopeScaling::None }, None));
    };
    let theta = match section.number("rope_theta", bounds::THETA)? {
        Some(theta) => theta,
        None => text.number("rope_theta", bounds::THETA)?.unwrap_or(defaults.rope_theta),
    };
    if section.sections().next().is_some() {
        return Err(text.refuse("rope_parameters", "one set of parameters for all layers"));
    }
    if section.number("partial_rotary_factor", 0.0..=1.0)?.is_some_and(|factor| factor != 1.0) {
        return Err(section.refuse("partial_rotary_factor", "1"));
    }
    let rope_type = match section.text("rope_type")? {
        Some(rope_type) => rope_type,
        None => section.text("type")?.unwrap_or("default"),
    };
    let scaling = match rope_type {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required_factor(&section)? },
        "yarn" => RopeScaling::Yarn(yarn(&section, max_position_embeddings)?),
        other => {
            return Err(CheckpointError::Unsupported {
                path: text.path().into(),
                subject: Subject::RopeType,
                found: quote(other),
                served: SERVED_ROPE,
            });
        }
    };
    let temperature = temperature(&section, family)?;
    Ok((RopeConfig { theta, scaling }, temperature))
}

/// Follows `_compute_yarn_parameters` of transformers' `modeling_rope_utils.py`.
fn yarn(section: &Section<'_>, max_position_embeddings: usize) -> Result<YarnConfig, CheckpointError> {
    let factor = required_factor(section)?;
    let mscale = section.number("mscale", bounds::BETA)?.filter(|mscale| *mscale != 0.0);
    let mscale_all_dim = section.number("mscale_all_dim", bounds::BETA)?.filter(|mscale| *mscale != 0.0);
    let attention_factor = match (section.number("attention_factor", bounds::SCALE)?, mscale, mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all_dim)) => magnitude_scale(factor, mscale) / magnitude_scale(factor, all_dim),
        (None, _, _) => magnitude_scale(factor, 1.0),
    };
    let beta_fast = section.number("beta_fast", bounds::ROTATIONS)?.unwrap_or(32.0);
    let beta_slow = section.number("beta_slow", bounds::ROTATIONS)?.unwrap_or(1.0);
    if beta_slow > beta_fast {
        return Err(section.refuse("beta_slow", &format!("at most beta_fast = {beta_fast}")));
    }
    Ok(YarnConfig {
        factor,
        original_max_position_embeddings: section
            .count("original_max_position_embeddings", bounds::POSITIONS)?
            .unwrap_or(max_position_embeddings),
        beta_fast,
        beta_slow,
        attention_factor,
        truncate: section.flag("truncate")?.unwrap_or(true),
    })
}

/// `0.1 * mscale * ln(factor) + 1`, the growth of attention's magnitude in YaRN (arXiv 2309.00071, eq. 22).
pub(super) fn magnitude_scale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

fn required_factor(section: &Section<'_>) -> Result<f64, CheckpointError> {
    section.number("factor", bounds::FACTOR)?.ok_or_else(|| section.refuse("factor", "a number"))
}

/// Only `ministral3` scales its queries; another model that asks for it would be computed wrongly.
fn temperature(section: &Section<'_>, family: Family) -> Result<Option<AttentionTemperature>, CheckpointError> {
    let key = "llama_4_scaling_beta";
    let Some(beta) = section.number(key, bounds::BETA)?.filter(|beta| *beta != 0.0) else { return Ok(None) };
    if family != Family::Ministral3 {
        return Err(section.refuse(key, "0, unless model_type is ministral3"));
    }
    let original = section.count("original_max_position_embeddings", bounds::POSITIONS)?;
    let original_max_position_embeddings =
        original.ok_or_else(|| section.refuse("original_max_position_embeddings", "a number of positions"))?;
    Ok(Some(AttentionTemperature { beta, original_max_position_embeddings }))
}

impl Defaults {
    fn of(family: Family) -> Defaults {
        let common = Defaults {
            vocab_size: 32_000,
            num_hidden_layers: 32,
            max_position_embeddings: 131_072,
            head_dim: None,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            sliding_window: Some(4096),
        };
        match family {
            Family::Mistral | Family::Ministral => common,
            Family::Mixtral => Defaults { rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: None, ..common },
            Family::Ministral3 => Defaults {
                vocab_size: 131_072,
                num_hidden_layers: 34,
                max_position_embeddings: 262_144,
                head_dim: Some(128),
                rms_norm_eps: 1e-5,
                rope_theta: 10_000.0,
                sliding_window: None,
            },
        }
    }
}

/// What `Ministral3Config` assumes without `rope_parameters`.
fn ministral3_rope() -> Value {
    json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1
    })
}
