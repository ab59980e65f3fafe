//! What depends on the tokenizer's version: tools, ids of tool calls, model cards, offsets with SentencePiece.

use serde_json::{Value, json};
use tramontane::prompt::{Codec, SpecialTokens, TokenizerVersion};

use super::support::{EOS, Harness, codec_of, continues};
use crate::fixtures::Data;

fn sentencepiece(version: TokenizerVersion) -> Codec {
    let name = format!("tokenizer.model.{version}");
    let bytes = Data::of_repository().tokenizer_file(&name);
    Codec::from_sentencepiece(&bytes, version, &name).expect("a valid tokenizer")
}

fn silent(codec: Codec) -> Harness {
    Harness::with_codec(Box::new(|_| EOS), codec)
}

fn tools() -> Value {
    json!([{ "type": "function", "function": { "name": "roll", "parameters": { "type": "object" } } }])
}

/// A question, a call with that id, and its result.
fn conversation(id: &str) -> Value {
    let call = json!({ "id": id, "type": "function", "function": { "name": "roll", "arguments": "{}" } });
    json!([
        { "role": "user", "content": "Roll" },
        { "role": "assistant", "content": "", "tool_calls": [call] },
        { "role": "tool", "tool_call_id": id, "content": "4" },
    ])
}

async fn prompt_of(harness: &Harness, codec: &Codec, id: &str) -> String {
    let body = json!({ "messages": conversation(id), "tools": tools(), "return_token_ids": true });
    let answer = harness.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let ids: Vec<u32> = serde_json::from_value(answer.json()["prompt_token_ids"].clone()).expect("ids");
    let tokenized = harness.post("/tokenize", &json!({ "messages": conversation(id), "tools": tools() })).await;
    assert_eq!(tokenized.json()["tokens"], json!(ids));
    codec.decode(&ids, SpecialTokens::Keep)
}

#[tokio::test]
async fn ids_of_other_servers_are_fitted() {
    for version in [TokenizerVersion::V7, TokenizerVersion::V11] {
        let codec = codec_of(version);
        let harness = silent(codec.clone());
        let foreign = prompt_of(&harness, &codec, "call_8f3a20cc").await;
        assert!(!foreign.contains("call_8f3a20cc"), "{foreign}");
        let marker = match version {
            TokenizerVersion::V7 => r#""id": ""#,
            _ => "[CALL_ID]",
        };
        let (_, rest) = foreign.split_once(marker).unwrap_or_else(|| panic!("no {marker} in {foreign}"));
        let id = &rest[..9];
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{foreign}");
        assert_eq!(foreign.matches(id).count(), 2, "the call and its result: {foreign}");
        assert_eq!(prompt_of(&harness, &codec, "call_8f3a20cc").await, foreign, "each time the same");
        assert_eq!(prompt_of(&harness, &codec, id).await, foreign, "an id that fits stays");
        assert_ne!(prompt_of(&harness, &codec, "call_8f3a20cd").await, foreign);
    }
}

#[tokio::test]
async fn results_without_their_call_are_still_refused() {
    let harness = silent(codec_of(TokenizerVersion::V11));
    let mut messages = conversation("call_1");
    messages[2]["tool_call_id"] = json!("call_2");
    let answer = harness.chat(json!({ "messages": messages })).await;
    assert_eq!(answer.error(), r#"400 "messages[2].tool_call_id" null"#);
    let answer = harness.chat(json!({ "messages": conversation("") })).await;
    assert_eq!(answer.error(), r#"400 "messages[1].tool_calls[0].id" null"#);
}

#[tokio::test]
async fn a_tokenizer_without_tools_is_offered_none() {
    let harness = silent(sentencepiece(TokenizerVersion::V1));
    assert_eq!(harness.chat(json!({ "tools": tools() })).await.error(), r#"400 "tools" null"#);
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let tokenized = harness.post("/tokenize", &json!({ "messages": messages, "tools": tools() })).await;
    assert_eq!(tokenized.error(), r#"400 "tools" null"#);
    for more in [json!({ "tools": [] }), json!({ "tools": null }), json!({ "tools": tools(), "tool_choice": "none" })] {
        assert_eq!(harness.chat(more.clone()).await.status, 200, "{more}");
    }
}

#[tokio::test]
async fn model_cards_say_what_the_tokenizer_can() {
    let can = async |codec: Codec| {
        let card = silent(codec).get("/v1/models/tiny").await.json();
        ["completion_chat", "function_calling", "reasoning"].map(|name| card["capabilities"][name] == true)
    };
    assert_eq!(can(codec_of(TokenizerVersion::V13)).await, [true, true, true]);
    assert_eq!(can(codec_of(TokenizerVersion::V7)).await, [true, true, false]);
    assert_eq!(can(sentencepiece(TokenizerVersion::V1)).await, [true, false, false]);
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let jinja = huggingface().with_jinja(template).expect("a valid template");
    assert_eq!(can(jinja).await, [true, true, false]);
    assert_eq!(can(huggingface()).await, [false, false, false]);
}

/// A tokenizer that states no version.
fn huggingface() -> Codec {
    let bytes = Data::of_repository().tokenizer_file("hf-v3/tokenizer.json");
    Codec::from_huggingface(&bytes, None, "tokenizer.json").expect("a valid tokenizer")
}

#[tokio::test]
async fn with_sentencepiece_every_offset_is_where_the_text_begins() {
    let codec = sentencepiece(TokenizerVersion::V3);
    let text = "hello hello hello";
    let prompt = codec.encode_text(text, true);
    let answer = codec.encode_text("hello world, hello", false);
    let harness = Harness::with_codec(continues(prompt.len(), answer), codec.clone());
    for echo in [true, false] {
        let more = json!({ "prompt": text, "echo": echo, "logprobs": 0, "max_tokens": 8, "return_token_ids": true });
        let choice = harness.post("/v1/completions", &more).await.json()["choices"][0].clone();
        let offsets: Vec<usize> = serde_json::from_value(choice["logprobs"]["text_offset"].clone()).expect("offsets");
        let answered: Vec<u32> = serde_json::from_value(choice["token_ids"].clone()).expect("ids");
        let all = [prompt.clone(), answered].concat();
        let whole = codec.decode(&all, SpecialTokens::Skip);
        let before = if echo { 0 } else { text.len() };
        assert_eq!(choice["text"], whole[before..], "echo {echo}");
        let first = if echo { 0 } else { prompt.len() };
        assert!(offsets.len() > 3, "{choice}");
        for (index, offset) in offsets.iter().enumerate() {
            let begun = codec.decode(&all[..first + index], SpecialTokens::Skip).chars().count();
            assert_eq!(*offset, begun - before, "token {index} of {offsets:?}: {choice}");
        }
        if !echo {
            continue;
        }
        let streamed = harness.post("/v1/completions", &super::support::merged(more, json!({ "stream": true }))).await;
        let parts = streamed.events().into_iter().map(|event| event["choices"][0]["logprobs"]["text_offset"].clone());
        let streamed: Vec<Value> = parts.filter_map(|part| part.as_array().cloned()).flatten().collect();
        assert_eq!(json!(streamed), choice["logprobs"]["text_offset"]);
    }
}
