//! Agents in Mistral's conversations: who answers, and who goes on when one hands over.

use axum::http::Method;
use serde_json::{Value, json};

use super::{
    agents::{function, repeats},
    mistral_conversations::{PATH, call, events, path, shown},
    support::{EOS, Harness, Script, control, ids, merged, mistral_error},
};

/// A model that answers as the one of these texts that its prompt has wants it to.
pub fn as_told(roles: Vec<(&str, Vec<u32>)>) -> Script {
    let roles: Vec<(Vec<u32>, Vec<u32>)> = roles.into_iter().map(|(told, says)| (ids(told), says)).collect();
    let ends = [super::support::END_OF_INSTRUCTION, control("[/TOOL_RESULTS]")];
    Box::new(move |history| {
        let generated = history.iter().rev().take_while(|id| !ends.contains(id)).count();
        let is_told = |told: &Vec<u32>| history.windows(told.len()).any(|window| window == told);
        let role = roles.iter().find(|(told, _)| is_told(told)).expect("one of these");
        role.1.get(generated).copied().unwrap_or(EOS)
    })
}

/// Ann hands over to Bob, who says so. Gives Ann.
pub async fn ann_and_bob(harness: &Harness) -> (String, String) {
    let bob = harness.agent(json!({ "name": "Bob", "instructions": "Speak.", "description": "Speaks." })).await;
    let ann = harness.agent(json!({ "name": "Ann", "instructions": "Route.", "handoffs": [bob] })).await;
    (ann, bob)
}

pub fn routes_and_speaks() -> Harness {
    Harness::new(as_told(vec![("Route.", call("transfer_to_Bob")), ("Speak.", ids("I am Bob."))]))
}

