//! What configuration values come to mean, and which are refused.

use expect_test::{Expect, expect};

use super::*;
use crate::model::checkpoint::{ComputeDtype, GenerationDefaults, Section, Subject, generation};
use crate::model::config::{AttentionTemperature, RopeScaling};

/// Opens a case with one changed value and compares the refusal.
fn check(case: &str, change: impl FnOnce(&mut Value), expected: Expect) {
    let dir = copy_of(case);
    let names = ["config.json", "params.json"].map(|name| dir.path().join(name));
    edit(names.iter().find(|path| path.exists()).unwrap(), change);
    expected.assert_eq(&refusal(dir.path()));
}

fn set(key: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |config| config[key] = value
}

fn remove(key: &'static str) -> impl FnOnce(&mut Value) {
    move |config| {
        config.as_object_mut().unwrap().remove(key);
    }
}

#[test]
fn missing_keys_mean_what_they_mean_in_transformers() {
    let config = open_with("mistral-v03", remove("sliding_window")).unwrap().config().clone();
    assert_eq!(config.attention.windows, [Some(4096), Some(4096)]);
    let config = open_with("mistral-v03", set("sliding_window", Value::Null)).unwrap().config().clone();
    assert_eq!(config.attention.windows, [None, None]);
    let config = open_with("mixtral-4x2", remove("sliding_window")).unwrap().config().clone();
    assert_eq!(config.attention.windows, [None, None]);
    let config = open_with("mistral-v03", remove("rope_theta")).unwrap().config().clone();
    assert_eq!(config.rope.theta, 1e4);
    let config = open_with("mixtral-4x2", remove("rope_theta")).unwrap().config().clone();
    assert_eq!(config.rope.theta, 1e6);
    let config = open_with("ministral-8b", remove("layer_types")).unwrap().config().clone();
    assert_eq!(config.attention.windows, vec![Some(12); 4]);
    let config = open_with("ministral3", remove("rope_parameters")).unwrap().config().clone();
    let temperature = AttentionTemperature { beta: 0.1, original_max_position_embeddings: 16384 };
    assert_eq!(config.attention.temperature, Some(temperature));
    assert!(
        matches!(config.rope.scaling, RopeScaling::Yarn(yarn) if yarn.factor == 16.0 && yarn.attention_factor == 1.0)
    );
}

#[test]
fn layers_alternate_windows() {
    let config = Checkpoint::open(&golden("ministral-8b")).unwrap().config().clone();
    assert_eq!(config.attention.windows, [None, Some(12), Some(12), Some(12)]);
    let pattern = json!([null, 32]);
    for key in ["sliding_window", "_sliding_window"] {
        let config = open_with("native-nemo", set(key, pattern.clone())).unwrap().config().clone();
        assert_eq!(config.attention.windows, [None, Some(32)]);
    }
    let check_window = |value, expected| check("native-nemo", set("sliding_window", value), expected);
    check_window(
        json!([1, 2, 3]),
        expect![
            "DIR/params.json: sliding_window is a list of 3, expected windows or nulls, as many as divide the number of layers"
        ],
    );
    check_window(
        json!([]),
        expect![
            "DIR/params.json: sliding_window is a list of 0, expected windows or nulls, as many as divide the number of layers"
        ],
    );
    check_window(
        json!([-4, null]),
        expect![
            "DIR/params.json: sliding_window is a list of 2, expected windows or nulls, as many as divide the number of layers"
        ],
    );
    let types = json!(["full_attention", "sliding_attention"]);
    check(
        "mistral-v03",
        |config| {
            config["layer_types"] = types;
            config["sliding_window"] = json!(8);
        },
        expect![
            "DIR/config.json: layer_types is a list of 2, expected the same window in every layer, unless model_type is ministral"
        ],
    );
}

#[test]
fn native_theta_depends_on_the_window() {
    assert_eq!(Checkpoint::open(&golden("native-v01")).unwrap().config().rope.theta, 1e4);
    assert_eq!(open_with("native-v01", remove("sliding_window")).unwrap().config().rope.theta, 1e6);
}

#[test]
fn yarn_scales_cos_and_sin_as_released() {
    let factor = |checkpoint: Checkpoint| match &checkpoint.config().rope.scaling {
        RopeScaling::Yarn(yarn) => yarn.attention_factor,
        other => panic!("{other:?}"),
    };
    let grown = 0.1 * 16f64.ln() + 1.0;
    assert_eq!(
        factor(open_with("native-ministral3", |params| params["yarn"]["apply_scale"] = json!(true)).unwrap()),
        grown
    );
    assert_eq!(factor(Checkpoint::open(&golden("native-ministral3")).unwrap()), 1.0);
    let parameters = |key: &'static str, value: Value| {
        factor(open_with("ministral3", move |config| config["rope_parameters"][key] = value).unwrap())
    };
    assert_eq!(parameters("attention_factor", json!(1.5)), 1.5);
    assert_eq!(parameters("mscale", json!(0)), grown);
    assert_eq!(parameters("mscale", json!(2)), (0.2 * 16f64.ln() + 1.0) / grown);
}

