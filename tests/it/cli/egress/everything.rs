//! A server that has everything which could have a reason to leave the machine, and what keeps it busy.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::super::{checkpoint, serve::Server, succeeds, tls, write};

/// How long work in the background may take.
const PATIENCE: Duration = Duration::from_secs(60);
const GUARDRAILS: &str = r#"
[[guardrail]]
name = "mail"
stage = "both"
detect = ["email"]
action = "redact"
mode = "reversible"
"#;
const PURPOSES: &str = r#"
[[purpose]]
name = "support"
description = "Answers to questions"
retention = "1d"
"#;

/// Its files, and who may use it.
pub(super) struct Everything {
    place: tempfile::TempDir,
    files: tls::Files,
    key: String,
}

impl Everything {
    pub(super) fn new() -> Self {
        let (place, files) = (tempfile::tempdir().unwrap(), tls::Files::new());
        let data = place.path().join("data");
        let key = succeeds(&data, &["keys", "create", "app", "--role", "admin"]).trim().to_owned();
        succeeds(&data, &["quota", "set", "--tenant", "default", "--tokens-per-day", "1000000"]);
        let built_in = succeeds(&data, &["policy", "show"]);
        let everything = Self { place, files, key };
        let directory = |name: &str| {
            let path = everything.at(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        checkpoint::write(&directory("model"));
        write(&directory("policies"), "roles.cedar", &built_in);
        let secret = write(everything.place.path(), "secret.txt", "a-secret-of-an-issuer-that-is-long-enough");
        let identities = format!(
            "[[issuer]]\nissuer = \"https://id.example.org\"\naudiences = [\"tramontane\"]\nalgorithms = [\"HS256\"]\n\
             keys.secret_file = {secret:?}\ntenant = \"default\"\n"
        );
        for (name, text) in
            [("identities.toml", identities.as_str()), ("guardrails.toml", GUARDRAILS), ("purposes.toml", PURPOSES)]
        {
            write(everything.place.path(), name, text);
        }
        everything
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut arguments = self.files.flags();
        for (flag, name) in [
            ("--data-dir", "data"),
            ("--policy-dir", "policies"),
            ("--identity-file", "identities.toml"),
            ("--guardrails", "guardrails.toml"),
            ("--purposes", "purposes.toml"),
            ("--audit-anchor", "anchored"),
        ] {
            arguments.extend([flag.to_owned(), self.at(name).to_str().unwrap().to_owned()]);
        }
        let switches = ["--ephemeral=off", "--audit", "on", "--audit-capture"];
        arguments.extend(switches.iter().chain(more).map(|&argument| argument.to_owned()));
        arguments
    }

    pub(super) fn command(&self, more: &[&str]) -> Command {
        let arguments = self.arguments(more);
        Server::command(&self.at("model"), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(super) fn start(&self, more: &[&str]) -> Server {
        Server::of(&mut self.command(more))
    }

    /// From start to end, with a signal to read everything again.
    pub(super) fn live(&self, mut server: Server) {
        self.traffic(&server);
        server.hang_up("certificates were read again");
        self.traffic(&server);
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
        assert!(Path::new(&self.at("anchored")).exists(), "checkpoints are kept elsewhere");
    }

    fn traffic(&self, server: &Server) {
        let get = |path: &str| self.ask(server, "GET", path, ("application/json", ""));
        let post = |path: &str, body: Value| self.ask(server, "POST", path, ("application/json", &body.to_string()));
        let messages = json!([{ "role": "user", "content": "Write to ada@example.org" }]);
        let chat = json!({ "model": "model", "messages": messages, "max_tokens": 3 });
        check_good(&post("/v1/chat/completions", chat.clone()));
        let mut streamed = chat.clone();
        streamed["stream"] = true.into();
        assert!(post("/v1/chat/completions", streamed).contains("[DONE]"));
        for path in ["/v1/models", "/metrics", "/health/ready", "/admin/v1/keys", "/v1/files"] {
            check_good(&get(path));
        }
        let stranger =
            self.files.request(server, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");

        let response = json!({ "model": "model", "input": "Hi", "max_output_tokens": 3, "background": true });
        let response = body(&post("/v1/responses", response));
        let line = json!({ "custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat });
        let form = format!(
            "--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XX\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n{line}\n\r\n--XX--\r\n"
        );
        let file = body(&self.ask(server, "POST", "/v1/files", ("multipart/form-data; boundary=XX", &form)));
        let batch = json!({
            "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        });
        let batch = body(&post("/v1/batches", batch));
        for (of, made) in [("responses", response), ("batches", batch)] {
            let (path, began) = (format!("/v1/{of}/{}", made["id"].as_str().unwrap()), Instant::now());
            loop {
                let now = body(&get(&path));
                match now["status"].as_str().unwrap() {
                    "completed" | "incomplete" => break,
                    status => assert!(status != "failed" && began.elapsed() < PATIENCE, "{now}"),
                }
            }
        }
    }

    fn ask(&self, server: &Server, method: &str, path: &str, (media_type, body): (&str, &str)) -> String {
        let (key, length) = (&self.key, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             X-Tramontane-Purpose: support\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.files.request(server, &request)
    }
}

#[track_caller]
fn check_good(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[track_caller]
fn body(answer: &str) -> Value {
    check_good(answer);
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|error| panic!("{error} in {answer}"))
}
