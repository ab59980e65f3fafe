//! What checkpoints make of whole texts, and every side file that asks for something else refused.

use candle_core::Device;
use expect_test::{Expect, expect};

use super::*;
use crate::{
    model::{
        checkpoint::{ComputeDtype, NoProgress},
        weights::Head,
    },
    types::Pooling,
};

fn check_e5(file: &str, change: impl FnOnce(&mut Value), expected: Expect) {
    check("embed-e5", file, change, expected);
}

fn check(case: &str, file: &str, change: impl FnOnce(&mut Value), expected: Expect) {
    let dir = copy_of(case);
    edit(&dir.path().join(file), change);
    let found = match Checkpoint::open(dir.path()) {
        Ok(checkpoint) => format!("{:?}", checkpoint.pooling()),
        Err(error) => error.to_string().replace(&dir.path().display().to_string(), "DIR"),
    };
    expected.assert_eq(&found);
}

#[test]
fn an_embedding_checkpoint_has_no_head() {
    let checkpoint = Checkpoint::open(&golden("embed-e5")).unwrap();
    assert!(!checkpoint.generates() && !checkpoint.config().tie_word_embeddings);
    assert_eq!(checkpoint.pooling(), &Pooling::Embedding { width: 64, normalized: true, max_seq_length: None });
    let weights = checkpoint.load(ComputeDtype::F32, &Device::Cpu, &NoProgress).unwrap();
    assert!(matches!(weights.head, Head::Nothing));
    let summary = checkpoint.summary();
    assert_eq!(summary.architecture, "MistralModel");
    // All tensors of the file, and nothing beside them.
    assert_eq!((summary.parameters, summary.skipped.tensors), (88_384, 0));
}

#[test]
fn a_checkpoint_that_generates_embeds_too() {
    let checkpoint = Checkpoint::open(&golden("mistral-v03")).unwrap();
    assert!(checkpoint.generates());
    let width = checkpoint.config().hidden_size;
    assert_eq!(checkpoint.pooling(), &Pooling::Embedding { width, normalized: true, max_seq_length: None });
}

