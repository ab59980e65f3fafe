//! What one tenant stores and caches, and what another sees of it: nothing.

use axum::{
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use tramontane::governance::{DEFAULT_TENANT, Governance, Role};

use super::{
    server::Running,
    support::{Answer, Harness, chat, command_line, new_key, says, send, soon},
};

/// A bearer of a new key of a tenant.
pub struct Bearer<'a> {
    harness: &'a Harness,
    secret: String,
    /// Another header of its requests.
    says: Option<(&'static str, &'static str)>,
}

impl<'a> Bearer<'a> {
    pub fn of(harness: &'a Harness, governance: &Governance, tenant: &str) -> Self {
        Self::with(harness, new_key(governance, "app", tenant, Role::Developer).secret)
    }

    pub fn with(harness: &'a Harness, secret: String) -> Self {
        Self { harness, secret, says: None }
    }

    /// The same with one more header.
    pub fn saying(self, name: &'static str, value: &'static str) -> Self {
        Self { says: Some((name, value)), ..self }
    }

    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_in(method, path, "application/json", body).await
    }

    async fn ask_in(&self, method: &str, path: &str, content_type: &str, body: String) -> Answer {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type);
        let mut request = request.header(AUTHORIZATION, format!("Bearer {}", self.secret));
        if let Some((name, value)) = self.says {
            request = request.header(name, value);
        }
        send(self.harness.app(), request.body(Body::from(body)).expect("a valid request")).await
    }

    /// The answer, which must be one.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.ask("POST", path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// The id of a new file with one line of a batch.
    pub async fn upload(&self) -> String {
        let line = json!({
            "custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": chat(json!({ "max_tokens": 2 })),
        });
        let form = format!(
            "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x\r\nContent-Disposition: form-data; \
             name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n{line}\n\r\n--x--\r\n"
        );
        let answer = self.ask_in("POST", "/v1/files", "multipart/form-data; boundary=x", form).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }
}

pub fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an id")
}

#[tokio::test]
async fn nothing_of_one_tenant_is_seen_by_another() {
    let governance = Governance::in_memory().expect("memory");
    command_line(&governance).create_tenant("acme", None, 1).expect("it is made");
    let harness = Harness::governed(says("Hi"), governance.clone());
    let (mine, theirs) = (Bearer::of(&harness, &governance, "acme"), Bearer::of(&harness, &governance, DEFAULT_TENANT));
    let file = mine.upload().await;
    let batch = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch = mine.post("/v1/batches", batch).await;
    let response = mine.post("/v1/responses", json!({ "model": "tiny", "input": "Hello" })).await;
    let conversation = mine.post("/v1/conversations", json!({ "metadata": { "a": "b" } })).await;
    let agent = mine.post("/v1/agents", json!({ "model": "tiny", "name": "Poet" })).await;
    let talk =
        mine.post("/v1/conversations", json!({ "agent_id": id(&agent), "inputs": "Hello", "stream": false })).await;
    let talk = talk["conversation_id"].as_str().expect("an id");
    let objects = [
        format!("/v1/files/{file}"),
        format!("/v1/files/{file}/content"),
        format!("/v1/batches/{}", id(&batch)),
        format!("/v1/batch/jobs/{}", id(&batch)),
        format!("/v1/responses/{}", id(&response)),
        format!("/v1/responses/{}/input_items", id(&response)),
        format!("/v1/conversations/{}", id(&conversation)),
        format!("/v1/conversations/{talk}"),
        format!("/v1/conversations/{talk}/history"),
        format!("/v1/agents/{}", id(&agent)),
    ];
    for path in &objects {
        assert_eq!(mine.ask("GET", path, Value::Null).await.status, 200, "{path}");
        assert_eq!(theirs.ask("GET", path, Value::Null).await.status, 404, "{path}");
    }
    for path in [&objects[0], &objects[4], &objects[6], &objects[9]] {
        assert_eq!(theirs.ask("DELETE", path, Value::Null).await.status, 404, "{path}");
    }
    let continued = json!({ "model": "tiny", "input": "And?", "previous_response_id": id(&response) });
    assert!(theirs.ask("POST", "/v1/responses", continued.clone()).await.status >= 400);
    mine.post("/v1/responses", continued).await;
    let stolen = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    assert!(theirs.ask("POST", "/v1/batches", stolen).await.status >= 400);
    for path in ["/v1/files", "/v1/batches", "/v1/batch/jobs"] {
        assert_eq!(theirs.get(path).await["data"], json!([]), "{path}");
        assert_eq!(mine.get(path).await["data"].as_array().map(Vec::len), Some(1), "{path}");
    }
    for path in ["/v1/agents", "/v1/conversations?page_size=9"] {
        let listed = theirs.ask("GET", path, Value::Null).await;
        assert!(!listed.body.contains(talk) && !listed.body.contains(id(&agent)), "{path}: {}", listed.body);
    }
}

#[tokio::test]
async fn cached_prefixes_are_shared_within_a_tenant_or_a_group_only() {
    let governance = Governance::in_memory().expect("memory");
    for (tenant, group) in [("one", None), ("two", None), ("three", Some("friends")), ("four", Some("friends"))] {
        command_line(&governance).create_tenant(tenant, group, 1).expect("it is made");
    }
    // One that has the name of a group.
    command_line(&governance).create_tenant("friends", None, 1).expect("it is made");
    let harness = Harness::governed(says("Hi"), governance.clone());
    let message = json!([{ "role": "user", "content": "What is the answer to all of the questions in the world?" }]);
    let cached = async |tenant: &str, salt: Value| {
        let bearer = Bearer::of(&harness, &governance, tenant);
        let body = json!({ "model": "tiny", "messages": message, "cache_salt": salt });
        let usage = bearer.post("/v1/chat/completions", body).await["usage"].take();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count") > 0
    };
    for (tenant, salt, expected) in [
        ("one", Value::Null, false),
        ("one", Value::Null, true),
        ("two", Value::Null, false),
        (DEFAULT_TENANT, Value::Null, false),
        ("three", Value::Null, false),
        ("four", Value::Null, true),
        ("friends", Value::Null, false),
        // A salt of the client's own parts it further, and leads to nobody else.
        ("one", json!("a"), false),
        ("two", json!("a"), false),
        ("two", json!("tenant one\n"), false),
        ("two", json!("\ntenant one\n"), false),
        (DEFAULT_TENANT, json!("tenant one\n"), false),
    ] {
        assert_eq!(cached(tenant, salt.clone()).await, expected, "{tenant} {salt}");
    }
}

#[tokio::test]
async fn what_tenants_leave_to_be_done_is_done() {
    let governance = Governance::in_memory().expect("memory");
    command_line(&governance).create_tenant("acme", None, 1).expect("it is made");
    let running = Running::start(Harness::governed(says("Hi"), governance.clone())).await;
    for tenant in ["acme", DEFAULT_TENANT] {
        let bearer = Bearer::of(&running.harness, &governance, tenant);
        let file = bearer.upload().await;
        let batch = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
        let batch = format!("/v1/batches/{}", id(&bearer.post("/v1/batches", batch).await));
        let later =
            bearer.post("/v1/responses", json!({ "model": "tiny", "input": "Hello", "background": true })).await;
        let later = format!("/v1/responses/{}", id(&later));
        for path in [batch, later] {
            let ended = async || (bearer.get(&path).await["status"] == "completed").then_some(());
            soon(&format!("{path} of {tenant} ends"), ended).await;
        }
    }
}
