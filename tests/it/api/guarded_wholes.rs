//! What the model reads as one text, and what clients put together, is judged as one.

use serde_json::{Value, json};
use tramontane::prompt::{Codec, TokenizerVersion};

use super::{
    guardrails::{BOTH, Guarded, asks, calls, findings, finish, guarded, guarded_with, streamed},
    handoffs::{ann_and_bob, as_told},
    mistral_conversations::shown,
    responses::{Heard, last, listens},
    support::{Harness, answers, codec, codec_of, control, ids, merged, says},
};

const BLOCKED: &str = r#"400 null "content_filter""#;

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn message(role: &str, content: impl Into<Value>) -> Value {
    json!({ "role": role, "content": content.into() })
}

fn of_codec(codec: Codec, says: &str) -> (Guarded, Heard) {
    let (script, heard) = listens(says);
    (guarded_with(BOTH, |governance| Harness::governed_with(script, governance, codec)), heard)
}

#[tokio::test]
async fn what_is_spread_over_parts_and_messages_is_found() {
    let (harness, heard) = of_codec(codec(), "Yes.");
    let spread = [
        json!([message("user", json!([text("Of Project"), text("Crane.")]))]),
        json!([message("user", "Of Project"), message("user", "Crane.")]),
        json!([
            message("user", "Go on."),
            message("assistant", "Of Project"),
            message("assistant", "Crane."),
            message("user", "And?")
        ]),
        json!([message("system", json!([text("Of Project"), text(""), text("Crane.")])), message("user", "And?")]),
    ];
    for messages in &spread {
        assert_eq!(harness.chat(json!({ "messages": messages })).await.error(), BLOCKED, "{messages}");
    }
    // In a prompt of this version they do not touch.
    let apart = json!([message("system", "Of Project"), message("user", "Crane.")]);
    assert_eq!(harness.chat(json!({ "messages": apart })).await.status, 200);
    assert!(last(&heard).contains("Of Project[/SYSTEM_PROMPT][INST]Crane."), "{}", last(&heard));
    // In one of this they do.
    let (harness, heard) = of_codec(codec_of(TokenizerVersion::V3), "Yes.");
    assert_eq!(harness.chat(json!({ "messages": apart })).await.error(), BLOCKED);
    assert_eq!(last(&heard), "");
}

#[tokio::test]
async fn what_is_spread_over_parts_is_redacted_in_all_of_them() {
    let template = "{{ bos_token }}{% for message in messages %}[INST]{% for part in message.content %}{{ part.text }}\
                    {% endfor %}[/INST]{% endfor %}";
    let (harness, heard) = of_codec(codec().with_jinja(template).expect("a template"), "To [EMAIL_1].");
    let parts = json!([text("Write to ada@exam"), text("ple.org"), text(" and b"), text("ob@example.org, please.")]);
    let answer = harness.chat(json!({ "messages": [message("user", parts)] })).await;
    assert_eq!(answer.text(), "To ada@example.org.");
    let heard = last(&heard);
    assert!(heard.ends_with("[INST]Write to [EMAIL_1] and [EMAIL_2], please.[/INST]"), "{heard}");
}

