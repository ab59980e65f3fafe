//! The audit log from the command line, with a server that wrote it.

mod anchors;
mod captured;
mod crashes;
mod full_disk;
mod replay;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{check_failure, checkpoint, run, serve, succeeds, with_data};

fn json(data: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(data, arguments)).unwrap()
}

/// Where what was captured of an inference is, once it is there: its answer does not wait for that.
fn captured_file(data: &Path, begun: &Value) -> PathBuf {
    let (place, file) = begun["content"].as_str().unwrap().split_once('/').unwrap();
    let (until, id) = file.split_once('-').unwrap();
    let begun_ms = u64::from_str_radix(&id[..12], 16).unwrap();
    let hours = format!("{:06}-{:06}", until.parse::<u64>().unwrap() / 3600, begun_ms / 3_600_000);
    let path = data.join("audit/content").join(place).join(hours).join(format!("{file}.json"));
    let until = Instant::now() + Duration::from_secs(20);
    while !path.exists() && Instant::now() < until {
        thread::yield_now();
    }
    path
}

/// Flags of a server that keeps all that it is asked in a data directory.
fn capturing(data: &Path) -> Vec<&str> {
    vec!["--audit", "on", "--audit-capture", "--ephemeral=off", "--data-dir", data.to_str().unwrap()]
}

/// The record of the last inference that began.
fn last_begun(data: &Path) -> Value {
    json(data, &["audit", "show", "--kind", "begun", "--last", "1", "--json"])[0].clone()
}

#[test]
fn a_log_is_checked_shown_and_handed_out_beside_its_server() {
    let model = tempfile::tempdir().unwrap();
    checkpoint::write(model.path());
    let directory = tempfile::tempdir().unwrap();
    let (data, anchor) = (directory.path().join("data"), directory.path().join("anchored"));
    let data = data.as_path();
    check_failure(&mut with_data(data, &["audit", "verify"]), 1, &["no audit log"]);
    let arguments = [
        "--audit",
        "on",
        "--audit-anchor",
        anchor.to_str().unwrap(),
        "--audit-capture",
        "--ephemeral=off",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let server = serve::Server::start(model.path(), &arguments);
    let name = model.path().file_name().unwrap().to_str().unwrap();
    let body =
        format!(r#"{{"model": "{name}", "prompt": "Hello", "max_tokens": 8, "ignore_eos": true, "temperature": 1}}"#);
    assert!(serve::answer(server.post("/v1/completions", &body)).starts_with("HTTP/1.1 200"));
    // The server is still there.
    let report = json(data, &["audit", "verify", "--json"]);
    assert_eq!(report["intact"], true);
    let begun = json(data, &["audit", "show", "--kind", "begun", "--json"]);
    let id = begun[0]["request"].as_str().unwrap();
    server.stop_well();
    let shown = json(data, &["audit", "show", id, "--json"]);
    assert_eq!(
        (&shown[0]["kind"], &shown[1]["kind"], &shown[1]["begun"]),
        (&"begun".into(), &"ended".into(), &shown[0]["seq"])
    );
    assert!(succeeds(data, &["audit", "show", id]).contains("outcome: complete"));
    assert!(succeeds(data, &["audit", "show", "--last", "3"]).contains("server.stop"));
    assert_eq!(json(data, &["audit", "show", "--tenant", "nobody", "--json"]), serde_json::json!([]));
    let exported = succeeds(data, &["audit", "export", "--kind", "begun", "--from", "2026-01-01T00:00:00Z"]);
    assert_eq!(serde_json::from_str::<Value>(exported.trim_end()).unwrap(), shown[0]);
    check_failure(
        &mut with_data(data, &["audit", "show", "--from", "yesterday"]),
        2,
        &["--from", "2026-01-31T12:00:00Z"],
    );
    let verified = succeeds(data, &["audit", "verify", "--checkpoints", anchor.to_str().unwrap()]);
    assert!(verified.contains("intact") && verified.contains("kept elsewhere"), "{verified}");

    // Run again, it says the same, by the same model only.
    let replay = |arguments: &[&str]| {
        let mut command = with_data(data, &["audit", "replay", id, model.path().to_str().unwrap()]);
        command.args(arguments);
        command
    };
    assert!(run(&mut replay(&[])).out.contains("all 8 tokens are equal"));
    let ran = run(&mut replay(&["--json"]));
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()["equal"].as_bool()), (0, Some(true)));
    check_failure(&mut with_data(data, &["audit", "replay", id, "models/tiny"]), 1, &["digest of its weights"]);
    fs::remove_file(captured_file(data, &shown[0])).unwrap();
    check_failure(&mut replay(&[]), 1, &["is not there", "deleted"]);

    let segment = data.join("audit/00000001.jsonl");
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("/v1/completions", "/v1/completionz", 1)).unwrap();
    check_failure(&mut with_data(data, &["audit", "verify"]), 1, &["00000001.jsonl", "line", "its hash"]);
    let ran = run(&mut with_data(data, &["audit", "verify", "--json"]));
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &found["intact"]), (1, &Value::Bool(false)));
    assert_eq!(found["break"]["line"], shown[0]["seq"]);
}

#[test]
fn what_is_administered_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    assert_eq!(succeeds(data, &["keys", "list"]), "there are no keys\n");
    assert!(!data.join("audit").exists(), "looking is no act");
    let secret = succeeds(data, &["keys", "create", "app", "--role", "service"]);
    succeeds(data, &["tenants", "create", "acme"]);
    let acts = json(data, &["audit", "show", "--kind", "act", "--json"]);
    assert_eq!((&acts[0]["action"], &acts[0]["by"]["source"]), (&"keys.create".into(), &"command_line".into()));
    assert_eq!((&acts[1]["action"], &acts[1]["target"]), (&"tenants.create".into(), &"acme".into()));
    assert!(!acts.to_string().contains(secret.trim_end().rsplit('_').next().unwrap()));
    assert_eq!(
        json(data, &["audit", "verify", "--json"])["report"]["signed_through"],
        acts[1]["seq"].as_u64().unwrap() + 1
    );
    let elsewhere = directory.path().join("elsewhere");
    succeeds(data, &["keys", "revoke", "app", "--audit-dir", elsewhere.to_str().unwrap()]);
    assert!(elsewhere.join("00000001.jsonl").exists());
    succeeds(data, &["keys", "create", "other", "--role", "service", "--audit", "off"]);
    assert_eq!(json(data, &["audit", "show", "--kind", "act", "--json"]), acts);
}
