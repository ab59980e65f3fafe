//! `tramontane audit replay` with the model that comes with the repository: what it runs again, and what it does not believe.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{captured_file, capturing, last_begun};
use crate::cli::{Ran, check_failure, run, serve::Server, serve::answer, with_data};

/// The end of a sequence, which the model is made to choose.
const EOS: &str = "2";

fn post(server: &Server, path: &str, body: &Value) {
    let answer = answer(server.post(path, &body.to_string()));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn ask(server: &Server, more: Value) {
    let mut body = json!({ "model": "tiny", "temperature": 1.5, "max_tokens": 200,
        "messages": [{ "role": "user", "content": "Give me some data." }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    post(server, "/v1/chat/completions", &body);
}

fn replayed(data: &Path, begun: &Value) -> Ran {
    run(&mut with_data(data, &["audit", "replay", &begun["seq"].to_string(), "models/tiny"]))
}

#[track_caller]
fn is_refused(data: &Path, begun: &Value, words: &[&str]) {
    check_failure(&mut with_data(data, &["audit", "replay", &begun["seq"].to_string(), "models/tiny"]), 1, words);
}

#[test]
fn answers_are_run_again_in_their_form_if_what_was_captured_is_what_was_recorded() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let server = Server::start(Path::new("models/tiny"), &capturing(data));
    let schema = json!({ "type": "object", "properties": { "age": { "type": "integer" } }, "required": ["age"],
        "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "data", "strict": true, "schema": schema } });
    ask(&server, json!({ "response_format": format, "n": 2 }));
    let of_a_form = last_begun(data);
    assert_eq!(of_a_form["parameters"]["has_form"], true);
    ask(&server, json!({ "max_tokens": 4, "logit_bias": { EOS: 100 }, "temperature": 0 }));
    let only_an_end = last_begun(data);
    post(&server, "/v1/completions", &json!({ "model": "tiny", "prompt": "Hello", "max_tokens": 0, "echo": true }));
    let empty = last_begun(data);
    server.stop_well();

    let ran = replayed(data, &of_a_form);
    assert_eq!((ran.code, ran.out.matches("tokens are equal").count()), (0, 2), "{} {}", ran.out, ran.err);
    assert!(replayed(data, &only_an_end).out.contains("all 1 tokens are equal"), "the end is a token as well");
    is_refused(data, &empty, &["no token was generated", "nothing to compare"]);

    let path = captured_file(data, &of_a_form);
    let kept = fs::read_to_string(&path).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed: Value = serde_json::from_str(&kept).unwrap();
        change(&mut changed);
        fs::write(&path, changed.to_string()).unwrap();
    };
    changed(&|content| content["answers"][1][2] = 0.into());
    is_refused(data, &of_a_form, &["answer 1", "keyed hash", "changed"]);
    changed(&|content| content["answers"] = json!([]));
    is_refused(data, &of_a_form, &["0 answers are captured, and 2 were recorded"]);
    changed(&|content| content["prompts"][0][1] = 0.into());
    is_refused(data, &of_a_form, &["prompt", "keyed hash"]);
    changed(&|content| content["parameters"]["form"]["grammar"] = "{}".into());
    is_refused(data, &of_a_form, &["parameters", "keyed hash"]);
    fs::write(&path, &kept[..kept.len() / 2]).unwrap();
    is_refused(data, &of_a_form, &["cannot be read"]);
    fs::write(&path, &kept).unwrap();
    assert_eq!(replayed(data, &of_a_form).code, 0);

    // A record was changed, be it another's: the log says nothing that is believed.
    let segment = data.join("audit/00000001.jsonl");
    let log = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, log.replacen(r#""prompt_tokens":"#, r#""prompt_tokens":1"#, 1)).unwrap();
    let line = of_a_form["seq"].to_string();
    let changed = log.lines().position(|line| line.contains(r#""prompt_tokens":"#)).unwrap() + 1;
    assert_eq!(changed.to_string(), line);
    let place = format!("00000001.jsonl, line {line}");
    is_refused(data, &of_a_form, &[&place, "its hash"]);
    is_refused(data, &only_an_end, &[&place]);
    fs::write(&segment, &log).unwrap();
    assert_eq!(replayed(data, &of_a_form).code, 0);
}
