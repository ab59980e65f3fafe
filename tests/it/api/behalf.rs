//! What is answered later is answered on behalf of whoever asked, if they still may ask; and tools that policies know of.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;
use tramontane::governance::{DEFAULT_TENANT, Governance, Role, policy::Policies};

use super::{
    support::{Harness, chat, command_line, merged, new_key, says, soon},
    tenancy::{Bearer, id},
};

const CHAT: &str = "/v1/chat/completions";

/// A server, whose batch or response a first key will ask for, and a second key that looks after it.
struct Server {
    harness: Harness,
    governance: Governance,
    policies: Policies,
    directory: TempDir,
}

fn write(directory: &Path, policies: &str) {
    let permit = r#"permit (principal, action, resource);"#;
    fs::write(directory.join("own.cedar"), format!("{permit}\n{policies}")).expect("it can be written");
}

impl Server {
    /// With these policies beside one that permits everything.
    fn new(policies: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), policies);
        let policies = Policies::open(directory.path()).expect("they are right");
        let governance = Governance::in_memory().expect("memory").with_policies(policies.clone());
        Self { harness: Harness::governed(says("Hi"), governance.clone()), governance, policies, directory }
    }

    fn bearer(&self) -> Bearer<'_> {
        Bearer::of(&self.harness, &self.governance, DEFAULT_TENANT)
    }

    /// A bearer and the id of its key.
    fn asker(&self) -> (Bearer<'_>, String) {
        let key = new_key(&self.governance, "asker", DEFAULT_TENANT, Role::Developer);
        (Bearer::with(&self.harness, key.secret), key.key.id)
    }

    fn change_policies(&self, policies: &str) {
        write(self.directory.path(), policies);
        self.policies.reload().expect("they are right");
    }

    fn prompt_tokens(&self) -> u64 {
        self.harness.metric("vllm:prompt_tokens_total") as u64
    }
}

fn batch(file: &str, endpoint: &str) -> Value {
    json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" })
}

/// The only line of a batch that has ended.
async fn only_line(bearer: &Bearer<'_>, batch: &Value, file: &str) -> Value {
    let path = format!("/v1/batches/{}", id(batch));
    let look = async || Some(bearer.get(&path).await).filter(|batch| batch["status"] == "completed");
    let ended = soon("the batch ends", look).await;
    let path = format!("/v1/files/{}/content", ended[file].as_str().expect("a file"));
    bearer.ask("GET", &path, Value::Null).await.json()
}

async fn ended(bearer: &Bearer<'_>, response: &Value) -> Value {
    let path = format!("/v1/responses/{}", id(response));
    let is_over = |it: &Value| it["status"] != "queued" && it["status"] != "in_progress";
    soon("the response ends", async || Some(bearer.get(&path).await).filter(is_over)).await
}

#[tokio::test]
async fn lines_of_whoever_may_ask_no_more_fail() {
    let server = Server::new("");
    let (asker, key) = server.asker();
    let created = asker.post("/v1/batches", batch(&asker.upload().await, CHAT)).await;
    command_line(&server.governance).revoke_key(&key, 1).expect("it is there");
    let _worker = server.harness.worker();
    let line = only_line(&server.bearer(), &created, "error_file_id").await;
    assert_eq!(line["response"]["status_code"], 401, "{line}");
    assert_eq!(line["response"]["body"]["error"]["code"], "revoked_api_key", "{line}");
    assert_eq!(server.prompt_tokens(), 0);
}

#[tokio::test]
async fn lines_of_a_key_that_was_replaced_are_those_of_the_new_one() {
    let server = Server::new("");
    let (asker, key) = server.asker();
    let created = asker.post("/v1/batches", batch(&asker.upload().await, CHAT)).await;
    command_line(&server.governance).rotate_key(&key, 0, None, 1).expect("it is replaced");
    assert_eq!(asker.ask("GET", "/v1/models", Value::Null).await.status, 401);
    let _worker = server.harness.worker();
    let line = only_line(&server.bearer(), &created, "output_file_id").await;
    assert_eq!(line["response"]["status_code"], 200, "{line}");
}

