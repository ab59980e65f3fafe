//! Responses that nobody waits for: answered in the end, unless they are cancelled, also by the next process.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tramontane::{
    api::{HttpLimits, run_background_responses},
    store::Store,
};

use super::{
    responses::{last, listens, path_of},
    storage::reopened,
    support::{Harness, babbles, eventually, ids, says, small_engine},
};

impl Harness {
    /// The worker of responses in the background, until it is dropped.
    pub fn background(&self) -> JoinSet<()> {
        let mut worker = JoinSet::new();
        worker.spawn(run_background_responses(self.state.clone()));
        worker
    }
}

#[tokio::test]
async fn a_response_in_the_background_is_there_in_the_end() {
    let (script, heard) = listens("All is well.");
    let harness = Harness::new(script);
    let first = harness.response(json!({})).await;
    let more = json!({ "background": true, "input": "And now?", "previous_response_id": first["id"] });
    let queued = harness.response(more).await;
    assert_eq!((&queued["status"], &queued["output"]), (&json!("queued"), &json!([])));
    let early = harness.respond(json!({ "previous_response_id": queued["id"] })).await;
    assert_eq!(early.error(), r#"400 "previous_response_id" null"#);
    let _worker = harness.background();
    let done = harness.batch_when(&path_of(&queued), |it| it["status"] == "completed").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "All is well.");
    assert_eq!(done["usage"]["output_tokens"], ids("All is well.").len() + 1);
    assert!(last(&heard).ends_with("All is well.</s>[INST]And now?[/INST]"), "{}", last(&heard));
    let input = harness.get(&format!("{}/input_items", path_of(&queued))).await.json();
    assert_eq!(input["data"][0]["content"][0]["text"], "And now?");
    harness.response(json!({ "input": "More", "previous_response_id": done["id"] })).await;
    assert!(last(&heard).contains("[INST]And now?[/INST]All is well.</s>[INST]More"), "{}", last(&heard));
    assert_eq!(
        harness.post(&format!("{}/cancel", path_of(&done)), &json!({})).await.error(),
        r#"400 "id" "not_cancellable""#
    );
}

#[tokio::test]
async fn a_response_in_the_background_is_cancelled_or_deleted() {
    let harness = Harness::with(babbles(), small_engine(), HttpLimits::default());
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    let _worker = harness.background();
    for deletes in [false, true] {
        let response = harness.response(json!({ "background": true })).await;
        let path = path_of(&response);
        eventually("it is being answered", || engine.snapshot().running + engine.snapshot().waiting > 0).await;
        assert_eq!(harness.get(&path).await.json()["status"], "in_progress");
        if deletes {
            assert_eq!(harness.delete(&path).await.status, 200);
            assert_eq!(harness.get(&path).await.status, 404);
        } else {
            for _ in 0..2 {
                let cancelled = harness.post(&format!("{path}/cancel"), &json!({})).await;
                assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
            }
        }
        // The engine notices within a step or two.
        let is_busy = || {
            let load = engine.snapshot();
            harness.state.in_flight() > 0 || load.running + load.waiting + load.held_blocks > 0
        };
        while is_busy() {
            harness.gate.allow(1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let generated = harness.metric("vllm:generation_tokens_total");
    assert!(generated < 1000.0, "{generated} tokens were generated for nobody");
}

#[tokio::test]
async fn a_restart_answers_what_was_not_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let response = {
        let store = reopened(directory.path()).await;
        let harness = Harness::storing_gated(says("All is well."), HttpLimits::default(), store);
        let worker = harness.background();
        let response = harness.response(json!({ "background": true })).await;
        harness.batch_when(&path_of(&response), |it| it["status"] == "in_progress").await;
        drop(worker);
        harness.gate.open();
        harness.idle().await;
        response
    };
    let harness = Harness::storing(says("All is well."), HttpLimits::default(), reopened(directory.path()).await);
    let _worker = harness.background();
    let done = harness.batch_when(&path_of(&response), |it| it["status"] == "completed").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "All is well.");
    assert_eq!(done["id"], response["id"]);
}

#[tokio::test]
async fn a_conversation_that_has_gone_on_makes_a_response_fail() {
    let harness = Harness::with(says("Yes."), small_engine(), HttpLimits::default());
    let _worker = harness.background();
    let conversation = harness.post("/v1/conversations", &json!({})).await.json();
    let response = harness.response(json!({ "background": true, "conversation": conversation["id"] })).await;
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    eventually("it is being answered", || engine.snapshot().running + engine.snapshot().waiting > 0).await;
    let items = format!("/v1/conversations/{}/items", conversation["id"].as_str().expect("an id"));
    let added = harness.post(&items, &json!({ "items": [{ "role": "user", "content": "Wait!" }] })).await;
    assert_eq!(added.status, 200, "{}", added.body);
    harness.gate.open();
    let failed = harness.batch_when(&path_of(&response), |it| it["status"] == "failed").await;
    assert_eq!((&failed["error"]["code"], &failed["error"]["param"]), (&json!("server_error"), &json!("conversation")));
    assert_eq!(harness.get(&items).await.json()["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_response_whose_end_finds_no_room_has_failed() {
    let store = Store::in_memory(1 << 20).expect("memory");
    let harness = Harness::storing_gated(says("Yes."), HttpLimits::default(), store);
    let conversation = harness.post("/v1/conversations", &json!({})).await.json();
    // What is only named takes room at the end: the conversation gets it whole.
    let long = json!({ "items": [{ "role": "user", "content": "la ".repeat(2000) }] });
    let other = harness.post("/v1/conversations", &long).await.json();
    let items = format!("/v1/conversations/{}/items", other["id"].as_str().expect("an id"));
    let named = harness.get(&items).await.json()["first_id"].clone();
    let input = json!([{ "type": "item_reference", "id": named }]);
    let more = json!({ "background": true, "conversation": conversation["id"], "input": input });
    let response = harness.response(more).await;
    for text in ["x".repeat(20_000), "x".to_owned()] {
        let body = json!({ "items": [{ "role": "user", "content": text }] });
        while harness.post("/v1/conversations", &body).await.status == 200 {}
    }
    let _worker = harness.background();
    harness.gate.open();
    let failed = harness.batch_when(&path_of(&response), |it| it["status"] == "failed").await;
    assert_eq!((&failed["error"]["code"], &failed["output"]), (&json!("server_error"), &json!([])));
    assert!(failed["error"]["message"].as_str().is_some_and(|text| text.contains("full")), "{failed}");
}
