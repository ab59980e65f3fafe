//! Everything about somebody from the command line, beside a running server; purposes as `serve` reads them.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tramontane::governance::audit::{
    Kind,
    query::{self, Query},
};

use super::{check_failure, checkpoint, run, serve, succeeds, tramontane, with_data, write};

const MARKER: &str = "tuesday-marker-9917";

fn is_marked(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).any(|path| {
        let content = fs::read(path).unwrap();
        content.windows(MARKER.len()).any(|window| window == MARKER.as_bytes())
    })
}

fn stored(server: &serve::Server, model: &str, user: &str, text: &str) -> Value {
    let body = json!({ "model": model, "input": text, "user": user, "max_output_tokens": 2 }).to_string();
    let answer = serve::answer(server.post("/v1/responses", &body));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn what_is_held_is_told_and_deleted_beside_a_running_server() {
    let (directory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    let nothing = "nothing is held about this subject\n";
    assert_eq!(succeeds(data, &["subjects", "export", "ada"]), nothing, "there is not even a store");
    let arguments = ["--ephemeral=off", "--data-dir", data.to_str().unwrap(), "--served-model-name", "m"];
    let server = serve::Server::start(model.path(), &arguments);
    let first = stored(&server, "m", "ada", MARKER);
    let second = stored(&server, "m", "bob", "Hello");
    let lines = succeeds(data, &["subjects", "export", "ada"]);
    let id = first["id"].as_str().unwrap();
    assert!(lines.starts_with(&format!("response  {id}  ")) && lines.lines().count() == 1, "{lines}");
    assert!(!lines.contains(MARKER));
    let told: Value = serde_json::from_str(&succeeds(data, &["subjects", "export", "ada", "--json"])).unwrap();
    assert_eq!((&told[0]["kind"], &told[0]["id"]), (&json!("response"), &json!(id)));
    assert_eq!(told[0]["content"]["items"][0]["body"]["content"][0]["text"], MARKER);
    assert!(is_marked(data));
    assert_eq!(succeeds(data, &["subjects", "delete", "ada"]), "deleted  response  1\n");
    assert!(!is_marked(data), "it is overwritten while the server runs");
    assert!(server.get(&format!("/v1/responses/{id}")).starts_with("HTTP/1.1 404"));
    assert!(server.get(&format!("/v1/responses/{}", second["id"].as_str().unwrap())).starts_with("HTTP/1.1 200"));
    assert_eq!(succeeds(data, &["subjects", "export", "ada", "--json"]), "[]\n");
    let deleted: Value = serde_json::from_str(&succeeds(data, &["subjects", "delete", "bob", "--json"])).unwrap();
    assert_eq!(deleted, json!({ "deleted": { "response": 1 }, "being_read": [] }));
    assert_eq!(succeeds(data, &["subjects", "delete", "bob"]), "nothing was held about this subject\n");
    stored(&server, "m", "bob", "Hello");
    stored(&server, "m", "eve", "Hello");
    drop(server);
    assert_eq!(succeeds(data, &["subjects", "delete", "bob"]), "deleted  response  1\n", "without a server too");
    let mut elsewhere = with_data(data, &["subjects", "export", "ada", "--tenant", "acme"]);
    check_failure(&mut elsewhere, 2, &["--tenant", "acme"]);

    // Beside a log of which only what was captured is left nothing can be written down, and nobody can be found in it.
    let left = data.join("audit/content/default");
    fs::remove_dir_all(data.join("audit")).and_then(|()| fs::create_dir_all(&left)).unwrap();
    write(&left, "left.json", "{}");
    check_failure(&mut with_data(data, &["subjects", "delete", "eve"]), 1, &["nothing was changed", "was removed"]);
    for (command, begin) in [("export", "response  resp_"), ("delete", "deleted  response  1\n"), ("delete", "")] {
        let ran = run(with_data(data, &["subjects", command, "eve"]).env("TRAMONTANE_AUDIT", "off"));
        assert!(ran.code == 1 && ran.out.starts_with(begin) && ran.out.lines().count() < 2, "{} {}", ran.out, ran.err);
        assert!(ran.err.contains("what is stored was") && ran.err.contains("was removed"), "{}", ran.err);
        assert_eq!(ran.out.is_empty(), begin.is_empty(), "that nothing was held cannot be said: {}", ran.out);
    }
}

#[test]
fn the_server_tells_over_http_what_the_command_line_tells() {
    let (directory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    succeeds(data, &["tenants", "create", "acme"]);
    let key = |role: &str, more: &[&str]| {
        let made = succeeds(data, &[&["keys", "create", role, "--role", role][..], more].concat());
        made.trim_end().to_owned()
    };
    let (auditor, app) = (key("auditor", &[]), key("service", &["--tenant", "acme"]));
    let arguments = ["--audit-capture", "--ephemeral=off", "--data-dir", data.to_str().unwrap()];
    let server = serve::Server::start(model.path(), &[&arguments[..], &["--served-model-name", "m"]].concat());
    for (path, body) in [
        ("/v1/responses", json!({ "model": "m", "input": MARKER, "user": "ada", "max_output_tokens": 2 })),
        ("/v1/responses", json!({ "model": "m", "input": MARKER, "user": "bob", "max_output_tokens": 2 })),
        ("/v1/completions", json!({ "model": "m", "prompt": MARKER, "user": "ada", "max_tokens": 2 })),
    ] {
        let (body, authorization) = (body.to_string(), format!("Authorization: Bearer {app}"));
        let head = format!("Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{authorization}");
        let length = body.len();
        let answer =
            server.request(&format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let of_kind = |kind| {
        let query = Query { kinds: vec![kind], ..Query::default() };
        query::find_last(&data.join("audit"), &query, 9).unwrap()
    };
    // What is captured is on the disk before these.
    let until = Instant::now() + Duration::from_secs(60);
    while of_kind(Kind::Ended).len() < 3 {
        assert!(Instant::now() < until, "not all has ended");
        std::thread::yield_now();
    }
    let by_command: Value =
        serde_json::from_str(&succeeds(data, &["subjects", "export", "ada", "--tenant", "acme", "--json"])).unwrap();
    // In HTTP/1.0 it comes without marks of its pieces.
    let request = "GET /admin/v1/subjects?subject=ada&tenant=acme HTTP/1.0\r\nHost: localhost";
    let answer = server.request(&format!("{request}\r\nAuthorization: Bearer {auditor}\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{answer}");
    let over_http: Value = serde_json::from_str(body).unwrap();
    assert_eq!(over_http["data"], by_command);
    let kinds: Vec<&Value> = by_command.as_array().unwrap().iter().map(|held| &held["kind"]).collect();
    assert_eq!(kinds, ["response", "audit record", "audit record"]);
    server.stop_well();
    let acts = of_kind(Kind::Act);
    let exports: Vec<_> = acts.iter().filter(|act| act.members["action"] == "subjects.export").collect();
    let sources: Vec<&Value> = exports.iter().map(|act| &act.members["by"]["source"]).collect();
    assert_eq!(sources, ["command_line", "key"]);
    assert_eq!(exports[0].members["target"], exports[1].members["target"], "one keyed hash");
}

#[test]
fn purposes_are_read_before_the_port_is_opened_and_again_when_told_to() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let file = write(directory.path(), "purposes.toml", "[[purpose]]\nname = \"support\"\nretention = \"60d\"\n");
    let start = ["serve", model.path().to_str().unwrap(), "--purposes", &file];
    check_failure(&mut tramontane(&start), 2, &[&file, "purpose[0].retention", "60d", "30days"]);
    write(directory.path(), "purposes.toml", "required = true\n[[purpose]]\nname = \"support\"\n");
    let log = directory.path().join("audit");
    let logged = ["--audit", "on", "--audit-dir", log.to_str().unwrap()];
    let flags = [&["--purposes", &file, "--served-model-name", "m"][..], &logged].concat();
    let mut server = serve::Server::start(model.path(), &flags);
    let ask = |server: &serve::Server| {
        let body = r#"{"model": "m", "prompt": "Hello", "max_tokens": 1}"#;
        serve::answer(server.post("/v1/completions", body))[..12].to_owned()
    };
    assert_eq!(ask(&server), "HTTP/1.1 400");
    let reread = |server: &mut serve::Server, text: &str, said: &str| {
        write(directory.path(), "purposes.toml", text);
        assert!(Command::new("kill").args(["-HUP", &server.id()]).status().unwrap().success());
        server.log_until(said);
    };
    reread(&mut server, "required = \"yes\"", "the purposes are wrong");
    assert_eq!(ask(&server), "HTTP/1.1 400");
    reread(&mut server, "", "the purposes were read again");
    assert_eq!(ask(&server), "HTTP/1.1 200");
    server.stop_well();
    let query = Query { kinds: vec![Kind::Act, Kind::Begun], ..Query::default() };
    let records = query::find_last(&log, &query, 9).unwrap();
    let reloaded = records.iter().find(|record| record.members.get("action") == Some(&json!("purposes.reload")));
    let reloaded = reloaded.expect("it is an act");
    assert_eq!(reloaded.members["by"]["source"], "signal");
    let begun = records.iter().find(|record| record.kind == Kind::Begun).expect("somebody was answered");
    assert_eq!(begun.members["server"]["purposes"], reloaded.members["details"]["digest"]);
}

/// The code blocks of a language in a page.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split_once("```").expect("a block ends").0).collect()
}

#[test]
fn the_examples_of_the_page_on_privacy_are_right() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/privacy.md")).unwrap();
    let (tables, policies) = (blocks(&page, "toml"), blocks(&page, "cedar"));
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("policies");
    fs::create_dir(&own).unwrap();
    write(&own, "roles.cedar", &run(&mut tramontane(&["policy", "show"])).out);
    write(&own, "purpose.cedar", policies[0]);
    let cases = write(directory.path(), "cases.toml", tables[1]);
    let tested = run(&mut tramontane(&["policy", "test", &cases, "--policy-dir", own.to_str().unwrap()]));
    assert_eq!((tested.code, tested.out.as_str()), (0, "4 of 4 cases hold\n"));
    let file = write(directory.path(), "purposes.toml", tables[0]);
    let retention = std::time::Duration::from_secs(30 * 24 * 60 * 60);
    tramontane::governance::purposes::PurposeFile::open(Path::new(&file), retention).expect("the example is right");
}
