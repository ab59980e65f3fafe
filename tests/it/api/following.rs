//! Responses in the background that are followed: left, resumed, by several at once, and however they end.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tramontane::api::HttpLimits;

use super::{
    responses::{path_of, typed_events},
    storage::reopened,
    support::{Harness, Script, answers, babbles, control, ids, memory, merged, says, small_engine, soon, thinks},
};

/// How long a test waits for an event.
const PATIENCE: Duration = Duration::from_secs(20);
const NUMBERS_OF_AN_ATTEMPT: u64 = 1 << 32;

/// A client that reads event by event.
struct Reader {
    body: Body,
    /// What has come.
    text: String,
    read: usize,
}

impl Reader {
    async fn open(harness: &Harness, request: Request<Body>) -> Self {
        let response = harness.app().oneshot(request).await.expect("the router is infallible");
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), text: String::new(), read: 0 }
    }

    /// Of a response that begins with it.
    async fn create(harness: &Harness, more: Value) -> Self {
        let asked = json!({ "model": "tiny", "input": "Hello", "background": true, "stream": true });
        let request = Request::post("/v1/responses").header(CONTENT_TYPE, "application/json");
        let body = merged(asked, more).to_string();
        Self::open(harness, request.body(body.into()).expect("a valid request")).await
    }

    async fn follow(harness: &Harness, path: &str, query: &str) -> Self {
        let request = Request::get(format!("{path}?stream=true{query}"));
        Self::open(harness, request.body(Body::empty()).expect("a valid request")).await
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, _)) = self.text[self.read..].split_once("\n\n") {
                let data = event.split_once("\ndata: ").expect("an event of two lines").1;
                let data = serde_json::from_str(data).expect("JSON");
                self.read += event.len() + 2;
                return Some(data);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event or the end")?;
            let bytes = frame.expect("the body is infallible").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
        }
    }

    /// The next event of this type.
    async fn until(&mut self, kind: &str) -> Value {
        while let Some(event) = self.next().await {
            if event["type"] == kind {
                return event;
            }
        }
        panic!("no {kind} in {}", self.text)
    }

    /// All that is left.
    async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn number(event: &Value) -> u64 {
    event["sequence_number"].as_u64().expect("a number")
}

/// Thinks, says something, and calls two functions.
fn does_all() -> Script {
    let call = [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids(r#"{"a": 1}"#)].concat();
    let thinks = [vec![control("[THINK]")], ids("Hm, well."), vec![control("[/THINK]")], ids("Yes, två.")].concat();
    answers([thinks, call.clone(), call].concat())
}

async fn error_of(harness: &Harness, path: &str) -> String {
    harness.get(path).await.error()
}

#[tokio::test]
async fn what_is_resumed_is_the_rest_of_the_whole() {
    let tools = json!([{ "type": "function", "name": "roll", "parameters": { "type": "object" } }]);
    let logprobs = json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    for (script, more, last) in [
        (does_all(), json!({ "tools": tools }), "response.completed"),
        (thinks(), logprobs, "response.completed"),
        (babbles(), json!({ "max_output_tokens": 5 }), "response.incomplete"),
    ] {
        let harness = Harness::new(script);
        let _worker = harness.background();
        let asked = merged(json!({ "background": true, "stream": true }), more);
        let whole = harness.respond(asked).await;
        let events = typed_events(&whole); // numbered without a gap
        let kinds: Vec<&str> = events.iter().take(3).filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds, ["response.created", "response.queued", "response.in_progress"]);
        let statuses = events.iter().take(3).map(|event| event["response"]["status"].as_str().expect("a status"));
        assert_eq!(statuses.collect::<Vec<_>>(), ["queued", "queued", "in_progress"]);
        let end = events.last().expect("events");
        assert_eq!(end["type"], last);
        let path = path_of(&end["response"]);
        assert_eq!(end["response"], harness.get(&path).await.json());
        let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
        assert_eq!(end["response"]["output"], done.map(|event| event["item"].clone()).collect::<Value>());

        let stream = format!("{path}?stream=true");
        assert_eq!(harness.get(&stream).await.body, whole.body);
        let blocks: Vec<&str> = whole.body.split_inclusive("\n\n").collect();
        for (seen, _) in blocks.iter().enumerate() {
            let rest = harness.get(&format!("{stream}&starting_after={seen}")).await;
            assert_eq!((rest.status, rest.body), (200, blocks[seen + 1..].concat()), "after {seen}");
        }
        harness.idle().await;
    }
}

#[tokio::test]
async fn an_answer_goes_on_without_its_client_which_finds_it_again() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    let _worker = harness.background();
    let mut first = Reader::create(&harness, json!({ "max_output_tokens": 60 })).await;
    let response = first.until("response.in_progress").await["response"].clone();
    let path = path_of(&response);
    harness.gate.allow(5);
    first.until("response.output_text.delta").await;
    let seen = number(&first.until("response.output_text.delta").await);
    let (before, _) = first.text.split_at(first.read);
    let before = before.to_owned();
    drop(first);
    assert_eq!(harness.get(&path).await.json()["status"], "in_progress");
    let mut again = Reader::follow(&harness, &path, &format!("&starting_after={seen}")).await;
    harness.gate.allow(5);
    assert_eq!(number(&again.next().await.expect("an event")), seen + 1);
    harness.gate.open();
    let end = again.rest().await.pop().expect("an end");
    assert_eq!((&end["type"], &end["response"]["id"]), (&json!("response.incomplete"), &response["id"]));
    assert_eq!(harness.get(&format!("{path}?stream=true")).await.body, before + &again.text);
    harness.idle().await;
}

