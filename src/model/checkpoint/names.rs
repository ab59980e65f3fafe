//! What tensors are called: one list of the decoder's parts, spelled as in the Hugging Face layout (under
//! one of four prefixes) or as in the native one; and which tensors of a checkpoint are knowingly unused.

use super::files::Layout;

/// Suffixes of the scale that an FP8 weight is multiplied with, `_inv` notwithstanding.
pub(super) const WEIGHT_SCALES: [&str; 3] = ["weight_scale_inv", "weight_scale", "qscale_weight"];
/// Suffixes of the scale of a quantised linear's input.
pub(super) const ACTIVATION_SCALES: [&str; 3] = ["activation_scale", "input_scale", "qscale_act"];

/// Parts that are not served yet and of which nothing in the decoder depends.
const SKIPPED_PREFIXES: [&str; 8] = [
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "vision_encoder.",
    "vision_language_adapter.",
    "patch_merger.",
    "pre_mm_projector_norm.",
];
/// Buffers that are computed here, and scales of a quantised key/value cache, which is not quantised here.
const SKIPPED_SUFFIXES: [&str; 9] = [
    ".rotary_emb.inv_freq",
    "_fake_quantizer.qscale_act",
    ".self_attn.q_scale",
    ".self_attn.k_scale",
    ".self_attn.v_scale",
    ".self_attn.kv_scale",
    ".self_attn.prob_scale",
    ".self_attn.k_proj.output_scale",
    ".self_attn.v_proj.output_scale",
];

/// Prefixes of the decoder and of the head in the Hugging Face layout.
const HF_PREFIXES: [(&str, &str); 4] = [
    ("model.", "lm_head"),
    ("language_model.model.", "language_model.lm_head"),
    // The names that transformers has in memory; some tools write them.
    ("model.language_model.", "lm_head"),
    // A decoder without a head is saved without the prefix.
    ("", "lm_head"),
];

/// How one checkpoint spells its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    HuggingFace { prefix: &'static str, head: &'static str },
    Native,
}

/// A module of a layer; its tensors are `<name>.weight` and the scales of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    InputNorm,
    Query,
    Key,
    Value,
    Output,
    PostAttentionNorm,
    Gate,
    Up,
    Down,
    Router,
    ExpertGate(usize),
    ExpertUp(usize),
    ExpertDown(usize),
}

impl Naming {
    /// Recognises the spelling by the embedding; where it is missing, the plain one will be asked for it.
    pub(super) fn detect(layout: Layout, contains: impl Fn(&str) -> bool) -> Naming {
        match layout {
            Layout::Native => Naming::Native,
            Layout::HuggingFace => {
                let known = HF_PREFIXES.iter().find(|(prefix, _)| contains(&format!("{prefix}embed_tokens.weight")));
                let (prefix, head) = known.unwrap_or(&HF_PREFIXES[0]);
                Naming::HuggingFace { prefix, head }
            }
        }
    }

    pub(super) fn embed_tokens(self) -> String {
        match self {
            Naming::HuggingFace { prefix, .. } => format!("{prefix}embed_tokens"),
            Naming::Native => "tok_embeddings".into(),
        }
    }

    pub(super) fn norm(self) -> String {
        match self {
            Naming::HuggingFace { prefix, .. } => format!("{prefix}norm"),
            Naming::Native => "norm".into(),
        }
    }

    pub(super) fn lm_head(self) -> String {
        match self {
            Naming::HuggingFace { head, .. } => head.into(),
            Naming::Native => "output".into(),
        }
    }

    /// The table of classes.
    pub(super) fn score(self) -> String {
        "score".into()
    }

    /// Query and key rows are interleaved pairs per head, to be brought into half-split order.
    pub(super) fn interleaves_rotary_rows(self) -> bool {
        self == Naming::Native
    }

    pub(super) fn part(self, layer: usize, part: Part) -> String {
        match self {
            Naming::HuggingFace { prefix, .. } => format!("{prefix}layers.{layer}.{}", hugging_face(part)),
            Naming::Native => format!("layers.{layer}.{}", native(part)),
        }
    }
}

/// The tensor belongs to a part that is knowingly left out.
pub(super) fn is_skipped(name: &str) -> bool {
    SKIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SKIPPED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn hugging_face(part: Part) -> String {
    match part {
        Part::InputNorm => "input_layernorm".into(),
        Part::Query => "self_attn.q_proj".into(),
        Part::Key => "self_attn.k_proj".into(),
        Part::Value => "self_attn.v_proj".into(),
        Part::Output => "self_attn.o_proj".into(),
        Part::PostAttentionNorm => "post_attention_layernorm".into(),
        Part::Gate => "mlp.gate_proj".into(),
        Part::Up => "mlp.up_proj".into(),
        Part::Down => "mlp.down_proj".into(),
        Part::Router => "block_sparse_moe.gate".into(),
        Part::ExpertGate(expert) => format!("block_sparse_moe.experts.{expert}.w1"),
        Part::ExpertUp(expert) => format!("block_sparse_moe.experts.{expert}.w3"),
        Part::ExpertDown(expert) => format!("block_sparse_moe.experts.{expert}.w2"),
    }
}

fn native(part: Part) -> String {
    match part {
        Part::InputNorm => "attention_norm".into(),
        Part::Query => "attention.wq".into(),
        Part::Key => "attention.wk".into(),
        Part::Value => "attention.wv".into(),
        Part::Output => "attention.wo".into(),
        Part::PostAttentionNorm => "ffn_norm".into(),
        Part::Gate => "feed_forward.w1".into(),
        Part::Up => "feed_forward.w3".into(),
        Part::Down => "feed_forward.w2".into(),
        Part::Router => "feed_forward.gate".into(),
        Part::ExpertGate(expert) => format!("feed_forward.experts.{expert}.w1"),
        Part::ExpertUp(expert) => format!("feed_forward.experts.{expert}.w3"),
        Part::ExpertDown(expert) => format!("feed_forward.experts.{expert}.w2"),
    }
}