#[tokio::test]
async fn results_that_are_read_as_json_are_judged_as_what_they_say() {
    let called = json!({ "id": "abcdefghi", "type": "function", "function": { "name": "roll", "arguments": "{}" } });
    let (harness, heard) = of_codec(codec_of(TokenizerVersion::V3), "Yes.");
    for (result, read) in [
        (json!(r#"{"to": "c\u0040example.org", "at": [1.50]}"#), r#""content": {"to": "[EMAIL_1]", "at": [1.5]}"#),
        (json!([text(r#"{"to": "c\u0040example.org","#), text(r#""n": 1}"#)]), r#"{"to": "[EMAIL_1]", "n": 1}"#),
        (json!("To c@example.org"), r#""content": "To [EMAIL_1]""#),
        (json!("4111111111111111"), r#""content": "[CARD_1]""#),
    ] {
        let messages = json!([
            message("user", "Roll."),
            { "role": "assistant", "content": "", "tool_calls": [called] },
            { "role": "tool", "tool_call_id": "abcdefghi", "name": "roll", "content": result },
        ]);
        let answer = harness.chat(json!({ "messages": messages })).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(last(&heard).contains(read), "{read} in {}", last(&heard));
    }
}

#[tokio::test]
async fn names_and_keywords_are_refused_and_not_redacted() {
    let redacts = r#"
        [[guardrail]]
        name = "birds"
        stage = "both"
        words = ["crane", "string"]
        action = "redact"
    "#;
    let (script, heard) = listens("Yes.");
    let harness = guarded(script, redacts);
    let tool = |name: &str, parameters: Value| json!({ "tools": [{ "type": "function", "function": { "name": name, "parameters": parameters } }] });
    let one = |schema: Value| json!({ "type": "object", "properties": { "a": schema } });
    for refused in [
        tool("crane", json!({})),
        tool("roll", one(json!({ "type": "string" }))),
        tool("roll", json!({ "type": "object", "properties": { "crane": {} } })),
        tool("roll", json!({ "type": "object", "required": ["crane"] })),
    ] {
        let answer = harness.chat(refused.clone()).await;
        assert_eq!(answer.error(), BLOCKED, "{refused}");
        assert!(answer.body.contains("in a name or a keyword that cannot be replaced"), "{}", answer.body);
    }
    assert_eq!(last(&heard), "");
    let described = tool("roll", one(json!({ "description": "A crane", "enum": ["crane", "heron"] })));
    assert_eq!(harness.chat(described).await.status, 200);
    let heard = last(&heard);
    assert!(heard.contains(r#"{"description": "A [WORD]", "enum": ["[WORD]", "heron"]}"#), "{heard}");
}

/// Quotes and lines: what does not stand in JSON as it is.
const QUOTES: &str = r#"
    [[guardrail]]
    name = "quotes"
    stage = "input"
    words = ["say \"hi\"", "a\nb"]
    action = "redact"
    mode = "reversible"

    [[guardrail]]
    name = "cards"
    stage = "output"
    detect = ["payment_card"]
    action = "redact"

    [[guardrail]]
    name = "code names"
    stage = "output"
    words = ["Project Crane"]
    action = "block"
"#;

fn json_object() -> Value {
    json!({ "response_format": { "type": "json_object" }, "max_tokens": 200 })
}

#[tokio::test]
async fn an_answer_in_json_is_judged_as_what_it_says_and_stays_json() {
    let ask = || merged(asks("They say \"hi\" of a\nb."), json_object());
    let written = r#"{"say": "[WORD_1]!", "of": ["x\n[WORD_2]", 4111111111111111, 41e2, true], "e": "\u0001\"\\é"}"#;
    let read = json!({ "say": "say \"hi\"!", "of": ["x\na\nb", "[CARD]", 4100.0, true], "e": "\u{1}\"\\é" });
    let harness = guarded(says(written), QUOTES);
    let whole = harness.chat(ask()).await;
    assert_eq!(serde_json::from_str::<Value>(&whole.text()).expect("JSON"), read, "{}", whole.body);
    let answer = harness.chat(merged(ask(), json!({ "stream": true }))).await;
    assert_eq!(answer.streamed_text(0), whole.text());
    assert_eq!(finish(&answer), "stop");
    let structured = json!({ "structured_outputs": { "json_object": true } });
    let mut body = merged(ask(), structured);
    body.as_object_mut().expect("an object").remove("response_format");
    assert_eq!(harness.chat(body).await.text(), whole.text());

    let harness = guarded(says(r#"{"of": "Of Project\nCrane"}"#), QUOTES);
    let answer = harness.chat(ask()).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], r#"{"of": "Of "#);
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
}

#[tokio::test]
async fn json_that_a_request_has_begun_goes_on() {
    let begun = json!({ "messages": [
        message("user", "They say \"hi\"."),
        { "role": "assistant", "content": r#"{"say": "[WOR"#, "prefix": true },
    ] });
    // The script counts from the end of the instruction, so it has to skip what is begun.
    let n_begun = ids(r#"{"say": "[WOR"#).len();
    let tokens = [vec![0; n_begun], ids(r#"D_1]!", "n": "\n[WORD_1]"}"#)].concat();
    let harness = guarded(answers(tokens), QUOTES);
    let text = harness.chat(merged(begun, json_object())).await.text();
    // What the request has begun is repeated in the dialect that has a prefix.
    assert_eq!(text, r#"{"say": "[WORD_1]!", "n": "\nsay \"hi\""}"#);
}

#[tokio::test]
async fn content_around_thoughts_is_one_text() {
    let thinks = [ids("Of Project"), vec![control("[THINK]")], ids("Hm."), vec![control("[/THINK]")], ids(" Crane.")];
    let harness = guarded(answers(thinks.concat()), BOTH);
    for stream in [false, true] {
        let answer = harness.chat(json!({ "stream": stream })).await;
        let text = if stream { answer.streamed_text(0) } else { answer.text() };
        assert_eq!((text.as_str(), answer.body.contains("content_filter")), ("Of ", true), "{}", answer.body);
    }
    let thinks = [
        vec![control("[THINK]")],
        ids("Project"),
        vec![control("[/THINK]")],
        ids("Yes. "),
        vec![control("[THINK]")],
        ids(" Crane"),
        vec![control("[/THINK]")],
        ids("No."),
    ];
    let harness = guarded(answers(thinks.concat()), BOTH);
    let answer = harness.chat(json!({ "stream": true })).await;
    assert_eq!((streamed(&answer, "reasoning"), answer.streamed_text(0)), ("Project".into(), "Yes. ".into()));
    assert_eq!(finish(&answer), "content_filter");
}

#[tokio::test]
async fn thoughts_hold_nothing_back_and_calls_wait_for_what_is_before_them() {
    let says = [
        vec![control("[THINK]")],
        ids("To ada"),
        vec![control("[/THINK]")],
        ids("I ask ada"),
        vec![control("[TOOL_CALLS]")],
        ids("roll"),
        vec![control("[ARGS]")],
        ids("{}"),
    ];
    let harness = guarded(answers(says.concat()), &BOTH.replace("\"input\"", "\"both\""));
    let tools = json!([{ "type": "function", "function": { "name": "roll", "parameters": { "type": "object" } } }]);
    let answer = harness.chat(json!({ "stream": true, "tools": tools })).await;
    assert_eq!((streamed(&answer, "reasoning"), answer.streamed_text(0)), ("To ada".into(), "I ask ada".into()));
    let deltas: Vec<Value> = answer.events().iter().map(|event| event["choices"][0]["delta"].clone()).collect();
    let content = deltas.iter().rposition(|delta| delta["content"].as_str().is_some_and(|text| !text.is_empty()));
    let call = deltas.iter().position(|delta| delta["tool_calls"].is_array());
    assert!(content.is_some() && content < call, "{deltas:?}");
    assert_eq!(finish(&answer), "tool_calls");
}

#[tokio::test]
async fn of_a_call_that_is_blocked_nothing_is_told() {
    let tools = json!([{ "type": "function", "function": { "name": "roll", "parameters": { "type": "object" } } }]);
    let harness = guarded(calls(r#"{"of": "Project\u0020Crane"}"#), BOTH);
    for stream in [false, true] {
        let answer = harness.chat(json!({ "stream": stream, "tools": tools })).await;
        assert!(!answer.body.contains("roll"), "{}", answer.body);
        assert!(answer.body.contains("content_filter"), "{}", answer.body);
    }
    let response = json!({ "model": "tiny", "input": "Roll.", "tools": [
        { "type": "function", "name": "roll", "parameters": { "type": "object" } },
    ] });
    let response = harness.post("/v1/responses", &response).await.json();
    assert_eq!((&response["status"], &response["output"]), (&json!("incomplete"), &json!([])), "{response}");
    assert_eq!(findings(&harness).await.len(), 1);
}

#[tokio::test]
async fn nobody_goes_on_from_an_answer_that_is_blocked() {
    let hands_over = [vec![control("[TOOL_CALLS]")], ids("transfer_to_Bob"), vec![control("[ARGS]")], ids("{}")];
    let then = [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids(r#"{"of": "Project Crane"}"#)];
    let route = [hands_over.concat(), then.concat()].concat();
    let script = || as_told(vec![("Route.", route.clone()), ("Speak.", ids("I am Bob."))]);
    let harness = guarded(script(), BOTH);
    let (ann, _) = ann_and_bob(&harness).await;
    let begun = harness.converse(json!({ "agent_id": ann })).await;
    assert_eq!(shown(&begun["outputs"]), [r#"message.output """#]);
}