#[tokio::test]
async fn several_read_at_their_own_pace() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    let _worker = harness.background();
    let mut fast = Reader::create(&harness, json!({ "max_output_tokens": 300 })).await;
    let path = path_of(&fast.until("response.in_progress").await["response"]);
    // These hold less than the answer has events, and are not read until it has ended.
    let mut slow = Reader::follow(&harness, &path, "").await;
    let mut late = Reader::follow(&harness, &path, "&starting_after=2").await;
    harness.gate.open();
    assert_eq!(fast.rest().await.last().expect("an end")["type"], "response.incomplete");
    assert_eq!(harness.get(&path).await.json()["status"], "incomplete");
    slow.rest().await;
    assert_eq!(slow.text, fast.text);
    assert_eq!(number(&late.next().await.expect("an event")), 3);
    late.rest().await;
    assert!(fast.text.ends_with(&late.text));
    harness.idle().await;
}

#[tokio::test]
async fn what_is_cancelled_ends_with_an_event_that_says_so() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    let cancel = async |path: &str| {
        let cancelled = harness.post(&format!("{path}/cancel"), &json!({})).await;
        assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    };
    // In the queue.
    let mut reader = Reader::create(&harness, json!({})).await;
    let path = path_of(&reader.until("response.queued").await["response"]);
    cancel(&path).await;
    let end = reader.next().await.expect("an end");
    assert_eq!((&end["type"], &end["response"]["status"]), (&json!("response.failed"), &json!("cancelled")));
    assert_eq!((number(&end), reader.next().await), (2, None));
    assert_eq!(harness.get(&format!("{path}?stream=true")).await.body, reader.text);

    // On the way.
    let _worker = harness.background();
    let mut reader = Reader::create(&harness, json!({})).await;
    let path = path_of(&reader.until("response.in_progress").await["response"]);
    harness.gate.allow(5);
    let seen = number(&reader.until("response.output_text.delta").await);
    cancel(&path).await;
    let rest = reader.rest().await;
    let end = rest.last().expect("an end");
    assert_eq!((&end["type"], &end["response"]["status"]), (&json!("response.failed"), &json!("cancelled")));
    assert!(number(end) > seen);
    harness.gate.open();
    harness.idle().await;
    for after in [seen, number(end) - 1] {
        let again = Reader::follow(&harness, &path, &format!("&starting_after={after}")).await.rest().await;
        assert_eq!(again, std::slice::from_ref(end), "the same with the same number, after {after}");
    }
    let whole = Reader::follow(&harness, &path, "").await.rest().await;
    assert_eq!(
        whole.iter().map(number).collect::<Vec<_>>(),
        [0, 1, number(end)],
        "of a cancelled answer nothing is kept"
    );
}

