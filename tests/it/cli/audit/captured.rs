//! What was captured beside the log: whose it is, how long it is kept, and how it goes.

use std::{fs, path::Path, thread};

use serde_json::{Value, json};

use super::{captured_file, capturing, json, last_begun};
use crate::cli::{
    checkpoint,
    serve::{Server, answer},
    succeeds, with_data, write,
};

fn post(server: &Server, path: &str, head: &str, body: &Value) {
    let body = body.to_string();
    let head = format!("Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{head}");
    let length = body.len();
    let answer =
        answer(server.connect(&format!("POST {path} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}")));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn chat(user: &str) -> Value {
    json!({ "model": "m", "max_tokens": 2, "messages": [{ "role": "user", "content": "Hello" }], "user": user })
}

fn model() -> tempfile::TempDir {
    let model = tempfile::tempdir().unwrap();
    checkpoint::write(model.path());
    model
}

#[test]
fn it_is_found_by_whom_a_body_names_also_when_the_log_is_off() {
    let (directory, model) = (tempfile::tempdir().unwrap(), model());
    let data = directory.path();
    let server = Server::start(model.path(), &[capturing(data), vec!["--served-model-name", "m"]].concat());
    post(&server, "/v1/chat/completions", "", &chat("ada"));
    let of_ada = captured_file(data, &last_begun(data));
    let body = json!({ "model": "m", "input": "Hello", "max_output_tokens": 2, "store": false, "user": "eve",
        "safety_identifier": "ada" });
    post(&server, "/v1/responses", "", &body);
    post(
        &server,
        "/v1/completions",
        "X-Tramontane-Subject: bob\r\n",
        &json!({ "model": "m", "prompt": "a", "user": "ada" }),
    );
    let of_bob = captured_file(data, &last_begun(data));
    drop(server);
    // Whoever had the file open has nothing of it afterwards.
    let mut open = fs::File::open(&of_ada).unwrap();
    let off = |arguments: &[&str]| {
        let ran = crate::cli::run(with_data(data, arguments).env("TRAMONTANE_AUDIT", "off"));
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    let told: Value = serde_json::from_str(&off(&["subjects", "export", "ada", "--json"])).unwrap();
    assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
    assert!(told[0]["kind"] == "audit record" && told[0]["content"]["captured"]["prompts"].is_array(), "{told}");
    assert_eq!(off(&["subjects", "delete", "ada"]), "deleted  captured content  2\n");
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut left).unwrap();
    assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0), "it is overwritten");
    assert!(of_bob.exists());
    assert!(succeeds(data, &["audit", "verify"]).contains("intact"));
    assert_eq!(succeeds(data, &["subjects", "delete", "bob"]), "deleted  captured content  1\n");
}

#[test]
fn it_goes_with_its_purpose_and_with_its_tenant() {
    let (directory, model) = (tempfile::tempdir().unwrap(), model());
    let data = directory.path();
    let text = "[[purpose]]\nname = \"support\"\nretention = \"1h\"\n[[purpose]]\nname = \"chat\"\nstore = false\n";
    let purposes = write(data, "purposes.toml", text);
    succeeds(data, &["tenants", "create", "acme"]);
    let secret = succeeds(data, &["keys", "create", "app", "--role", "service", "--tenant", "acme"]);
    let key = secret.split_whitespace().last().unwrap();
    let flags = [capturing(data), vec!["--served-model-name", "m", "--purposes", &purposes]].concat();
    let server = Server::start(model.path(), &flags);
    let head = |purpose: &str| format!("Authorization: Bearer {key}\r\nX-Tramontane-Purpose: {purpose}\r\n");
    post(&server, "/v1/chat/completions", &head("chat"), &chat("ada"));
    let begun = last_begun(data);
    assert!(begun.get("content").is_none() && begun["server"]["purposes"].is_string(), "{begun}");
    post(&server, "/v1/chat/completions", &head("support"), &chat("ada"));
    let short = last_begun(data);
    let kept = captured_file(data, &short);
    let until: u64 = short["content"].as_str().unwrap().split(['/', '-']).nth(1).unwrap().parse().unwrap();
    let written = kept.metadata().unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((3590..=3601).contains(&until.saturating_sub(written.as_secs())), "{until} {written:?}");
    server.stop_well();

    // As if that hour were over: the next server deletes it, and the log stays.
    let name = kept.file_name().unwrap().to_str().unwrap();
    let (folder, file) = (kept.parent().unwrap(), name.replacen(&until.to_string(), "1000000000", 1));
    let hours = folder.file_name().unwrap().to_str().unwrap().replacen(&(until / 3600).to_string(), "277777", 1);
    let over = folder.with_file_name(hours).join(file);
    fs::create_dir(over.parent().unwrap()).unwrap();
    fs::rename(&kept, &over).unwrap();
    let mut server = Server::start(model.path(), &[&flags[..], &["--audit", "off"][..]].concat()[2..]);
    if over.exists() {
        server.log_until("past its time is deleted");
    }
    assert!(!over.exists(), "it goes also when the log is off");
    server.stop_well();

    let server = Server::start(model.path(), &flags);
    post(&server, "/v1/chat/completions", &head("support"), &chat("ada"));
    let kept = captured_file(data, &last_begun(data));
    assert!(kept.exists());
    succeeds(data, &["tenants", "delete", "acme"]);
    let places = data.join("audit/content");
    while fs::read_dir(&places).unwrap().next().is_some() {
        thread::yield_now();
    }
    server.stop_well();
    assert!(!places.join(kept.strip_prefix(&places).unwrap()).exists());
    assert!(json(data, &["audit", "verify", "--json"])["intact"] == true);
}

#[test]
fn it_goes_with_a_tenant_that_no_server_has() {
    let (directory, model) = (tempfile::tempdir().unwrap(), model());
    let data = directory.path();
    succeeds(data, &["tenants", "create", "acme"]);
    let secret = succeeds(data, &["keys", "create", "app", "--role", "service", "--tenant", "acme"]);
    let key = secret.split_whitespace().last().unwrap();
    let server = Server::start(model.path(), &[capturing(data), vec!["--served-model-name", "m"]].concat());
    post(&server, "/v1/chat/completions", &format!("Authorization: Bearer {key}\r\n"), &chat("ada"));
    server.stop_well();
    let kept = captured_file(data, &last_begun(data));
    assert!(kept.exists());
    succeeds(data, &["tenants", "delete", "acme", "--audit", "off"]);
    assert!(!kept.exists() && is_empty(&data.join("audit/content")));
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}
