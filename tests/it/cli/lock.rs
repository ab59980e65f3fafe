//! Locks and signatures, from the command that makes them to the server that insists on them.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::Value;

use super::{Ran, check_failure, checkpoint, run, serve::Server, tramontane};

/// A model in `model`, and a place beside it.
fn workplace() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("model")).unwrap();
    checkpoint::write(&place.path().join("model"));
    place
}

fn lock(place: &Path, arguments: &[&str]) -> Ran {
    run(tramontane(&["lock"]).args(arguments).args(["--json", "--file"]).arg(place.join("tramontane.lock")))
}

#[track_caller]
fn locked(place: &Path, arguments: &[&str]) -> Value {
    let ran = lock(place, arguments);
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

/// Writes a key pair in the form that OpenSSL gives it.
fn make_key(place: &Path) {
    let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    // RFC 8410: what is in front of the 32 bytes of a public key.
    let head = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    let public = [head, Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap().public_key().as_ref()].concat();
    for (name, label, der) in [("key.pem", "PRIVATE KEY", pair.as_ref()), ("public.pem", "PUBLIC KEY", &public)] {
        let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
        fs::write(place.join(name), text).unwrap();
    }
}

fn card(server: &Server) -> Value {
    let answer = server.get("/v1/models");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let card = serde_json::from_str::<Value>(body).unwrap()["data"][0]["provenance"].clone();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    assert_eq!(header("x-tramontane-model-digest"), card["weights_digest"].as_str().unwrap());
    assert_eq!(header("x-tramontane-tokenizer-digest"), card["tokenizer_digest"].as_str().unwrap());
    assert_eq!(header("x-tramontane-model-provenance"), card["state"].as_str().unwrap());
    card
}

#[test]
fn a_locked_and_signed_model_is_served_and_says_so() {
    let place = workplace();
    let (model, at) = (place.path().join("model"), |name: &str| place.path().join(name).to_str().unwrap().to_owned());
    let path = model.to_str().unwrap();
    fs::write(model.join("README.md"), "---\nlicense: \"apache-2.0\"\n---\n").unwrap();
    let made = locked(place.path(), &["create", path]);
    assert_eq!(
        (&made["model"], &made["source"], &made["licence"]),
        (&"model".into(), &"path:model".into(), &"apache-2.0".into())
    );
    let server = Server::start(&model, &["--lock", &at("tramontane.lock"), "--require-lock"]);
    let told = card(&server);
    assert_eq!(
        (&told["state"], &told["licence"], &told["signer"]),
        (&"locked".into(), &"apache-2.0".into(), &Value::Null)
    );
    drop(server);

    make_key(place.path());
    let signed = ["--lock", &at("tramontane.lock"), "--trusted-key", &at("public.pem"), "--require-signature"];
    let mut serve = tramontane(&["serve", path, "--bind", "127.0.0.1:0"]);
    check_failure(serve.args(signed), 1, &["no trusted key signed it"]);
    locked(place.path(), &["sign", "--key", &at("key.pem")]);
    let verified = locked(place.path(), &["verify", path, "--trusted-key", &at("public.pem")]);
    let told = card(&Server::start(&model, &signed));
    assert_eq!((&told["state"], &told["signer"]), (&"signed".into(), &verified["signer"]));
    // A lock that is made anew is not the one that was signed.
    fs::write(model.join("README.md"), "Other words.").unwrap();
    assert_eq!(locked(place.path(), &["create", path])["licence"], "unknown");
    check_failure(&mut serve, 1, &["tramontane.lock.sig", "no trusted key"]);
}

#[test]
fn files_that_are_not_those_of_the_lock_are_refused() {
    let place = workplace();
    let (model, file) = (place.path().join("model"), place.path().join("tramontane.lock"));
    let path = model.to_str().unwrap();
    locked(place.path(), &["create", path]);
    let check = |words: &[&str]| {
        let mut serve = tramontane(&["serve", path, "--bind", "127.0.0.1:0", "--log-level", "error", "--lock"]);
        check_failure(serve.arg(&file), 1, words);
        let verified = lock(place.path(), &["verify", path]);
        assert!(verified.code == 1 && words.iter().all(|word| verified.err.contains(word)), "{}", verified.err);
    };
    let change = |name: &str, words: &[&str]| {
        let kept = fs::read(model.join(name));
        let mut bytes = kept.as_ref().map_or(Vec::new(), Clone::clone);
        match bytes.last_mut() {
            Some(last) => *last ^= 1,
            None => bytes.push(b'x'),
        }
        fs::write(model.join(name), bytes).unwrap();
        check(words);
        match kept {
            Ok(bytes) => fs::write(model.join(name), bytes).unwrap(),
            Err(_) => fs::remove_file(model.join(name)).unwrap(),
        }
    };
    change("model.safetensors", &["model.safetensors: sha256", "tramontane.lock has"]);
    change("config.json", &["config.json: sha256"]);
    change("chat_template.jinja", &["chat_template.jinja: not in"]);
    fs::rename(model.join("config.json"), place.path().join("config.json")).unwrap();
    check(&["config.json: missing"]);
    fs::rename(place.path().join("config.json"), model.join("config.json")).unwrap();
    assert_eq!(lock(place.path(), &["verify", path]).code, 0);

    let serve = |arguments: &[&str]| {
        let mut serve = tramontane(&["serve", path, "--bind", "127.0.0.1:0"]);
        serve.args(arguments);
        serve
    };
    let file = file.to_str().unwrap();
    check_failure(&mut serve(&["--require-lock"]), 2, &["require_lock", "without lock"]);
    check_failure(&mut serve(&["--require-signature"]), 2, &["require_signature", "without trusted_key"]);
    check_failure(&mut serve(&["--model-signature", "x"]), 2, &["model_signature", "without trusted_key"]);
    check_failure(&mut serve(&["--lock", "/nonexistent"]), 1, &["/nonexistent"]);
    check_failure(
        &mut serve(&["--lock", file, "--tokenizer", "tests/data/tokenizers/tekken-tiny.json"]),
        2,
        &["tokenizer = "],
    );
    check_failure(&mut serve(&["--lock", file, "--quantize", "q8", "--quantize-cache", "on"]), 2, &["quantize_cache"]);
    check_failure(&mut serve(&["--lock", file, "--draft-model", "models/tiny"]), 1, &["no model ", "only model"]);
    // Whoever computes without a server insists as well.
    let mut generate = tramontane(&["generate", "models/tiny", "-p", "Hello", "--max-tokens", "1"]);
    check_failure(
        generate.env("TRAMONTANE_CONFIG", super::write(place.path(), "c.toml", &format!("lock = {file:?}\n"))),
        1,
        &["no model ", "only model"],
    );
}

#[test]
fn a_model_that_openssfs_package_signed() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/signing");
    let at = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let signature = ["--model-signature", &at("tiny.sig"), "--require-signature", "--trusted-key"];
    let key = at("p256.pub.pem");
    let told = card(&Server::start(Path::new("models/tiny"), &[&signature[..], &[key.as_str()]].concat()));
    assert_eq!(told["state"], "signed");
    let mut serve = tramontane(&["serve", "models/tiny", "--bind", "127.0.0.1:0"]);
    check_failure(serve.args(signature).arg(at("p384.pub.pem")), 1, &["tiny.sig", "no trusted key"]);
    // The signature of one model is none of another; this one is found beside the model's files.
    let place = workplace();
    let model = place.path().join("model");
    fs::copy(at("tiny.sig"), model.join("model.sig")).unwrap();
    let mut serve = tramontane(&["serve", model.to_str().unwrap(), "--bind", "127.0.0.1:0", "--trusted-key"]);
    check_failure(serve.arg(at("p256.pub.pem")), 1, &["model.sig"]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Locks pass over hidden files and such endings, so what has such a name must not be read.
#[test]
fn a_tokenizer_escapes_no_lock_by_its_name() {
    let place = workplace();
    let (model, file) = (place.path().join("model"), place.path().join("tramontane.lock"));
    let path = model.to_str().unwrap();
    locked(place.path(), &["create", path]);
    let tokenizer = fs::read_dir(&model)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .find(|name| name.contains("tekken") || name.starts_with("tokenizer."))
        .unwrap();
    let refused = |name: &str, arguments: &[&str]| {
        let mut serve = tramontane(&["serve", path, "--bind", "127.0.0.1:0", "--lock"]);
        check_failure(serve.arg(&file).args(arguments), 1, &[name, "not in", "tramontane.lock"]);
    };
    // In place of the other where the directory has no tekken.json, and where a setting names it.
    for name in
        [format!(".{tokenizer}"), "tokenizer.model.v7m1.sig".to_owned(), "tokenizer.model.v3m.panels".to_owned()]
    {
        fs::copy(model.join(&tokenizer), model.join(&name)).unwrap();
        refused(&name, &["--tokenizer", model.join(&name).to_str().unwrap()]);
        fs::remove_file(model.join(&name)).unwrap();
    }
    fs::rename(model.join(&tokenizer), place.path().join("kept")).unwrap();
    fs::copy(place.path().join("kept"), model.join("tokenizer.model.v7m1.sig")).unwrap();
    locked(place.path(), &["create", path]);
    refused("tokenizer.model.v7m1.sig", &[]);
    fs::rename(place.path().join("kept"), model.join(&tokenizer)).unwrap();
    fs::remove_file(model.join("tokenizer.model.v7m1.sig")).unwrap();
    // The one that is in the lock may be named as well.
    locked(place.path(), &["create", path]);
    let named = model.join(&tokenizer);
    let arguments = ["--lock", file.to_str().unwrap(), "--tokenizer", named.to_str().unwrap()];
    assert_eq!(card(&Server::start(&model, &arguments))["state"], "locked");
}

#[test]
fn a_draft_model_is_held_to_a_lock_or_a_signature_too() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/signing");
    let place = tempfile::tempdir().unwrap();
    let (model, draft) = (Path::new("models/tiny"), place.path().join("draft"));
    copy(model, &draft);
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let (signature, key, draft_path) = (at(&data.join("tiny.sig")), at(&data.join("p256.pub.pem")), at(&draft));
    let signed = ["--model-signature", &signature, "--trusted-key", &key, "--require-signature"];
    let serve = |arguments: &[&[&str]]| {
        let mut serve = tramontane(&["serve", "models/tiny", "--bind", "127.0.0.1:0", "--draft-model", &draft_path]);
        serve.args(arguments.concat());
        serve
    };
    check_failure(&mut serve(&[&signed]), 2, &["draft_model", "nothing says what its files have to be"]);
    // A lock says it, but nobody has signed that.
    locked(place.path(), &["create", &at(model)]);
    locked(place.path(), &["create", &draft_path]);
    let lock = at(&place.path().join("tramontane.lock"));
    let with_lock = ["--lock", lock.as_str(), "--require-lock"];
    check_failure(&mut serve(&[&signed, &with_lock]), 1, &["cannot draft with", "no trusted key signed it"]);
    // Its own signature does.
    fs::copy(&signature, draft.join("model.sig")).unwrap();
    let arguments = [&signed[..], &with_lock, &["--draft-model", &draft_path]].concat();
    assert_eq!(card(&Server::start(model, &arguments))["state"], "signed");
    let config = fs::read(draft.join("config.json")).unwrap();
    fs::write(draft.join("config.json"), [&config[..], b" "].concat()).unwrap();
    check_failure(&mut serve(&[&with_lock]), 1, &["cannot draft with", "config.json", "tramontane.lock has"]);
    check_failure(&mut serve(&[&signed]), 1, &["cannot draft with", "config.json: sha256", "model.sig has"]);
}
