//! Mistral's dialect of `/v1/chat/completions`: how it is recognized, and everything that differs in it.

use expect_test::expect;
use serde_json::{Value, json};
use tramontane::{
    api::HttpLimits,
    engine::{EngineConfig, SpeculationMode},
    prompt::{SpecialTokens, TokenizerVersion},
};

use super::{
    isolation::{REQUEST_TIMEOUT, open_after_the_deadline},
    support::{
        Answer, EOS, Harness, answers, babbles, chat, codec, codec_of, control, ids, lines, merged, mistral_error,
        says, small_engine, thinks,
    },
};

const CHAT: &str = "/v1/chat/completions";
/// As the official Python client names itself.
const CLIENT: &str = "mistral-client-python/3.7.0";
const SAFETY_PROMPT: &str = "Always assist with care, respect, and truth.";

async fn ask(harness: &Harness, more: Value) -> Answer {
    harness.post_as(CLIENT, CHAT, &chat(more)).await
}

/// A user's message, and the beginning of its answer.
fn begun(beginning: Value) -> Value {
    json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": beginning, "prefix": true }])
}

/// What a model answers after such a beginning.
fn goes_on(beginning: &str, text: &str) -> Harness {
    let (begun, rest) = (ids(beginning), ids(text));
    Harness::new(Box::new(move |history| {
        let at = history.windows(begun.len()).rposition(|window| window == begun).expect("it was begun");
        rest.get(history.len() - at - begun.len()).copied().unwrap_or(EOS)
    }))
}

#[tokio::test]
async fn the_client_or_a_field_decides() {
    let harness = Harness::new(says("Hi"));
    let is_mistral = async |client: &str, more: Value| {
        let body = chat(merged(json!({ "temperature": 9 }), more.clone()));
        match harness.post_as(client, CHAT, &body).await.status {
            422 => true,
            400 => false,
            status => panic!("{status} for {more}"),
        }
    };
    for more in [
        json!({ "random_seed": 1 }),
        json!({ "safe_prompt": false }),
        json!({ "prompt_mode": "reasoning" }),
        json!({ "guardrails": [] }),
        json!({ "messages": begun(json!("He")) }),
    ] {
        assert!(is_mistral("python-httpx/0.28.1", more.clone()).await, "{more}");
        assert!(!is_mistral("OpenAI/Python 3.57.0", more.clone()).await, "{more}");
    }
    for more in [json!({}), json!({ "random_seed": null }), json!({ "seed": 1 })] {
        assert!(!is_mistral("python-httpx/0.28.1", more.clone()).await, "{more}");
        assert!(is_mistral(CLIENT, more).await);
    }
}

