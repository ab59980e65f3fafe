//! `/v1/completions`: texts and token ids, echo, log-probabilities, fill in the middle.

use expect_test::expect;
use serde_json::{Value, json};

use super::support::{Answer, Harness, babbles, codec, continues, ids, lines, merged, redacted};

async fn complete(harness: &Harness, more: Value) -> Answer {
    let body = merged(json!({ "model": "tiny", "prompt": "Once upon", "max_tokens": 8 }), more);
    harness.post("/v1/completions", &body).await
}

/// Continues "Once upon" with " a time".
fn story() -> Harness {
    Harness::new(continues(codec().encode_text("Once upon", true).len(), ids(" a time")))
}

#[tokio::test]
async fn an_answer() {
    let answer = complete(&story(), json!({})).await;
    expect![[r#"
        {
          "id": "<id>",
          "object": "text_completion",
          "created": 0,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "text": " a time",
              "logprobs": null,
              "finish_reason": "stop",
              "stop_reason": null
            }
          ],
          "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
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
async fn a_stream() {
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let answer = complete(&story(), options).await;
    expect![[r#"
        {"choices":[{"index":0,"text":" a","logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"text":" time","logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}
        {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}
    "#]].assert_eq(&lines(&answer.events()));
}

#[tokio::test]
async fn every_form_of_prompt() {
    let harness = Harness::new(babbles());
    let text = codec().encode_text("Once upon", true);
    let prompts = [json!("Once upon"), json!(["Once upon"]), json!(text), json!([text])];
    for prompt in prompts {
        let answer = complete(&harness, json!({ "prompt": prompt, "max_tokens": 1, "return_token_ids": true })).await;
        assert_eq!(answer.json()["choices"][0]["prompt_token_ids"], json!(text), "{prompt}");
    }
    let two = complete(&harness, json!({ "prompt": ["Once", "Once upon"], "n": 2, "max_tokens": 3 })).await.json();
    let indexes: Vec<&Value> = two["choices"].as_array().expect("choices").iter().map(|c| &c["index"]).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
    assert_eq!(two["usage"]["prompt_tokens"], text.len() + codec().encode_text("Once", true).len());
    assert_eq!(two["usage"]["completion_tokens"], 12);
    let bare = complete(&harness, json!({ "add_special_tokens": false, "return_token_ids": true })).await.json();
    assert_eq!(bare["choices"][0]["prompt_token_ids"], json!(ids("Once upon")));
}

#[tokio::test]
async fn echo_repeats_the_prompt_with_its_log_probabilities() {
    let options = json!({ "echo": true, "logprobs": 1, "max_tokens": 1 });
    let answer = complete(&story(), options.clone()).await.json();
    let choice = &answer["choices"][0];
    let first = String::from_utf8(codec().token_bytes(ids(" a time")[0])).expect("UTF-8");
    assert_eq!(choice["text"], format!("Once upon{first}"));
    let prompt = codec().encode_text("Once upon", true);
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(choice["logprobs"][key].as_array().map(Vec::len), Some(prompt.len() + 1), "{key}");
    }
    assert_eq!(choice["logprobs"]["token_logprobs"][0], Value::Null);
    let last = &choice["logprobs"]["text_offset"][prompt.len()];
    assert_eq!(*last, "Once upon".len(), "{choice}");
    let streamed = complete(&story(), merged(options, json!({ "stream": true }))).await;
    assert_eq!(streamed.streamed_text(0), choice["text"]);
}

#[tokio::test]
async fn text_offsets_count_characters() {
    let prompt_len = codec().encode_text("Né 🦀", true).len();
    let harness = Harness::new(continues(prompt_len, ids(" ñandú 🦀 end")));
    let options = json!({ "prompt": "Né 🦀", "echo": true, "logprobs": 0, "max_tokens": 50 });
    let choice = complete(&harness, options).await.json()["choices"][0].clone();
    let text: Vec<char> = choice["text"].as_str().expect("text").chars().collect();
    let list = |key: &str| choice["logprobs"][key].as_array().expect("a list").clone();
    let (offsets, tokens) = (list("text_offset"), list("tokens"));
    let whole = |token: &str| !token.contains('\u{fffd}') && token != "<s>";
    let mut checked = 0;
    for (offset, token) in offsets.iter().zip(&tokens) {
        let (offset, token) = (offset.as_u64().expect("an offset") as usize, token.as_str().expect("a token"));
        if whole(token) {
            assert!(text[offset..].starts_with(&token.chars().collect::<Vec<_>>()), "{token} at {offset}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "{tokens:?}");
    assert_eq!(text.iter().collect::<String>(), "Né 🦀 ñandú 🦀 end");
}

#[tokio::test]
async fn with_echo_nothing_needs_to_be_generated() {
    for stream in [false, true] {
        let options = json!({ "echo": true, "max_tokens": 0, "stream": stream, "logprobs": 0 });
        let answer = complete(&story(), options).await;
        if stream {
            assert_eq!(answer.streamed_text(0), "Once upon");
        } else {
            assert_eq!(answer.text(), "Once upon");
            assert_eq!(answer.json()["usage"]["completion_tokens"], 0);
            assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
        }
    }
    assert_eq!(complete(&story(), json!({ "max_tokens": 0 })).await.error(), r#"400 "max_tokens" null"#);
}

#[tokio::test]
async fn the_middle_is_filled_in() {
    let prompt = codec().encode_fim("Once", Some("time")).expect("the tokenizer has it");
    let harness = Harness::new(continues(prompt.len(), ids(" upon a ")));
    let answer = complete(&harness, json!({ "prompt": "Once", "suffix": "time", "return_token_ids": true })).await;
    assert_eq!(answer.json()["choices"][0]["prompt_token_ids"], json!(prompt));
    assert_eq!(answer.text(), " upon a ");
}

#[tokio::test]
async fn prompts_can_be_cut() {
    let harness = Harness::new(babbles());
    let prompt: Vec<u32> = (100..120).collect();
    let cut = |more: Value| {
        let harness = &harness;
        let prompt = &prompt;
        async move {
            let more = merged(json!({ "prompt": prompt, "return_token_ids": true, "max_tokens": 1 }), more);
            complete(harness, more).await.json()["choices"][0]["prompt_token_ids"].clone()
        }
    };
    assert_eq!(cut(json!({ "truncate_prompt_tokens": 3 })).await, json!([117, 118, 119]));
    let right = json!({ "truncate_prompt_tokens": 3, "truncation_side": "right" });
    assert_eq!(cut(right).await, json!([100, 101, 102]));
    assert_eq!(cut(json!({ "truncate_prompt_tokens": -1 })).await, json!(prompt));
}
