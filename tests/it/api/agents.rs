//! Mistral's agents: what is stored of them, and what asking one does.

use axum::{
    body::Body,
    http::{
        Method, Request,
        header::{CONTENT_TYPE, USER_AGENT},
    },
};
use expect_test::expect;
use serde_json::{Value, json};
use tramontane::api::HttpLimits;

use super::{
    storage::{is_on_disk, reopened},
    support::{Answer, Harness, answers, codec, control, ids, merged, mistral_error, says, send},
};

impl Harness {
    /// A request of any method.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        send(self.app(), request.body(body.to_string().into()).expect("a valid request")).await
    }

    /// Makes an agent and gives its id.
    pub async fn agent(&self, more: Value) -> String {
        let body = merged(json!({ "model": "tiny", "name": "Ann" }), more);
        let answer = self.post("/v1/agents", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    pub async fn change(&self, id: &str, more: Value) -> Value {
        let answer = self.ask(Method::PATCH, &format!("/v1/agents/{id}"), &more).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }
}

pub fn function(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } })
}

/// Answers with the prompt that it was given, as text.
pub fn repeats() -> Harness {
    Harness::new(Box::new(|history| {
        let end = history.iter().rposition(|&id| id == super::support::END_OF_INSTRUCTION).expect("an instruction");
        let text: Vec<u32> = history[..end].iter().copied().filter(|&id| !codec().is_control(id)).collect();
        text.get(history.len() - 1 - end).copied().unwrap_or(super::support::EOS)
    }))
}

