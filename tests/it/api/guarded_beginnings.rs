//! Answers that go on from what a request has begun: what begins there and ends in the answer is judged.

use serde_json::{Value, json};
use tramontane::governance::Governance;

use super::{
    guardrails::{BOTH, Guarded, finish, guarded, guarded_with},
    support::{EOS, Harness, Script, chat, codec, ids, merged, says},
};

const MISTRAL: &str = "mistral-client-python/3.7.0";
const BEGUN: &str = "All is well with Project";

/// Of answers alone: the request may say what it likes.
const OF_ANSWERS: &str = r#"
    [[guardrail]]
    name = "code names"
    stage = "output"
    words = ["Project Crane"]
    action = "block"
"#;

/// Goes on from where this ends.
fn goes_on(begun: &str, more: &str) -> Script {
    let (begun, more) = (ids(begun), ids(more));
    Box::new(move |history| {
        let at = history.windows(begun.len()).rposition(|window| window == begun);
        let generated = at.map_or(0, |at| history.len() - at - begun.len());
        more.get(generated).copied().unwrap_or(EOS)
    })
}

fn server(begun: &str, more: &str) -> Guarded {
    guarded(goes_on(begun, more), OF_ANSWERS)
}

fn begins(text: &str) -> Value {
    let messages =
        [json!({ "role": "user", "content": "How are you?" }), json!({ "role": "assistant", "content": text })];
    json!({ "messages": messages, "continue_final_message": true })
}

#[tokio::test]
async fn what_a_request_begins_a_chat_does_not_end() {
    let harness = server(BEGUN, " Crane, says Ada.");
    let whole = harness.chat(begins(BEGUN)).await.json();
    assert_eq!(
        (&whole["choices"][0]["finish_reason"], &whole["choices"][0]["message"]["content"]),
        (&json!("content_filter"), &json!(""))
    );
    let streamed = harness.chat(merged(begins(BEGUN), json!({ "stream": true }))).await;
    assert_eq!((streamed.streamed_text(0), finish(&streamed)), (String::new(), json!("content_filter")));
    // What Mistral's API repeats is the client's own.
    let mut messages = begins(BEGUN)["messages"].clone();
    messages[1]["prefix"] = true.into();
    let repeated = chat(json!({ "messages": messages }));
    let repeated = harness.post_as(MISTRAL, "/v1/chat/completions", &repeated).await.json();
    let choice = &repeated["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("content_filter"), &json!(BEGUN)));

    // What is all the client's, or all right, ends nothing.
    let (all, more) = ("All is well with Project Crane", ", says Ada.");
    let harness = server(all, more);
    let answer = harness.chat(merged(begins(all), json!({ "stream": true }))).await;
    assert_eq!((answer.streamed_text(0).as_str(), finish(&answer)), (more, json!("stop")));
    let harness = server(BEGUN, " Heron, says Ada.");
    let answer = harness.chat(merged(begins(BEGUN), json!({ "stream": true }))).await;
    assert_eq!((answer.streamed_text(0).as_str(), finish(&answer)), (" Heron, says Ada.", json!("stop")));
}

#[tokio::test]
async fn what_a_request_begins_a_completion_does_not_end() {
    let harness = server(BEGUN, " Crane, says Ada.");
    let token_ids = json!(ids(BEGUN));
    for prompt in [json!(BEGUN), json!([BEGUN]), token_ids] {
        for (echo, expected) in [(false, ""), (true, BEGUN)] {
            let body = json!({ "model": "tiny", "prompt": prompt, "echo": echo, "max_tokens": 50 });
            let whole = harness.post("/v1/completions", &body).await.json();
            let choice = &whole["choices"][0];
            assert_eq!(
                (&choice["text"], &choice["finish_reason"]),
                (&json!(expected), &json!("content_filter")),
                "{body}"
            );
            let streamed = harness.post("/v1/completions", &merged(body, json!({ "stream": true }))).await;
            assert_eq!((streamed.streamed_text(0).as_str(), finish(&streamed)), (expected, json!("content_filter")));
        }
    }
    let heron = server(BEGUN, " Heron, says Ada.");
    let body = json!({ "model": "tiny", "prompt": BEGUN, "max_tokens": 50 });
    assert_eq!(heron.post("/v1/completions", &body).await.text(), " Heron, says Ada.");
}

#[tokio::test]
async fn what_a_request_begins_a_gap_does_not_end() {
    let harness = server(BEGUN, " Crane, says Ada.");
    let body = json!({ "model": "tiny", "prompt": BEGUN, "suffix": "Yes.", "max_tokens": 50 });
    let whole = harness.post("/v1/fim/completions", &body).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("content_filter"), &json!("")),
        "{whole}"
    );
    let streamed = harness.post("/v1/fim/completions", &merged(body, json!({ "stream": true }))).await;
    assert!(!streamed.body.contains("Crane") && streamed.body.contains("content_filter"), "{}", streamed.body);
}

#[tokio::test]
async fn what_a_request_begins_a_string_of_json_does_not_end() {
    let begun = r#"{"of": "Project\n"#;
    let harness = server(begun, r#"Crane"}"#);
    let body = merged(begins(begun), json!({ "response_format": { "type": "json_object" }, "stream": true }));
    let answer = harness.chat(body).await;
    assert_eq!((answer.streamed_text(0), finish(&answer)), (String::new(), json!("content_filter")), "{}", answer.body);
}

/// A checkpoint's own template may write what no other does.
#[tokio::test]
async fn ids_of_calls_are_judged_where_the_template_writes_them() {
    let template = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}\
                    {{ m.tool_call_id }}{{ m.content }}{% elif m.tool_calls %}{{ m.tool_calls[0].id }}{% else %}\
                    {{ m.content }}{% endif %}{% endfor %}";
    let ask = |id: &str| {
        json!({ "messages": [
            { "role": "user", "content": "Roll." },
            { "role": "assistant", "content": "", "tool_calls": [
                { "id": id, "type": "function", "function": { "name": "roll", "arguments": "{}" } },
            ] },
            { "role": "tool", "tool_call_id": id, "name": "roll", "content": "6" },
        ] })
    };
    let jinja = |governance: Governance| {
        Harness::governed_with(says("Six."), governance, codec().with_jinja(template).expect("a template"))
    };
    let harness = guarded_with(BOTH, jinja);
    assert_eq!(harness.chat(ask("Project Crane")).await.error(), r#"400 null "content_filter""#);
    assert_eq!(
        harness.chat(ask("ada@example.org")).await.error(),
        r#"400 null "content_filter""#,
        "nothing stands for an id"
    );
    assert_eq!(harness.chat(ask("roll-1")).await.status, 200);
    // Mistral's own template of this version leaves them out.
    let harness = guarded(says("Six."), BOTH);
    assert_eq!(harness.chat(ask("Project Crane")).await.status, 200);
}
