//! Tokenizer files that are cut off, corrupt or made to do harm: always an error, never a panic.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;
use tramontane::prompt::{
    ChatRequest, Codec, CodecOptions, PromptError, SpecialTokens, TekkenFile, TemplateChoice, TokenizerVersion,
    json::Value,
};

use crate::fixtures::{Data, codec, huggingface_bytes};

fn open_tekken(bytes: &[u8]) -> Result<Codec, PromptError> {
    Codec::from_tekken(&TekkenFile::parse(bytes, "tekken.json")?, None)
}

fn open_model(bytes: &[u8]) -> Result<Codec, PromptError> {
    Codec::from_sentencepiece(bytes, TokenizerVersion::V3, "tokenizer.model")
}

fn tiny() -> Vec<u8> {
    Data::of_repository().tokenizer_file("tekken-tiny.json")
}

fn model() -> Vec<u8> {
    Data::of_repository().tokenizer_file("tokenizer.model.v3")
}

/// Opens whatever it is given; if that succeeds the result must be usable.
fn exercise(opened: Result<Codec, PromptError>) {
    if let Ok(codec) = opened {
        let ids = codec.encode_text("Hello [INST] é 😀 \u{2581}  x", false);
        codec.decode(&ids, tramontane::prompt::SpecialTokens::Skip);
    }
}

#[test]
fn truncated_files_are_refused() {
    let (tiny, model, huggingface) = (tiny(), model(), huggingface_bytes());
    for step in 0..40 {
        let cut = |bytes: &[u8]| bytes[..bytes.len() * step / 40].to_vec();
        assert!(open_tekken(&cut(&tiny)).is_err(), "tekken cut at {step}/40");
        assert!(open_model(&cut(&model)).is_err(), "model cut at {step}/40");
        if step % 10 == 0 {
            let opened = Codec::from_huggingface(&cut(&huggingface), Some(TokenizerVersion::V3), "tokenizer.json");
            assert!(opened.is_err(), "tokenizer.json cut at {step}/40");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flipped_bytes_do_no_harm(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut tiny, mut model) = (tiny(), model());
        for (place, byte) in &places {
            *place.get_mut(&mut tiny) = *byte;
            *place.get_mut(&mut model) = *byte;
        }
        exercise(open_tekken(&tiny));
        exercise(open_model(&model));
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open_tekken(&bytes).is_err());
        prop_assert!(open_model(&bytes).is_err());
        prop_assert!(Codec::from_huggingface(&bytes, None, "tokenizer.json").is_err());
    }
}

/// The tiny tekken file with one change.
fn check_tekken(change: impl FnOnce(&mut serde_json::Value), expected: Expect) {
    let mut file: serde_json::Value = serde_json::from_slice(&tiny()).expect("JSON");
    change(&mut file);
    let error = open_tekken(file.to_string().as_bytes()).expect_err("must be refused");
    expected.assert_eq(&error.to_string());
}

