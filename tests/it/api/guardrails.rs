//! Guardrails over what clients send and what is answered, on every way in and out.

use std::fs;

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tramontane::{
    governance::{DEFAULT_TENANT, Governance, GuardrailFile, Role},
    types::{Activation, Pooling},
};

use super::{
    responses::{Heard, last, listens},
    support::{
        Answer, Harness, Script, answers, chat, command_line, control, ids, merged, new_key, says, send, thinks,
    },
};

const MISTRAL: &str = "mistral-client-python/3.7.0";
const CHAT: &str = "/v1/chat/completions";

/// Personal data goes in as placeholders; a code name comes neither in nor out.
pub const BOTH: &str = r#"
    [[guardrail]]
    name = "personal"
    stage = "input"
    detect = ["personal_data"]
    action = "redact"
    mode = "reversible"

    [[guardrail]]
    name = "code names"
    stage = "both"
    words = ["Project Crane"]
    action = "block"
"#;

pub struct Guarded {
    harness: Harness,
    governance: Governance,
    file: NamedTempFile,
}

impl std::ops::Deref for Guarded {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

pub fn guarded(script: Script, guardrails: &str) -> Guarded {
    guarded_with(guardrails, |governance| Harness::governed(script, governance))
}

pub fn guarded_with(guardrails: &str, harness: impl FnOnce(Governance) -> Harness) -> Guarded {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), guardrails).expect("it is written");
    let guardrails = GuardrailFile::open(file.path(), tramontane::api::paths()).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_guardrails(guardrails);
    Guarded { harness: harness(governance.clone()), governance, file }
}

fn guarded_listener(says: &str) -> (Guarded, Heard) {
    let (script, heard) = listens(says);
    (guarded(script, BOTH), heard)
}

pub fn asks(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

/// The text of the first choice of all events together.
pub fn streamed(answer: &Answer, key: &str) -> String {
    answer.events().iter().filter_map(|event| event["choices"][0]["delta"][key].as_str().map(str::to_owned)).collect()
}

pub fn finish(answer: &Answer) -> Value {
    answer.events().last().expect("events")["choices"][0]["finish_reason"].clone()
}

pub async fn findings(harness: &Harness) -> Vec<String> {
    let metrics = harness.get("/metrics").await.body;
    let of = |line: &str| line.strip_prefix("tramontane:guardrail_findings_total").map(str::to_owned);
    metrics.lines().filter_map(of).collect()
}

#[tokio::test]
async fn a_placeholder_goes_in_and_what_it_stands_for_comes_out() {
    let (harness, heard) = guarded_listener("I wrote to [EMAIL_1].");
    assert!(ids("[EMAIL_1]").len() > 1, "it comes in pieces");
    let ask = asks("Write to ada@example.org, please.");
    assert_eq!(harness.chat(ask.clone()).await.text(), "I wrote to ada@example.org.");
    assert!(last(&heard).ends_with("[INST]Write to [EMAIL_1], please.[/INST]"), "{}", last(&heard));
    let answer = harness.chat(merged(ask.clone(), json!({ "stream": true }))).await;
    assert_eq!(answer.streamed_text(0), "I wrote to ada@example.org.");
    assert_eq!(finish(&answer), "stop");
    let text = harness.post_as(MISTRAL, CHAT, &chat(ask)).await.text();
    assert_eq!(text, "I wrote to ada@example.org.");
    let metric = r#"{action="redact",detector="email",guardrail="personal",stage="input"} 3"#;
    assert_eq!(findings(&harness).await, [metric]);
}

#[tokio::test]
async fn every_part_of_a_conversation_is_checked() {
    let (harness, heard) = guarded_listener("Yes.");
    let messages = json!([
        { "role": "system", "content": "Of a@example.org." },
        { "role": "user", "content": [{ "type": "text", "text": "Of b@example.org." }] },
        { "role": "assistant", "content": "", "tool_calls": [{ "id": "abcdefghi", "type": "function", "function": {
            "name": "roll", "arguments": r#"{"to": "c\u0040example.org", "card": 4111111111111111}"#,
        } }] },
        { "role": "tool", "tool_call_id": "abcdefghi", "name": "roll", "content": "Of a@example.org and d@example.org." },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": [{ "type": "text", "text": "Of g@example.org?" }] },
            { "type": "text", "text": "Yes." },
        ] },
        { "role": "user", "content": "Go on." },
    ]);
    let tool = json!({ "type": "function", "function": {
        "name": "roll", "description": "For e@example.org", "parameters": { "description": "f@example.org" },
    } });
    let answer = harness.chat(json!({ "messages": messages, "tools": [tool] })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let heard = last(&heard);
    assert!(!heard.contains("example.org") && !heard.contains("4111"), "{heard}");
    for part in [
        "Of [EMAIL_1].",
        "Of [EMAIL_2].",
        r#"{"to": "[EMAIL_3]", "card": "[CARD_1]"}"#,
        "Of [EMAIL_1] and [EMAIL_4].",
        "[THINK]Of [EMAIL_5]?[/THINK]",
        "For [EMAIL_6]",
        r#""description": "[EMAIL_7]""#,
    ] {
        assert!(heard.contains(part), "{part} in {heard}");
    }
}