#[tokio::test]
async fn errors_have_mistrals_form() {
    let harness = Harness::new(says("Hi"));
    for (more, expected) in [
        (json!({ "temperature": "hot" }), r#"422 ["body","temperature"] "value_error""#),
        (json!({ "modle": "tiny" }), r#"422 ["body","modle"] "extra_forbidden""#),
        (json!({ "prompt_mode": "reasoning" }), r#"422 ["body","prompt_mode"] "value_error""#),
        (json!({ "guardrails": [{ "block_on_error": true }] }), r#"422 ["body","guardrails"] "value_error""#),
        (json!({ "tool_choice": 1 }), r#"422 ["body","tool_choice"] "value_error""#),
        (json!({ "messages": [] }), r#"422 ["body","messages"] "value_error""#),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "document_url", "document_url": "a" }] }] }),
            r#"422 ["body","messages",0,"content",0,"type"] "value_error""#,
        ),
        (json!({ "model": "mistral-large-latest" }), r#"404 "invalid_model" "model" "model_not_found""#),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
            r#"400 "invalid_request_message_order" "messages[1].role" "invalid_message_order""#,
        ),
        (json!({ "max_tokens": 5000 }), r#"400 "invalid_request_error" "max_tokens" "context_length_exceeded""#),
    ] {
        assert_eq!(mistral_error(&ask(&harness, more.clone()).await), expected, "{more}");
    }
    let answer = harness.post_as(CLIENT, "/v1/nothing", &json!({})).await;
    assert_eq!(mistral_error(&answer), r#"404 "invalid_request_error" null "route_not_found""#);
    assert!(answer.header("x-request-id").is_some());
    // The same mistake in a conversation, in OpenAI's form.
    let messages = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }]);
    let openai = harness.chat(json!({ "messages": messages })).await;
    assert_eq!(openai.error(), r#"400 "messages[1].role" "invalid_message_order""#);
    harness.state.start_draining();
    let unavailable = ask(&harness, json!({})).await;
    assert_eq!(mistral_error(&unavailable), r#"503 "service_unavailable_error" null "unavailable""#);
    assert!(unavailable.header("retry-after").is_some());
}

#[tokio::test]
async fn a_stream_has_its_usage_at_the_end() {
    let answer = ask(&Harness::new(says("Hi there!")), json!({ "stream": true })).await;
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"H"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"i"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":" there"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":6,"completion_tokens":5,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}
    "#]]
    .assert_eq(&lines(&answer.events()));
    let several = ask(&Harness::new(says("Hi there!")), json!({ "stream": true, "n": 3 })).await.events();
    let with_usage: Vec<bool> = several.iter().map(|event| event.get("usage").is_some()).collect();
    assert!(with_usage.iter().rposition(|it| !it) == Some(with_usage.len() - 2), "{with_usage:?}");
    assert_eq!(several.last().expect("events")["usage"]["completion_tokens"], 3 * (ids("Hi there!").len() + 1));
    let asked = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let asked = ask(&Harness::new(says("Hi")), asked).await.events();
    assert_eq!(asked.last().expect("events")["choices"], json!([]));
    assert_eq!(asked[asked.len() - 2]["usage"], Value::Null);
}

#[tokio::test]
async fn a_failing_stream_ends_with_an_error_in_mistrals_form() {
    let limits = HttpLimits { request_timeout: REQUEST_TIMEOUT, ..HttpLimits::default() };
    let harness = Harness::with(babbles(), small_engine(), limits);
    harness.gate.allow(2);
    let asked = ask(&harness, json!({ "stream": true, "max_tokens": 2000 }));
    let (answer, ()) = tokio::join!(asked, open_after_the_deadline(&harness));
    let last = answer.body.trim_end().rsplit("data: ").next().expect("events");
    let error: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&error["object"], &error["code"]), (&json!("error"), &json!("deadline_exceeded")));
    harness.gate.open();
}

#[tokio::test]
async fn a_prefix_is_repeated() {
    let harness = goes_on("Once upon", " a time.");
    let more = json!({ "messages": begun(json!("Once upon")) });
    assert_eq!(ask(&harness, more.clone()).await.text(), "Once upon a time.");
    let streamed = ask(&harness, merged(more.clone(), json!({ "stream": true }))).await;
    assert_eq!(streamed.events()[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "Once upon" }));
    assert_eq!(streamed.streamed_text(0), "Once upon a time.");
    // What the request wrote is counted with the prompt.
    let counts = ask(&harness, more.clone()).await.json()["usage"]["completion_tokens"].clone();
    assert_eq!(counts, ids(" a time.").len() + 1);
    // The field alone is enough to be Mistral's, but not where OpenAI's client has been asked to send it.
    assert_eq!(harness.post(CHAT, &chat(more.clone())).await.text(), "Once upon a time.");
    assert_eq!(harness.post_as("OpenAI/Python 3.57.0", CHAT, &chat(more)).await.text(), " a time.");
    let flag = json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Once upon" }],
        "continue_final_message": true });
    assert_eq!(harness.post(CHAT, &chat(flag)).await.text(), " a time.");
}

#[tokio::test]
async fn a_prefix_of_chunks_is_repeated_as_chunks() {
    let chunks = json!([
        { "type": "thinking", "thinking": [{ "type": "text", "text": "Let me see." }] },
        { "type": "text", "text": "Once upon" },
    ]);
    let answer = ask(&goes_on("Once upon", " a time."), json!({ "messages": begun(chunks) })).await;
    let expected = json!([
        { "type": "thinking", "thinking": [{ "type": "text", "text": "Let me see." }] },
        { "type": "text", "text": "Once upon a time." },
    ]);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], expected);
}

#[tokio::test]
async fn thinking_is_a_chunk() {
    let harness = Harness::new(thinks());
    let message = ask(&harness, json!({})).await.json()["choices"][0]["message"].clone();
    let expected = json!([
        { "type": "thinking", "thinking": [{ "type": "text", "text": "Hm." }] },
        { "type": "text", "text": "Yes." },
    ]);
    assert_eq!(message["content"], expected);
    assert!(message.get("reasoning").is_none(), "{message}");
    let hidden = ask(&harness, json!({ "include_reasoning": false })).await;
    assert_eq!(hidden.text(), "Yes.");

    let streamed = ask(&harness, json!({ "stream": true })).await;
    assert!(!streamed.body.contains("reasoning\""), "{}", streamed.body);
    let events = streamed.events();
    let contents: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]["content"]).collect();
    let thought: String = contents.iter().filter_map(|it| it[0]["thinking"][0]["text"].as_str()).collect();
    let said: String = contents.iter().filter_map(|it| it.as_str()).collect();
    assert_eq!((thought.as_str(), said.as_str()), ("Hm.", "Yes."));

    // What was answered can be sent back as it came.
    let mut conversation = json!([{ "role": "user", "content": "a" }]);
    let messages = conversation.as_array_mut().expect("a list");
    messages.extend([message, json!({ "role": "user", "content": "b" })]);
    assert_eq!(ask(&harness, json!({ "messages": messages })).await.status, 200);
}

