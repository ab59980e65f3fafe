//! Conversations that differential runs against mistral-common found to be traps.

use expect_test::{Expect, expect};
use tramontane::prompt::json::Value;
use tramontane::prompt::{ChatRequest, Codec, MessageOrder, SpecialTokens};

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

/// Strictly, roles take turns; each of these conversations but the first is accepted otherwise.
#[test]
fn strict_order_of_messages() {
    let strict = codec("v13-tekken").clone().with_message_order(MessageOrder::Strict);
    let outcome = |roles: &str| {
        let message = |(index, role): (usize, &str)| match role {
            "call" => format!(
                r#"{{"role": "assistant", "tool_calls": [{{"id": "a{index:08}", "function": {{"name": "f", "arguments": "{{}}"}}}}]}}"#
            ),
            "tool" => format!(r#"{{"role": "tool", "tool_call_id": "a{:08}", "content": "1"}}"#, index - 1),
            role => format!(r#"{{"role": "{role}", "content": "x"}}"#),
        };
        let messages: Vec<String> = roles.split(' ').enumerate().map(message).collect();
        let body = format!(r#"{{"model": "m", "messages": [{}]}}"#, messages.join(","));
        let request = ChatRequest::from_json(&Value::parse(&body).expect("JSON")).expect("a request");
        let told =
            |codec: &Codec| codec.encode_chat(&request).map_or_else(|error| error.to_string(), |_| "fine".into());
        (told(codec("v13-tekken")), told(&strict))
    };
    for roles in ["user", "system user", "system user assistant user", "user call tool assistant user call tool"] {
        assert_eq!(outcome(roles), ("fine".to_owned(), "fine".to_owned()), "{roles}");
    }
    for (roles, expected) in [
        (
            "user user",
            expect![[
                r#"`messages[1].role` is "user", expected assistant after a user message (this server is strict about the order of messages)"#
            ]],
        ),
        (
            "assistant user",
            expect![[
                r#"`messages[0].role` is "assistant", expected system or user at the beginning (this server is strict about the order of messages)"#
            ]],
        ),
        (
            "system system user",
            expect![[
                r#"`messages[1].role` is "system", expected user after the system message (this server is strict about the order of messages)"#
            ]],
        ),
        (
            "user system user",
            expect![[
                r#"`messages[1].role` is "system", expected assistant after a user message (this server is strict about the order of messages)"#
            ]],
        ),
        (
            "user assistant assistant user",
            expect![[
                r#"`messages[2].role` is "assistant", expected user after an assistant message (this server is strict about the order of messages)"#
            ]],
        ),
        (
            "user call tool user",
            expect![[
                r#"`messages[3].role` is "user", expected tool or assistant after a result (this server is strict about the order of messages)"#
            ]],
        ),
    ] {
        let (lenient, strictly) = outcome(roles);
        assert_eq!(lenient, "fine", "{roles}");
        expected.assert_eq(&strictly);
    }
}
