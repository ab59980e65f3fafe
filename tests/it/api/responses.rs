//! `/v1/responses`: what a response looks like, what it continues, and what is kept of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use expect_test::expect;
use serde_json::{Value, json};
use tramontane::{
    api::{HttpLimits, StorageLimits},
    prompt::SpecialTokens,
    store::Store,
};

use super::{
    storage::is_on_disk,
    support::{
        Answer, END_OF_INSTRUCTION, EOS, Harness, Script, answers, babbles, codec, control, ids, memory, merged, says,
        small_engine, thinks,
    },
};

const PATH: &str = "/v1/responses";

/// The prompts that the model has begun to answer, as text.
pub type Heard = Arc<Mutex<Vec<String>>>;

/// Calls a tool if there is one that has no result yet, else says this; and tells what it was asked.
pub fn listens(says: &str) -> (Script, Heard) {
    let heard = Heard::default();
    let (text, call) = (ids(says), [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids("{}")]);
    let (call, tools) = (call.concat(), control("[AVAILABLE_TOOLS]"));
    let (told, result) = (Arc::clone(&heard), control("[/TOOL_RESULTS]"));
    let script = move |history: &[u32]| {
        let is_end = |id: &u32| [END_OF_INSTRUCTION, result].contains(id);
        let end = history.iter().rposition(is_end).expect("a prompt");
        let generated = history.len() - end - 1;
        if generated == 0 {
            told.lock().expect("no panic").push(codec().decode(history, SpecialTokens::Keep));
        }
        let calls = history[end] == END_OF_INSTRUCTION && history.contains(&tools);
        *if calls { &call } else { &text }.get(generated).unwrap_or(&EOS)
    };
    (Box::new(script), heard)
}

pub fn last(heard: &Heard) -> String {
    heard.lock().expect("no panic").last().cloned().unwrap_or_default()
}

fn tools() -> Value {
    json!([{ "type": "function", "name": "roll", "parameters": { "type": "object" } }])
}

impl Harness {
    /// A response to a text, with more fields.
    pub async fn respond(&self, more: Value) -> Answer {
        self.post(PATH, &merged(json!({ "model": "tiny", "input": "Hello" }), more)).await
    }

    /// The same, which must succeed.
    pub async fn response(&self, more: Value) -> Value {
        let answer = self.respond(more).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }
}

pub fn path_of(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().expect("an id"))
}

/// Typed events, each of which must repeat its type, be numbered, and be followed by nothing like `[DONE]`.
#[track_caller]
pub fn typed_events(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{}", answer.body);
    let events = answer.body.split_terminator("\n\n").enumerate().map(|(number, event)| {
        let (kind, data) = event.split_once("\ndata: ").expect("an event of two lines");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(Some(kind), data["type"].as_str().map(|kind| format!("event: {kind}")).as_deref());
        assert_eq!(data["sequence_number"], number);
        data
    });
    events.collect()
}