#[test]
fn tekken_errors_say_what_is_wrong() {
    check_tekken(
        |file| file["vocab"][300]["rank"] = json!(301),
        expect!["tokenizer file `tekken.json`: vocab[300]: rank is 301, expected 300"],
    );
    check_tekken(
        |file| file["vocab"][301] = json!({"rank": 301, "token_bytes": file["vocab"][300]["token_bytes"]}),
        expect!["tokenizer file `tekken.json`: vocab[301]: the same bytes as vocab[300]"],
    );
    check_tekken(
        |file| file["vocab"][300]["token_bytes"] = json!("*"),
        expect!["tokenizer file `tekken.json`: vocab[300].token_bytes: Invalid symbol 42, offset 0."],
    );
    check_tekken(
        |file| file["vocab"][7]["token_bytes"] = json!("AAAA"),
        expect!["tokenizer file `tekken.json`: vocab[7]: expected the single byte 7"],
    );
    check_tekken(
        |file| file["config"]["default_vocab_size"] = json!(4_000_000_000_u32),
        expect![
            "tokenizer file `tekken.json`: config: default_vocab_size 4000000000 needs 3999999872 vocab entries, found 3968"
        ],
    );
    check_tekken(
        |file| file["config"]["default_num_special_tokens"] = json!(5000),
        expect![
            "tokenizer file `tekken.json`: config: default_vocab_size 4096 is less than default_num_special_tokens 5000"
        ],
    );
    check_tekken(
        |file| file["config"]["version"] = json!("v99"),
        expect![[
            r#"tokenizer file `tekken.json`: config.version: unknown tokenizer version "v99", expected one of v1, v2, v3, v7, v11, v13, v15"#
        ]],
    );
    check_tekken(
        |file| file["special_tokens"][1]["token_str"] = json!("<bos>"),
        expect!["tokenizer file `tekken.json`: has no control token `<s>`, which tokenizer version v13 needs"],
    );
    check_tekken(
        |file| file["special_tokens"][1]["rank"] = json!(0),
        expect![[r#"tokenizer file `tekken.json`: special_tokens[1]: rank 0 is taken by "<unk>""#]],
    );
}

#[test]
fn huge_counts_allocate_nothing() {
    // A vocabulary of four billion control tokens is only a number.
    let mut file: serde_json::Value = serde_json::from_slice(&tiny()).expect("JSON");
    file["config"]["default_num_special_tokens"] = json!(u32::MAX - 4000);
    file["config"]["default_vocab_size"] = json!(u32::MAX - 32);
    exercise(open_tekken(file.to_string().as_bytes()));
    // A piece that claims to have 2^60 bytes.
    let bytes = [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x0A];
    expect!["tokenizer file `tokenizer.model`: truncated"]
        .assert_eq(&open_model(&bytes).expect_err("must be refused").to_string());
}

#[test]
fn huggingface_files_of_other_kinds_are_refused() {
    let check = |text: &str, expected: Expect| {
        let error = Codec::from_huggingface(text.as_bytes(), None, "tokenizer.json").expect_err("must be refused");
        expected.assert_eq(&error.to_string());
    };
    check(
        r#"{"decoder": {"type": "WordPiece"}}"#,
        expect![
            "tokenizer file `tokenizer.json`: its decoder is WordPiece, expected ByteLevel, Metaspace or a sequence with ByteFallback"
        ],
    );
    check(
        r#"{"decoder": {"type": "ByteLevel"}, "model": {"type": "Unigram"}}"#,
        expect![[r#"tokenizer file `tokenizer.json`: model.type is "Unigram", expected "BPE""#]],
    );
    // What the vocabulary cannot write would be lost.
    check(
        r#"{"decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}, "model": {"type": "BPE", "unk_token": "?", "vocab": {"a": 0}, "merges": []}}"#,
        expect![[r#"tokenizer file `tokenizer.json`: model.vocab has no "Ā", the token of byte 0"#]],
    );
    let cyclic = r#"{"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 0},
        "merges": [["a", "b"], ["ab", "a"], ["b", "ab"]]}}"#;
    assert!(Codec::from_huggingface(cyclic.as_bytes(), None, "tokenizer.json").is_err());
}

/// The repository's tokenizer.json with one change.
fn open_huggingface(change: impl FnOnce(&mut serde_json::Value)) -> Result<Codec, PromptError> {
    let mut file: serde_json::Value = serde_json::from_slice(&huggingface_bytes()).expect("JSON");
    change(&mut file);
    Codec::from_huggingface(file.to_string().as_bytes(), Some(TokenizerVersion::V3), "tokenizer.json")
}

#[test]
fn a_tokenizer_that_loses_text_is_refused() {
    let check = |change: &dyn Fn(&mut serde_json::Value), expected: Expect| {
        expected.assert_eq(&open_huggingface(change).expect_err("must be refused").to_string());
    };
    check(
        &|file| file["model"]["byte_fallback"] = json!(false),
        expect![
            "tokenizer file `tokenizer.json`: model.byte_fallback is not true, so it has no tokens for characters it does not know"
        ],
    );
    check(
        &|file| file["pre_tokenizer"] = json!({"type": "WhitespaceSplit"}),
        expect![
            "tokenizer file `tokenizer.json`: its pre_tokenizer has the step WhitespaceSplit, which removes characters from texts"
        ],
    );
    check(
        &|file| {
            let tokens = file["added_tokens"].as_array_mut().expect("an array");
            tokens.push(json!({"id": 780, "content": "<0x41>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}));
        },
        expect![[
            r#"tokenizer file `tokenizer.json`: model.vocab: "<0x41>", the token of byte 65, is a special token"#
        ]],
    );
}

#[test]
fn no_text_is_lost() {
    let text = "Hello \u{1F32C}\u{FE0F} 北風 \u{10FFFF}\0é";
    let plain = open_huggingface(|_| {}).expect("valid");
    let ids = plain.encode_text(text, false);
    assert_eq!(plain.decode(&ids, tramontane::prompt::SpecialTokens::Skip), text);
    // An unknown token that is not there, and a limit on lengths.
    let odd = open_huggingface(|file| {
        file["model"]["unk_token"] = json!("missing");
        file["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    });
    assert_eq!(odd.expect("valid").encode_text(text, false), ids);
    // A special token that the vocabulary's own merges make: written without it.
    let merged = open_huggingface(|file| {
        let id = file["model"]["vocab"]["Hello"].clone();
        let tokens = file["added_tokens"].as_array_mut().expect("an array");
        tokens.push(json!({"id": id, "content": "Hello", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    });
    let merged = merged.expect("valid");
    let text = "xHello yHello";
    let ids = merged.encode_text(text, false);
    assert!(!ids.iter().any(|id| merged.is_control(*id)));
    assert_eq!(merged.decode(&ids, tramontane::prompt::SpecialTokens::Skip), text);
}

/// As Mistral's model cards write it: what is in front of the mark, the mark as control tokens, what is behind it.
#[test]
fn the_reasoning_prompt_of_a_checkpoint_stands_in_front() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).expect("written");
    put("tekken.json", &tiny());
    let prompt = || {
        let codec = Codec::open(folder.path(), &CodecOptions::default()).expect("valid");
        let body = r#"{"model": "m", "prompt_mode": "reasoning", "messages": [{"role": "user", "content": "Hi"}]}"#;
        let request = ChatRequest::from_json(&Value::parse(body).expect("JSON")).expect("a request");
        let ids = codec.encode_chat(&request).map_err(|error| error.to_string())?;
        Ok::<_, String>(codec.decode(&ids, SpecialTokens::Keep))
    };
    let refused = prompt().expect_err("there is no file");
    assert!(refused.starts_with("`prompt_mode` is \"reasoning\", expected no value"), "{refused}");
    put("SYSTEM_PROMPT.txt", b"You are a model that says what it is.");
    prompt().expect_err("it does not speak of reasoning");
    put("SYSTEM_PROMPT.txt", b"First think:\n[THINK]Your thoughts.[/THINK]Then answer.");
    let expected =
        "<s>[SYSTEM_PROMPT]First think:\n[THINK]Your thoughts.[/THINK]Then answer.[/SYSTEM_PROMPT][INST]Hi[/INST]";
    assert_eq!(prompt().as_deref(), Ok(expected));
}

#[test]
fn a_folder_tells_which_file_to_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = CodecOptions::default();
    let missing = Codec::open(folder.path(), &options).expect_err("nothing there");
    assert!(missing.to_string().contains("no tekken.json"), "{missing}");
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("written");
    put("tokenizer.json", &huggingface_bytes());
    let opened = Codec::open(folder.path(), &options).expect("valid");
    assert_eq!((opened.format().to_string().as_str(), opened.version()), ("huggingface", None));
    put("tokenizer.model.v3", &model());
    let opened = Codec::open(folder.path(), &options).expect("valid");
    assert_eq!((opened.format().to_string().as_str(), opened.version()), ("sentencepiece", Some(TokenizerVersion::V3)));
    put("tekken.json", &tiny());
    let opened = Codec::open(folder.path(), &options).expect("valid");
    assert_eq!((opened.format().to_string().as_str(), opened.version()), ("tekken", Some(TokenizerVersion::V13)));
    assert_eq!(opened.vocab_size(), codec("tiny-v13-tekken").vocab_size());
    let wants_jinja = CodecOptions { template: TemplateChoice::Jinja, ..options };
    let refused = Codec::open(folder.path(), &wants_jinja).expect_err("no template there");
    assert!(refused.to_string().contains("no chat_template.jinja"), "{refused}");
    put("tokenizer_config.json", br#"{"chat_template": "{{ bos_token }}{{ messages[0].content }}"}"#);
    assert!(Codec::open(folder.path(), &wants_jinja).expect("valid").uses_jinja());
}