#[tokio::test]
async fn policies_hear_again_what_a_batch_was_asked_for() {
    let purpose = r#"@id("purpose") forbid (principal, action == Tramontane::Action::"infer", resource)
                     unless { context has purpose && context.purpose == "support" };"#;
    let server = Server::new(purpose);
    let (asker, _) = server.asker();
    let asker = asker.saying("x-tramontane-purpose", "support");
    let looks = server.bearer();
    let created = asker.post("/v1/batches", batch(&asker.upload().await, CHAT)).await;
    let worker = server.harness.worker();
    let line = only_line(&looks, &created, "output_file_id").await;
    assert_eq!(line["response"]["status_code"], 200, "{line}");
    drop(worker);

    let created = asker.post("/v1/batches", batch(&asker.upload().await, CHAT)).await;
    let chats =
        r#"@id("chats") forbid (principal, action, resource) when { context.route == "/v1/chat/completions" };"#;
    server.change_policies(chats);
    let before = server.prompt_tokens();
    let _worker = server.harness.worker();
    let line = only_line(&looks, &created, "error_file_id").await;
    assert_eq!(line["response"]["status_code"], 403, "{line}");
    let message = line["response"]["body"]["error"]["message"].as_str().expect("a message");
    assert!(message.ends_with("infer is forbidden by policy chats."), "{message}");
    assert_eq!(server.prompt_tokens(), before);
}

#[tokio::test]
async fn a_batch_is_not_made_for_a_route_that_its_owner_may_not_use() {
    let server = Server::new(
        r#"@id("embeds") forbid (principal, action, resource) when { context.route == "/v1/embeddings" };"#,
    );
    let (asker, _) = server.asker();
    let file = asker.upload().await;
    let refused = asker.ask("POST", "/v1/batches", batch(&file, "/v1/embeddings")).await;
    assert_eq!(refused.error(), r#"403 null "permission_denied""#, "{}", refused.body);
    let job = json!({ "input_files": [file], "endpoint": "/v1/embeddings", "model": "tiny" });
    assert_eq!(asker.ask("POST", "/v1/batch/jobs", job).await.status, 403);
    assert_eq!(asker.ask("POST", "/v1/batches", batch(&file, CHAT)).await.status, 200);
}

#[tokio::test]
async fn a_response_in_the_background_fails_if_its_key_is_revoked() {
    let server = Server::new("");
    let (asker, key) = server.asker();
    let ask = json!({ "model": "tiny", "input": "Hello", "background": true });
    let queued = asker.post("/v1/responses", ask.clone()).await;
    let looks = server.bearer();
    let other = looks.post("/v1/responses", ask).await;
    command_line(&server.governance).revoke_key(&key, 1).expect("it is there");
    let _worker = server.harness.background();
    let failed = ended(&looks, &queued).await;
    assert_eq!((&failed["status"], &failed["output"]), (&json!("failed"), &json!([])), "{failed}");
    let message = failed["error"]["message"].as_str().expect("a message");
    assert_eq!(message, "Access is denied: the API key was revoked.");
    assert_eq!(ended(&looks, &other).await["status"], "completed");
}

#[tokio::test]
async fn tools_that_a_caller_may_not_use_are_not_told_to_the_model() {
    let server = Server::new(
        r#"@id("deleting") forbid (principal, action == Tramontane::Action::"useTool", resource == Tramontane::Tool::"delete")
           unless { context has purpose && context.purpose == "operations" };"#,
    );
    let (asker, _) = server.asker();
    let tools = |names: &[&str]| {
        let tool = |name: &&str| json!({ "type": "function", "function": { "name": name, "parameters": {} } });
        json!({ "tools": names.iter().map(tool).collect::<Vec<_>>(), "max_tokens": 2 })
    };
    let refused = asker.ask("POST", CHAT, chat(tools(&["roll", "delete"]))).await;
    assert_eq!(refused.error(), r#"403 null "permission_denied""#);
    assert!(
        refused.body.contains("useTool is forbidden by policy deleting for the tool `delete`."),
        "{}",
        refused.body
    );
    let called = json!([
        { "role": "user", "content": "Delete." },
        { "role": "assistant", "content": "", "tool_calls": [
            { "id": "abcdefghi", "type": "function", "function": { "name": "delete", "arguments": "{}" } },
        ] },
        { "role": "tool", "tool_call_id": "abcdefghi", "content": "Done." },
    ]);
    let refused = asker.ask("POST", CHAT, chat(json!({ "messages": called }))).await;
    assert_eq!(refused.error(), r#"403 null "permission_denied""#);
    let response = json!({ "model": "tiny", "input": "Hello", "tools": [
        { "type": "function", "name": "delete", "parameters": {} },
    ] });
    assert_eq!(asker.ask("POST", "/v1/responses", response.clone()).await.status, 403);
    assert_eq!(asker.ask("POST", "/v1/responses", merged(response, json!({ "background": true }))).await.status, 403);
    assert_eq!(server.prompt_tokens(), 0);
    assert_eq!(asker.ask("POST", CHAT, chat(tools(&["roll"]))).await.status, 200);
    let operates = asker.saying("x-tramontane-purpose", "operations");
    assert_eq!(operates.ask("POST", CHAT, chat(tools(&["roll", "delete"]))).await.status, 200);
}
