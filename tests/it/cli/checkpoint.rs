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
    let config = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": null, "tie_word_embeddings": false,
        "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.join("tekken.json"), Data::of_repository().tokenizer_file("tekken-tiny.json")).unwrap();
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
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
