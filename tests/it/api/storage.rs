//! Files and batches as a client uses them.

use std::path::Path;

use axum::{
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tramontane::{api::run_batches, store::Store};

use super::support::{Answer, Harness, send, soon};

/// A part of a form: name, filename, content.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// A form as browsers write it.
pub fn form(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, filename, content) in parts {
        let filename = filename.map_or(String::new(), |filename| format!("; filename=\"{filename}\""));
        bytes.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n").as_bytes());
        bytes.extend(*content);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"--XX--\r\n");
    bytes
}

impl Harness {
    pub async fn post_form(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "multipart/form-data; boundary=XX").body(body.into());
        send(self.app(), request.expect("a valid request")).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.app(), Request::delete(path).body(Body::empty()).expect("a valid request")).await
    }

    /// Stores a file for batches and gives its id.
    pub async fn upload(&self, content: &[u8]) -> String {
        let parts: [Part; 2] = [("purpose", None, b"batch"), ("file", Some("input.jsonl"), content)];
        let answer = self.post_form("/v1/files", form(&parts)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The lines of a stored file, each of them JSON.
    pub async fn lines_of(&self, file: &Value) -> Vec<Value> {
        let path = format!("/v1/files/{}/content", file.as_str().expect("the id of a file"));
        let answer = self.get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Creates a batch of these lines.
    pub async fn batch(&self, lines: &[String]) -> Value {
        let file = self.upload(lines.join("\n").as_bytes()).await;
        let body = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
        let answer = self.post("/v1/batches", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Waits until a batch, or a job, is as a test wants it.
    pub async fn batch_when(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let look = async || Some(self.get(path).await.json()).filter(&is_so);
        soon(&format!("{path} as it shall be"), look).await
    }

    /// Waits for the status that a batch ends with.
    pub async fn ended(&self, batch: &Value, status: &str) -> Value {
        let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
        self.batch_when(&path, |batch| batch["status"] == status).await
    }

    /// The worker of batches, until it is dropped.
    pub fn worker(&self) -> JoinSet<()> {
        let mut worker = JoinSet::new();
        worker.spawn(run_batches(self.state.clone()));
        worker
    }
}

/// A request in OpenAI's form.
pub fn line(custom_id: &str, content: &str) -> String {
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": content }], "max_tokens": 20 });
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
}

/// So many of them.
pub fn lines(count: usize) -> Vec<String> {
    (0..count).map(|index| line(&format!("line-{index}"), &format!("Hello {index}"))).collect()
}

/// A store in a directory, once the one before has let go of it.
pub async fn reopened(directory: &Path) -> Store {
    let opened = async || match Store::open(directory, 64 << 20) {
        Ok(store) => Some(store),
        Err(tramontane::store::StoreError::InUse { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    soon("the store is closed", opened).await
}

/// Does any file of a directory hold these bytes?
pub fn is_on_disk(directory: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.into_iter().any(|entry| {
        let content = std::fs::read(entry.expect("an entry").path()).expect("a readable file");
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}
