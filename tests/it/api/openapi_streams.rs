//! The streams that `/openapi.json` describes beside those that the server sends: no event is there that it does not name,
//! none has another form, and all that it names are there.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tramontane::{
    api::{HttpLimits, openapi},
    store::Store,
};

use super::{
    agents::function,
    handoffs::{ann_and_bob, as_told, routes_and_speaks},
    isolation::{REQUEST_TIMEOUT, open_after_the_deadline},
    mistral_conversations::{call, path},
    openapi::{strict, validator},
    support::{Answer, Harness, answers, babbles, chat, memory, merged, says, small_engine, thinks},
};

const MISTRAL: &str = "mistral-client-python/2.5.1";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const CONVERSATIONS: &str = "/v1/conversations";

/// The document with what `data` is in place of the text that it is in.
fn read_through(value: &mut Value) {
    if let Some(content) = value.get_mut("contentSchema") {
        *value = content.take();
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(read_through),
        Value::Array(items) => items.iter_mut().for_each(read_through),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Holds streams against the document and knows which named events it has seen.
struct Streams {
    document: Value,
    seen: BTreeSet<String>,
}

impl Streams {
    fn new() -> Self {
        let mut document = strict();
        read_through(&mut document);
        Self { document, seen: BTreeSet::new() }
    }

    /// Fails unless every event of the answer is one of those that the operation may send.
    #[track_caller]
    fn check(&mut self, route: &str, answer: &Answer) {
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{}", answer.body);
        let route = route.replace('/', "~1");
        let pointer = format!("/paths/{route}/post/responses/200/content/text~1event-stream/schema");
        let validator = validator(self.document.clone(), &pointer);
        for text in answer.body.split_terminator("\n\n") {
            let mut event = json!({});
            for line in text.lines() {
                let (field, value) = line.split_once(": ").expect("a field of an event");
                event[field] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            }
            assert!(validator.is_valid(&event), "{route}: {event}");
            self.seen.extend(event["event"].as_str().map(str::to_owned));
        }
    }
}

/// The names of events in a schema of the document.
fn named(schema: &str) -> BTreeSet<String> {
    let document = openapi::document();
    let events = document["components"]["schemas"][schema]["anyOf"].as_array().expect("alternatives").clone();
    let name = |event: &Value| event["properties"]["event"]["const"].as_str().expect("a name").to_owned();
    events.iter().map(name).collect()
}

fn calls() -> Harness {
    Harness::new(answers(call("roll")))
}

#[tokio::test]
async fn chunks_are_as_described() {
    let mut streams = Streams::new();
    let all = json!({ "stream": true, "n": 2, "logprobs": true, "top_logprobs": 2, "return_token_ids": true,
        "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
    let thinks = Harness::new(thinks());
    for more in [json!({ "stream": true }), all] {
        streams.check(CHAT, &thinks.chat(more.clone()).await);
        streams.check(CHAT, &thinks.post_as(MISTRAL, CHAT, &chat(more)).await);
    }
    let tools = json!({ "stream": true, "tools": [function("roll")] });
    streams.check(CHAT, &calls().chat(tools.clone()).await);
    streams.check(CHAT, &calls().post_as(MISTRAL, CHAT, &chat(tools)).await);

    let completion = json!({ "model": "tiny", "prompt": ["Hello", "you"], "stream": true, "max_tokens": 3 });
    let more = json!({ "echo": true, "logprobs": 2, "return_token_ids": true, "stop": "zz" });
    for body in [completion.clone(), merged(completion, more)] {
        streams.check("/v1/completions", &thinks.post("/v1/completions", &body).await);
    }
    let gap = json!({ "model": "tiny", "prompt": "def f():", "max_tokens": 3, "stream": true });
    streams.check("/v1/fim/completions", &thinks.post("/v1/fim/completions", &gap).await);
    let agent = json!({ "agent_id": thinks.agent(json!({})).await, "stream": true });
    let asked = merged(agent, json!({ "messages": [{ "role": "user", "content": "Hello" }] }));
    streams.check("/v1/agents/completions", &thinks.post("/v1/agents/completions", &asked).await);

    // What ends a stream that fails.
    for client in ["curl/8", MISTRAL] {
        let limits = HttpLimits { request_timeout: REQUEST_TIMEOUT, ..HttpLimits::default() };
        let slow = Harness::with(babbles(), small_engine(), limits);
        slow.gate.allow(2);
        let body = chat(json!({ "stream": true, "max_tokens": 2000 }));
        let (answer, ()) = tokio::join!(slow.post_as(client, CHAT, &body), open_after_the_deadline(&slow));
        assert!(answer.body.contains("deadline_exceeded"), "{}", answer.body);
        streams.check(CHAT, &answer);
    }
}

#[tokio::test]
async fn events_of_responses_are_as_described() {
    let mut streams = Streams::new();
    let asked = json!({ "stream": true, "top_logprobs": 1, "include": ["message.output_text.logprobs"] });
    let harness = Harness::new(thinks());
    streams.check(RESPONSES, &harness.respond(asked.clone()).await);
    streams.check(RESPONSES, &harness.respond(merged(asked, json!({ "max_output_tokens": 7 }))).await);
    let roll = json!({ "type": "function", "name": "roll", "parameters": { "type": "object" } });
    streams.check(RESPONSES, &calls().respond(json!({ "stream": true, "tools": [roll] })).await);

    // It cannot be kept.
    let store = Store::in_memory(1 << 20).expect("memory");
    let file = store.begin_file(1).await.expect("a file");
    while store.append_to_file(&file, vec![1; 1 << 10]).await.is_ok() {}
    let full = Harness::storing(says("Hello."), HttpLimits::default(), store);
    let long = json!({ "stream": true, "input": "la ".repeat(2000) });
    streams.check(RESPONSES, &full.respond(long).await);

    // It waits for longer than anybody may follow it.
    let limits = HttpLimits { request_timeout: REQUEST_TIMEOUT, ..HttpLimits::default() };
    let waiting = Harness::storing(says("Hello."), limits, memory());
    streams.check(RESPONSES, &waiting.respond(json!({ "background": true, "stream": true })).await);
    assert_eq!(named("ResponseEvent").difference(&streams.seen).count(), 0, "{:?}", streams.seen);
}

#[tokio::test]
async fn events_of_conversations_are_as_described() {
    let mut streams = Streams::new();
    let start = json!({ "model": "tiny", "inputs": "Hello", "stream": true });
    let harness = Harness::new(thinks());
    streams.check(CONVERSATIONS, &harness.post(CONVERSATIONS, &start).await);
    let begun = harness.converse(json!({ "model": "tiny" })).await;
    let more = json!({ "inputs": "More", "stream": true });
    streams.check("/v1/conversations/{id}", &harness.post(&path(&begun, ""), &more).await);
    let history = harness.get(&path(&begun, "/history")).await.json();
    let restart = merged(more, json!({ "from_entry_id": history["entries"][0]["id"] }));
    streams.check("/v1/conversations/{id}/restart", &harness.post(&path(&begun, "/restart"), &restart).await);
    let tools = merged(start, json!({ "tools": [function("roll")] }));
    streams.check(CONVERSATIONS, &calls().post(CONVERSATIONS, &tools).await);

    let harness = routes_and_speaks();
    let (ann, _) = ann_and_bob(&harness).await;
    let to_ann = |ann: &str| json!({ "agent_id": ann, "inputs": "Hello", "stream": true });
    streams.check(CONVERSATIONS, &harness.post(CONVERSATIONS, &to_ann(&ann)).await);
    let harness = Harness::new(as_told(vec![("Route.", call("transfer_to_Bob")), ("Speak.", call("transfer_to_Ann"))]));
    let (ann, bob) = ann_and_bob(&harness).await;
    harness.change(&bob, json!({ "handoffs": [ann] })).await;
    streams.check(CONVERSATIONS, &harness.post(CONVERSATIONS, &to_ann(&ann)).await);
    assert_eq!(named("ConversationEvent").difference(&streams.seen).count(), 0, "{:?}", streams.seen);
}

#[test]
fn a_stream_of_another_form_is_told_apart() {
    let mut document = strict();
    read_through(&mut document);
    let validator = validator(document, "/components/schemas/ChatCompletionEvent");
    assert!(validator.is_valid(&json!({ "data": "[DONE]" })));
    for data in [json!("[END]"), json!({}), json!({ "id": "a", "object": "chat.completion.chunk" }), json!(null)] {
        assert!(!validator.is_valid(&json!({ "data": data })), "{data}");
    }
    assert!(!validator.is_valid(&json!({ "data": "[DONE]", "colour": "red" })));
}
