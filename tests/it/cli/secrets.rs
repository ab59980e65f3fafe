//! Secrets that are planted everywhere, and looked for in everything that a server leaves behind at its most talkative.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use super::{
    checkpoint, run,
    serve::{Server, answer},
    tramontane, write,
};

const PROMPT: &str = "planted-prompt-4711";
const ISSUER_SECRET: &str = "planted-issuer-secret-that-is-long-enough-for-hs256";

/// Everything in a folder, with the names of the files that have it.
fn files_with(folder: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|part| part == needle.as_bytes()) {
            found.push(path);
        }
    }
    found
}

fn token(secret: &str, claims: &str) -> String {
    let text =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let (model, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = place.path().join("data");
    let data_dir = data.to_str().unwrap();
    let mut create = tramontane(&["keys", "create", "app", "--role", "admin", "--data-dir", data_dir]);
    let created = run(create.env_remove("TRAMONTANE_EPHEMERAL"));
    assert_eq!(created.code, 0, "{}", created.err);
    let key = created.out.trim_end();
    let secret_file = write(place.path(), "secret.txt", ISSUER_SECRET);
    let identity = format!(
        "[[issuer]]\nissuer = \"https://id.example.org\"\naudiences = [\"tramontane\"]\nalgorithms = [\"HS256\"]\n\
         keys.secret_file = {secret_file:?}\ntenant = \"default\"\ndefault_roles = [\"developer\"]\n"
    );
    let identity_file = write(place.path(), "identity.toml", &identity);
    let arguments =
        ["--ephemeral=off", "--data-dir", data_dir, "--identity-file", &identity_file, "--log-level", "trace"];
    let server = Server::start(model.path(), &arguments);
    let name = model.path().file_name().unwrap().to_str().unwrap();

    let far = 4_000_000_000_u64;
    let claims = format!(r#"{{"iss":"https://id.example.org","aud":"tramontane","sub":"ana","exp":{far}}}"#);
    let good = token(ISSUER_SECRET, &claims);
    let forged = token("another-secret-that-is-also-long-enough-for-it", &claims);
    let unknown_key = format!("{}planted", &key[..key.len() - 6]);
    let mut answers = String::new();
    let mut send = |method: &str, path: &str, credential: &str, body: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {credential}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        answers += &answer(server.connect(&head));
    };
    let message = format!(r#""messages": [{{"role": "user", "content": "{PROMPT}"}}], "max_tokens": 4"#);
    let bodies = [
        format!(r#"{{"model": "{name}", {message}}}"#),
        format!(r#"{{"model": "{name}", {message}, "stream": true}}"#),
        format!(r#"{{"model": "{name}", {message}, "response_format": {{"type": "json_object"}}}}"#),
        format!(r#"{{"model": "{name}", {message}, "user": "{PROMPT}", "stop": ["{PROMPT}"]}}"#),
        format!(r#"{{"model": "no-{PROMPT}", {message}}}"#),
        format!(r#"{{"model": "{name}", {message}, "temperature": "{PROMPT}"}}"#),
        format!(r#"{{"model": "{name}", {message}, "{PROMPT}": 1}}"#),
        format!(r#"{{"model": "{name}", {message}, "#),
        format!(r#"{{"model": "{name}", "messages": [{{"role": "{PROMPT}", "content": "{PROMPT}"}}]}}"#),
    ];
    for credential in [key, &good] {
        for body in &bodies {
            send("POST", "/v1/chat/completions", credential, body);
        }
        send(
            "POST",
            "/v1/completions",
            credential,
            &format!(r#"{{"model": "{name}", "prompt": "{PROMPT}", "max_tokens": 4}}"#),
        );
        send("POST", "/v1/embeddings", credential, &format!(r#"{{"model": "{name}", "input": "{PROMPT}"}}"#));
        send("POST", "/tokenize", credential, &format!(r#"{{"model": "{name}", "prompt": "{PROMPT}"}}"#));
        send("GET", &format!("/v1/models/{PROMPT}?key={PROMPT}"), credential, "");
    }
    for credential in [&unknown_key, &forged, "planted-nonsense", &format!("{good}{PROMPT}")] {
        send("POST", "/v1/chat/completions", credential, &bodies[0]);
    }
    send("GET", "/metrics", key, "");
    let metrics = answers.rsplit("HTTP/1.1 200").next().unwrap().to_owned();
    assert!(metrics.contains("tramontane"), "{metrics}");
    assert!(answers.contains("HTTP/1.1 200") && answers.contains("HTTP/1.1 401") && answers.contains("HTTP/1.1 404"));

    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("DEBUG") && log.lines().count() > 20, "the log is talkative:\n{log}");
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        ("the key", key.to_owned()),
        ("a wrong key", unknown_key.clone()),
        ("a token", good.clone()),
        ("a token's signature", signature(&good)),
        ("a forged token's signature", signature(&forged)),
        ("nonsense", "planted-nonsense".to_owned()),
        ("the issuer's secret", ISSUER_SECRET.to_owned()),
        ("a prompt", PROMPT.to_owned()),
    ];
    for (what, secret) in &secrets {
        if let Some(line) = log.lines().find(|line| line.contains(secret)) {
            panic!("{what} is in the log: {line}");
        }
        assert!(!metrics.contains(secret), "{what} is in the metrics");
        // The folder of audit records, if there is one, is in the data directory.
        assert_eq!(files_with(&data, secret), Vec::<PathBuf>::new(), "{what} is stored");
    }
}
