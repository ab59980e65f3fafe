//! A checkpoint with random weights, small enough to be made anew for each test.

use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::fixtures::Data;

const VOCAB: usize = 4096;
const HIDDEN: usize = 32;
const HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const INTERMEDIATE: usize = 48;

/// Parameters of the checkpoint.
pub(super) const PARAMETERS: usize = 2 * VOCAB * HIDDEN
    + (2 * HEADS + 2) * HEAD_DIM * HIDDEN // q and o have two heads, k and v one
    + 3 * INTERMEDIATE * HIDDEN
    + 3 * HIDDEN;

/// Writes configuration, weights and tokenizer to `directory`.
pub(super) fn write(directory: &Path) {
    write_as(directory, "MistralForCausalLM", "model.", Some(("lm_head.weight", VOCAB)));
}

/// The same as a checkpoint that only embeds texts, whose tokenizer ends them with the end of sequence.
pub(super) fn write_embedder(directory: &Path) {
    write_as(directory, "MistralModel", "", None);
    let module =
        |kind: &str, path: &str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
    let modules = [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")];
    let file = |name: &str, content: serde_json::Value| {
        std::fs::write(directory.join(name), content.to_string()).unwrap();
    };
    file("modules.json", json!(modules));
    std::fs::create_dir(directory.join("1_Pooling")).unwrap();
    file("1_Pooling/config.json", json!({ "word_embedding_dimension": HIDDEN, "pooling_mode_lasttoken": true }));
    file("tokenizer_config.json", json!({ "add_bos_token": true, "add_eos_token": true }));
}

/// The same with a classification head.
pub(super) fn write_classifier(directory: &Path) {
    write_as(directory, "MistralForSequenceClassification", "model.", Some(("score.weight", 2)));
}

/// `head` is the name of its tensor and how many rows that has.
fn write_as(directory: &Path, architecture: &str, prefix: &str, head: Option<(&str, usize)>) {
    let config = json!({
        "architectures": [architecture], "model_type": "mistral", "hidden_act": "silu",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": null, "tie_word_embeddings": false,
        "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.join("tekken.json"), Data::of_repository().tokenizer_file("tekken-tiny.json")).unwrap();
    let layer = |name: &str| format!("{prefix}layers.0.{name}.weight");
    let mut shapes = BTreeMap::from([
        (format!("{prefix}embed_tokens.weight"), vec![VOCAB, HIDDEN]),
        (format!("{prefix}norm.weight"), vec![HIDDEN]),
        (layer("input_layernorm"), vec![HIDDEN]),
        (layer("post_attention_layernorm"), vec![HIDDEN]),
        (layer("self_attn.q_proj"), vec![HEADS * HEAD_DIM, HIDDEN]),
        (layer("self_attn.k_proj"), vec![HEAD_DIM, HIDDEN]),
        (layer("self_attn.v_proj"), vec![HEAD_DIM, HIDDEN]),
        (layer("self_attn.o_proj"), vec![HIDDEN, HEADS * HEAD_DIM]),
        (layer("mlp.gate_proj"), vec![INTERMEDIATE, HIDDEN]),
        (layer("mlp.up_proj"), vec![INTERMEDIATE, HIDDEN]),
        (layer("mlp.down_proj"), vec![HIDDEN, INTERMEDIATE]),
    ]);
    shapes.extend(head.map(|(name, rows)| (name.to_owned(), vec![rows, HIDDEN])));
    let bytes: BTreeMap<&String, Vec<u8>> =
        shapes.iter().map(|(name, shape)| (name, values(name, shape.iter().product()))).collect();
    let views =
        shapes.iter().map(|(name, shape)| (name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
}

/// Norms of one, everything else from a small linear congruential generator, within ±0.5.
fn values(name: &str, count: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(1u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let value = |_| if name.contains("norm") { 1.0 } else { next() };
    (0..count).map(value).flat_map(f32::to_le_bytes).collect()
}