#[test]
fn generation_defaults_come_from_their_file() {
    let dir = copy_of("mistral-v03");
    let none = GenerationDefaults { eos_token_ids: vec![2], ..GenerationDefaults::default() };
    assert_eq!(*Checkpoint::open(dir.path()).unwrap().generation_defaults(), none);
    assert!(Checkpoint::open(&golden("native-v01")).unwrap().generation_defaults().eos_token_ids.is_empty());

    let path = dir.path().join("generation_config.json");
    fs::write(&path, r#"{"eos_token_id": [2, 7], "temperature": 0.15, "top_p": 0.9, "top_k": 50, "num_beams": 4}"#)
        .unwrap();
    let expected = GenerationDefaults {
        temperature: Some(0.15),
        top_p: Some(0.9),
        top_k: Some(50),
        eos_token_ids: vec![2, 7],
        ..GenerationDefaults::default()
    };
    assert_eq!(*Checkpoint::open(dir.path()).unwrap().generation_defaults(), expected);
    let refuse = |text: &str, expected: Expect| {
        fs::write(&path, text).unwrap();
        expected.assert_eq(&refusal(dir.path()));
    };
    refuse(
        r#"{"eos_token_id": 512}"#,
        expect!["DIR/generation_config.json: eos_token_id is 512, expected a token id below 512, or a list of them"],
    );
    refuse(
        r#"{"eos_token_id": ["</s>"]}"#,
        expect![
            "DIR/generation_config.json: eos_token_id is a list of 1, expected a token id below 512, or a list of them"
        ],
    );
    refuse(
        r#"{"temperature": "hot"}"#,
        expect![[r#"DIR/generation_config.json: temperature is "hot", expected a number from 0e0 to 1e2"#]],
    );
    refuse("[]", expect!["DIR/generation_config.json: the outermost value is a list of 0, expected an object"]);
}

#[test]
fn settings_that_are_not_done_are_refused_or_named() {
    check(
        "mistral-v03",
        set("final_logit_softcapping", json!(30.0)),
        expect!["DIR/config.json: final_logit_softcapping is 30.0, expected nothing: logits are not capped"],
    );
    check(
        "mistral3-mistral",
        |config| config["text_config"]["attn_logit_softcapping"] = json!(50),
        expect!["DIR/config.json: text_config.attn_logit_softcapping is 50, expected nothing: logits are not capped"],
    );
    check(
        "ministral3",
        set("no_rope_layers", json!([1, 0])),
        expect![
            "DIR/config.json: no_rope_layers is a list of 2, expected nothing: every layer rotates queries and keys"
        ],
    );
    check(
        "native-mixtral",
        |params| params["moe"]["routed_scale"] = json!(2.5),
        expect!["DIR/params.json: moe.routed_scale is 2.5, expected 1"],
    );
    check(
        "native-mixtral",
        |params| params["moe"]["num_expert_groups"] = json!(4),
        expect!["DIR/params.json: moe.num_expert_groups is 4, expected 1"],
    );
    let off = |config: &mut Value| config["final_logit_softcapping"] = Value::Null;
    assert!(open_with("mistral-v03", off).is_ok());
    assert!(open_with("native-mixtral", |params| params["moe"]["routed_scale"] = json!(1.0)).is_ok());

    let not_done = |value: Value| generation::not_done(&Section::root(Path::new("file"), &value).unwrap());
    let off = json!({"num_beams": 1, "no_repeat_ngram_size": 0, "bad_words_ids": null, "suppress_tokens": []});
    assert!(not_done(off).is_empty());
    let on = json!({"no_repeat_ngram_size": 3, "num_beams": 4, "typical_p": 0.9, "bad_words_ids": [[1]], "top_k": 5});
    assert_eq!(not_done(on), ["no_repeat_ngram_size", "num_beams", "typical_p", "bad_words_ids"]);
}

#[test]
fn tying_follows_the_files() {
    // The class default is true and the key is missing, yet the file has a head.
    assert!(!Checkpoint::open(&golden("mistral3-mistral")).unwrap().config().tie_word_embeddings);
    assert!(!open_with("mistral-v03", set("tie_word_embeddings", json!(true))).unwrap().config().tie_word_embeddings);
    check(
        "mistral-tied",
        set("tie_word_embeddings", json!(false)),
        expect!["DIR: tensor lm_head.weight is missing, expected BF16 or F16 or F32 or F8_E4M3 [512, 64]"],
    );
}

#[test]
fn the_default_dtype_is_the_stored_one() {
    for (case, dtype) in [
        ("dtype-f16", ComputeDtype::F16),
        ("dtype-f32", ComputeDtype::F32),
        ("fp8-native", ComputeDtype::Bf16),
        ("mistral-v03", ComputeDtype::Bf16),
    ] {
        assert_eq!(Checkpoint::open(&golden(case)).unwrap().default_dtype(), dtype, "{case}");
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (model_type, class) in [
        ("mistral4", "Mistral4ForCausalLM"),
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForTokenClassification"),
        ("mixtral", "MixtralModel"),
        ("mistral", "LlamaForCausalLM"),
        ("mistral_large4", "MistralLarge4ForConditionalGeneration"),
    ] {
        let error = open_with("mistral-v03", |config| {
            config["model_type"] = json!(model_type);
            config["architectures"] = json!([class]);
        })
        .unwrap_err();
        assert!(error.is_unsupported_architecture(), "{error}");
        let message = error.to_string();
        assert!(message.contains(model_type) && message.contains("served: mistral (MistralForCausalLM,"), "{message}");
    }
    let nested = open_with("mistral3-mistral", |config| config["text_config"]["model_type"] = json!("mistral4"));
    assert!(nested.unwrap_err().is_unsupported_architecture());
    for key in ["q_lora_rank", "kv_lora_rank", "multimodal"] {
        assert!(open_with("native-nemo", set(key, json!(8))).unwrap_err().is_unsupported_architecture(), "{key}");
    }
    let shared = open_with("native-mixtral", |params| params["moe"]["num_shared_experts"] = json!(1));
    assert!(shared.unwrap_err().is_unsupported_architecture());
}

#[test]
fn other_quantizations_and_rope_types_are_refused_by_name() {
    for (method, found) in
        [("gptq", "gptq"), ("awq", "awq"), ("bitsandbytes", "bitsandbytes"), ("fbgemm_fp8", "fbgemm_fp8")]
    {
        match open_with("mistral-v03", set("quantization_config", json!({"quant_method": method}))).unwrap_err() {
            CheckpointError::Unsupported { subject: Subject::Quantization, found: name, .. } => assert_eq!(name, found),
            other => panic!("{other}"),
        }
    }
    check(
        "fp8-ct-channel",
        |config| config["quantization_config"]["format"] = json!("pack-quantized"),
        expect![
            "DIR/config.json: quantization pack-quantized is not served; served: fp8 (e4m3), compressed-tensors float-quantized with 8 bits, and native fp8_e4m3"
        ],
    );
    check(
        "fp8-ct-channel",
        |config| config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = json!(4),
        expect!["DIR/config.json: quantization_config.config_groups.group_0.weights.num_bits is 4, expected 8"],
    );
    check(
        "fp8-native",
        |params| params["quantization"]["qformat_weight"] = json!("fp8_e5m2"),
        expect![
            "DIR/params.json: quantization fp8_e5m2 is not served; served: fp8 (e4m3), compressed-tensors float-quantized with 8 bits, and native fp8_e4m3"
        ],
    );
    check(
        "mistral-rope-linear",
        |config| config["rope_scaling"]["type"] = json!("dynamic"),
        expect!["DIR/config.json: rope type dynamic is not served; served: default, linear, yarn"],
    );
    check(
        "mistral-rope-linear",
        |config| config["rope_scaling"]["rope_type"] = json!("llama3"),
        expect!["DIR/config.json: rope type llama3 is not served; served: default, linear, yarn"],
    );
    check(
        "mistral-headdim-wide",
        |config| config["rope_parameters"] = json!({"full_attention": {"rope_type": "default"}}),
        expect!["DIR/config.json: rope_parameters is an object of 1, expected one set of parameters for all layers"],
    );
}

#[test]
fn values_out_of_bounds_are_refused_before_anything_is_allocated() {
    check(
        "mistral-v03",
        set("num_hidden_layers", json!(1_000_000_000)),
        expect!["DIR/config.json: num_hidden_layers is 1000000000, expected a whole number from 1 to 1024"],
    );
    check(
        "mistral-v03",
        set("num_hidden_layers", json!(1e300)),
        expect!["DIR/config.json: num_hidden_layers is 1e+300, expected a whole number from 1 to 1024"],
    );
    check(
        "mistral-v03",
        set("num_hidden_layers", json!(1000)),
        expect!["DIR: tensor model.layers.2.input_layernorm.weight is missing, expected BF16 or F16 or F32 [64]"],
    );
    check(
        "mistral-v03",
        set("num_hidden_layers", json!(1)),
        expect![
            "DIR/model.safetensors: tensor model.layers.1.input_layernorm.weight belongs to no known part of this architecture (9 such tensors)"
        ],
    );
    check(
        "mistral-v03",
        set("hidden_size", json!(-64)),
        expect!["DIR/config.json: hidden_size is -64, expected a whole number from 1 to 1048576"],
    );
    check(
        "mistral-v03",
        set("hidden_size", json!("64")),
        expect![[r#"DIR/config.json: hidden_size is "64", expected a whole number from 1 to 1048576"#]],
    );
    check(
        "mistral-v03",
        set("hidden_size", json!(128)),
        expect![
            "DIR/model.safetensors: tensor model.embed_tokens.weight is BF16 [512, 64], expected BF16 or F16 or F32 [512, 128]"
        ],
    );
    check(
        "mistral-v03",
        remove("hidden_size"),
        expect![
            "DIR/model.safetensors: tensor model.embed_tokens.weight is BF16 [512, 64], expected BF16 or F16 or F32 [512, 4096]"
        ],
    );
    check(
        "mistral-v03",
        set("intermediate_size", json!(81)),
        expect![
            "DIR/model.safetensors: tensor model.layers.0.mlp.gate_proj.weight is BF16 [80, 64], expected BF16 or F16 or F32 or F8_E4M3 [81, 64]"
        ],
    );
    check(
        "mistral-v03",
        set("vocab_size", json!(18446744073709551615u64)),
        expect!["DIR/config.json: vocab_size is 18446744073709551615, expected a whole number from 1 to 16777216"],
    );
    check(
        "mistral-v03",
        set("num_attention_heads", json!(0)),
        expect!["DIR/config.json: num_attention_heads is 0, expected a whole number from 1 to 4096"],
    );
    check(
        "mistral-v03",
        set("num_key_value_heads", json!(3)),
        expect!["DIR/config.json: num_key_value_heads is 3, expected a divisor of num_attention_heads = 4"],
    );
    check(
        "mistral-v03",
        set("num_key_value_heads", json!(8)),
        expect!["DIR/config.json: num_key_value_heads is 8, expected a divisor of num_attention_heads = 4"],
    );
    check(
        "mistral-v03",
        set("head_dim", json!(15)),
        expect!["DIR/config.json: head_dim is 15, expected an even width from 2 to 4096, not 15"],
    );
    check(
        "mistral-v03",
        set("num_attention_heads", json!(4096)),
        expect!["DIR/config.json: head_dim is missing, expected an even width from 2 to 4096, not 0"],
    );
    check(
        "mistral-v03",
        set("rms_norm_eps", json!(0)),
        expect!["DIR/config.json: rms_norm_eps is 0, expected a number from 1e-12 to 1e0"],
    );
    check(
        "mistral-v03",
        set("rms_norm_eps", json!("nan")),
        expect![[r#"DIR/config.json: rms_norm_eps is "nan", expected a number from 1e-12 to 1e0"#]],
    );
    check(
        "mistral-v03",
        set("rope_theta", json!(-1)),
        expect!["DIR/config.json: rope_theta is -1, expected a number from 2e0 to 1e15"],
    );
    check(
        "mistral-v03",
        set("sliding_window", json!(0)),
        expect!["DIR/config.json: sliding_window is 0, expected a whole number from 1 to 2147483648"],
    );
    check("mistral-v03", set("model_type", json!(7)), expect!["DIR/config.json: model_type is 7, expected a string"]);
    check(
        "mistral-v03",
        set("hidden_act", json!("gelu")),
        expect![[r#"DIR/config.json: hidden_act is "gelu", expected "silu""#]],
    );
    check(
        "mixtral-4x2",
        set("num_experts_per_tok", json!(5)),
        expect!["DIR/config.json: num_experts_per_tok is 5, expected at most 4"],
    );
    check(
        "mixtral-4x2",
        set("num_local_experts", json!(4_000_000)),
        expect!["DIR/config.json: num_local_experts is 4000000, expected a whole number from 1 to 4096"],
    );
    check(
        "ministral3",
        |config| config["rope_parameters"]["factor"] = json!(0.5),
        expect!["DIR/config.json: rope_parameters.factor is 0.5, expected a number from 1e0 to 1e6"],
    );
    check(
        "ministral3",
        |config| config["rope_parameters"]["beta_slow"] = json!(64),
        expect!["DIR/config.json: rope_parameters.beta_slow is 64, expected at most beta_fast = 32"],
    );
    check(
        "mistral3-mistral",
        set("text_config", json!([])),
        expect!["DIR/config.json: text_config is a list of 0, expected an object"],
    );
    check(
        "native-nemo",
        set("n_layers", json!(u64::MAX)),
        expect!["DIR/params.json: n_layers is 18446744073709551615, expected a whole number from 1 to 1024"],
    );
    check("native-nemo", remove("dim"), expect!["DIR/params.json: dim is missing, expected a whole number"]);
    check(
        "native-nemo",
        set("norm_eps", json!([])),
        expect!["DIR/params.json: norm_eps is a list of 0, expected a number from 1e-12 to 1e0"],
    );
}
