//! `/v1/fim/completions`: what the model gets to see, what the answer looks like, and who has no gap to fill.

use expect_test::expect;
use serde_json::{Value, json};
use tramontane::prompt::TokenizerVersion;

use super::support::{Answer, EOS, Harness, babbles, codec, codec_of, continues, ids, lines, merged, mistral_error};
use super::support::{redacted, says};
use crate::fixtures::{Data, codec as codec_named, read};

const PATH: &str = "/v1/fim/completions";

async fn fill(harness: &Harness, more: Value) -> Answer {
    let body = json!({ "model": "tiny", "prompt": "def add(a, b):\n", "suffix": "\n    return c" });
    harness.post(PATH, &merged(body, more)).await
}

/// Fills the gap with "    c = a + b".
fn programmer() -> Harness {
    let prompt = codec().encode_fim("def add(a, b):\n", Some("\n    return c")).expect("it has the tokens");
    Harness::new(continues(prompt.len(), ids("    c = a + b")))
}

#[tokio::test]
async fn an_answer() {
    let answer = fill(&programmer(), json!({})).await;
    expect![[r#"
        {
          "id": "<id>",
          "object": "chat.completion",
          "created": 0,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "    c = a + b",
                "refusal": null
              },
              "logprobs": null,
              "finish_reason": "stop",
              "stop_reason": null
            }
          ],
          "usage": {
            "prompt_tokens": 15,
            "completion_tokens": 7,
            "total_tokens": 22,
            "prompt_tokens_details": {
              "cached_tokens": 0
            },
            "completion_tokens_details": {
              "reasoning_tokens": 0
            }
          },
          "system_fingerprint": "<fingerprint>"
        }"#]]
    .assert_eq(&format!("{:#}", redacted(&answer.json())));
}

#[tokio::test]
async fn a_stream_ends_with_its_usage() {
    let harness = programmer();
    let answer = fill(&harness, json!({ "stream": true, "max_tokens": 2 })).await;
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"   "},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":" c"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":15,"completion_tokens":2,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}
    "#]]
    .assert_eq(&lines(&answer.events()));
    let whole = fill(&harness, json!({ "stream": true })).await;
    assert_eq!(whole.streamed_text(0), "    c = a + b");
}

#[tokio::test]
async fn fields_shape_the_answer() {
    let harness = programmer();
    assert_eq!(fill(&harness, json!({ "stop": " + b" })).await.text(), "    c = a");
    let cut = fill(&harness, json!({ "max_tokens": 2 })).await.json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let seeded = json!({ "temperature": 1.5, "top_p": 0.9, "max_tokens": 12, "random_seed": 7 });
    let babbling = Harness::new(babbles());
    let first = fill(&babbling, seeded.clone()).await.text();
    assert_eq!(fill(&babbling, seeded.clone()).await.text(), first);
    assert_ne!(fill(&babbling, merged(seeded, json!({ "random_seed": 8 }))).await.text(), first);
    let scored = json!({ "logprobs": true, "top_logprobs": 2, "return_tokens_as_token_ids": true });
    let scored = fill(&harness, scored).await.json()["choices"][0]["logprobs"]["content"][0].clone();
    let first = ids("    c = a + b")[0];
    assert_eq!((&scored["token"], &scored["token_id"]), (&json!(format!("token_id:{first}")), &json!(first)));
    assert_eq!(scored["top_logprobs"].as_array().map(Vec::len), Some(2));
    let silent = Harness::new(Box::new(|_| EOS));
    let long = fill(&silent, json!({ "min_tokens": 3, "max_tokens": 5, "return_token_ids": true })).await.json();
    let given = long["choices"][0]["token_ids"].as_array().expect("ids").clone();
    assert!(given.len() > 3 && given[..3].iter().all(|id| *id != EOS), "{given:?}");
}

