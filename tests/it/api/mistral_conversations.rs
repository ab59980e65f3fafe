//! Mistral's conversations: entries, handoffs, what is stored, and who is meant by `/v1/conversations`.

use axum::http::Method;
use expect_test::expect;
use serde_json::{Value, json};
use tramontane::api::{HttpLimits, fields::Table};

use super::{
    agents::{function, repeats},
    fields::Prepared,
    storage::{is_on_disk, reopened},
    support::{Answer, EOS, Harness, answers, control, eventually, ids, memory, merged},
    support::{mistral_error, says, thinks},
};

pub const PATH: &str = "/v1/conversations";
const OPENAI: &str = "OpenAI/Python 3.57.0";

impl Harness {
    /// Begins a conversation; gives the response.
    pub async fn converse(&self, more: Value) -> Value {
        let answer = self.post(PATH, &merged(json!({ "inputs": "Hello" }), more)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    pub async fn append(&self, conversation: &Value, body: Value) -> Value {
        let answer = self.post(&path(conversation, ""), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The entries of a conversation, each as its type and what it says.
    pub async fn entries(&self, conversation: &Value) -> Vec<String> {
        let history = self.get(&path(conversation, "/history")).await.json();
        assert_eq!(history["object"], "conversation.history");
        shown(&history["entries"])
    }
}

pub fn path(conversation: &Value, rest: &str) -> String {
    format!("{PATH}/{}{rest}", conversation["conversation_id"].as_str().expect("an id"))
}

pub fn shown(entries: &Value) -> Vec<String> {
    let show = |entry: &Value| {
        let what = ["content", "name", "result", "next_agent_name"].iter().find_map(|key| entry.get(*key));
        format!("{} {}", entry["type"].as_str().expect("a type"), what.unwrap_or(&Value::Null))
    };
    entries.as_array().expect("a list").iter().map(show).collect()
}

/// The events of a stream: each with its name, which its data repeats, and the data without what differs between runs.
pub fn events(answer: &Answer) -> Vec<(String, Value)> {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{}", answer.body);
    let event = |text: &str| {
        let (name, data) = text.split_once('\n').expect("two lines");
        let (name, data) = (name.strip_prefix("event: ").expect("a name"), data.strip_prefix("data: ").expect("data"));
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(data["type"], name);
        (name.to_owned(), data)
    };
    answer.body.split_terminator("\n\n").map(event).collect()
}

/// The tokens of a call.
pub fn call(name: &str) -> Vec<u32> {
    [vec![control("[TOOL_CALLS]")], ids(name), vec![control("[ARGS]")], ids("{}")].concat()
}

/// Calls `roll` until it has a result.
fn rolls() -> Harness {
    let (end, says, calls) = (control("[/TOOL_RESULTS]"), ids("A seven."), call("roll"));
    Harness::new(Box::new(move |history| {
        let is_end = |id: &u32| *id == end || *id == super::support::END_OF_INSTRUCTION;
        let at = history.iter().rposition(is_end).expect("an end");
        let tokens = if history[at] == end { &says } else { &calls };
        tokens.get(history.len() - 1 - at).copied().unwrap_or(EOS)
    }))
}

/// For the tests that walk the tables of fields; none if the table is of something else.
pub async fn prepared(harness: &Harness, table: &Table, members: &str) -> Option<Prepared> {
    let briefly = json!({ "max_tokens": 4 });
    let message = json!([{ "role": "user", "content": "Hello there" }]);
    let (method, path, base) = match table.resource {
        "POST /v1/agents" => (Method::POST, "/v1/agents".to_owned(), json!({ "model": "tiny", "name": "Ann" })),
        "PATCH /v1/agents/{id}" => (Method::PATCH, format!("/v1/agents/{}", harness.agent(json!({})).await), json!({})),
        "POST /v1/agents/completions" => {
            let base = json!({ "agent_id": "ag_abc123", "messages": message, "max_tokens": 4 });
            (Method::POST, "/v1/agents/completions".to_owned(), base)
        }
        "POST /v1/conversations (Mistral)" => {
            let base = json!({ "model": "tiny", "inputs": "Hello", "completion_args": briefly });
            (Method::POST, PATH.to_owned(), base)
        }
        "POST /v1/conversations/{id} (Mistral)" => {
            let conversation = harness.converse(json!({ "model": "tiny", "completion_args": briefly })).await;
            (Method::POST, path(&conversation, ""), json!({ "inputs": "Hello" }))
        }
        "POST /v1/conversations/{id}/restart" => {
            let conversation = harness.converse(json!({ "model": "tiny", "completion_args": briefly })).await;
            let history = harness.get(&path(&conversation, "/history")).await.json();
            let entry = history["entries"][1]["id"].as_str().expect("an id").to_owned();
            let members = members.replace("msg_abc123", &entry);
            let more: Value = serde_json::from_str(&format!("{{{members}}}")).expect("JSON");
            let body = merged(json!({ "from_entry_id": entry, "inputs": "Hello" }), more);
            return Some(Prepared { method: Method::POST, path: path(&conversation, "/restart"), body });
        }
        _ => return None,
    };
    let agent = harness.agent(json!({})).await;
    let replaced = |text: &str| -> Value { serde_json::from_str(&text.replace("ag_abc123", &agent)).expect("JSON") };
    let mut body = merged(replaced(&base.to_string()), replaced(&format!("{{{members}}}")));
    if body.get("max_completion_tokens").is_some() {
        body.as_object_mut().expect("an object").remove("max_tokens");
    }
    Some(Prepared { method, path, body })
}

#[tokio::test]
async fn a_conversation_is_begun_continued_shown_and_deleted() {
    let harness = repeats();
    let details = json!({ "model": "tiny", "instructions": "Be brief.", "name": "A talk", "description": "Of words.",
        "metadata": { "a": 1 }, "completion_args": { "max_tokens": 40 } });
    let begun = harness.converse(details).await;
    assert_eq!(begun["object"], "conversation.response");
    assert_eq!(shown(&begun["outputs"]), [r#"message.output "Be brief.Hello""#]);
    let output = &begun["outputs"][0];
    assert_eq!(
        (&output["role"], &output["model"], &output["agent_id"]),
        (&json!("assistant"), &json!("tiny"), &json!(null))
    );
    let usage = &begun["usage"];
    assert_eq!(
        usage["total_tokens"],
        json!(usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64()).map(|(a, b)| a + b))
    );

    let more = harness.append(&begun, json!({ "inputs": "More" })).await;
    assert_eq!(more["conversation_id"], begun["conversation_id"]);
    assert_eq!(shown(&more["outputs"]), [r#"message.output "Be brief.HelloBe brief.HelloMore""#]);
    let history = harness.entries(&begun).await;
    let expected = [
        r#"message.input "Hello""#,
        r#"message.output "Be brief.Hello""#,
        r#"message.input "More""#,
        r#"message.output "Be brief.HelloBe brief.HelloMore""#,
    ];
    assert_eq!(history, expected);
    let messages = harness.get(&path(&begun, "/messages")).await.json();
    assert_eq!(shown(&messages["messages"]), expected);
    assert_eq!(messages["messages"][1], *output, "what was answered is what is kept");

    let mut shown = harness.get(&path(&begun, "")).await.json();
    for key in ["id", "created_at", "updated_at"] {
        assert!(shown[key].take().is_string(), "{key}");
    }
    expect![[r#"{"object":"conversation","id":null,"created_at":null,"updated_at":null,"name":"A talk","description":"Of words.","metadata":{"a":1},"model":"tiny","instructions":"Be brief.","tools":[],"completion_args":{"max_tokens":40},"guardrails":null}"#]]
    .assert_eq(&shown.to_string());

    assert_eq!(harness.delete(&path(&begun, "")).await.status, 204);
    for rest in ["/history", "/messages"] {
        let gone = harness.get(&path(&begun, rest)).await;
        assert_eq!(mistral_error(&gone), r#"404 "invalid_request_error" "id" "not_found""#);
    }
    assert_eq!(harness.get(&path(&begun, "")).await.status, 404);
}

#[tokio::test]
async fn conversations_are_listed_by_pages_and_labels() {
    let harness = Harness::new(says("Hi"));
    let mut begun = Vec::new();
    for index in 0..4 {
        let more = json!({ "model": "tiny", "metadata": { "n": index % 2 } });
        begun.push(harness.converse(more).await["conversation_id"].clone());
    }
    harness.post_as(OPENAI, PATH, &json!({})).await;
    let listed = async |query: &str| {
        let list = harness.get(&format!("{PATH}?{query}")).await.json();
        let place = |it: &Value| begun.iter().position(|id| *id == it["id"]).expect("one of these");
        list.as_array().expect("a list").iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [3, 2, 1, 0]);
    assert_eq!(listed("page=1&page_size=3").await, [0]);
    assert_eq!(listed("metadata=%7B%22n%22%3A1%7D").await, [3, 1]);
    let wrong = harness.get(&format!("{PATH}?limit=1")).await;
    assert_eq!(mistral_error(&wrong), r#"422 ["query","limit"] "extra_forbidden""#);
}

#[tokio::test]
async fn a_conversation_outlives_the_process_until_it_is_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let harness = Harness::storing(says("Xanadu."), HttpLimits::default(), reopened(directory.path()).await);
    let begun = harness.converse(json!({ "model": "tiny", "inputs": "The word is Rosebud." })).await;
    drop(harness);
    let harness = Harness::storing(says("Xanadu."), HttpLimits::default(), reopened(directory.path()).await);
    harness.append(&begun, json!({ "inputs": "And?" })).await;
    assert_eq!(harness.entries(&begun).await.len(), 4);
    assert_eq!(harness.delete(&path(&begun, "")).await.status, 204);
    for word in ["Rosebud", "Xanadu"] {
        assert!(!is_on_disk(directory.path(), word.as_bytes()), "{word}");
    }
}

#[tokio::test]
async fn nothing_is_kept_unless_it_is_to_be() {
    let harness = Harness::new(says("Hi"));
    let forgotten = harness.converse(json!({ "model": "tiny", "store": false })).await;
    assert!(forgotten["conversation_id"].as_str().is_some_and(|id| id.starts_with("conv_")), "{forgotten}");
    assert_eq!(harness.get(PATH).await.json(), json!([]));

    let kept = harness.converse(json!({ "model": "tiny" })).await;
    let aside = harness.append(&kept, json!({ "inputs": "Aside", "store": false })).await;
    assert_eq!(shown(&aside["outputs"]), [r#"message.output "Hi""#]);
    assert_eq!(harness.entries(&kept).await.len(), 2);

    // A refused request leaves no trace either.
    for (body, expected) in [
        (json!({ "inputs": [] }), r#"422 ["body","inputs"] "value_error""#),
        (
            json!({ "inputs": "a", "completion_args": { "temperature": 9 } }),
            r#"422 ["body","completion_args","temperature"] "value_error""#,
        ),
        (json!({ "inputs": "a", "model": "tiny" }), r#"422 ["body","model"] "extra_forbidden""#),
    ] {
        assert_eq!(mistral_error(&harness.post(&path(&kept, ""), &body).await), expected, "{body}");
    }
    assert_eq!(harness.entries(&kept).await.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_told_by_its_place() {
    let harness = Harness::new(says("Hi"));
    for (more, expected) in [
        (json!({ "inputs": null, "model": "tiny" }), r#"422 ["body","inputs"] "value_error""#),
        (json!({ "model": null }), r#"422 ["body","model"] "value_error""#),
        (json!({ "model": "large" }), r#"404 "invalid_model" "model" "model_not_found""#),
        (json!({ "agent_id": "ag_nobody" }), r#"422 ["body","model"] "value_error""#),
        (json!({ "model": null, "agent_id": "ag_nobody" }), r#"422 ["body","agent_id"] "value_error""#),
        (json!({ "agent_version": 1 }), r#"422 ["body","agent_version"] "value_error""#),
        (json!({ "colour": 1 }), r#"422 ["body","colour"] "extra_forbidden""#),
        (json!({ "tools": [{ "type": "connector" }] }), r#"422 ["body","tools",0,"type"] "value_error""#),
        (json!({ "completion_args": { "n": 2 } }), r#"422 ["body","completion_args","n"] "extra_forbidden""#),
        (
            json!({ "completion_args": { "max_tokens": 5000 } }),
            r#"400 "invalid_request_error" "completion_args.max_tokens" "context_length_exceeded""#,
        ),
        (json!({ "inputs": [{ "role": "robot", "content": "a" }] }), r#"422 ["body","inputs",0,"role"] "value_error""#),
        (
            json!({ "inputs": [{ "role": "user", "content": "a", "color": 1 }] }),
            r#"422 ["body","inputs",0,"color"] "extra_forbidden""#,
        ),
        (
            json!({ "inputs": [{ "role": "user", "content": "a", "id": 1 }] }),
            r#"422 ["body","inputs",0,"id"] "value_error""#,
        ),
        (
            json!({ "inputs": [{ "role": "assistant", "content": "a", "prefix": true }] }),
            r#"422 ["body","inputs",0,"prefix"] "value_error""#,
        ),
        (
            json!({ "inputs": [{ "role": "user", "content": "a" }, { "role": "user", "content": [{ "type": "document_url" }] }] }),
            r#"422 ["body","inputs",1,"content",0,"type"] "value_error""#,
        ),
        (
            json!({ "inputs": [{ "type": "tool.execution", "name": "web_search" }] }),
            r#"422 ["body","inputs",0,"type"] "value_error""#,
        ),
        (
            json!({ "inputs": [{ "role": "user", "content": "a" }, { "type": "function.result", "tool_call_id": "abcdefghi", "result": "b" }] }),
            r#"400 "invalid_request_message_order" "inputs[1].role" "invalid_message_order""#,
        ),
        (
            json!({ "inputs": [{ "role": "user", "content": "a" }, { "type": "agent.handoff", "previous_agent_id": "a",
                "previous_agent_name": "A", "next_agent_id": "b", "next_agent_name": "B" }] }),
            r#"422 ["body","inputs",1,"next_agent_id"] "value_error""#,
        ),
        (
            json!({ "inputs": [{ "role": "user", "content": "a" }, { "type": "agent.handoff", "previous_agent_id": "a",
                "previous_agent_name": "A".repeat(257), "next_agent_id": "b", "next_agent_name": "B" }] }),
            r#"422 ["body","inputs",1,"previous_agent_name"] "value_error""#,
        ),
        (json!({ "instructions": [] }), r#"422 ["body","instructions"] "value_error""#),
    ] {
        let body = merged(json!({ "model": "tiny", "inputs": "Hello" }), more.clone());
        assert_eq!(mistral_error(&harness.post(PATH, &body).await), expected, "{more}");
    }
    assert_eq!(harness.get(PATH).await.json(), json!([]));
}

#[tokio::test]
async fn a_function_is_called_and_its_result_read() {
    let harness = rolls();
    let begun = harness.converse(json!({ "model": "tiny", "tools": [function("roll")] })).await;
    assert_eq!(shown(&begun["outputs"]), [r#"function.call "roll""#]);
    let call = &begun["outputs"][0];
    assert_eq!(call["arguments"], "{}");
    let id = call["tool_call_id"].as_str().expect("an id");
    let nothing = harness.post(&path(&begun, ""), &json!({})).await;
    assert_eq!(mistral_error(&nothing), r#"422 ["body","inputs"] "value_error""#);
    let result = json!([{ "type": "function.result", "tool_call_id": id, "result": "7" }]);
    let more = harness.append(&begun, json!({ "inputs": result })).await;
    assert_eq!(shown(&more["outputs"]), [r#"message.output "A seven.""#]);
    let kinds = harness.entries(&begun).await;
    assert_eq!(kinds[1..3], [r#"function.call "roll""#, r#"function.result "7""#]);
    let messages = harness.get(&path(&begun, "/messages")).await.json();
    assert_eq!(shown(&messages["messages"]), [r#"message.input "Hello""#, r#"message.output "A seven.""#]);

    // The whole round as entries of a new conversation, as a client would send back what it got.
    let history = harness.get(&path(&begun, "/history")).await.json();
    let inputs: Vec<Value> = history["entries"].as_array().expect("a list")[..3].to_vec();
    let again = harness.converse(json!({ "model": "tiny", "inputs": inputs, "tools": [function("roll")] })).await;
    assert_eq!(shown(&again["outputs"]), [r#"message.output "A seven.""#]);
}

#[tokio::test]
async fn a_conversation_is_restarted_from_an_entry() {
    let harness = repeats();
    let begun = harness.converse(json!({ "model": "tiny", "name": "A talk", "metadata": { "a": 1 } })).await;
    harness.append(&begun, json!({ "inputs": "More" })).await;
    let history = harness.get(&path(&begun, "/history")).await.json();
    let entry = history["entries"][1]["id"].clone();
    let body = json!({ "from_entry_id": entry, "inputs": "Other", "metadata": { "b": 2 } });
    let other = harness.post(&path(&begun, "/restart"), &body).await.json();
    assert_ne!(other["conversation_id"], begun["conversation_id"]);
    assert_eq!(shown(&other["outputs"]), [r#"message.output "HelloHelloOther""#]);
    let expected = [r#"message.input "Hello""#, r#"message.output "Hello""#, r#"message.input "Other""#];
    assert_eq!(harness.entries(&other).await[..3], expected);
    assert_eq!(harness.entries(&begun).await.len(), 4, "the old one stays as it was");
    let shown = harness.get(&path(&other, "")).await.json();
    assert_eq!((&shown["name"], &shown["metadata"]), (&json!("A talk"), &json!({ "b": 2 })));
    // From something that waits for an answer no input is needed.
    let first = json!({ "from_entry_id": history["entries"][0]["id"] });
    assert_eq!(harness.post(&path(&begun, "/restart"), &first).await.json()["outputs"][0]["content"], "Hello");
    for (body, expected) in [
        (json!({ "from_entry_id": "msg_none", "inputs": "a" }), r#"422 ["body","from_entry_id"] "value_error""#),
        (json!({ "inputs": "a" }), r#"422 ["body","from_entry_id"] "value_error""#),
        (json!({ "from_entry_id": entry }), r#"422 ["body","inputs"] "value_error""#),
    ] {
        assert_eq!(mistral_error(&harness.post(&path(&begun, "/restart"), &body).await), expected, "{body}");
    }
}

#[tokio::test]
async fn a_stream_tells_what_the_whole_answer_has() {
    let tokens = [vec![control("[THINK]")], ids("Hm."), vec![control("[/THINK]")], ids("Yes."), call("roll")].concat();
    let harness = Harness::new(answers(tokens));
    let body = json!({ "model": "tiny", "inputs": "Hello", "tools": [function("roll")] });
    let whole = harness.post(PATH, &body).await.json();
    let thinking = json!([
        { "type": "thinking", "thinking": [{ "type": "text", "text": "Hm." }] },
        { "type": "text", "text": "Yes." },
    ]);
    assert_eq!((&whole["outputs"][0]["content"], &whole["outputs"][1]["name"]), (&thinking, &json!("roll")));
    let streamed = harness.post(PATH, &merged(body, json!({ "stream": true }))).await;
    let mut lines = String::new();
    for (_, mut data) in events(&streamed) {
        let object = data.as_object_mut().expect("an object");
        assert!(object.shift_remove("created_at").is_some_and(|moment| moment.is_string()));
        for key in ["id", "conversation_id", "tool_call_id", "model", "agent_id"] {
            object.shift_remove(key);
        }
        lines.push_str(&format!("{data}\n"));
    }
    expect![[r#"
        {"type":"conversation.response.started"}
        {"type":"message.output.delta","output_index":0,"content_index":0,"role":"assistant","content":{"type":"thinking","thinking":[{"type":"text","text":"H"}]}}
        {"type":"message.output.delta","output_index":0,"content_index":0,"role":"assistant","content":{"type":"thinking","thinking":[{"type":"text","text":"m"}]}}
        {"type":"message.output.delta","output_index":0,"content_index":0,"role":"assistant","content":{"type":"thinking","thinking":[{"type":"text","text":"."}]}}
        {"type":"message.output.delta","output_index":0,"content_index":1,"role":"assistant","content":"Y"}
        {"type":"message.output.delta","output_index":0,"content_index":1,"role":"assistant","content":"es"}
        {"type":"message.output.delta","output_index":0,"content_index":1,"role":"assistant","content":"."}
        {"type":"function.call.delta","output_index":1,"name":"roll","arguments":""}
        {"type":"function.call.delta","output_index":1,"name":"roll","arguments":"{"}
        {"type":"function.call.delta","output_index":1,"name":"roll","arguments":"}"}
        {"type":"conversation.response.done","usage":{"prompt_tokens":52,"completion_tokens":14,"total_tokens":66,"connector_tokens":null,"connectors":null}}
    "#]]
    .assert_eq(&lines);
    // It was stored before its end was told, under the ids that were told.
    let first = &events(&streamed)[0].1;
    let history = harness.get(&path(first, "/history")).await.json();
    let told: Vec<Value> = events(&streamed).iter().map(|(_, data)| data["id"].clone()).collect();
    assert!(told.contains(&history["entries"][1]["id"]) && told.contains(&history["entries"][2]["id"]), "{history}");
    // What was thought is a part of what is sent to the model again.
    let id = &whole["outputs"][1]["tool_call_id"];
    let result = json!([{ "type": "function.result", "tool_call_id": id, "result": "7" }]);
    harness.append(&whole, json!({ "inputs": result })).await;
    let thought = Harness::new(thinks()).converse(json!({ "model": "tiny" })).await;
    assert_eq!(thought["outputs"][0]["content"], thinking);
}

#[tokio::test]
async fn of_two_who_continue_at_once_one_is_told() {
    let store = memory();
    let first = Harness::storing(says("Hi"), HttpLimits::default(), store.clone());
    let begun = first.converse(json!({ "model": "tiny" })).await;
    let harness = Harness::storing_gated(says("Hi"), HttpLimits::default(), store);
    let (place, body) = (path(&begun, ""), json!({ "inputs": "More" }));
    let both_have_read_it = async {
        eventually("both are answered", || harness.metric("vllm:request_params_n_count") == 2.0).await;
        harness.gate.open();
    };
    let (one, other, ()) = tokio::join!(harness.post(&place, &body), harness.post(&place, &body), both_have_read_it);
    let (told, done) = if one.status == 200 { (other, one) } else { (one, other) };
    assert_eq!(done.status, 200);
    assert_eq!(mistral_error(&told), r#"409 "invalid_request_error" "conversation" "conversation_changed""#);
    assert_eq!(harness.entries(&begun).await.len(), 4);
}

#[tokio::test]
async fn who_is_meant_is_told_apart() {
    let harness = Harness::new(says("Hi"));
    let openais = harness.post_as(OPENAI, PATH, &json!({})).await.json();
    assert_eq!(openais["object"], "conversation");
    assert_eq!(harness.post(PATH, &json!({ "metadata": { "a": "b" } })).await.json()["object"], "conversation");
    // OpenAI's client has no such field; Mistral's is answered in its own form even if nothing says so.
    let refused = harness.post_as(OPENAI, PATH, &json!({ "inputs": "Hello" })).await;
    assert_eq!(refused.error(), r#"400 "inputs" "unknown_parameter""#);
    let empty = harness.post_as("mistral-client-python/3.7.0", PATH, &json!({})).await;
    assert_eq!(mistral_error(&empty), r#"422 ["body","inputs"] "value_error""#);

    let long = harness.post(PATH, &json!({ "model": "tiny", "inputs": "a ".repeat(20_000) })).await;
    assert_eq!(mistral_error(&long), r#"400 "invalid_request_error" "inputs" "context_length_exceeded""#);

    let mistrals = harness.converse(json!({ "model": "tiny" })).await;
    let id = openais["id"].as_str().expect("an id");
    // What is stored is what it is, whoever asks.
    let (place, labels) = (format!("{PATH}/{id}"), json!({ "metadata": { "c": "d" } }));
    let labelled = harness.post_as("mistral-client-python/3.7.0", &place, &labels).await;
    assert_eq!(labelled.json()["metadata"], labels["metadata"]);
    let continued = harness.post_as(OPENAI, &path(&mistrals, ""), &json!({ "inputs": "More" })).await;
    assert_eq!(continued.json()["object"], "conversation.response");
    assert_eq!(harness.get(&format!("{PATH}/{id}/history")).await.status, 404);
    assert_eq!(harness.get(&path(&mistrals, "/items")).await.status, 404);
    assert_eq!(harness.delete(&format!("{PATH}/{id}")).await.json()["deleted"], true);
    assert_eq!(harness.delete(&path(&mistrals, "")).await.status, 204);
}
