//! What is refused, how, and that the refusal names its reason.

use axum::{
    body::Body,
    http::{Method, Request, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tramontane::api::HttpLimits;

use super::support::{Harness, chat, codec, merged, says, send, small_engine};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn bodies_that_are_no_json_object() {
    let harness = Harness::new(says("Hi"));
    for (body, expected) in [
        ("", r#"400 null "invalid_json""#),
        ("{", r#"400 null "invalid_json""#),
        ("{\"model\": \"tiny\",}", r#"400 null "invalid_json""#),
        ("{\"n\": 1, \"n\": 1}", r#"400 null "invalid_json""#),
        ("{\"n\": 1e999}", r#"400 null "invalid_json""#),
        ("{\"n\": NaN}", r#"400 null "invalid_json""#),
        ("[]", "400 null null"),
        ("null", "400 null null"),
        ("\"text\"", "400 null null"),
    ] {
        for path in [CHAT, "/v1/completions", "/tokenize", "/detokenize"] {
            assert_eq!(harness.post_text(path, body).await.error(), expected, "{path} {body}");
        }
    }
    let position = harness.post_text(CHAT, "{\n  \"model\": tiny\n}").await.body;
    assert!(position.contains("line 2 column 13"), "{position}");
    assert_eq!(harness.post_text(CHAT, &b"{\"model\": \"\xff\"}"[..]).await.error(), r#"400 null "invalid_utf8""#);
}

#[tokio::test]
async fn bombs_are_refused() {
    let harness = Harness::new(says("Hi"));
    let deep = format!("{{\"messages\": {}", "[".repeat(500_000));
    assert_eq!(harness.post_text(CHAT, deep).await.error(), r#"400 null "invalid_json""#);
    let deep = format!("{{\"tools\": {}{}}}", "{\"a\":".repeat(100), "1".to_owned() + &"}".repeat(100));
    assert_eq!(harness.post_text(CHAT, deep).await.status, 400);
    let digits = format!("{{\"n\": {}}}", "9".repeat(100_000));
    assert_eq!(harness.post_text(CHAT, digits).await.status, 400);
    let limits = HttpLimits { body_bytes: 1000, ..HttpLimits::default() };
    let small = Harness::with(says("Hi"), small_engine(), limits);
    assert_eq!(small.post_text(CHAT, " ".repeat(1001)).await.error(), r#"413 null "body_too_large""#);
}

/// An assistant's message with one call.
fn calling(call: Value) -> Value {
    json!({ "role": "assistant", "content": "", "tool_calls": [call] })
}

/// An assistant's message with one chunk.
fn thinking(chunk: Value) -> Value {
    json!({ "role": "assistant", "content": [chunk] })
}

/// What `/tokenize` does not read as chat does would be a prompt of another request.
#[tokio::test]
async fn tokenize_refuses_the_conversations_that_chat_refuses() {
    let harness = Harness::new(says("Hi"));
    let user = json!({ "role": "user", "content": "a" });
    for body in [
        json!({ "messages": [{ "role": "user", "content": "a", "audio": {} }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a", "b": 1 }] }] }),
        json!({ "messages": [user], "tools": [{ "type": "function", "function": { "name": "f", "b": 1 } }] }),
        json!({ "messages": [user], "tools": [{ "type": "retrieval" }] }),
    ] {
        let refused = harness.post(CHAT, &body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
        assert_eq!(harness.post("/tokenize", &body).await.body, refused.body, "{body}");
    }
}

#[tokio::test]
async fn null_inside_a_field_is_the_same_as_leaving_it_out() {
    let harness = Harness::new(says("Hi"));
    let format = json!({ "response_format": { "type": "text", "json_schema": null } });
    assert_eq!(harness.chat(format.clone()).await.text(), "Hi");
    let body = merged(json!({ "model": "tiny", "prompt": "a", "max_tokens": 1 }), format);
    assert_eq!(harness.post("/v1/completions", &body).await.status, 200);
    let schema = json!({ "response_format": { "type": "text", "json_schema": {} } });
    assert_eq!(harness.chat(schema).await.error(), r#"400 "response_format.json_schema" null"#);
}

#[tokio::test]
async fn fields_are_named() {
    let harness = Harness::new(says("Hi"));
    for (more, expected) in [
        (json!({ "modle": "tiny" }), r#"400 "modle" "unknown_parameter""#),
        (json!({ "model": "gpt-4" }), r#"404 "model" "model_not_found""#),
        (json!({ "messages": [] }), r#"400 "messages" null"#),
        (json!({ "messages": [{ "role": "user" }] }), r#"400 "messages[0].content" null"#),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "audio": {} }] }),
            r#"400 "messages[0].audio" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "tool_call_id": "b" }] }),
            r#"400 "messages[0].tool_call_id" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a", "cache": {} }] }] }),
            r#"400 "messages[0].content[0].cache" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [calling(json!({ "id": "123456789", "function": { "name": "f", "arguments": "{}" }, "extra": 1 }))] }),
            r#"400 "messages[0].tool_calls[0].extra" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [calling(json!({ "function": { "name": "f", "arguments": "{}", "result": 1 } }))] }),
            r#"400 "messages[0].tool_calls[0].function.result" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [thinking(json!({ "type": "thinking", "thinking": "a", "signature": "b" }))] }),
            r#"400 "messages[0].content[0].signature" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [thinking(json!({ "type": "thinking", "thinking": [{ "type": "text", "text": "a", "b": 1 }] }))] }),
            r#"400 "messages[0].content[0].thinking[0].b" "unknown_parameter""#,
        ),
        (
            json!({ "messages": [thinking(json!({ "type": "thinking", "thinking": [{ "type": "image", "text": "a" }] }))] }),
            r#"400 "messages[0].content[0].thinking[0].type" null"#,
        ),
        (json!({ "n": "1" }), r#"400 "n" null"#),
        (json!({ "n": 1.5 }), r#"400 "n" null"#),
        (json!({ "n": 1000 }), r#"400 "n" null"#),
        (json!({ "temperature": 1e300 }), r#"400 "temperature" null"#),
        (json!({ "max_tokens": 1e30 }), r#"400 "max_tokens" null"#),
        (json!({ "max_tokens": 5000 }), r#"400 "max_tokens" "context_length_exceeded""#),
        (json!({ "max_tokens": 5, "max_completion_tokens": 6 }), r#"400 "max_completion_tokens" null"#),
        (json!({ "stop": ["a", 5] }), r#"400 "stop[1]" null"#),
        (json!({ "stop": ["a", ""] }), r#"400 "stop[1]" null"#),
        (json!({ "stop": vec!["a"; 17] }), r#"400 "stop" null"#),
        (json!({ "logit_bias": { "4096": 1 } }), r#"400 "logit_bias" null"#),
        (json!({ "logit_bias": { "5": 101 } }), r#"400 "logit_bias" null"#),
        (json!({ "logit_bias": { "5": "1" } }), r#"400 "logit_bias.5" null"#),
        (json!({ "top_logprobs": 2 }), r#"400 "top_logprobs" null"#),
        (json!({ "stream_options": { "include_usage": true } }), r#"400 "stream_options" null"#),
        (json!({ "stream": true, "stream_options": { "other": true } }), r#"400 "stream_options.other" null"#),
        (json!({ "stream": true, "prompt_logprobs": 1 }), r#"400 "prompt_logprobs" null"#),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "f" } } }), r#"400 "tool_choice" null"#),
        (json!({ "request_id": "a b" }), r#"400 "request_id" null"#),
    ] {
        let answer = harness.post(CHAT, &chat(more.clone())).await;
        assert_eq!(answer.error(), expected, "{more}: {}", answer.body);
    }
    harness.idle().await;
}

#[tokio::test]
async fn token_ids_must_be_in_the_vocabulary() {
    let harness = Harness::new(says("Hi"));
    let vocab_size = codec().vocab_size();
    let complete = async |prompt| {
        harness.post("/v1/completions", &json!({ "model": "tiny", "prompt": prompt, "max_tokens": 1 })).await.error()
    };
    assert_eq!(complete(json!([1, vocab_size])).await, r#"400 "prompt[1]" null"#);
    assert_eq!(complete(json!([[1], [1, 2, -1]])).await, r#"400 "prompt[1][2]" null"#);
    assert_eq!(complete(json!([])).await, r#"400 "prompt" null"#);
    assert_eq!(complete(json!([[]])).await, r#"400 "prompt" null"#);
    assert_eq!(complete(json!(["a", {}])).await, r#"400 "prompt[1]" null"#);
    assert_eq!(complete(json!(vec![5; 4096])).await, r#"400 "prompt" "context_length_exceeded""#);
    assert_eq!(complete(json!(null)).await, r#"400 "prompt" null"#);
}

#[tokio::test]
async fn routes_methods_and_media_types() {
    let harness = Harness::new(says("Hi"));
    assert_eq!(harness.get("/v1/nothing").await.error(), r#"404 null "route_not_found""#);
    assert_eq!(harness.get(CHAT).await.error(), r#"405 null "method_not_allowed""#);
    assert_eq!(harness.get("/v1/models/other").await.error(), r#"404 "model" "model_not_found""#);
    let post = |content_type: Option<&str>| {
        let mut request = Request::builder().method(Method::POST).uri(CHAT);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        request.body(Body::from(chat(json!({})).to_string())).expect("a valid request")
    };
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("json")] {
        let answer = send(harness.app(), post(content_type)).await;
        assert_eq!(answer.error(), r#"415 null "unsupported_media_type""#, "{content_type:?}");
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(send(harness.app(), post(Some(content_type))).await.status, 200, "{content_type}");
    }
}

#[tokio::test]
async fn both_routes_refuse_the_same_way() {
    let harness = Harness::new(says("Hi"));
    let more = json!({ "temperature": "hot" });
    let chat = harness.chat(more.clone()).await;
    let completion = harness.post("/v1/completions", &merged(json!({ "model": "tiny", "prompt": "a" }), more)).await;
    assert_eq!(chat.body, completion.body);
}