/// The rows of the vectors, which mistral-common has encoded, over HTTP.
#[tokio::test]
async fn prompts_equal_mistral_commons() {
    let rows = String::from_utf8(read(&Data::of_repository().vectors.join("fim.jsonl"))).expect("UTF-8");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut names: Vec<&str> = rows.iter().filter_map(|row| row["tokenizer_version"].as_str()).collect();
    names.dedup();
    let mut checked = 0;
    for name in names {
        let harness = Harness::with_codec(Box::new(|_| EOS), codec_named(name).clone());
        for row in rows.iter().filter(|row| row["tokenizer_version"] == name) {
            let request: Value = match row["request_json"].as_str() {
                Some(text) => serde_json::from_str(text).expect("JSON"),
                None => row["request"].clone(),
            };
            let mut body = json!({ "max_tokens": 1, "return_token_ids": true });
            for key in ["prompt", "suffix"].into_iter().filter(|key| request.get(key).is_some()) {
                body[key] = request[key].clone();
            }
            let answer = harness.post(PATH, &body).await;
            assert_eq!(answer.json()["prompt_token_ids"], row["ids"], "{}: {}", row["id"], answer.body);
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} rows");
}

#[tokio::test]
async fn a_suffix_of_completions_fills_the_same_gap() {
    let harness = programmer();
    let body = json!({ "prompt": "def add(a, b):\n", "suffix": "\n    return c", "return_token_ids": true });
    let completion = harness.post("/v1/completions", &body).await;
    let choice = &completion.json()["choices"][0];
    assert_eq!(choice["text"], "    c = a + b");
    let filled = harness.post(PATH, &body).await.json();
    assert_eq!(filled["prompt_token_ids"], choice["prompt_token_ids"]);
}

#[tokio::test]
async fn a_tokenizer_without_the_tokens_is_named() {
    let name = "tokenizer.model.v1";
    let bytes = Data::of_repository().tokenizer_file(name);
    let codec = tramontane::prompt::Codec::from_sentencepiece(&bytes, TokenizerVersion::V1, name).expect("valid");
    let harness = Harness::with_codec(Box::new(|_| EOS), codec);
    let answer = fill(&harness, json!({})).await;
    assert_eq!(mistral_error(&answer), r#"422 ["body","prompt"] "value_error""#);
    assert!(answer.body.contains("fill-in-the-middle") && answer.body.contains("version v1"), "{}", answer.body);
    let body = json!({ "prompt": "a", "suffix": "b", "max_tokens": 1 });
    assert_eq!(harness.post("/v1/completions", &body).await.error(), r#"400 "suffix" null"#);
    assert_eq!(harness.get("/v1/models/tiny").await.json()["capabilities"]["completion_fim"], false);
    let able = Harness::with_codec(Box::new(|_| EOS), codec_of(TokenizerVersion::V7));
    assert_eq!(able.get("/v1/models/tiny").await.json()["capabilities"]["completion_fim"], true);
}

#[tokio::test]
async fn fields_are_named() {
    let harness = Harness::new(says("Hi"));
    for (more, expected) in [
        (json!({ "prompt": null }), r#"422 ["body","prompt"] "value_error""#),
        (json!({ "prompt": ["a"] }), r#"422 ["body","prompt"] "value_error""#),
        (json!({ "suffix": 1 }), r#"422 ["body","suffix"] "value_error""#),
        (json!({ "messages": [] }), r#"422 ["body","messages"] "extra_forbidden""#),
        (json!({ "safe_prompt": true }), r#"422 ["body","safe_prompt"] "extra_forbidden""#),
        (json!({ "max_tokens": 0 }), r#"422 ["body","max_tokens"] "value_error""#),
        (json!({ "min_tokens": 5, "max_tokens": 4 }), r#"422 ["body","min_tokens"] "value_error""#),
        (json!({ "stop": ["a", ""] }), r#"422 ["body","stop",1] "value_error""#),
        (json!({ "model": "codestral-latest" }), r#"404 "invalid_model" "model" "model_not_found""#),
        (json!({ "max_tokens": 5000 }), r#"400 "invalid_request_error" "max_tokens" "context_length_exceeded""#),
    ] {
        assert_eq!(mistral_error(&fill(&harness, more.clone()).await), expected, "{more}");
    }
    let broken = harness.post_text(PATH, "{").await;
    assert_eq!(mistral_error(&broken), r#"422 ["body"] "json_invalid""#);
    assert_eq!(mistral_error(&harness.get(PATH).await), r#"405 "invalid_request_error" null "method_not_allowed""#);
}