#[tokio::test]
async fn what_is_deleted_ends_its_streams() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    let _worker = harness.background();
    let mut reader = Reader::create(&harness, json!({})).await;
    let path = path_of(&reader.until("response.in_progress").await["response"]);
    let mut other = Reader::follow(&harness, &path, "").await;
    harness.gate.allow(5);
    reader.until("response.output_text.delta").await;
    assert_eq!(harness.delete(&path).await.status, 200);
    harness.gate.open();
    for reader in [&mut reader, &mut other] {
        let end = reader.rest().await.pop().expect("an end");
        assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("not_found")));
    }
    assert_eq!(error_of(&harness, &format!("{path}?stream=true")).await, r#"404 "id" "not_found""#);
    harness.idle().await;
}

#[tokio::test]
async fn what_fails_keeps_its_end() {
    let harness = Harness::with(says("Yes."), small_engine(), HttpLimits::default());
    let _worker = harness.background();
    let conversation = harness.post("/v1/conversations", &json!({})).await.json();
    let mut reader = Reader::create(&harness, json!({ "conversation": conversation["id"] })).await;
    let path = path_of(&reader.until("response.in_progress").await["response"]);
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    super::support::eventually("it is asked", || engine.snapshot().running + engine.snapshot().waiting > 0).await;
    let items = format!("/v1/conversations/{}/items", conversation["id"].as_str().expect("an id"));
    harness.post(&items, &json!({ "items": [{ "role": "user", "content": "Wait!" }] })).await;
    harness.gate.open();
    let end = reader.rest().await.pop().expect("an end");
    assert_eq!((&end["type"], &end["response"]["error"]["param"]), (&json!("response.failed"), &json!("conversation")));
    let whole = Reader::follow(&harness, &path, "").await.rest().await;
    assert_eq!(whole.last(), Some(&end));
    let after = format!("&starting_after={}", number(&end));
    assert_eq!(Reader::follow(&harness, &path, &after).await.next().await, None);
}

#[tokio::test]
async fn a_restart_mixes_no_events() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, seen) = {
        let store = reopened(directory.path()).await;
        let harness = Harness::storing_gated(says("First try."), HttpLimits::default(), store);
        let worker = harness.background();
        let mut reader = Reader::create(&harness, json!({})).await;
        let path = path_of(&reader.until("response.in_progress").await["response"]);
        harness.gate.allow(3);
        let seen = number(&reader.until("response.output_text.delta").await);
        drop(worker);
        harness.state.start_draining();
        let end = reader.rest().await.pop().expect("an end");
        assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("unavailable")));
        harness.gate.open();
        harness.idle().await;
        (path, seen)
    };
    let store = reopened(directory.path()).await;
    let harness = Harness::storing_gated(says("Second try."), HttpLimits::default(), store);
    let stale = format!("{path}?stream=true&starting_after={seen}");
    let restarted = r#"400 "starting_after" "stream_restarted""#;
    let worker = harness.background();
    let mut reader = Reader::follow(&harness, &path, "&starting_after=1").await;
    assert_eq!(number(&reader.until("response.in_progress").await), 2 + NUMBERS_OF_AN_ATTEMPT);
    assert_eq!(error_of(&harness, &stale).await, restarted);
    harness.gate.allow(3);
    reader.until("response.output_text.delta").await;

    // Once more, while somebody is there who knows the second attempt.
    drop(worker);
    let _worker = harness.background();
    harness.gate.open();
    let end = reader.rest().await.pop().expect("an end");
    assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("stream_restarted")));
    let done = harness.batch_when(&path, |it| it["status"] == "completed").await;
    assert_eq!(error_of(&harness, &stale).await, restarted);
    let whole = Reader::follow(&harness, &path, "").await.rest().await;
    let numbers: Vec<u64> = whole.iter().map(number).collect();
    let begin = 2 + 2 * NUMBERS_OF_AN_ATTEMPT;
    let expected = [0, 1].into_iter().chain(begin..).take(numbers.len());
    assert_eq!(numbers, expected.collect::<Vec<_>>());
    assert_eq!(whole.last().expect("an end")["response"], done);
    let resumed = Reader::follow(&harness, &path, &format!("&starting_after={begin}")).await.rest().await;
    assert_eq!(resumed, whole[3..]);
}

