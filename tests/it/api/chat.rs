//! `/v1/chat/completions`: what an answer looks like, at once and as a stream.

use expect_test::expect;
use serde_json::{Value, json};

use tramontane::{
    api::HttpLimits,
    engine::{EngineConfig, SpeculationMode},
};

use super::support::{EOS, Harness, answers, babbles, control, ids, lines, redacted, says, small_engine, thinks};

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "roll", "parameters": {"type": "object"}}}]"#;

fn calls_a_tool() -> Vec<u32> {
    let arguments = ids(r#"{"sides": 6}"#);
    [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], arguments].concat()
}

#[tokio::test]
async fn an_answer() {
    let answer = Harness::new(says("Hi there!")).chat(json!({})).await;
    assert_eq!(answer.status, 200);
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
                "content": "Hi there!",
                "refusal": null
              },
              "logprobs": null,
              "finish_reason": "stop",
              "stop_reason": null
            }
          ],
          "usage": {
            "prompt_tokens": 6,
            "completion_tokens": 5,
            "total_tokens": 11,
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
    let answer = Harness::new(says("Hi there!")).chat(options).await;
    let events = answer.events();
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":"H"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":"i"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":" there"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
        {"choices":[],"usage":{"prompt_tokens":6,"completion_tokens":5,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}
    "#]].assert_eq(&lines(&events));
    for key in ["id", "created", "model", "object"] {
        assert!(events.iter().all(|event| event[key] == events[0][key]), "{key} differs");
    }
    assert!(events[0]["id"].as_str().expect("an id").starts_with("chatcmpl-"));
}

#[tokio::test]
async fn usage_is_absent_unless_asked_for_and_can_come_with_every_chunk() {
    let harness = Harness::new(says("Hi there!"));
    let plain = harness.chat(json!({ "stream": true })).await.events();
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
    let options = json!({ "include_usage": true, "continuous_usage_stats": true });
    let continuous = harness.chat(json!({ "stream": true, "stream_options": options })).await.events();
    let counts: Vec<u64> =
        continuous.iter().map(|event| event["usage"]["completion_tokens"].as_u64().expect("a count")).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!(counts.last(), Some(&(ids("Hi there!").len() as u64 + 1)));
}

#[tokio::test]
async fn tool_calls() {
    let harness = Harness::new(answers(calls_a_tool()));
    let tools: Value = serde_json::from_str(TOOLS).expect("JSON");
    let answer = harness.chat(json!({ "tools": tools })).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({ "name": "roll", "arguments": r#"{"sides": 6}"# }));
    let id = call["id"].as_str().expect("an id");
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");

    let events = harness.chat(json!({ "tools": tools, "stream": true })).await.events();
    let deltas: Vec<&Value> = events
        .iter()
        .map(|event| &event["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(deltas[0]["function"], json!({ "name": "roll", "arguments": "" }));
    assert_eq!(deltas[0]["type"], "function");
    assert!(deltas[1..].iter().all(|delta| delta.get("id").is_none()));
    let arguments: String =
        deltas.iter().map(|delta| delta["function"]["arguments"].as_str().expect("arguments")).collect();
    assert_eq!(arguments, r#"{"sides": 6}"#);
    assert_eq!(events.last().expect("events")["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn without_tools_a_call_is_text() {
    let harness = Harness::new(answers(calls_a_tool()));
    for more in
        [json!({}), json!({ "tools": serde_json::from_str::<Value>(TOOLS).expect("JSON"), "tool_choice": "none" })]
    {
        let answer = harness.chat(more).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert!(answer["choices"][0]["message"].get("tool_calls").is_none(), "{answer}");
    }
}

#[tokio::test]
async fn reasoning_is_told_apart_and_counted() {
    let harness = Harness::new(thinks());
    let answer = harness.chat(json!({})).await.json();
    assert_eq!(answer["choices"][0]["message"]["reasoning"], "Hm.");
    assert_eq!(answer["choices"][0]["message"]["content"], "Yes.");
    let details = &answer["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], ids("Hm.").len() + 1, "the token that ends it included");

    let hidden = harness.chat(json!({ "include_reasoning": false })).await.json();
    assert!(hidden["choices"][0]["message"].get("reasoning").is_none());
    assert_eq!(hidden["usage"]["completion_tokens_details"], *details);
    let streamed = harness.chat(json!({ "include_reasoning": false, "stream": true })).await;
    assert!(!streamed.body.contains("reasoning"), "{}", streamed.body);
    assert_eq!(streamed.streamed_text(0), "Yes.");
}

#[tokio::test]
async fn raw_text_keeps_control_tokens() {
    let answer = Harness::new(thinks()).chat(json!({ "skip_special_tokens": false })).await;
    assert_eq!(answer.text(), "[THINK]Hm.[/THINK]Yes.");
}

#[tokio::test]
async fn stop_strings_are_found_across_tokens_and_do_not_leak() {
    let harness = Harness::new(says("One, two, three, four"));
    assert!(ids("One, two, three, four").len() > 4, "stop strings are to span tokens");
    for stop in ["two, thr", "o, ", "ree", " three, four"] {
        let whole = "One, two, three, four";
        let before = &whole[..whole.find(stop).expect("it is there")];
        let answer = harness.chat(json!({ "stop": stop, "logprobs": true })).await;
        assert_eq!(answer.text(), before, "{stop}");
        let choice = &answer.json()["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
        let tokens = choice["logprobs"]["content"].as_array().expect("tokens");
        let tokens: String = tokens.iter().map(|token| token["token"].as_str().expect("a token")).collect();
        assert!(before.starts_with(&tokens), "{tokens} is more than {before}");

        let streamed = harness.chat(json!({ "stop": [stop, "never"], "stream": true })).await;
        assert_eq!(streamed.streamed_text(0), before, "{stop}");
        let kept = harness.chat(json!({ "stop": stop, "include_stop_str_in_output": true })).await;
        assert_eq!(kept.text(), format!("{before}{stop}"));
    }
    harness.idle().await;
}

#[tokio::test]
async fn completion_tokens_count_up_to_the_stop() {
    let harness = Harness::new(babbles());
    let answer = harness.chat(json!({ "stop": " la la la", "max_tokens": 100 })).await.json();
    assert_eq!(answer["usage"]["completion_tokens"], 3 * ids(" la").len());
    assert_eq!(answer["choices"][0]["message"]["content"], "");
}

#[tokio::test]
async fn tokens_guessed_ahead_stop_where_others_do() {
    for speculation in [SpeculationMode::Off, SpeculationMode::Always(8)] {
        let engine = EngineConfig { speculation, ..small_engine() };
        let harness = Harness::with(babbles(), engine, HttpLimits::default());
        harness.gate.open();
        let answer = harness.chat(json!({ "stop": " la la la", "min_tokens": 9, "max_tokens": 100 })).await.json();
        assert_eq!(answer["usage"]["completion_tokens"], 12, "{speculation:?}");
        assert_eq!(answer["choices"][0]["message"]["content"], " la".repeat(9));
        let longest = harness.chat(json!({ "max_tokens": 37 })).await.json();
        assert_eq!(longest["usage"]["completion_tokens"], 37);
        assert_eq!(longest["choices"][0]["finish_reason"], "length");
        harness.idle().await;
    }
}

#[tokio::test]
async fn text_within_min_tokens_does_not_stop() {
    let harness = Harness::new(babbles());
    let answer = harness.chat(json!({ "stop": " la", "min_tokens": 2, "max_tokens": 100 })).await;
    assert_eq!(answer.text(), " la la");
}

#[tokio::test]
async fn what_ends_an_answer_is_said() {
    let harness = Harness::new(says("a b c"));
    let length = harness.chat(json!({ "max_tokens": 2 })).await.json();
    assert_eq!(length["choices"][0]["finish_reason"], "length");
    assert_eq!(length["usage"]["completion_tokens"], 2);
    let second = ids("a b c")[1];
    let token = harness.chat(json!({ "stop_token_ids": [second] })).await;
    assert_eq!(token.json()["choices"][0]["stop_reason"], second);
    assert_eq!(token.text(), "a");
    let kept = harness.chat(json!({ "stop_token_ids": [second], "include_stop_str_in_output": true })).await;
    assert_eq!(kept.text(), "a b");
    let ignored = harness.chat(json!({ "ignore_eos": true, "max_tokens": 10 })).await.json();
    assert_eq!(ignored["choices"][0]["finish_reason"], "length");
    assert_eq!(ignored["usage"]["completion_tokens"], 10);
    let minimum = harness.chat(json!({ "min_tokens": 6, "max_tokens": 10, "return_token_ids": true })).await.json();
    let tokens = minimum["choices"][0]["token_ids"].as_array().expect("ids").clone();
    assert!(tokens[..6].iter().all(|id| *id != EOS), "{tokens:?}");
}

#[tokio::test]
async fn choices_have_seeds_in_sequence() {
    let harness = Harness::new(babbles());
    let sampled = json!({ "temperature": 1.5, "max_tokens": 12, "n": 2, "seed": 7 });
    let first = harness.chat(sampled.clone()).await.json();
    let again = harness.chat(sampled).await.json();
    let text = |answer: &Value, index: usize| answer["choices"][index]["message"]["content"].clone();
    assert_eq!(text(&first, 0), text(&again, 0));
    assert_eq!(text(&first, 1), text(&again, 1));
    assert_ne!(text(&first, 0), text(&first, 1));
    let next = harness.chat(json!({ "temperature": 1.5, "max_tokens": 12, "random_seed": 8 })).await.json();
    assert_eq!(text(&first, 1), text(&next, 0));
    assert_eq!(first["usage"]["completion_tokens"], 24);
    let prompt_tokens = next["usage"]["prompt_tokens"].clone();
    assert_eq!(first["usage"]["prompt_tokens"], prompt_tokens, "the prompt counts once");

    let streamed =
        harness.chat(json!({ "temperature": 1.5, "max_tokens": 12, "n": 2, "seed": 7, "stream": true })).await;
    assert_eq!(streamed.streamed_text(0), text(&first, 0));
    assert_eq!(streamed.streamed_text(1), text(&first, 1));
}

#[tokio::test]
async fn cached_tokens_are_reported() {
    let harness = Harness::new(says("Hi"));
    let long = json!({ "messages": [{ "role": "user", "content": "one two three four five six seven eight" }] });
    let cached = |answer: Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert_eq!(cached(harness.chat(long.clone()).await.json()), 0);
    harness.idle().await;
    let second = cached(harness.chat(long.clone()).await.json());
    assert!(second >= 4, "{second}");
    let salted = super::support::merged(long, json!({ "cache_salt": "other" }));
    assert_eq!(cached(harness.chat(salted).await.json()), 0);
}

#[tokio::test]
async fn log_probabilities() {
    let answer = Harness::new(says("Hi")).chat(json!({ "logprobs": true, "top_logprobs": 2 })).await.json();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
    assert_eq!(tokens.len(), ids("Hi").len());
    let bytes: Vec<u8> = serde_json::from_value(tokens[0]["bytes"].clone()).expect("bytes");
    assert!(b"Hi".starts_with(&bytes));
    let top = tokens[0]["top_logprobs"].as_array().expect("alternatives");
    assert_eq!(top.len(), 2);
    assert_eq!(top[0]["token"], tokens[0]["token"]);
    assert_eq!(top[0]["logprob"], tokens[0]["logprob"]);
    let as_ids = json!({ "logprobs": true, "return_tokens_as_token_ids": true });
    let named = Harness::new(says("Hi")).chat(as_ids).await.json();
    assert_eq!(named["choices"][0]["logprobs"]["content"][0]["token"], format!("token_id:{}", ids("Hi")[0]));
    let prompt = Harness::new(says("Hi")).chat(json!({ "prompt_logprobs": 1, "return_token_ids": true })).await.json();
    let entries = prompt["prompt_logprobs"].as_array().expect("entries");
    assert_eq!(entries.len(), prompt["prompt_token_ids"].as_array().expect("ids").len());
    assert_eq!(entries[0], Value::Null);
    assert!(entries[1].as_object().expect("an object").contains_key(&prompt["prompt_token_ids"][1].to_string()));
}

#[tokio::test]
async fn characters_of_several_tokens_arrive_whole() {
    let text = "naïve 🦀 日本";
    let streamed = Harness::new(says(text)).chat(json!({ "stream": true })).await;
    assert_eq!(streamed.streamed_text(0), text);
    assert!(!streamed.body.contains('\u{fffd}'));
}

#[tokio::test]
async fn a_message_can_be_continued() {
    let harness = Harness::new(Box::new(|_| EOS));
    let begun = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hel", "prefix": true }]);
    let by_prefix = harness.chat(json!({ "messages": begun, "return_token_ids": true })).await.json();
    let begun = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hel" }]);
    let options = json!({ "messages": begun, "return_token_ids": true, "continue_final_message": true });
    let by_flag = harness.chat(options).await.json();
    assert_eq!(by_prefix["prompt_token_ids"], by_flag["prompt_token_ids"]);
    let last = by_flag["prompt_token_ids"].as_array().expect("ids").last().expect("ids").clone();
    assert_eq!(Some(&last), ids("Hel").last().map(|&id| json!(id)).as_ref());
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let harness = Harness::new(says("Hi"));
    let made = harness.chat(json!({})).await;
    let id = made.header("x-request-id").expect("an id").to_owned();
    assert_eq!(made.json()["id"], format!("chatcmpl-{id}"));
    let given = harness.chat(json!({ "request_id": "abc" })).await;
    assert_eq!(given.header("x-request-id"), Some("abc"));
    assert_eq!(given.json()["id"], "chatcmpl-abc");
    assert_eq!(harness.chat(json!({ "model": "alias" })).await.json()["model"], "alias");
}