#[test]
fn modules_are_done_or_refused() {
    let keep = |_: &mut Value| {};
    check_e5("modules.json", keep, expect![[r#"Embedding { width: 64, normalized: true, max_seq_length: None }"#]]);
    check_e5(
        "modules.json",
        |modules| modules.as_array_mut().unwrap().truncate(2),
        expect![[r#"Embedding { width: 64, normalized: false, max_seq_length: None }"#]],
    );
    check_e5(
        "modules.json",
        |modules| modules[2]["type"] = json!("sentence_transformers.sentence_transformer.modules.Normalize"),
        expect![[r#"Embedding { width: 64, normalized: true, max_seq_length: None }"#]],
    );
    check_e5(
        "modules.json",
        |modules| modules[2]["type"] = json!("sentence_transformers.models.Dense"),
        expect![[
            r#"DIR/modules.json: type is "sentence_transformers.models.Dense", expected a Transformer, Pooling or Normalize module"#
        ]],
    );
    check_e5(
        "modules.json",
        |modules| modules.as_array_mut().unwrap().swap(1, 2),
        expect![
            "DIR/modules.json: the list of modules is Transformer, Normalize, Pooling, expected Transformer, Pooling and maybe Normalize"
        ],
    );
    check_e5(
        "modules.json",
        |modules| modules[1]["path"] = json!("../1_Pooling"),
        expect![[r#"DIR/modules.json: path is "../1_Pooling", expected the name of a folder in the same directory"#]],
    );
    check_e5(
        "modules.json",
        |modules| *modules = json!({}),
        expect!["DIR/modules.json: the list of modules is an object of 0, expected a list"],
    );
}

#[test]
fn a_prompt_in_front_of_every_text_is_refused() {
    let dir = copy_of("embed-e5");
    let file = dir.path().join("config_sentence_transformers.json");
    fs::write(&file, r#"{"prompts": {"query": "Query: "}, "default_prompt_name": null}"#).unwrap();
    assert!(Checkpoint::open(dir.path()).is_ok());
    edit(&file, |config| config["default_prompt_name"] = json!("query"));
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    let expected = r#"default_prompt_name is "query", expected null: prompts are the client's to write"#;
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn texts_have_the_length_that_the_checkpoint_wants_and_the_letters_that_they_have() {
    let dir = copy_of("embed-e5");
    let file = dir.path().join("sentence_bert_config.json");
    fs::write(&file, r#"{"max_seq_length": 4096, "do_lower_case": false}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().pooling().max_seq_length(), Some(4096));
    edit(&file, |config| config["max_seq_length"] = json!(null));
    assert_eq!(Checkpoint::open(dir.path()).unwrap().pooling().max_seq_length(), None);
    edit(&file, |config| config["max_seq_length"] = json!(0));
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("max_seq_length is 0, expected a whole number from 1 to"), "{error}");
    edit(&file, |config| config["do_lower_case"] = json!(true));
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    let expected = "do_lower_case is true, expected false: texts are embedded in the letters that they have";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn only_the_last_token_is_pooled() {
    let file = "1_Pooling/config.json";
    check_e5(
        file,
        |config| config["pooling_mode_mean_tokens"] = json!(true),
        expect![
            "DIR/1_Pooling/config.json: pooling_mode_mean_tokens is true, expected false: only pooling_mode_lasttoken is served"
        ],
    );
    check_e5(
        file,
        |config| config["pooling_mode_lasttoken"] = json!(false),
        expect![
            "DIR/1_Pooling/config.json: pooling_mode_lasttoken is false, expected true: no other way of pooling is served"
        ],
    );
    check_e5(
        file,
        |config| *config = json!({"embedding_dimension": 64, "pooling_mode": "mean"}),
        expect![[
            r#"DIR/1_Pooling/config.json: pooling_mode is "mean", expected "lasttoken": no other way of pooling is served"#
        ]],
    );
    check_e5(
        file,
        |config| config["word_embedding_dimension"] = json!(32),
        expect!["DIR/1_Pooling/config.json: word_embedding_dimension is 32, expected the model's hidden_size = 64"],
    );
}

#[test]
fn classes_have_labels_and_an_activation() {
    let with = |change: fn(&mut Value), expected: Expect| check("seqcls", "config.json", change, expected);
    with(|_| {}, expect![[r#"Classes { labels: ["LABEL_0", "LABEL_1", "LABEL_2"], activation: Softmax }"#]]);
    with(
        |config| config["problem_type"] = json!("multi_label_classification"),
        expect![[r#"Classes { labels: ["LABEL_0", "LABEL_1", "LABEL_2"], activation: Sigmoid }"#]],
    );
    with(
        |config| config["problem_type"] = json!("regression"),
        expect![[r#"Classes { labels: ["LABEL_0", "LABEL_1", "LABEL_2"], activation: Identity }"#]],
    );
    with(
        |config| config["problem_type"] = json!("ranking"),
        expect![[
            r#"DIR/config.json: problem_type is "ranking", expected single_label_classification, multi_label_classification or regression"#
        ]],
    );
    with(
        |config| config["id2label"] = json!({"0": "no", "1": "yes"}),
        expect!["DIR/model.safetensors: tensor score.weight is BF16 [3, 64], expected BF16 or F16 or F32 [2, 64]"],
    );
    with(
        |config| config["id2label"] = json!({"0": "no", "2": "yes", "3": "maybe"}),
        expect!["DIR/config.json: id2label.1 is missing, expected a label's name"],
    );
    with(
        |config| config["num_labels"] = json!(4),
        expect!["DIR/config.json: id2label is an object of 3, expected an object with a name per label"],
    );
    with(
        |config| config["architectures"] = json!(["MistralModel"]),
        expect![
            "DIR/model.safetensors: tensor score.weight belongs to no known part of this architecture (1 such tensors)"
        ],
    );
    with(
        |config| config["architectures"] = json!(["MistralForSequenceClassification", "MistralModel"]),
        expect!["DIR/config.json: architectures is a list of 2, expected one architecture"],
    );
}