#[tokio::test]
async fn an_agent_hands_over_and_the_next_one_goes_on() {
    let harness = routes_and_speaks();
    let (ann, bob) = ann_and_bob(&harness).await;
    let begun = harness.converse(json!({ "agent_id": ann })).await;
    assert_eq!(shown(&begun["outputs"]), [r#"agent.handoff "Bob""#, r#"message.output "I am Bob.""#]);
    let [handoff, output] = [&begun["outputs"][0], &begun["outputs"][1]];
    assert_eq!((&handoff["previous_agent_id"], &handoff["next_agent_id"]), (&json!(ann), &json!(bob)));
    assert_eq!((&handoff["previous_agent_name"], &output["agent_id"]), (&json!("Ann"), &json!(bob)));
    let conversation = harness.get(&path(&begun, "")).await.json();
    assert_eq!((&conversation["agent_id"], &conversation["agent_version"]), (&json!(ann), &Value::Null));
    // Bob has the word from now on.
    let more = harness.append(&begun, json!({ "inputs": "Are you sure?" })).await;
    assert_eq!(shown(&more["outputs"]), [r#"message.output "I am Bob.""#]);
    assert_eq!(more["outputs"][0]["agent_id"], json!(bob));

    let streamed = harness.post(PATH, &json!({ "agent_id": ann, "inputs": "Hello", "stream": true })).await;
    let names: Vec<String> = events(&streamed).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..3], ["conversation.response.started", "agent.handoff.started", "agent.handoff.done"]);
    assert!(names[3..names.len() - 1].iter().all(|name| name == "message.output.delta"), "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("conversation.response.done"));
    let events = events(&streamed);
    assert_eq!((&events[1].1["previous_agent_id"], &events[2].1["next_agent_name"]), (&json!(ann), &json!("Bob")));
    assert_eq!((&events[2].1["output_index"], &events[3].1["output_index"]), (&json!(0), &json!(1)));

    // An agent that is gone is offered no more: the model's call is a client's.
    harness.delete(&format!("/v1/agents/{bob}")).await;
    let gone = harness.converse(json!({ "agent_id": ann, "completion_args": { "tool_choice": "none" } })).await;
    assert!(!shown(&gone["outputs"])[0].starts_with("agent.handoff"), "{gone}");
    let answer = harness.post(&path(&begun, ""), &json!({ "inputs": "Bob?" })).await;
    assert_eq!(mistral_error(&answer), r#"422 ["body","agent_id"] "value_error""#);
}

#[tokio::test]
async fn the_client_may_let_the_next_agent_go_on() {
    let harness = routes_and_speaks();
    let (ann, bob) = ann_and_bob(&harness).await;
    let begun = harness.converse(json!({ "agent_id": ann, "handoff_execution": "client" })).await;
    assert_eq!(shown(&begun["outputs"]), [r#"agent.handoff "Bob""#]);
    let more = harness.append(&begun, json!({})).await;
    assert_eq!(shown(&more["outputs"]), [r#"message.output "I am Bob.""#]);
    assert_eq!(more["outputs"][0]["agent_id"], json!(bob));
    // Where nothing is stored, the client has the entries.
    let inputs = json!([{ "role": "user", "content": "Hello" }, begun["outputs"][0]]);
    let aside = harness.converse(json!({ "agent_id": ann, "inputs": inputs, "store": false })).await;
    assert_eq!(shown(&aside["outputs"]), [r#"message.output "I am Bob.""#]);
}

#[tokio::test]
async fn a_restart_names_no_version_once_the_conversation_is_handed_over() {
    let harness = routes_and_speaks();
    let (ann, bob) = ann_and_bob(&harness).await;
    let begun = harness.converse(json!({ "agent_id": ann })).await;
    let history = harness.get(&path(&begun, "/history")).await.json();
    let restart = async |entry: usize, more: Value| {
        let body = merged(json!({ "from_entry_id": history["entries"][entry]["id"] }), more);
        harness.post(&path(&begun, "/restart"), &body).await
    };
    let refused = r#"422 ["body","agent_version"] "value_error""#;
    // Ann has the word at first, so her version counts.
    assert_eq!(restart(0, json!({ "agent_version": 0 })).await.status, 200);
    assert_eq!(mistral_error(&restart(0, json!({ "agent_version": 7 })).await), refused);
    let behind = json!({ "inputs": "More" });
    assert_eq!(restart(2, behind.clone()).await.json()["outputs"][0]["agent_id"], json!(bob));
    let versioned = restart(2, merged(behind, json!({ "agent_version": 0 }))).await;
    assert_eq!(mistral_error(&versioned), refused);
}

#[tokio::test]
async fn agents_that_hand_over_in_a_circle_are_stopped() {
    let both = vec![("Route.", call("transfer_to_Bob")), ("Speak.", call("transfer_to_Ann"))];
    let harness = Harness::new(as_told(both));
    let (ann, bob) = ann_and_bob(&harness).await;
    harness.change(&bob, json!({ "handoffs": [ann] })).await;
    let answer = harness.post(PATH, &json!({ "agent_id": ann, "inputs": "Hello" })).await;
    assert_eq!(mistral_error(&answer), r#"400 "invalid_request_error" "agent_id" "no_answer""#);
    assert!(answer.body.contains("8 times"), "{}", answer.body);
    let streamed = harness.post(PATH, &json!({ "agent_id": ann, "inputs": "Hello", "stream": true })).await;
    let (name, data) = events(&streamed).pop().expect("events");
    assert_eq!((name.as_str(), &data["code"]), ("conversation.response.error", &json!(400)));
    assert_eq!(harness.get(PATH).await.json(), json!([]));
}

#[tokio::test]
async fn an_agent_of_a_version_answers() {
    let harness = repeats();
    let id = harness.agent(json!({ "instructions": "One." })).await;
    harness.change(&id, json!({ "instructions": "Two." })).await;
    harness.ask(Method::PUT, &format!("/v1/agents/{id}/aliases?alias=old&version=0"), &json!({})).await;
    for (version, expected) in
        [(json!(null), "Two.Hello"), (json!(0), "One.Hello"), (json!("0"), "One.Hello"), (json!("old"), "One.Hello")]
    {
        let begun = harness.converse(json!({ "agent_id": id, "agent_version": version })).await;
        assert_eq!(begun["outputs"][0]["content"], expected, "{version}");
        assert_eq!(begun["outputs"][0]["agent_id"], json!(id));
    }
    let begun = harness
        .converse(json!({ "agent_id": id, "agent_version": "old", "completion_args": { "max_tokens": 1 } }))
        .await;
    assert_eq!(begun["usage"]["completion_tokens"], 1);
    assert_eq!(harness.append(&begun, json!({ "inputs": "More" })).await["usage"]["completion_tokens"], 1);
    let longer = json!({ "inputs": "More", "completion_args": { "max_tokens": 2 } });
    assert_eq!(harness.append(&begun, longer).await["usage"]["completion_tokens"], 2);
    for (more, field) in [
        (json!({ "agent_version": "none" }), "agent_version"),
        (json!({ "instructions": "a" }), "instructions"),
        (json!({ "tools": [function("a")] }), "tools"),
    ] {
        let answer = harness.post(PATH, &merged(json!({ "agent_id": id, "inputs": "Hello" }), more)).await;
        assert_eq!(mistral_error(&answer), format!(r#"422 ["body","{field}"] "value_error""#));
    }
}