#[tokio::test]
async fn what_is_not_to_be_sent_is_refused_in_the_words_of_either_api() {
    let (harness, heard) = guarded_listener("Yes.");
    let ask = asks("Tell me of project  CRANE.");
    let blocked = r#"400 null "content_filter""#;
    assert_eq!(harness.chat(ask.clone()).await.error(), blocked);
    let refused = harness.post_as(MISTRAL, CHAT, &chat(ask)).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let message = "The request was blocked by the guardrail `code names`, which found words.";
    let error = refused.json();
    assert_eq!((&error["object"], &error["message"]), (&json!("error"), &json!(message)));
    let text = "Of Project Crane.";
    for (path, body) in [
        ("/v1/completions", json!({ "model": "tiny", "prompt": ["Of what?", text] })),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "Of", "suffix": text })),
        ("/v1/embeddings", json!({ "model": "tiny", "input": ["Of what?", text] })),
        ("/v1/responses", json!({ "model": "tiny", "input": text })),
        ("/v1/responses", json!({ "model": "tiny", "input": "Of what?", "instructions": text })),
        ("/v1/moderations", json!({ "model": "tiny", "input": text })),
        (
            "/v1/chat/completions",
            chat(json!({ "messages": [
            { "role": "assistant", "content": "", "tool_calls": [
                { "id": "abcdefghi", "type": "function", "function": { "name": "roll", "arguments": "{}" } },
            ] },
            { "role": "tool", "tool_call_id": "abcdefghi", "name": "Project Crane", "content": "Yes." },
        ] })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "response_format": { "type": "json_schema", "json_schema": {
            "name": "s", "schema": { "type": "object", "description": text },
        } } })),
        ),
        ("/score", json!({ "model": "tiny", "queries": "Of what?", "documents": [text] })),
        ("/rerank", json!({ "model": "tiny", "query": text, "documents": ["Of what?"] })),
    ] {
        assert_eq!(harness.post(path, &body).await.error(), blocked, "{path} {body}");
    }
    for (path, body) in [
        ("/v1/fim/completions", json!({ "model": "tiny", "prompt": "Of", "suffix": text })),
        ("/v1/chat/moderations", json!({ "model": "tiny", "input": [{ "role": "user", "content": text }] })),
    ] {
        assert_eq!(harness.post(path, &body).await.status, 403, "{path}");
    }
    let begun = json!({ "model": "tiny", "inputs": text });
    assert_eq!(harness.post_as(MISTRAL, "/v1/conversations", &begun).await.status, 403);
    let agent = json!({ "model": "tiny", "name": "Poet", "instructions": text });
    let agent = harness.post("/v1/agents", &agent).await.json();
    let asked = json!({ "agent_id": agent["id"], "messages": [{ "role": "user", "content": "Of what?" }] });
    assert_eq!(harness.post("/v1/agents/completions", &asked).await.status, 403, "not a mistake of a field");
    assert_eq!(last(&heard), "", "the model was asked nothing");
}

