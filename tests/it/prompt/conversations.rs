//! Conversations that differential runs against mistral-common found to be traps.

use expect_test::{Expect, expect};
use tramontane::prompt::json::Value;
use tramontane::prompt::{ChatRequest, SpecialTokens};

use crate::fixtures::codec;

fn check(name: &str, body: &str, expected: Expect) {
    let request = ChatRequest::from_json(&Value::parse(body).expect("JSON")).expect("a request");
    let outcome = match codec(name).encode_chat(&request) {
        Ok(ids) => codec(name).decode(&ids, SpecialTokens::Keep),
        Err(error) => format!("error: {error}"),
    };
    expected.assert_eq(&outcome);
}

/// A conversation that begins with calls (they need no results) and later repeats one of their ids:
/// results are in the order of the calls, where the later of two equal ids counts.
#[test]
fn repeated_call_ids() {
    let call = |id: &str| format!(r#"{{"id": "{id}", "function": {{"name": "{id}", "arguments": null}}}}"#);
    let result = |id: &str| format!(r#"{{"role": "tool", "tool_call_id": "{id}", "content": "{id}"}}"#);
    let body = format!(
        r#"{{"model": "m", "messages": [{{"role": "assistant", "tool_calls": [{}]}},
        {{"role": "assistant", "tool_calls": [{}, {}, {}]}}, {}, {}, {}]}}"#,
        call("b"),
        call("a"),
        call("b"),
        call("c"),
        result("c"),
        result("b"),
        result("a"),
    );
    check(
        "v13-tekken",
        &body,
        expect![[
            r#"<s>[TOOL_CALLS]b[ARGS]{}[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]b[ARGS]{}[TOOL_CALLS]c[ARGS]{}</s>[TOOL_RESULTS]a[/TOOL_RESULTS][TOOL_RESULTS]b[/TOOL_RESULTS][TOOL_RESULTS]c[/TOOL_RESULTS]"#
        ]],
    );
}

/// Settings are checked even where no user turn writes them.
#[test]
fn settings_without_a_user() {
    let body = |effort: &str| {
        format!(
            r#"{{"model": "m", "messages": [{{"role": "system", "content": "x"}}], "reasoning_effort": "{effort}"}}"#
        )
    };
    check("v15-tekken", &body("high"), expect!["<s>[SYSTEM_PROMPT]x[/SYSTEM_PROMPT]"]);
    check("v15-tekken", &body("low"), expect![[r#"error: `reasoning_effort` is "low", expected one of none, high"#]]);
}

/// A key of one library constructor on a message that cannot have it.
#[test]
fn prefix_on_a_user() {
    let body = r#"{"model": "m", "messages": [{"role": "user", "content": "x", "prefix": true}]}"#;
    let error = ChatRequest::from_json(&Value::parse(body).expect("JSON")).expect_err("must be refused");
    expect!["`messages[0].prefix` is true, expected true only on an assistant message"].assert_eq(&error.to_string());
}