#[tokio::test]
async fn an_agent_is_what_it_was_made_of() {
    let harness = Harness::new(says("Hi"));
    let body = json!({
        "model": "tiny",
        "name": "Ann",
        "instructions": "Be brief.",
        "description": "Rolls dice.",
        "tools": [function("roll")],
        "completion_args": { "temperature": 0.5, "stop": ["a"], "tool_choice": "auto", "max_tokens": null },
        "metadata": { "a": 1 },
        "version_message": "First.",
    });
    let made = harness.post("/v1/agents", &body).await.json();
    let id = made["id"].as_str().expect("an id");
    assert!(id.starts_with("ag_"), "{id}");
    assert_eq!(harness.get(&format!("/v1/agents/{id}")).await.json(), made);
    let mut shown = made.clone();
    for key in ["id", "created_at", "updated_at"] {
        assert!(shown[key].take().is_string(), "{key}");
    }
    expect![[r#"{"id":null,"object":"agent","created_at":null,"updated_at":null,"version":0,"versions":[0],"version_message":"First.","name":"Ann","description":"Rolls dice.","model":"tiny","instructions":"Be brief.","tools":[{"type":"function","function":{"name":"roll","parameters":{"type":"object"}}}],"completion_args":{"temperature":0.5,"stop":["a"],"tool_choice":"auto"},"guardrails":null,"handoffs":null,"metadata":{"a":1},"deployment_chat":false,"source":"api","owner_id":null}"#]]
    .assert_eq(&shown.to_string());
}

#[tokio::test]
async fn what_could_not_be_asked_is_refused_by_name() {
    let harness = Harness::new(says("Hi"));
    for (more, expected) in [
        (json!({ "name": null }), r#"422 ["body","name"] "value_error""#),
        (json!({ "model": "large" }), r#"404 "invalid_model" "model" "model_not_found""#),
        (json!({ "colour": "red" }), r#"422 ["body","colour"] "extra_forbidden""#),
        (json!({ "completion_args": { "top_k": 1 } }), r#"422 ["body","completion_args","top_k"] "extra_forbidden""#),
        (json!({ "completion_args": { "stop": [1] } }), r#"422 ["body","completion_args","stop",0] "value_error""#),
        (
            json!({ "completion_args": { "tool_choice": "required" } }),
            r#"422 ["body","completion_args","tool_choice"] "value_error""#,
        ),
        (
            json!({ "completion_args": { "reasoning_effort": "high" } }),
            r#"422 ["body","completion_args","reasoning_effort"] "value_error""#,
        ),
        (
            json!({ "completion_args": { "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "enum": [] } } } } }),
            r#"422 ["body","completion_args","response_format","json_schema","schema"] "value_error""#,
        ),
        (json!({ "tools": [{ "type": "code_interpreter" }] }), r#"422 ["body","tools",0,"type"] "value_error""#),
        (
            json!({ "tools": [function("a"), { "type": "function", "function": { "name": "a b" } }] }),
            r#"422 ["body","tools",1,"function","name"] "value_error""#,
        ),
        (json!({ "handoffs": ["ag_nobody"] }), r#"422 ["body","handoffs",0] "value_error""#),
        // With these no chat would fit the model's context.
        (
            json!({ "instructions": "a ".repeat(5000) }),
            r#"400 "invalid_request_error" "instructions" "context_length_exceeded""#,
        ),
        (
            json!({ "instructions": "a", "tools": [{
                "type": "function",
                "function": { "name": "a", "description": "a ".repeat(5000), "parameters": { "type": "object" } },
            }] }),
            r#"400 "invalid_request_error" "tools" "context_length_exceeded""#,
        ),
        (json!({ "guardrails": [{ "block_on_error": true }] }), r#"422 ["body","guardrails"] "value_error""#),
    ] {
        let answer = harness.post("/v1/agents", &merged(json!({ "model": "tiny", "name": "Ann" }), more.clone())).await;
        assert_eq!(mistral_error(&answer), expected, "{more}");
    }
    assert_eq!(harness.get("/v1/agents").await.json(), json!([]), "nothing of it was stored");
}

#[tokio::test]
async fn a_change_is_a_new_version_and_the_old_ones_stay() {
    let harness = Harness::new(says("Hi"));
    let id = harness.agent(json!({ "instructions": "One.", "description": "D", "version_message": "First." })).await;
    let path = format!("/v1/agents/{id}");
    let changed = harness.change(&id, json!({ "instructions": "Two.", "description": null })).await;
    assert_eq!((&changed["version"], &changed["versions"]), (&json!(1), &json!([0, 1])));
    assert_eq!((&changed["instructions"], &changed["name"]), (&json!("Two."), &json!("Ann")));
    assert_eq!((&changed["description"], &changed["version_message"]), (&Value::Null, &Value::Null));
    assert_eq!(harness.get(&path).await.json()["version"], 1);

    let first = harness.get(&format!("{path}?agent_version=0")).await.json();
    assert_eq!((&first["instructions"], &first["versions"]), (&json!("One."), &json!([0, 1])));
    assert_eq!(harness.get(&format!("{path}/versions/0")).await.json(), first);
    let numbers = async |query: &str| {
        let versions = harness.get(&format!("{path}/versions{query}")).await.json();
        versions
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it["version"].as_u64().expect("a number"))
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers("").await, [1, 0]);
    assert_eq!(numbers("?page=1&page_size=1").await, [0]);

    let back = harness.ask(Method::PATCH, &format!("{path}/version?version=0"), &json!({})).await.json();
    assert_eq!((&back["version"], &back["instructions"]), (&json!(0), &json!("One.")));
    assert_eq!(harness.get(&path).await.json()["version"], 0);
    // A change goes on from the current version, and its number is a new one.
    let third = harness.change(&id, json!({ "name": "Bob" })).await;
    assert_eq!((&third["version"], &third["instructions"]), (&json!(2), &json!("One.")));

    for (wrong, expected) in [
        (format!("{path}?agent_version=7"), r#"404 "invalid_request_error" "id" "not_found""#),
        (format!("{path}/versions/none"), r#"404 "invalid_request_error" "id" "not_found""#),
        (format!("{path}?version=1"), r#"422 ["query","version"] "extra_forbidden""#),
        (format!("{path}/versions?page_size=0"), r#"422 ["query","page_size"] "value_error""#),
        ("/v1/agents/ag_nobody".to_owned(), r#"404 "invalid_request_error" "id" "not_found""#),
    ] {
        assert_eq!(mistral_error(&harness.get(&wrong).await), expected, "{wrong}");
    }
}

#[tokio::test]
async fn aliases_are_names_of_versions() {
    let harness = Harness::new(says("Hi"));
    let id = harness.agent(json!({})).await;
    harness.change(&id, json!({ "name": "Bob" })).await;
    let path = format!("/v1/agents/{id}/aliases");
    let set = async |query: &str| harness.ask(Method::PUT, &format!("{path}?{query}"), &json!({})).await;
    let alias = set("alias=stable&version=0").await.json();
    assert_eq!((&alias["alias"], &alias["version"]), (&json!("stable"), &json!(0)));
    set("alias=beta&version=1").await;
    let named = async |name: &str| harness.get(&format!("/v1/agents/{id}?agent_version={name}")).await;
    assert_eq!(named("stable").await.json()["name"], "Ann");
    assert_eq!(harness.get(&format!("/v1/agents/{id}/versions/beta")).await.json()["name"], "Bob");
    set("alias=stable&version=1").await;
    assert_eq!(named("stable").await.json()["name"], "Bob");
    let names = harness.get(&path).await.json();
    let names: Vec<&Value> = names.as_array().expect("a list").iter().map(|it| &it["alias"]).collect();
    assert_eq!(names, ["beta", "stable"]);

    assert_eq!(harness.delete(&format!("{path}?alias=stable")).await.status, 204);
    assert_eq!(named("stable").await.status, 404);
    assert_eq!(harness.delete(&format!("{path}?alias=stable")).await.status, 404);
    for (query, expected) in [
        ("alias=7&version=0", r#"422 ["query","alias"] "value_error""#),
        ("version=0", r#"422 ["query","alias"] "value_error""#),
        ("alias=a", r#"422 ["query","version"] "value_error""#),
        ("alias=a&version=9", r#"404 "invalid_request_error" "id" "not_found""#),
    ] {
        assert_eq!(mistral_error(&set(query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let harness = Harness::new(says("Hi"));
    let mut made = Vec::new();
    for index in 0..5 {
        let more = json!({ "name": format!("Agent {}", index % 2), "metadata": { "n": index, "team": ["a", index] } });
        made.push(harness.agent(more).await);
    }
    let listed = async |query: &str| {
        let answer = harness.get(&format!("/v1/agents?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let id = |agent: &Value| made.iter().position(|id| agent["id"] == **id).expect("one of these");
        answer.json().as_array().expect("a list").iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [4, 3, 2, 1, 0]);
    assert_eq!(listed("page=1&page_size=2").await, [2, 1]);
    assert_eq!(listed("name=Agent%201").await, [3, 1]);
    assert_eq!(listed("search=aGENT%200").await, [4, 2, 0]);
    assert_eq!(listed(&format!("search={}", &made[3][3..12])).await, [3]);
    assert_eq!(listed(&format!("id={}", made[2])).await, [2]);
    assert_eq!(listed("metadata=%7B%22n%22%3A1%7D").await, [1]);
    assert_eq!(listed("metadata=%7B%22n%22%3A%221%22%7D").await, [] as [usize; 0], "a text is no number");
    assert_eq!(listed("metadata=%7B%22team%22%3A%5B%22a%22%2C3%5D%7D").await, [3]);
    assert_eq!(listed("sources=api&sources=playground").await.len(), 5);
    let unset = "metadata=%22~%3F~unset~%3F~sentinel~%3F~%22";
    assert_eq!(listed(unset).await.len(), 5, "the official client means nothing by it");
    assert_eq!(listed("sources=playground").await, [] as [usize; 0]);
    assert_eq!(listed("deployment_chat=true").await, [] as [usize; 0]);
    // The current version is what counts.
    harness.change(&made[0], json!({ "name": "Other", "metadata": null })).await;
    assert_eq!(listed("name=Other").await, [0]);
    assert_eq!(listed("metadata=%7B%22n%22%3A0%7D").await, [] as [usize; 0]);

    let first = harness.get("/v1/agents/pages?page_size=3").await.json();
    assert_eq!(first["data"].as_array().expect("a list").len(), 3);
    let token = first["next_page_token"].as_str().expect("there is more").to_owned();
    let second = harness.get(&format!("/v1/agents/pages?page_size=3&page_token={token}")).await.json();
    assert_eq!(second["data"].as_array().expect("a list").len(), 2);
    assert_eq!(second["next_page_token"], Value::Null);
    for (query, expected) in [
        ("?sources=web", r#"422 ["query","sources"] "value_error""#),
        ("?metadata=1", r#"422 ["query","metadata"] "value_error""#),
        ("/pages?page_token=ag_nobody", r#"422 ["query","page_token"] "value_error""#),
        ("?after=x", r#"422 ["query","after"] "extra_forbidden""#),
    ] {
        assert_eq!(mistral_error(&harness.get(&format!("/v1/agents{query}")).await), expected, "{query}");
    }
}

#[tokio::test]
async fn an_agent_outlives_the_process_until_it_is_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = reopened(directory.path()).await;
    let harness = Harness::storing(says("Hi"), HttpLimits::default(), store);
    let id = harness.agent(json!({ "instructions": "The word is Rosebud." })).await;
    harness.change(&id, json!({ "instructions": "The word is Xanadu." })).await;
    harness.ask(Method::PUT, &format!("/v1/agents/{id}/aliases?alias=a&version=0"), &json!({})).await;
    drop(harness);

    let harness = Harness::storing(says("Hi"), HttpLimits::default(), reopened(directory.path()).await);
    let path = format!("/v1/agents/{id}");
    assert_eq!(harness.get(&path).await.json()["version"], 1);
    assert_eq!(harness.get(&format!("{path}?agent_version=a")).await.json()["instructions"], "The word is Rosebud.");
    assert_eq!(harness.delete(&path).await.status, 204);
    for path in [path.clone(), format!("{path}/versions"), format!("{path}/versions/0"), format!("{path}/aliases")] {
        assert_eq!(harness.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(harness.delete(&path).await.status, 404);
    for word in ["Rosebud", "Xanadu"] {
        assert!(!is_on_disk(directory.path(), word.as_bytes()), "{word}");
    }
}

#[tokio::test]
async fn asking_an_agent_is_a_chat_with_its_settings() {
    let harness = repeats();
    let more = json!({ "instructions": "Be brief.", "completion_args": { "max_tokens": 30, "random_seed": 7 } });
    let id = harness.agent(more).await;
    let ask = async |more: Value| {
        let message = json!([{ "role": "user", "content": "Hello" }]);
        harness.post("/v1/agents/completions", &merged(json!({ "agent_id": id, "messages": message }), more)).await
    };
    let answer = ask(json!({})).await;
    assert_eq!(answer.text(), "Be brief.Hello");
    assert_eq!((&answer.json()["object"], &answer.json()["model"]), (&json!("chat.completion"), &json!("tiny")));
    let system = json!([{ "role": "system", "content": "Rhyme." }, { "role": "user", "content": "Hello" }]);
    assert_eq!(ask(json!({ "messages": system })).await.text(), "Be brief.\n\nRhyme.Hello");
    // What the request says wins, by whatever name.
    for more in [json!({ "max_tokens": 2 }), json!({ "max_completion_tokens": 2 })] {
        assert_eq!(ask(more).await.json()["usage"]["completion_tokens"], 2);
    }
    assert_eq!(ask(json!({ "seed": 8 })).await.status, 200);
    let streamed = ask(json!({ "stream": true })).await;
    assert_eq!(streamed.streamed_text(0), "Be brief.Hello");
    assert!(streamed.events().last().expect("events")["usage"].is_object());

    for (more, expected) in [
        (json!({ "agent_id": "ag_nobody" }), r#"422 ["body","agent_id"] "value_error""#),
        (json!({ "agent_id": null }), r#"422 ["body","agent_id"] "value_error""#),
        (json!({ "model": "tiny" }), r#"422 ["body","model"] "value_error""#),
        (json!({ "colour": 1 }), r#"422 ["body","colour"] "extra_forbidden""#),
        (json!({ "temperature": 9 }), r#"422 ["body","temperature"] "value_error""#),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
            r#"400 "invalid_request_message_order" "messages[1].role" "invalid_message_order""#,
        ),
        (
            json!({ "messages": [{ "role": "user", "content": 1 }] }),
            r#"422 ["body","messages",0,"content"] "value_error""#,
        ),
        // Of its own the request is right.
        (json!({ "min_tokens": 31 }), r#"422 ["body","agent_id"] "value_error""#),
    ] {
        assert_eq!(mistral_error(&ask(more.clone()).await), expected, "{more}");
    }
}

#[tokio::test]
async fn the_agents_tools_are_offered_with_the_requests() {
    let call = [vec![control("[TOOL_CALLS]")], ids("roll"), vec![control("[ARGS]")], ids("{}")].concat();
    let harness = Harness::new(answers(call));
    let id = harness.agent(json!({ "tools": [function("roll")] })).await;
    let message = json!([{ "role": "user", "content": "Hello" }]);
    for more in [json!({}), json!({ "tools": [function("flip")] })] {
        let body = merged(json!({ "agent_id": id, "messages": message }), more);
        let answer = harness.post("/v1/agents/completions", &body).await.json();
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "roll");
        let named = merged(body, json!({ "tool_choice": { "type": "function", "function": { "name": "roll" } } }));
        assert_eq!(harness.post("/v1/agents/completions", &named).await.status, 200);
    }
}

#[tokio::test]
async fn openais_agents_are_not_served() {
    let harness = Harness::new(says("Hi"));
    let request = Request::get("/v1/agents").header(USER_AGENT, "OpenAI/Python 3.57.0").body(Body::empty());
    let answer = send(harness.app(), request.expect("a valid request")).await;
    assert_eq!(answer.error(), r#"501 null "not_served""#);
}
