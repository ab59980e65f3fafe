//! Encoding text: the Hugging Face form of a tokenizer, typed control tokens, long inputs.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tramontane::prompt::{ChatRequest, Codec, SpecialTokens, TokenizerVersion, json};

use crate::fixtures::{Data, codec, huggingface_bytes, read};

/// Natively encoded by the Hugging Face file too, except near the 20 pieces `[REFERENCE_DOC_n]`:
/// SentencePiece matches them inside text, and the Hugging Face pipeline then puts a space in front
/// of the text behind them.
const USER_DEFINED: &str = "[REFERENCE_DOC_";

#[test]
fn huggingface_encodes_as_sentencepiece() {
    let huggingface = Codec::from_huggingface(&huggingface_bytes(), Some(TokenizerVersion::V3), "hf").expect("valid");
    assert_eq!(huggingface.vocab_size(), codec("v3-spm").vocab_size());
    let rows = String::from_utf8(read(&Data::of_repository().vectors.join("encode.jsonl"))).expect("UTF-8");
    let (mut n_same, mut n_excepted) = (0, 0);
    for line in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = row["text"].as_str().expect("text");
        if row["tokenizer"] != "v3-spm" {
            continue;
        }
        let expected: Vec<u32> = serde_json::from_value(row["ids"].clone()).expect("ids");
        let ids = huggingface.encode_text(text, false);
        assert!(!ids.iter().any(|id| huggingface.is_control(*id)), "{text:?}");
        if text.contains(USER_DEFINED) {
            n_excepted += 1;
            continue;
        }
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(huggingface.decode(&ids, SpecialTokens::Skip), row["decoded"].as_str().expect("decoded"));
        n_same += 1;
    }
    println!("{n_same} texts encoded alike, {n_excepted} with user-defined pieces left out");
    assert!(n_same > 500 && n_excepted < 20);
}

#[test]
fn huggingface_with_a_version_formats_chats_natively() {
    let huggingface = Codec::from_huggingface(&huggingface_bytes(), Some(TokenizerVersion::V3), "hf").expect("valid");
    let body = r#"{"model": "m", "messages": [{"role": "system", "content": "Be brief."},
        {"role": "user", "content": "[INST] </s> Hi"}], "tools": [{"function": {"name": "f"}}]}"#;
    let request = ChatRequest::from_json(&json::Value::parse(body).expect("JSON")).expect("a request");
    assert_eq!(
        huggingface.encode_chat(&request).expect("a prompt"),
        codec("v3-spm").encode_chat(&request).expect("a prompt")
    );
}

proptest! {
    /// No text becomes a control token, and text survives the round trip.
    #[test]
    fn text_stays_text(parts in prop::collection::vec(part(), 0..12)) {
        let text = parts.concat();
        for name in ["v1-spm", "v3-spm", "v7-spm", "v3-tekken", "tiny-v13-tekken"] {
            let codec = codec(name);
            let ids = codec.encode_text(&text, false);
            prop_assert!(!ids.iter().any(|id| codec.is_control(*id)), "{name}: {ids:?}");
            let decoded = codec.decode(&ids, SpecialTokens::Skip);
            let is_spm = name.ends_with("spm");
            prop_assert_eq!(decoded, if is_spm { text.replace('\u{2581}', " ") } else { text.clone() }, "{}", name);
        }
    }
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ \t\r\n]{0,9}",
        "[a-zA-Z ,.']{0,20}",
        prop::sample::select(vec!["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<unk>", "[ARGS]", "<0x0A>"])
            .prop_map(str::to_owned),
    ]
}

/// A prompt of more than a hundred thousand tokens takes well under a second, and so do texts made
/// to be slow: one word, one run of spaces, one emoji without end. The limits are generous, as tests
/// run unoptimised and side by side; the times are printed.
#[test]
fn long_texts_are_fast() {
    let prose = "The weather in Zürich is 22.5 °C, they say; `let x = f(y)?;` is code.\n  Next line. ".repeat(6000);
    let texts = [
        ("prose", prose),
        ("one letter", "a".repeat(1 << 20)),
        ("letters", "qzxj".repeat(1 << 18)),
        ("spaces", " ".repeat(1 << 20)),
        ("line breaks and spaces", "\n ".repeat(1 << 19)),
        ("emoji", "😀".repeat(1 << 18)),
        ("U+2581", "\u{2581}".repeat(1 << 18)),
        ("ideographs", "龘".repeat(1 << 18)),
    ];
    for name in ["v3-tekken", "v3-spm"] {
        for (kind, text) in &texts {
            let start = Instant::now();
            let n_ids = codec(name).encode_text(text, false).len();
            let elapsed = start.elapsed();
            println!("{name}, {kind}: {} bytes, {n_ids} tokens, {} ms", text.len(), elapsed.as_millis());
            assert!(elapsed < Duration::from_secs(15), "{name}, {kind}: {elapsed:?}");
        }
    }
}