/// Ids and times, which differ between runs, replaced.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let member = |(key, value): (&String, &Value)| {
                let value = match key.as_str() {
                    "id" | "item_id" if value.is_string() => json!("<id>"),
                    "call_id" => json!("<call>"),
                    "created_at" | "completed_at" if value.is_u64() => json!(0),
                    _ => redacted(value),
                };
                (key.clone(), value)
            };
            Value::Object(map.iter().map(member).collect())
        }
        Value::Array(items) => items.iter().map(redacted).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_response_is_whole() {
    let harness = Harness::new(says("Hi there!"));
    let response = harness.response(json!({ "instructions": "Be brief.", "metadata": { "a": "b" } })).await;
    expect![[r#"{"id":"<id>","object":"response","created_at":0,"status":"completed","completed_at":0,"error":null,"incomplete_details":null,"output":[{"id":"<id>","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hi there!","annotations":[],"logprobs":[]}]}],"model":"tiny","background":false,"store":true,"previous_response_id":null,"conversation":null,"temperature":0.0,"top_p":1.0,"service_tier":"default","instructions":"Be brief.","parallel_tool_calls":true,"max_output_tokens":null,"max_tool_calls":null,"tool_choice":"auto","tools":[],"text":{"format":{"type":"text"},"verbosity":"medium"},"reasoning":{"effort":null,"summary":null},"top_logprobs":0,"truncation":"disabled","user":null,"safety_identifier":null,"prompt_cache_key":null,"metadata":{"a":"b"},"usage":{"input_tokens":13,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":18}}"#]]
    .assert_eq(&redacted(&response).to_string());
    let mut stored = harness.get(&path_of(&response)).await.json();
    stored["completed_at"] = response["completed_at"].clone();
    assert_eq!(stored, response, "what is kept is what was answered");
    harness.idle().await;
}

#[tokio::test]
async fn the_events_add_up_to_the_response() {
    let harness = Harness::new(thinks());
    let events = typed_events(&harness.respond(json!({ "stream": true })).await);
    let shown: Vec<String> = events
        .iter()
        .map(|event| {
            let mut event = redacted(event);
            let members = event.as_object_mut().expect("an object");
            members.shift_remove("sequence_number");
            if let Some(response) = members.shift_remove("response") {
                members.insert("status".to_owned(), response["status"].clone());
            }
            format!("{event}\n")
        })
        .collect();
    expect![[r#"
        {"type":"response.created","status":"in_progress"}
        {"type":"response.in_progress","status":"in_progress"}
        {"type":"response.output_item.added","output_index":0,"item":{"id":"<id>","type":"reasoning","status":"in_progress","summary":[],"content":[]}}
        {"type":"response.content_part.added","item_id":"<id>","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":""}}
        {"type":"response.reasoning_text.delta","item_id":"<id>","output_index":0,"content_index":0,"delta":"H"}
        {"type":"response.reasoning_text.delta","item_id":"<id>","output_index":0,"content_index":0,"delta":"m"}
        {"type":"response.reasoning_text.delta","item_id":"<id>","output_index":0,"content_index":0,"delta":"."}
        {"type":"response.reasoning_text.done","item_id":"<id>","output_index":0,"content_index":0,"text":"Hm."}
        {"type":"response.content_part.done","item_id":"<id>","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":"Hm."}}
        {"type":"response.output_item.done","output_index":0,"item":{"id":"<id>","type":"reasoning","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"Hm."}]}}
        {"type":"response.output_item.added","output_index":1,"item":{"id":"<id>","type":"message","status":"in_progress","role":"assistant","content":[]}}
        {"type":"response.content_part.added","item_id":"<id>","output_index":1,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}
        {"type":"response.output_text.delta","item_id":"<id>","output_index":1,"content_index":0,"delta":"Y","logprobs":[]}
        {"type":"response.output_text.delta","item_id":"<id>","output_index":1,"content_index":0,"delta":"es","logprobs":[]}
        {"type":"response.output_text.delta","item_id":"<id>","output_index":1,"content_index":0,"delta":".","logprobs":[]}
        {"type":"response.output_text.done","item_id":"<id>","output_index":1,"content_index":0,"text":"Yes.","logprobs":[]}
        {"type":"response.content_part.done","item_id":"<id>","output_index":1,"content_index":0,"part":{"type":"output_text","text":"Yes.","annotations":[],"logprobs":[]}}
        {"type":"response.output_item.done","output_index":1,"item":{"id":"<id>","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Yes.","annotations":[],"logprobs":[]}]}}
        {"type":"response.completed","status":"completed"}
    "#]]
    .assert_eq(&shown.concat());
    let ended = &events.last().expect("events")["response"];
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    let items: Value = done.map(|event| event["item"].clone()).collect();
    assert_eq!(ended["output"], items);
    assert_eq!(harness.get(&path_of(ended)).await.json()["output"], items);
    let whole = harness.response(json!({})).await;
    assert_eq!(redacted(&whole["output"]), redacted(&items));
    let thought = whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
    assert_eq!(thought, ids("Hm.").len() as u64 + 1, "with the token that begins it");
}

#[tokio::test]
async fn a_call_its_result_and_the_answer_are_one_conversation() {
    let (script, heard) = listens("A six!");
    let harness = Harness::new(script);
    let first = harness.response(json!({ "input": "Roll a die.", "tools": tools() })).await;
    let call = &first["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("roll"), &json!("{}"))
    );
    let result = json!([{ "type": "function_call_output", "call_id": call["call_id"], "output": "6" }]);
    let more = json!({ "input": result, "tools": tools(), "previous_response_id": first["id"] });
    let second = harness.response(more.clone()).await;
    assert_eq!(second["output"][0]["content"][0]["text"], "A six!");
    let continued = last(&heard);
    let third = json!({ "input": "Again!", "previous_response_id": second["id"] });
    harness.response(third).await;
    assert!(last(&heard).ends_with("6[/TOOL_RESULTS]A six!</s>[INST]Again![/INST]"), "{}", last(&heard));

    // The same as one input is the same prompt, and that of a chat.
    let said = json!([{ "role": "user", "content": "Roll a die." }, call, result[0]]);
    harness.response(json!({ "input": said, "tools": tools(), "store": false })).await;
    assert_eq!(last(&heard), continued);
    let function = json!({ "name": "roll", "parameters": { "type": "object" } });
    harness
        .chat(json!({
            "messages": [
                { "role": "user", "content": "Roll a die." },
                { "role": "assistant", "tool_calls": [
                    { "id": call["call_id"], "type": "function", "function": { "name": "roll", "arguments": "{}" } },
                ] },
                { "role": "tool", "tool_call_id": call["call_id"], "content": "6" },
            ],
            "tools": [{ "type": "function", "function": function }],
        }))
        .await;
    assert_eq!(last(&heard), continued);

    let streamed = typed_events(&harness.respond(json!({ "tools": tools(), "stream": true })).await);
    let deltas = streamed.iter().filter(|event| event["type"] == "response.function_call_arguments.delta");
    let arguments: String = deltas.map(|event| event["delta"].as_str().expect("a text")).collect();
    let done = streamed.iter().find(|event| event["type"] == "response.function_call_arguments.done");
    assert_eq!((arguments.as_str(), &done.expect("an end")["arguments"]), ("{}", &json!("{}")));
}

#[tokio::test]
async fn instructions_are_not_inherited() {
    let (script, heard) = listens("Yes.");
    let harness = Harness::new(script);
    let first = harness.response(json!({ "instructions": "Be brief." })).await;
    assert!(last(&heard).contains("Be brief."));
    let more = json!({ "input": "Sure?", "previous_response_id": first["id"], "instructions": "Be kind." });
    harness.response(more).await;
    assert!(!last(&heard).contains("Be brief.") && last(&heard).contains("Be kind."), "{}", last(&heard));
    assert!(last(&heard).contains("Yes.</s>[INST]Sure?"), "{}", last(&heard));
}

#[tokio::test]
async fn what_is_stored_can_be_referred_to() {
    let (script, heard) = listens("Yes.");
    let harness = Harness::new(script);
    let first = harness.response(json!({})).await;
    let input = json!([
        { "role": "user", "content": "First" },
        { "type": "item_reference", "id": first["output"][0]["id"] },
        { "role": "user", "content": "Then" },
    ]);
    let second = harness.response(json!({ "input": input })).await;
    assert!(last(&heard).ends_with("[INST]First[/INST]Yes.</s>[INST]Then[/INST]"), "{}", last(&heard));

    let path = format!("{}/input_items", path_of(&second));
    let all = harness.get(&path).await.json();
    let texts: Vec<&Value> =
        all["data"].as_array().expect("a list").iter().map(|it| &it["content"][0]["text"]).collect();
    assert_eq!(texts, ["Then", "Yes.", "First"]);
    let page = harness.get(&format!("{path}?order=asc&limit=1&include[]=message.output_text.logprobs")).await.json();
    assert_eq!((&page["first_id"], &page["has_more"]), (&all["last_id"], &json!(true)));
    let rest = harness.get(&format!("{path}?order=asc&after={}", page["last_id"].as_str().expect("an id"))).await;
    assert_eq!(rest.json()["data"][0]["content"][0]["text"], "Yes.");
    assert_eq!(harness.get(&format!("{path}?after=msg_x")).await.error(), r#"400 "after" "not_found""#);
    assert_eq!(harness.get(&format!("{path}?colour=red")).await.error(), r#"400 "colour" "unknown_parameter""#);
}

#[tokio::test]
async fn what_ends_an_answer_early_is_said() {
    let harness = Harness::new(babbles());
    let response = harness.response(json!({ "max_output_tokens": 3 })).await;
    let seen = (&response["status"], &response["incomplete_details"], &response["output"][0]["status"]);
    assert_eq!(seen, (&json!("incomplete"), &json!({ "reason": "max_output_tokens" }), &json!("incomplete")));
    let events = typed_events(&harness.respond(json!({ "max_output_tokens": 3, "stream": true })).await);
    assert_eq!(events.last().expect("events")["type"], "response.incomplete");

    let limits = HttpLimits { request_timeout: Duration::from_millis(50), ..HttpLimits::default() };
    let harness = Harness::with(babbles(), small_engine(), limits);
    let late = harness.respond(json!({ "stream": true })).await;
    harness.gate.open();
    let events = typed_events(&late);
    let failed = &events.last().expect("events")["response"];
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(harness.get(&path_of(failed)).await.json()["status"], "failed");
    let more = json!({ "previous_response_id": failed["id"] });
    assert_eq!(harness.respond(more).await.error(), r#"400 "previous_response_id" null"#);
}

#[tokio::test]
async fn log_probabilities_come_if_they_are_asked_for() {
    let harness = Harness::new(says("Hi!"));
    let more = json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let response = harness.response(more.clone()).await;
    let logprobs = response["output"][0]["content"][0]["logprobs"].as_array().expect("a list").clone();
    assert_eq!((logprobs.len(), logprobs[0]["top_logprobs"].as_array().map(Vec::len)), (ids("Hi!").len(), Some(2)));
    let events = typed_events(&harness.respond(merged(more, json!({ "stream": true }))).await);
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let streamed: Vec<Value> = deltas.flat_map(|event| event["logprobs"].as_array().expect("a list").clone()).collect();
    assert_eq!(streamed, logprobs);
}

/// Tokens of thoughts and calls have no log-probabilities in a response, and tear nothing apart.
#[tokio::test]
async fn log_probabilities_leave_thoughts_and_calls_whole() {
    let included = json!({ "include": ["message.output_text.logprobs"] });
    let thought = Harness::new(thinks()).response(included.clone()).await;
    let kinds = |response: &Value| -> Vec<String> {
        let output = response["output"].as_array().expect("items").iter();
        output.map(|item| item["type"].as_str().expect("a type").to_owned()).collect()
    };
    assert_eq!(kinds(&thought), ["reasoning", "message"]);
    assert_eq!(thought["output"][0]["content"][0]["text"], "Hm.");
    let part = &thought["output"][1]["content"][0];
    assert_eq!((&part["text"], part["logprobs"].as_array().map(Vec::len)), (&json!("Yes."), Some(ids("Yes.").len())));
    let call = [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids("{\"sides\": 6}")].concat();
    let called = Harness::new(answers(call)).response(merged(included, json!({ "tools": tools() }))).await;
    assert_eq!(kinds(&called), ["function_call"]);
    assert_eq!(called["output"][0]["arguments"], "{\"sides\": 6}");
}

/// Of the tools that `allowed_tools` leaves out, nothing is ignored either.
#[tokio::test]
async fn tools_that_are_not_allowed_are_checked_too() {
    let harness = Harness::new(says("Hi"));
    for (allowed, wrong) in [("f", json!({ "parameters": 5 })), ("g", json!({ "parameters": { "type": 5 } }))] {
        let other = merged(json!({ "type": "function", "name": "g" }), wrong);
        let more = json!({
            "tools": [{ "type": "function", "name": "f" }, other],
            "tool_choice": { "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "function", "name": allowed }] },
        });
        let error = harness.respond(more).await.error();
        assert!(error.starts_with(r#"400 "tools[1].parameters"#), "{error}");
    }
}

#[tokio::test]
async fn an_answer_has_the_form_that_is_asked_for() {
    let harness = Harness::new(babbles());
    let schema = json!({ "type": "object", "properties": { "kind": { "enum": ["a", "b"] } }, "required": ["kind"],
        "additionalProperties": false });
    let format = json!({ "type": "json_schema", "name": "s", "schema": schema, "strict": true });
    let response = harness.response(json!({ "text": { "format": format } })).await;
    let text = response["output"][0]["content"][0]["text"].as_str().expect("a text");
    let parsed: Value = serde_json::from_str(text).expect("JSON");
    assert!(["a", "b"].contains(&parsed["kind"].as_str().unwrap_or_default()), "{text}");
    assert_eq!(response["text"]["format"], format);

    let more =
        json!({ "tools": tools(), "tool_choice": { "type": "function", "name": "roll" }, "max_output_tokens": 30 });
    assert_eq!(harness.response(more).await["output"][0]["name"], "roll");
    let two = json!([tools()[0], { "type": "function", "name": "flip" }]);
    let allowed =
        json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "flip" }] });
    let more = json!({ "tools": two, "tool_choice": allowed, "max_output_tokens": 30 });
    assert_eq!(harness.response(more).await["output"][0]["name"], "flip");
}

#[tokio::test]
async fn the_oldest_items_are_left_out_of_what_is_too_long() {
    let (script, heard) = listens("Yes.");
    let harness = Harness::new(script);
    let long = |word: &str| json!({ "role": "user", "content": format!("{word} {}", "la ".repeat(900)) });
    let said = json!({ "role": "assistant", "content": "Fine." });
    let system = json!({ "role": "system", "content": "Be brief." });
    let input =
        json!([system, long("one"), said, long("two"), said, long("three"), said, long("four"), said, long("five")]);
    let refused = harness.respond(json!({ "input": input })).await;
    assert_eq!(refused.error(), r#"400 "input" "context_length_exceeded""#);
    harness.response(json!({ "input": input, "truncation": "auto" })).await;
    let heard = last(&heard);
    let kept: Vec<bool> = ["Be brief.", "one la", "two la", "five la"].iter().map(|it| heard.contains(it)).collect();
    assert_eq!((kept[0], kept[1], kept[3]), (true, false, true), "{kept:?}");
    let room = 4096 - codec().encode_text(&heard, false).len();
    assert!(kept[2] || room < 900 * ids("la ").len(), "more is left out than has to be");
}

#[tokio::test]
async fn tokens_are_counted_without_an_answer() {
    let harness = Harness::new(says("Yes."));
    let asked = json!({ "input": "Hello there", "instructions": "Be brief.", "tools": tools() });
    let counted = harness.post("/v1/responses/input_tokens", &asked).await.json();
    let answered = harness.response(asked).await;
    let tokens = &answered["usage"]["input_tokens"];
    assert_eq!(counted, json!({ "object": "response.input_tokens", "input_tokens": tokens }));
    assert_eq!(harness.post("/v1/responses/compact", &json!({})).await.error(), r#"501 null "not_served""#);
}

#[tokio::test]
async fn mistakes_are_told_where_they_were_made() {
    let harness = Harness::new(says("Yes."));
    let user = json!({ "role": "user", "content": "Hi" });
    for (more, error) in [
        (json!({ "input": null }), r#"400 "input" null"#),
        (json!({ "input": [] }), r#"400 "input" null"#),
        (json!({ "input": [user, { "role": "robot", "content": "" }] }), r#"400 "input[1].role" null"#),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_file" }] }] }),
            r#"400 "input[0].content[0].type" null"#,
        ),
        (
            json!({ "input": [{ "role": "user", "content": "", "colour": 1 }] }),
            r#"400 "input[0].colour" "unknown_parameter""#,
        ),
        (json!({ "input": [user, { "type": "web_search_call", "id": "ws_1" }] }), r#"400 "input[1].type" null"#),
        (
            json!({ "input": [user, { "type": "reasoning", "encrypted_content": "x" }] }),
            r#"400 "input[1].encrypted_content" null"#,
        ),
        (json!({ "input": [user, { "type": "item_reference", "id": "msg_x" }] }), r#"400 "input[1].id" "not_found""#),
        (
            json!({ "input": [user, { "type": "function_call", "call_id": "a", "name": "no name!", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "a", "output": "1" }] }),
            r#"400 "input[1].name" null"#,
        ),
        (
            json!({ "input": [user, { "type": "function_call_output", "call_id": "a", "output": "1" }] }),
            r#"400 "input[1]" "invalid_message_order""#,
        ),
        (
            json!({ "input": [{ "id": "m", "role": "user", "content": "" }, { "id": "m", "role": "user", "content": "" }] }),
            r#"400 "input[1].id" null"#,
        ),
        (json!({ "previous_response_id": "resp_x" }), r#"400 "previous_response_id" "not_found""#),
        (json!({ "conversation": "conv_x" }), r#"400 "conversation" "not_found""#),
        (json!({ "conversation": "c", "previous_response_id": "r" }), r#"400 "conversation" null"#),
        (json!({ "tools": [{ "type": "web_search" }] }), r#"400 "tools[0].type" null"#),
        (json!({ "tools": [{ "type": "function", "name": "no name!" }] }), r#"400 "tools[0].name" null"#),
        (
            json!({ "tools": [{ "type": "function", "name": "f", "colour": 1 }] }),
            r#"400 "tools[0].colour" "unknown_parameter""#,
        ),
        (json!({ "tool_choice": "required" }), r#"400 "tool_choice" null"#),
        (json!({ "text": { "format": { "type": "grammar" } } }), r#"400 "text.format.type" null"#),
        (
            json!({ "text": { "format": { "type": "json_schema", "name": "s", "schema": 1 } } }),
            r#"400 "text.format.schema" null"#,
        ),
        (json!({ "reasoning": { "effort": "utmost" } }), r#"400 "reasoning.effort" null"#),
        (json!({ "max_output_tokens": 100_000 }), r#"400 "max_output_tokens" "context_length_exceeded""#),
        (json!({ "temperature": 9 }), r#"400 "temperature" null"#),
        (json!({ "model": "huge" }), r#"404 "model" "model_not_found""#),
        (json!({ "conversation": "c", "store": false }), r#"400 "conversation" null"#),
        (json!({ "colour": 1 }), r#"400 "colour" "unknown_parameter""#),
    ] {
        assert_eq!(harness.respond(more.clone()).await.error(), error, "{more}");
    }
    let response = harness.response(json!({})).await;
    let path = path_of(&response);
    assert_eq!(harness.get(&format!("{path}?stream=true")).await.error(), r#"400 "stream" null"#);
    assert_eq!(harness.post(&format!("{path}/cancel"), &json!({})).await.error(), r#"400 "id" "not_cancellable""#);
    for path in ["/v1/responses/resp_x", "/v1/responses/resp_x/input_items"] {
        assert_eq!(harness.get(path).await.error(), r#"404 "id" "not_found""#, "{path}");
    }
}

#[tokio::test]
async fn nothing_is_kept_that_was_not_to_be_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path(), 64 << 20).expect("a store");
    let harness = Harness::storing(says("thursday-answer-2"), HttpLimits::default(), store);
    let marker = "thursday-question-1";
    let response = harness.response(json!({ "input": marker, "store": false })).await;
    typed_events(&harness.respond(json!({ "input": marker, "store": false, "stream": true })).await);
    assert_eq!(harness.get(&path_of(&response)).await.error(), r#"404 "id" "not_found""#);
    let more = json!({ "previous_response_id": response["id"] });
    assert_eq!(harness.respond(more).await.error(), r#"400 "previous_response_id" "not_found""#);
    assert!(!is_on_disk(directory.path(), marker.as_bytes()) && !is_on_disk(directory.path(), b"thursday-answer-2"));

    let kept = harness.response(json!({ "input": marker })).await;
    assert!(is_on_disk(directory.path(), marker.as_bytes()) && is_on_disk(directory.path(), b"thursday-answer-2"));
    let deleted = harness.delete(&path_of(&kept)).await;
    assert_eq!(deleted.json(), json!({ "id": kept["id"], "object": "response", "deleted": true }));
    assert!(!is_on_disk(directory.path(), marker.as_bytes()) && !is_on_disk(directory.path(), b"thursday-answer-2"));
    assert_eq!(harness.delete(&path_of(&kept)).await.error(), r#"404 "id" "not_found""#);
}

#[tokio::test]
async fn a_chain_ends_where_a_response_is_gone() {
    let harness = Harness::new(says("Yes."));
    let first = harness.response(json!({})).await;
    let second = harness.response(json!({ "previous_response_id": first["id"] })).await;
    harness.delete(&path_of(&first)).await;
    let answer = harness.respond(json!({ "previous_response_id": second["id"] })).await;
    assert_eq!(answer.error(), r#"400 "previous_response_id" "not_found""#);
    assert!(answer.body.contains(first["id"].as_str().expect("an id")), "{}", answer.body);
}

#[tokio::test]
async fn what_is_past_its_time_is_gone() {
    let storage = StorageLimits { retention: Duration::ZERO, ..StorageLimits::default() };
    let harness = Harness::storing(says("Yes."), HttpLimits { storage, ..HttpLimits::default() }, memory());
    let response = harness.response(json!({})).await;
    assert_eq!(harness.get(&path_of(&response)).await.error(), r#"404 "id" "not_found""#);
}
