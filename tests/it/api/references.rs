//! Items that an input only names: how many, how long, and not what its conversation has already.

use serde_json::{Value, json};
use tramontane::api::HttpLimits;

use super::support::{Harness, memory, says};

fn reference(id: &Value) -> Value {
    json!({ "type": "item_reference", "id": id })
}

/// A conversation with one item, and that item.
async fn conversation(harness: &Harness, text: &str) -> (Value, Value) {
    let body = json!({ "items": [{ "role": "user", "content": text }] });
    let made = harness.post("/v1/conversations", &body).await.json();
    let items = format!("/v1/conversations/{}/items", made["id"].as_str().expect("an id"));
    let item = harness.get(&items).await.json()["data"][0].clone();
    (made["id"].clone(), item)
}

#[tokio::test]
async fn an_input_has_so_many_references_and_no_more() {
    let harness = Harness::new(says("Yes."));
    let many = json!({ "input": vec![reference(&json!("msg_x")); 1001] });
    assert_eq!(harness.respond(many).await.error(), r#"400 "input[1000]" null"#);
    let fewer = json!({ "input": vec![reference(&json!("msg_x")); 1000] });
    assert_eq!(harness.respond(fewer).await.error(), r#"400 "input[0].id" "not_found""#);
}

#[tokio::test]
async fn what_is_referred_to_counts_each_time_and_with_what_is_continued() {
    let limits = HttpLimits { body_bytes: 1000, ..HttpLimits::default() };
    let harness = Harness::storing(says("Yes."), limits, memory());
    let (_, item) = conversation(&harness, &"a".repeat(300)).await; // with its form 440 bytes
    let named = |times| json!({ "input": vec![reference(&item["id"]); times] });
    assert_eq!(harness.respond(named(3)).await.error(), r#"400 "input[2].id" "context_length_exceeded""#);
    let first = harness.response(named(2)).await;
    let mut more = named(1);
    more["previous_response_id"] = first["id"].clone();
    let error = harness.respond(more).await.error();
    assert!(error.ends_with(r#""context_length_exceeded""#), "{error}");
}

#[tokio::test]
async fn what_a_conversation_has_is_refused_before_it_is_answered() {
    let harness = Harness::new(says("Yes."));
    let (id, item) = conversation(&harness, "one").await;
    for (input, error) in [
        (json!([item]), r#"409 "items" "item_exists""#),
        (json!([reference(&item["id"])]), r#"400 "input[0].id" null"#),
    ] {
        for streamed in [false, true] {
            let body = json!({ "input": input, "conversation": id, "stream": streamed });
            assert_eq!(harness.respond(body).await.error(), error);
        }
    }
    let generated = harness.metric("vllm:generation_tokens_total");
    assert!(generated < 1.0, "{generated} tokens were generated for an answer that nobody gets");
    // Another conversation can have it, once.
    let (other, _) = conversation(&harness, "two").await;
    let twice = json!({ "input": vec![reference(&item["id"]); 2], "conversation": other });
    assert_eq!(harness.respond(twice).await.error(), r#"400 "input[1].id" null"#);
    harness.response(json!({ "input": [reference(&item["id"])], "conversation": other })).await;
}
