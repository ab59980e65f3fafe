//! `/v1/conversations` as OpenAI has them, and the responses that continue them.

use std::time::Duration;

use serde_json::{Value, json};
use tramontane::{
    api::{HttpLimits, StorageLimits},
    store::Store,
};

use super::{
    responses::typed_events,
    storage::is_on_disk,
    support::{Harness, memory, says},
};

const PATH: &str = "/v1/conversations";

async fn conversation(harness: &Harness, body: Value) -> Value {
    let answer = harness.post(PATH, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn path_of(conversation: &Value) -> String {
    format!("{PATH}/{}", conversation["id"].as_str().expect("an id"))
}

/// The texts of the items, oldest first.
async fn texts(harness: &Harness, conversation: &Value) -> Vec<String> {
    let list = harness.get(&format!("{}/items?order=asc&limit=100", path_of(conversation))).await.json();
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    list["data"].as_array().expect("a list").iter().map(text).collect()
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

#[tokio::test]
async fn a_conversation_is_made_changed_and_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path(), 64 << 20).expect("a store");
    let harness = Harness::storing(says("Yes."), HttpLimits::default(), store);
    let made = conversation(&harness, json!({ "items": [user("friday-1")], "metadata": { "a": "b" } })).await;
    assert_eq!((&made["object"], &made["metadata"]), (&json!("conversation"), &json!({ "a": "b" })));
    assert!(made["created_at"].is_u64() && made["id"].as_str().is_some_and(|id| id.starts_with("conv_")), "{made}");
    let changed = harness.post(&path_of(&made), &json!({ "metadata": { "c": "d" } })).await.json();
    assert_eq!(changed["metadata"], json!({ "c": "d" }));
    assert_eq!(harness.get(&path_of(&made)).await.json(), changed);
    assert!(is_on_disk(directory.path(), b"friday-1"));
    let deleted = harness.delete(&path_of(&made)).await.json();
    assert_eq!(deleted, json!({ "id": made["id"], "object": "conversation.deleted", "deleted": true }));
    assert!(!is_on_disk(directory.path(), b"friday-1"));
    assert_eq!(harness.get(&path_of(&made)).await.error(), r#"404 "id" "not_found""#);
}

#[tokio::test]
async fn items_are_added_listed_and_deleted() {
    let harness = Harness::new(says("Yes."));
    let made = conversation(&harness, json!({})).await;
    let items = format!("{}/items", path_of(&made));
    let added = harness.post(&items, &json!({ "items": [user("one"), user("two"), user("three")] })).await.json();
    assert_eq!((added["data"].as_array().map(Vec::len), &added["has_more"]), (Some(3), &json!(false)));
    let newest = harness.get(&format!("{items}?limit=1")).await.json();
    assert_eq!((&newest["first_id"], &newest["has_more"]), (&added["last_id"], &json!(true)));
    let second = format!("{items}/{}", added["data"][1]["id"].as_str().expect("an id"));
    assert_eq!(harness.get(&second).await.json(), added["data"][1]);
    assert_eq!(harness.delete(&second).await.json()["id"], made["id"]);
    assert_eq!(harness.get(&second).await.error(), r#"404 "id" "not_found""#);
    assert_eq!(texts(&harness, &made).await, ["one", "three"]);

    for (body, error) in [
        (json!({}), r#"400 "items" null"#),
        (json!({ "items": [] }), r#"400 "items" null"#),
        (json!({ "items": vec![user("x"); 21] }), r#"400 "items" null"#),
        (json!({ "items": [{ "type": "item_reference", "id": "msg_x" }] }), r#"400 "items[0]" null"#),
        (json!({ "items": [added["data"][0]] }), r#"409 "items" "item_exists""#),
        (json!({ "items": [user("x")], "colour": 1 }), r#"400 "colour" "unknown_parameter""#),
    ] {
        assert_eq!(harness.post(&items, &body).await.error(), error, "{body}");
    }
    let unknown = harness.post("/v1/conversations/conv_x/items", &json!({ "items": [user("x")] })).await;
    assert_eq!(unknown.error(), r#"404 "id" "not_found""#);
}

#[tokio::test]
async fn responses_continue_a_conversation_and_extend_it() {
    let harness = Harness::new(says("Yes."));
    let made = conversation(&harness, json!({ "items": [user("one")] })).await;
    let first = harness.response(json!({ "input": "two", "conversation": made["id"] })).await;
    assert_eq!(first["conversation"], json!({ "id": made["id"] }));
    let more = json!({ "input": "three", "conversation": { "id": made["id"] }, "stream": true });
    typed_events(&harness.respond(more).await);
    assert_eq!(texts(&harness, &made).await, ["one", "two", "Yes.", "three", "Yes."]);
    // What was there before is read again.
    let alone = harness.response(json!({ "input": "three", "store": false })).await;
    let continued = harness.response(json!({ "input": "three", "conversation": made["id"] })).await;
    let tokens = |it: &Value| it["usage"]["input_tokens"].as_u64().expect("a count");
    assert!(tokens(&continued) > tokens(&first) && tokens(&first) > tokens(&alone));
}

#[tokio::test]
async fn of_two_responses_at_once_the_second_is_refused() {
    let harness = Harness::storing_gated(says("Yes."), HttpLimits::default(), memory());
    let made = conversation(&harness, json!({})).await;
    let body = json!({ "model": "tiny", "input": "Hello", "conversation": made["id"] });
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    let (one, other) = (harness.post("/v1/responses", &body), harness.post("/v1/responses", &body));
    let opens = async {
        super::support::eventually("both are asked", || {
            let load = engine.snapshot();
            load.running + load.waiting == 2
        })
        .await;
        harness.gate.open();
    };
    let (one, other, ()) = tokio::join!(one, other, opens);
    let (kept, refused) = if one.status == 200 { (one, other) } else { (other, one) };
    assert_eq!(refused.error(), r#"409 "conversation" "conversation_changed""#);
    assert_eq!(texts(&harness, &made).await, ["Hello", "Yes."]);
    assert_eq!(kept.json()["status"], "completed");
}

#[tokio::test]
async fn an_answer_to_an_item_that_was_deleted_meanwhile_is_refused() {
    let harness = Harness::storing_gated(says("Yes."), HttpLimits::default(), memory());
    let made = conversation(&harness, json!({ "items": [user("one"), user("two")] })).await;
    let list = harness.get(&format!("{}/items", path_of(&made))).await.json();
    let second = format!("{}/items/{}", path_of(&made), list["first_id"].as_str().expect("an id"));
    let body = json!({ "model": "tiny", "input": "Hello", "conversation": made["id"] });
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    let deletes = async {
        super::support::eventually("it is asked", || engine.snapshot().running + engine.snapshot().waiting == 1).await;
        assert_eq!(harness.delete(&second).await.status, 200);
        harness.gate.open();
    };
    let (refused, ()) = tokio::join!(harness.post("/v1/responses", &body), deletes);
    assert_eq!(refused.error(), r#"409 "conversation" "conversation_changed""#);
    assert_eq!(texts(&harness, &made).await, ["one"]);
}

#[tokio::test]
async fn what_is_past_its_time_is_gone() {
    let storage = StorageLimits { retention: Duration::from_secs(1), ..StorageLimits::default() };
    let harness = Harness::storing(says("Yes."), HttpLimits { storage, ..HttpLimits::default() }, memory());
    let made = conversation(&harness, json!({ "items": [user("one")] })).await;
    let path = path_of(&made);
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while harness.get(&path).await.status == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it is past its time soon");
    assert_eq!(harness.get(&format!("{path}/items")).await.error(), r#"404 "id" "not_found""#);
}