#[tokio::test]
async fn all_of_a_conversation_is_checked_when_it_goes_on() {
    let (harness, heard) = guarded_listener("Yes.");
    fs::write(harness.file.path(), "").expect("it is written");
    harness.governance.guardrails().reload().expect("they are right");
    let first = json!({ "model": "tiny", "input": "Of Project Crane and ada@example.org." });
    let first = harness.post("/v1/responses", &first).await.json();
    let begun = json!({ "model": "tiny", "inputs": "Of Project Crane and ada@example.org." });
    let begun = harness.post_as(MISTRAL, "/v1/conversations", &begun).await.json();
    let asked = last(&heard);
    fs::write(harness.file.path(), BOTH).expect("it is written");
    harness.governance.guardrails().reload().expect("they are right");
    let more = json!({ "model": "tiny", "input": "And?", "previous_response_id": first["id"] });
    assert_eq!(harness.post("/v1/responses", &more).await.error(), r#"400 null "content_filter""#);
    let path = format!("/v1/conversations/{}", begun["conversation_id"].as_str().expect("an id"));
    assert_eq!(harness.post_as(MISTRAL, &path, &json!({ "inputs": "And?" })).await.status, 403);
    assert_eq!(last(&heard), asked, "the model was asked nothing more");
    let redacts = BOTH.replace("Project Crane", "Project Heron");
    fs::write(harness.file.path(), redacts).expect("it is written");
    harness.governance.guardrails().reload().expect("they are right");
    assert_eq!(harness.post("/v1/responses", &more).await.status, 200);
    assert!(last(&heard).contains("Of Project Crane and [EMAIL_1]."), "{}", last(&heard));
}

#[tokio::test]
async fn what_is_to_be_classified_is_checked() {
    let labels = vec!["no".to_owned(), "yes".to_owned()];
    let pooling = Pooling::Classes { labels, activation: Activation::Softmax };
    let harness = guarded_with(BOTH, |governance| {
        Harness::governed_pooling(says("x"), governance, super::support::codec(), pooling)
    });
    let ask = async |input: Value| harness.post("/classify", &json!({ "model": "tiny", "input": input })).await;
    assert_eq!(ask(json!("Of what?")).await.status, 200);
    assert_eq!(ask(json!(["Of what?", "Of Project Crane."])).await.error(), r#"400 null "content_filter""#);
    assert_eq!(ask(json!([5, 6, 7])).await.error(), r#"403 "input" "guardrail_needs_text""#);
}

#[tokio::test]
async fn nobody_sends_past_guardrails_what_they_cannot_read() {
    let (harness, heard) = guarded_listener("Yes.");
    let unread = |param: &str| format!(r#"403 "{param}" "guardrail_needs_text""#);
    for (path, field, value, param) in [
        ("/v1/completions", "prompt", json!([5, 6, 7]), "prompt"),
        ("/v1/completions", "prompt", json!(["Of", [5, 6, 7]]), "prompt[1]"),
        ("/v1/embeddings", "input", json!([5, 6, 7]), "input"),
    ] {
        let answer = harness.post(path, &json!({ "model": "tiny", field: value })).await;
        assert_eq!(answer.error(), unread(param), "{path}");
    }
    assert_eq!(last(&heard), "");
}

#[tokio::test]
async fn an_answer_ends_before_what_is_not_to_be_said() {
    let harness = guarded(says("All is well with Project Crane, says Ada."), BOTH);
    for more in [json!({}), json!({ "stop": ["never said"] })] {
        let answer = harness.chat(merged(json!({ "stream": true, "max_tokens": 100 }), more)).await;
        assert_eq!(answer.streamed_text(0), "All is well with ");
        assert_eq!(finish(&answer), "content_filter");
        assert!(!answer.body.contains("Crane") && !answer.body.contains("Project"), "{}", answer.body);
    }
    let whole = harness.chat(json!({ "n": 2 })).await.json();
    for choice in whole["choices"].as_array().expect("choices") {
        assert_eq!(choice["message"]["content"], "All is well with ");
        assert_eq!(choice["finish_reason"], "content_filter");
    }
    let whole = harness.post_as(MISTRAL, CHAT, &chat(json!({}))).await.json();
    assert_eq!(whole["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(whole["choices"][0]["message"]["content"], "All is well with ");
    harness.idle().await;
    let metric = r#"{action="block",detector="words",guardrail="code names",stage="output"} 5"#;
    assert_eq!(findings(&harness).await, [metric]);
}

#[tokio::test]
async fn a_response_says_why_it_is_not_whole() {
    let harness = guarded(says("All is well with Project Crane, says Ada."), BOTH);
    let body = json!({ "model": "tiny", "input": "How are you?" });
    let response = harness.post("/v1/responses", &body).await.json();
    assert_eq!(response["status"], "incomplete", "{response}");
    assert_eq!(response["incomplete_details"], json!({ "reason": "content_filter" }));
    assert_eq!(response["output"][0]["content"][0]["text"], "All is well with ");
    let stored = harness.get(&format!("/v1/responses/{}", response["id"].as_str().expect("an id"))).await.json();
    assert_eq!(stored["incomplete_details"], json!({ "reason": "content_filter" }));
    let streamed = harness.post("/v1/responses", &merged(body.clone(), json!({ "stream": true }))).await;
    assert!(streamed.body.contains("event: response.incomplete"), "{}", streamed.body);
    assert!(!streamed.body.contains("Crane") && !streamed.body.contains("Project"), "{}", streamed.body);
    let queued = harness.post("/v1/responses", &merged(body, json!({ "background": true }))).await.json();
    let _worker = harness.background();
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let done = harness.batch_when(&path, |it| it["status"] == "incomplete").await;
    assert_eq!(done["incomplete_details"], json!({ "reason": "content_filter" }));
    assert_eq!(done["output"][0]["content"][0]["text"], "All is well with ");
}

#[tokio::test]
async fn completions_restore_what_they_echo() {
    let harness = guarded(says("x"), BOTH);
    let body = json!({ "model": "tiny", "prompt": "To ada@example.org", "echo": true, "max_tokens": 1 });
    let whole = harness.post("/v1/completions", &body).await.text();
    assert!(whole.starts_with("To ada@example.org"), "{whole}");
    let streamed = harness.post("/v1/completions", &merged(body, json!({ "stream": true }))).await.streamed_text(0);
    assert_eq!(streamed, whole);
}

#[tokio::test]
async fn thoughts_are_checked_like_answers() {
    let words = BOTH.replace("Project Crane", "Hm");
    let harness = guarded(thinks(), &words);
    let answer = harness.chat(json!({ "stream": true })).await;
    assert_eq!((streamed(&answer, "reasoning"), finish(&answer)), (String::new(), json!("content_filter")));
    assert_eq!(answer.streamed_text(0), "");
}

pub fn calls(arguments: &str) -> Script {
    answers([vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids(arguments)].concat())
}

#[tokio::test]
async fn arguments_of_calls_are_checked_as_what_they_say() {
    let tools = json!([{ "type": "function", "function": { "name": "roll", "parameters": { "type": "object" } } }]);
    let ask = merged(asks("Write to \"Ada\" <ada@example.org>"), json!({ "tools": tools }));
    let harness = guarded(calls(r#"{"to": "\u005bEMAIL_1]", "n": 1.50}"#), BOTH);
    let answer = harness.chat(ask.clone()).await.json();
    let arguments = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, r#"{"to": "ada@example.org", "n": 1.50}"#);
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");

    let harness = guarded(calls(r#"{"of": "Project Crane", "of": "nothing"}"#), BOTH);
    let answer = harness.chat(ask.clone()).await;
    let call = &answer.json()["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], r#"{"of": "nothing"}"#);

    let harness = guarded(calls(r#"{"of": "Project\u0020Crane"}"#), BOTH);
    let answer = harness.chat(merged(ask, json!({ "stream": true }))).await;
    assert_eq!(finish(&answer), "content_filter");
    assert!(!answer.body.contains("Crane"), "{}", answer.body);
}

#[tokio::test]
async fn tokens_of_a_guarded_answer_are_not_told() {
    let harness = guarded(says("Yes."), BOTH);
    let refused = |param: &str| format!(r#"400 "{param}" null"#);
    assert_eq!(harness.chat(json!({ "logprobs": true })).await.error(), refused("logprobs"));
    assert_eq!(harness.chat(json!({ "return_token_ids": true })).await.error(), refused("return_token_ids"));
    let body = json!({ "model": "tiny", "prompt": "Hello", "logprobs": 0 });
    assert_eq!(harness.post("/v1/completions", &body).await.error(), refused("logprobs"));
    let body = json!({ "model": "tiny", "prompt": "Hello", "prompt_logprobs": 1 });
    assert_eq!(harness.post("/v1/completions", &body).await.error(), refused("prompt_logprobs"));
    // What only goes in leaves answers as they are, unless there is something to restore.
    let input = BOTH.replace("\"both\"", "\"input\"");
    let harness = guarded(says("Yes."), &input);
    assert_eq!(harness.chat(json!({ "logprobs": true })).await.status, 200);
    let restores = merged(asks("To ada@example.org"), json!({ "logprobs": true }));
    assert_eq!(harness.chat(restores).await.error(), refused("logprobs"));
}

#[tokio::test]
async fn guardrails_apply_to_their_tenants_and_routes() {
    let of_acme = BOTH.replace("words =", "tenants = [\"acme\"]\nroutes = [\"/v1/chat/*\"]\nwords =");
    let harness = guarded(says("Yes."), &of_acme);
    let governance = &harness.governance;
    command_line(governance).create_tenant("acme", None, 1).expect("it is made");
    let key = |tenant: &str| new_key(governance, "app", tenant, Role::Developer).secret;
    let (ours, theirs) = (key(DEFAULT_TENANT), key("acme"));
    let ask = async |secret: &str, path: &str, body: Value| {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {secret}"));
        send(harness.app(), request.body(Body::from(body.to_string())).expect("a valid request")).await.status
    };
    let crane = || chat(asks("Of Project Crane."));
    assert_eq!(ask(&ours, CHAT, crane()).await, 200);
    assert_eq!(ask(&theirs, CHAT, crane()).await, 400);
    // By whatever name the model is called.
    assert_eq!(ask(&theirs, CHAT, merged(crane(), json!({ "model": "alias" }))).await, 400);
    let prompt = json!({ "model": "tiny", "prompt": "Of Project Crane.", "max_tokens": 1 });
    assert_eq!(ask(&theirs, "/v1/completions", prompt).await, 200);
}

#[tokio::test]
async fn guardrails_that_are_read_again_apply_to_the_next_request() {
    let harness = guarded(says("Yes."), "");
    let ask = || harness.chat(asks("Of Project Crane."));
    assert_eq!(ask().await.status, 200);
    fs::write(harness.file.path(), BOTH).expect("it is written");
    harness.governance.guardrails().reload().expect("they are right");
    assert_eq!(ask().await.status, 400);
    fs::write(harness.file.path(), "[[guardrail]]").expect("it is written");
    harness.governance.guardrails().reload().expect_err("they are wrong");
    assert_eq!(ask().await.status, 400);
}

#[tokio::test]
async fn without_guardrails_nothing_is_another() {
    let plain = Harness::new(says("To ada@example.org and Project Crane."));
    let harness = guarded(says("To ada@example.org and Project Crane."), "");
    let body = json!({ "stream": true, "logprobs": true, "seed": 1, "request_id": "same" });
    let lines = |answer: Answer| super::support::lines(&answer.events());
    let ask = merged(asks("Of Project Crane, to [EMAIL_1] ada@example.org"), body);
    assert_eq!(lines(harness.chat(ask.clone()).await), lines(plain.chat(ask).await));
    assert_eq!(findings(&harness).await, Vec::<String>::new());
}

#[tokio::test]
async fn lines_of_batches_are_checked_as_what_they_ask_for() {
    let of_chats = BOTH.replace("words =", "routes = [\"/v1/chat/completions\"]\nwords =");
    let harness = guarded(says("All is well with [EMAIL_1]."), &of_chats);
    let _worker = harness.worker();
    let ask = |text: &str| merged(chat(asks(text)), json!({ "max_tokens": 100 }));
    let line =
        |id: &str, body: Value| json!({ "custom_id": id, "method": "POST", "url": CHAT, "body": body }).to_string();
    let lines = [line("good", ask("Of ada@example.org.")), line("bad", ask("Of Project Crane."))];
    let created = harness.batch(&lines).await;
    let batch = harness.ended(&created, "completed").await;
    let good = harness.lines_of(&batch["output_file_id"]).await;
    let content = &good[0]["response"]["body"]["choices"][0]["message"]["content"];
    assert_eq!((good.len(), content), (1, &json!("All is well with ada@example.org.")));
    let bad = harness.lines_of(&batch["error_file_id"]).await;
    assert_eq!((bad.len(), &bad[0]["custom_id"]), (1, &json!("bad")));
    assert!(bad[0].to_string().contains("content_filter"), "{}", bad[0]);
}