#[tokio::test]
async fn a_client_does_not_follow_for_ever() {
    let limits = HttpLimits { request_timeout: Duration::from_millis(50), max_requests: 1, ..HttpLimits::default() };
    let harness = Harness::storing(says("Yes."), limits, memory());
    let asked = json!({ "background": true, "stream": true });
    let mut reader = Reader::create(&harness, json!({})).await; // nobody answers
    assert_eq!(harness.respond(asked).await.error(), r#"429 null "busy""#);
    let end = reader.rest().await.pop().expect("an end");
    let seen = (&end["type"], &end["code"], number(&end));
    assert_eq!(seen, (&json!("error"), &json!("deadline_exceeded"), 1), "the last number that is known");
    soon("its place is free", async || (harness.state.in_flight() == 0).then_some(())).await;
    assert_eq!(harness.response(json!({ "background": true })).await["status"], "queued");
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let harness = Harness::new(says("Yes."));
    let now = harness.response(json!({})).await;
    let streamed = typed_events(&harness.respond(json!({ "stream": true })).await).pop().expect("an end");
    let polled = harness.response(json!({ "background": true })).await;
    for response in [&now, &streamed["response"], &polled] {
        let path = format!("{}?stream=true", path_of(response));
        assert_eq!(error_of(&harness, &path).await, r#"400 "stream" null"#, "{response}");
    }
    let mut reader = Reader::create(&harness, json!({})).await;
    let path = path_of(&reader.until("response.queued").await["response"]);
    let starting_after = r#"400 "starting_after" null"#;
    assert_eq!(error_of(&harness, &format!("{path}?stream=true&starting_after=2")).await, starting_after);
    let _worker = harness.background();
    let last = number(reader.rest().await.last().expect("an end"));
    for (query, error) in [
        (format!("stream=true&starting_after={}", last + 1), starting_after),
        ("stream=true&starting_after=9007199254740991".to_owned(), starting_after),
        ("stream=true&starting_after=18446744073709551615".to_owned(), starting_after),
        ("stream=true&starting_after=-1".to_owned(), starting_after),
        ("stream=true&starting_after=two".to_owned(), starting_after),
        ("stream=true&starting_after=1.5".to_owned(), starting_after),
        ("stream=true&starting_after=1&starting_after=2".to_owned(), starting_after),
        ("starting_after=1".to_owned(), starting_after),
        ("stream=false&starting_after=1".to_owned(), starting_after),
        ("stream=maybe".to_owned(), r#"400 "stream" null"#),
        ("stream=true&include_obfuscation=true".to_owned(), r#"400 "include_obfuscation" null"#),
        ("stream=true&include=web_search_call.results".to_owned(), r#"400 "include" null"#),
        ("stream=true&colour=red".to_owned(), r#"400 "colour" "unknown_parameter""#),
    ] {
        assert_eq!(error_of(&harness, &format!("{path}?{query}")).await, error, "{query}");
    }
    assert_eq!(error_of(&harness, "/v1/responses/resp_x?stream=true").await, r#"404 "id" "not_found""#);
    let listed = format!("{path}?stream=true&include_obfuscation=false&include[]=message.output_text.logprobs");
    assert_eq!(harness.get(&listed).await.body, reader.text);
}
