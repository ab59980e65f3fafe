//! Where checkpoints go beside the log, from a running server to `audit verify --checkpoints`.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use super::json;
use crate::cli::{check_failure, checkpoint, serve::Server, succeeds, with_data};

fn verified(data: &Path, checkpoints: &Path) {
    let checkpoints = checkpoints.to_str().unwrap();
    let report = json(data, &["audit", "verify", "--checkpoints", checkpoints, "--json"]);
    assert!(report["report"]["anchored"].as_u64() >= Some(1), "{report}");
    // What was kept elsewhere shows that the end is missing.
    let segment = data.join("audit/00000001.jsonl");
    let text = fs::read_to_string(&segment).unwrap();
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    fs::write(&segment, &text[..end]).unwrap();
    check_failure(
        &mut with_data(data, &["audit", "verify", "--checkpoints", checkpoints]),
        1,
        &["its end was cut", checkpoints],
    );
    succeeds(data, &["audit", "verify"]);
}

fn flags<'f>(data: &'f Path, anchor: &'f str) -> Vec<&'f str> {
    vec!["--audit", "on", "--audit-anchor", anchor, "--ephemeral=off", "--data-dir", data.to_str().unwrap()]
}

#[test]
fn a_url_is_sent_each_checkpoint() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let anchor = format!("http://{}/checkpoints?token=secret", listener.local_addr().unwrap());
    let received = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).unwrap() > 2 {
            head += &line.to_ascii_lowercase();
            line.clear();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        (head, String::from_utf8(body).unwrap())
    });
    let (code, log) = Server::start(model.path(), &flags(data, &anchor)).stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("secret"), "{log}");
    let (head, body) = received.join().unwrap();
    assert!(head.starts_with("post /checkpoints?token=secret ") && !head.contains("authorization"), "{head}");
    let checkpoints = data.join("received");
    fs::write(&checkpoints, body + "\n").unwrap();
    verified(data, &checkpoints);
}

#[test]
fn standard_output_has_each_checkpoint_and_nothing_else() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    let out = data.join("out");
    let mut command = Server::command(model.path(), &flags(data, "stdout"));
    Server::of(command.stdout(File::create(&out).unwrap())).stop_well();
    verified(data, &out);
}

#[test]
fn what_a_command_prints_is_no_anchor() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["keys", "create", "app", "--role", "service"];
    let config = directory.path().join("tramontane.toml");
    fs::write(&config, "audit = \"on\"\naudit_anchor = \"stdout\"\n").unwrap();
    let args = ["--config", config.to_str().unwrap()].into_iter().chain(args).collect::<Vec<_>>();
    let printed = succeeds(directory.path(), &args);
    assert_eq!(printed.trim_end().lines().count(), 1, "{printed}");
    assert!(printed.starts_with("tmk_"), "{printed}");
}

#[test]
fn an_anchor_that_fails_stops_nobody_and_is_counted() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    // Bound and never accepted from: nobody answers once it is closed.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, log) = Server::start(model.path(), &flags(data, &format!("http://{closed}/"))).stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("was not anchored"), "{log}");
    succeeds(data, &["audit", "verify"]);
}
