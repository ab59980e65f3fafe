//! Errors name the field, the value and what would be right.

use expect_test::{Expect, expect};
use tramontane::prompt::json::Value;
use tramontane::prompt::{ChatRequest, PromptError};

use crate::fixtures::codec;

fn error_of(name: &str, body: &str) -> PromptError {
    let body = Value::parse(body).expect("the body is JSON");
    let encoded = ChatRequest::from_json(&body).and_then(|request| codec(name).encode_chat(&request));
    encoded.expect_err("must be refused")
}

fn check(name: &str, messages: &str, expected: Expect) {
    let error = error_of(name, &format!(r#"{{"model": "m", "messages": {messages}}}"#));
    expected.assert_eq(&error.to_string());
    assert!(error.field().is_some(), "{error}");
}

#[test]
fn fields_of_the_wrong_type() {
    check("v3-spm", "3", expect!["`messages` is 3, expected an array of messages"]);
    check("v3-spm", "[]", expect!["`messages` is empty, expected at least one message"]);
    check(
        "v3-spm",
        r#"[{"role": "bot", "content": "x"}]"#,
        expect![[r#"`messages[0].role` is "bot", expected one of system, developer, user, assistant, tool"#]],
    );
    check(
        "v3-spm",
        r#"[{"role": "user", "content": [{"type": "text", "text": 5}]}]"#,
        expect!["`messages[0].content[0].text` is 5, expected a string"],
    );
    check(
        "v3-spm",
        r#"[{"role": "user"}]"#,
        expect!["`messages[0].content` is missing, expected a string or an array of chunks"],
    );
}

#[test]
fn conversations_that_make_no_sense() {
    let call =
        r#"{"role": "assistant", "tool_calls": [{"id": "short", "function": {"name": "f", "arguments": "{}"}}]}"#;
    let user = r#"{"role": "user", "content": "x"}"#;
    check(
        "v3-tekken",
        &format!(r#"[{user}, {call}, {{"role": "tool", "content": "1", "tool_call_id": "short"}}]"#),
        expect![[r#"`messages[1].tool_calls[0].id` is "short", expected exactly nine characters of a-z, A-Z, 0-9"#]],
    );
    check(
        "v13-tekken",
        &format!(r#"[{user}, {call}, {{"role": "tool", "content": "1", "tool_call_id": "other"}}]"#),
        expect![[
            r#"`messages[2].tool_call_id` is "other", expected the id of a call in the assistant message before"#
        ]],
    );
    check(
        "v13-tekken",
        &format!("[{user}, {call}]"),
        expect![[
            r#"`messages[1].role` is "assistant", expected "user" or "tool" at the end (or `prefix: true` to continue this message)"#
        ]],
    );
    check(
        "v3-tekken",
        r#"[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]"#,
        expect![[
            r#"`messages[0].content[0].type`: a chunk of type "image_url" in a user message cannot be used with this model (tokenizer version v3)"#
        ]],
    );
}

#[test]
fn other_fields() {
    let with = |rest: &str| format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "x"}}], {rest}}}"#);
    let check = |name: &str, rest: &str, expected: Expect| expected.assert_eq(&error_of(name, &with(rest)).to_string());
    check(
        "v15-tekken",
        r#""reasoning_effort": "low""#,
        expect![[r#"`reasoning_effort` is "low", expected one of none, high"#]],
    );
    check(
        "v13-tekken",
        r#""reasoning_effort": "high""#,
        expect![[r#"`reasoning_effort`: "high" cannot be used with this model (tokenizer version v13)"#]],
    );
    check(
        "v13-tekken",
        r#""tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "text"}}}}}]"#,
        expect![[
            r#"`tools[0].function.parameters.properties.a.type` is "text", expected one or more of array, boolean, integer, null, number, object, string"#
        ]],
    );
    check(
        "v13-tekken",
        r#""prompt_mode": "reasoning""#,
        expect![[
            r#"`prompt_mode` is "reasoning", expected no value: this model's checkpoint has no SYSTEM_PROMPT.txt for reasoning, or its tokenizer no form for it"#
        ]],
    );
    check(
        "v13-tekken",
        r#""prompt_mode": "thorough""#,
        expect![[r#"`prompt_mode` is "thorough", expected "reasoning""#]],
    );
}

/// Arguments that Python's parser would choke on are refused, not passed on as text.
#[test]
fn arguments_beyond_limits() {
    for arguments in ["[".repeat(5000), "9".repeat(5000), r#"{"a": "\ud800"}"#.to_owned()] {
        let arguments = Value::from(arguments).to_json();
        let error = error_of(
            "v13-tekken",
            &format!(
                r#"{{"model": "m", "messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant",
                "tool_calls": [{{"id": "abc", "function": {{"name": "f", "arguments": {arguments}}}}}]}},
                {{"role": "tool", "content": "1", "tool_call_id": "abc"}}]}}"#
            ),
        );
        assert_eq!(error.field(), Some("messages[1].tool_calls[0].function.arguments"), "{error}");
    }
}