#[tokio::test]
async fn a_streamed_call_comes_whole() {
    let call = |name: &str, arguments: &str| {
        [vec![control("[TOOL_CALLS]")], ids(name), vec![control("[ARGS]")], ids(arguments)].concat()
    };
    let both = [call("roll", r#"{"sides": 6}"#), call("flip", r#"{"coin": "euro"}"#)].concat();
    let harness = Harness::new(answers(both));
    let function = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": {} } });
    let tools = json!({ "tools": [function("roll"), function("flip")] });
    let events = ask(&harness, merged(tools.clone(), json!({ "stream": true }))).await.events();
    let calls: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .cloned()
        .collect();
    let shown: Vec<Value> = calls.iter().map(|call| json!([call["index"], call["function"]])).collect();
    let expected = json!([
        [0, { "name": "roll", "arguments": r#"{"sides": 6}"# }],
        [1, { "name": "flip", "arguments": r#"{"coin": "euro"}"# }],
    ]);
    assert_eq!(json!(shown), expected);
    assert!(calls.iter().all(|call| call["id"].as_str().is_some_and(|id| id.len() == 9)), "{calls:?}");
    assert_eq!(events.last().expect("events")["choices"][0]["finish_reason"], "tool_calls");
    let whole = ask(&harness, tools).await.json();
    let whole = whole["choices"][0]["message"]["tool_calls"].as_array().expect("calls").clone();
    let whole: Vec<Value> = whole.iter().map(|call| json!([call["index"], call["function"]])).collect();
    assert_eq!(json!(whole), expected);
}

#[tokio::test]
async fn whose_limit_ended_the_answer_is_told_apart() {
    let engine = EngineConfig { max_model_len: 64, ..small_engine() };
    let harness = Harness::with(babbles(), engine, HttpLimits::default());
    harness.gate.open();
    let reason = |answer: &Value| answer["choices"][0]["finish_reason"].clone();
    assert_eq!(reason(&ask(&harness, json!({})).await.json()), "model_length");
    assert_eq!(reason(&ask(&harness, json!({ "max_tokens": 5 })).await.json()), "length");
    assert_eq!(reason(&harness.chat(json!({})).await.json()), "length");
    let streamed = ask(&harness, json!({ "stream": true })).await.events();
    assert_eq!(reason(streamed.last().expect("events")), "length");
}

#[tokio::test]
async fn log_probabilities_have_ids_and_come_for_the_prompt_too() {
    let harness = Harness::new(says("Hi"));
    let more = json!({ "logprobs": true, "top_logprobs": 2, "prompt_logprobs": true, "top_prompt_logprobs": 1 });
    let answer = ask(&harness, merged(more, json!({ "return_token_ids": true, "n": 2 }))).await.json();
    let prompt_ids = answer["prompt_token_ids"].as_array().expect("ids").clone();
    for choice in answer["choices"].as_array().expect("choices") {
        let token = &choice["logprobs"]["content"][0];
        assert_eq!(token["token_id"], ids("Hi")[0]);
        assert_eq!(token["top_logprobs"][0]["token_id"], ids("Hi")[0]);
        assert_eq!(token["top_logprobs"].as_array().map(Vec::len), Some(2));
        let prompt = choice["prompt_logprobs"]["content"].as_array().expect("tokens");
        let of_prompt: Vec<Value> = prompt.iter().map(|token| token["token_id"].clone()).collect();
        assert_eq!(of_prompt, prompt_ids[1..], "the first has no log-probability");
        assert!(prompt.iter().all(|token| token["top_logprobs"].as_array().is_some_and(|top| top.len() == 1)));
    }
    assert!(answer.get("prompt_logprobs").is_none(), "{answer}");
    let none = ask(&harness, json!({ "prompt_logprobs": false })).await.json();
    assert!(none["choices"][0].get("prompt_logprobs").is_none(), "{none}");
    for more in [json!({ "top_prompt_logprobs": 1 }), json!({ "prompt_logprobs": 1, "top_prompt_logprobs": 1 })] {
        let refused = ask(&harness, more).await;
        assert_eq!(mistral_error(&refused), r#"422 ["body","top_prompt_logprobs"] "value_error""#);
    }
}

async fn safe_prompt_of(version: TokenizerVersion, messages: Value) -> String {
    let codec = codec_of(version);
    let harness = Harness::with_codec(Box::new(|_| EOS), codec.clone());
    let more = json!({ "messages": messages, "safe_prompt": true, "return_token_ids": true });
    let answer = harness.post(CHAT, &chat(more)).await;
    let ids: Vec<u32> = serde_json::from_value(answer.json()["prompt_token_ids"].clone())
        .unwrap_or_else(|error| panic!("{error}: {}", answer.body));
    codec.decode(&ids, SpecialTokens::Keep)
}

#[tokio::test]
async fn the_safety_prompt_stands_first() {
    let alone = json!([{ "role": "user", "content": "Hello" }]);
    let with_system = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello" }]);
    let with_chunks = json!([
        { "role": "system", "content": [{ "type": "text", "text": "Be brief." }] },
        { "role": "user", "content": "Hello" },
    ]);
    for version in [TokenizerVersion::V3, TokenizerVersion::V7, TokenizerVersion::V13] {
        for messages in [&alone, &with_system, &with_chunks] {
            let prompt = safe_prompt_of(version, messages.clone()).await;
            assert_eq!(prompt.matches(SAFETY_PROMPT).count(), 1, "{prompt}");
            let rest = prompt.split_once("fairness and positivity.").expect("the whole prompt").1;
            assert!(rest.contains("Hello"), "{prompt}");
            assert_eq!(
                rest.contains("positivity.\n\nBe brief.") || rest.starts_with("\n\nBe brief."),
                *messages != alone
            );
        }
    }
    let harness = Harness::new(says("Hi"));
    let plain = harness.chat(json!({ "return_token_ids": true })).await.json()["prompt_token_ids"].clone();
    let unsafe_one = harness.chat(json!({ "return_token_ids": true, "safe_prompt": false })).await.json();
    assert_eq!(unsafe_one["prompt_token_ids"], plain);
}

/// A message is named by its place in the request, not by the one it has behind the safety prompt.
#[tokio::test]
async fn mistakes_behind_the_safety_prompt_are_told_by_their_own_places() {
    let harness = Harness::new(says("Hi"));
    for (messages, expected) in [
        (json!([]), r#"422 ["body","messages"] "value_error""#),
        (
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": "a" }] }]),
            r#"422 ["body","messages",0,"content",0,"type"] "value_error""#,
        ),
    ] {
        let answer = ask(&harness, json!({ "messages": messages, "safe_prompt": true })).await;
        assert_eq!(mistral_error(&answer), expected, "{messages}");
    }
}

#[tokio::test]
async fn a_prediction_is_guessed_from_and_changes_nothing() {
    let text = "The quick brown fox jumps over the lazy dog, and then it does so again with more care.";
    let engine = EngineConfig { speculation: SpeculationMode::Always(4), ..small_engine() };
    let harness = Harness::with(says(text), engine, HttpLimits::default());
    harness.gate.open();
    let accepted = |harness: &Harness| harness.metric("vllm:spec_decode_num_accepted_tokens_total");
    assert_eq!(ask(&harness, json!({})).await.text(), text);
    harness.idle().await;
    let before = accepted(&harness);
    let n_tokens = codec().encode_text(text, false).len() as f64;
    for (prediction, least) in [
        (json!(text), 0.7),
        (json!([{ "type": "text", "text": &text[..40] }, { "type": "text", "text": &text[40..] }]), 0.7),
        (json!(text.replace("brown", "red")), 0.5),
        (json!("Nothing of the kind"), 0.0),
        (json!(""), 0.0),
    ] {
        let more = json!({ "prediction": { "type": "content", "content": prediction } });
        let so_far = accepted(&harness);
        assert_eq!(ask(&harness, more).await.text(), text);
        harness.idle().await;
        let came = accepted(&harness) - so_far;
        assert!(came >= before + least * (n_tokens - before), "{came} of {n_tokens} came from {prediction}");
    }
    for prediction in [
        json!("x"),
        json!({ "type": "content", "content": 1 }),
        json!({ "type": "content", "content": [{ "type": "image", "text": "a" }] }),
        json!({ "type": "content", "content": [{}] }),
        json!({ "type": "content", "content": "a", "more": 1 }),
        json!({}),
        json!({ "type": "content" }),
        json!({ "content": "a" }),
    ] {
        let answer = harness.chat(json!({ "prediction": prediction })).await;
        assert!(answer.error().starts_with(r#"400 "prediction"#), "{}", answer.body);
    }
}

/// Where nothing would be guessed from it, it is refused rather than ignored.
#[tokio::test]
async fn a_prediction_that_is_of_no_use_is_refused() {
    let prediction = json!({ "prediction": { "type": "content", "content": "{}" } });
    let form = merged(prediction.clone(), json!({ "response_format": { "type": "json_object" } }));
    let answer = Harness::new(says("{}")).chat(form).await;
    assert_eq!(answer.error(), r#"400 "prediction" null"#);
    let engine = EngineConfig { speculation: SpeculationMode::Off, ..small_engine() };
    let harness = Harness::with(says("{}"), engine, HttpLimits::default());
    harness.gate.open();
    assert_eq!(harness.chat(prediction).await.error(), r#"400 "prediction" null"#);
}
