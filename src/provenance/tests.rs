use std::{
    fs,
    path::{Path, PathBuf},
};

use expect_test::{Expect, expect};

use super::*;

/// Made by other programs, see tests/data/PROVENANCE.md.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/signing").join(name)
}

fn keys(name: &str) -> TrustedKeys {
    TrustedKeys::open(&data(name)).expect("public keys")
}

/// A copy of the signed model that may be changed.
fn model() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    fs::create_dir(copy.path().join("1_Pooling")).expect("a directory");
    for name in ["README.md", "config.json", "model.safetensors", "1_Pooling/config.json"] {
        fs::copy(data("model").join(name), copy.path().join(name)).expect("a file");
    }
    copy
}

const ORIGIN: Origin = Origin { source: "path:model", revision: None, licence: None };

fn told(error: &ProvenanceError) -> String {
    error.to_string().replace(&data("").display().to_string(), "")
}

fn check_refused<T>(result: Result<T, ProvenanceError>, expected: Expect) {
    expected.assert_eq(&result.err().map_or("accepted".to_owned(), |error| told(&error)));
}

#[test]
fn a_lock_is_as_openssl_and_sha256sum_have_it() {
    let made = LockedModel::of_directory("model", ORIGIN, &data("model")).expect("a model");
    let path = data("tramontane.lock");
    let lock = Lock::open(&path).expect("a lock");
    assert_eq!(lock.models(), [made]);
    let directory = tempfile::tempdir().expect("a directory");
    let written = directory.path().join("tramontane.lock");
    lock.write(&written).expect("writable");
    assert_eq!(Lock::open(&written).expect("what was written"), lock);
    let bytes = fs::read(&path).expect("a lock");
    let signer = signer_of(&path, &bytes, &keys("ed25519.pub.pem")).expect("OpenSSL's signature").expect("a signer");
    assert!(signer.starts_with("sha256:") && signer.len() == 71, "{signer}");
    let changed = [&bytes[..], b" "].concat();
    check_refused(
        signer_of(&path, &changed, &keys("ed25519.pub.pem")),
        expect!["tramontane.lock.sig: made by no trusted key, or for another content of tramontane.lock"],
    );
    check_refused(
        signer_of(&path, &bytes, &keys("p256.pub.pem")),
        expect!["tramontane.lock.sig: made by no trusted key, or for another content of tramontane.lock"],
    );
    assert_eq!(signer_of(&written, &bytes, &keys("ed25519.pub.pem")).expect("none"), None);
}

#[test]
fn a_lock_is_signed_and_the_key_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let [lock, key] = ["tramontane.lock", "key.pem"].map(|name| directory.path().join(name));
    fs::copy(data("tramontane.lock"), &lock).expect("a lock");
    let random = ring::rand::SystemRandom::new();
    let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pkcs8.as_ref());
    fs::write(&key, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")).expect("writable");
    assert_eq!(sign(&lock, &key).expect("signed"), signature_path(&lock));
    let bytes = fs::read(&lock).expect("a lock");
    // Another key's signature than the one that is trusted.
    assert!(signer_of(&lock, &bytes, &keys("ed25519.pub.pem")).is_err());
    check_refused(
        sign(&lock, &data("p256.pub.pem")),
        expect![
            "p256.pub.pem: expected an unencrypted PRIVATE KEY (PKCS#8), as `openssl genpkey -algorithm ed25519` makes"
        ],
    );
    let refused = TrustedKeys::open(&key).expect_err("a private key").to_string();
    assert!(refused.ends_with("PRIVATE KEY: expected public keys; keep the private one where it signs"), "{refused}");
}

#[test]
fn every_change_of_a_model_is_told() {
    let path = data("tramontane.lock");
    let lock = Lock::open(&path).expect("a lock");
    let manifest = lock.model(&path, "model").expect("the model").manifest(Path::new("LOCK"));
    let check = |change: &dyn Fn(&Path), expected: Expect| {
        let model = model();
        change(model.path());
        check_refused(manifest.check_all(model.path()), expected);
    };
    let write =
        |name: &'static str, text: &'static str| move |root: &Path| fs::write(root.join(name), text).expect("writable");
    check(&|_| (), expect!["accepted"]);
    check(
        &write("config.json", "{\"hidden_size\": 9}\n"),
        expect![
            "config.json: sha256 59acaa4aed8435a4079f8cfde3046cafe6303b98a85a1742383b94e2612169d8, but LOCK has 6102b7b977af452ba2973005c4d51e7c9cf9b788557fcf7dab3585b98cda16fe"
        ],
    );
    check(&write("config.json", ""), expect!["config.json: 0 bytes, but LOCK has 19 bytes"]);
    check(&write("1_Pooling/config.json", ""), expect!["1_Pooling/config.json: 0 bytes, but LOCK has 33 bytes"]);
    check(
        &write("chat_template.jinja", ""),
        expect!["chat_template.jinja: not in LOCK, so it must not be among the model's files"],
    );
    check(
        &write("1_Pooling/more.json", ""),
        expect!["1_Pooling/more.json: not in LOCK, so it must not be among the model's files"],
    );
    check(&write("tramontane.q4.panels", ""), expect!["accepted"]);
    check(
        &write("1_Pooling/config.sig", ""),
        expect!["1_Pooling/config.sig: not in LOCK, so it must not be among the model's files"],
    );
    check(
        &|root| {
            fs::create_dir(root.join("pool.lock")).expect("writable");
            fs::write(root.join("pool.lock/config.json"), "{}").expect("writable");
        },
        expect!["pool.lock/config.json: not in LOCK, so it must not be among the model's files"],
    );
    check(
        &|root| fs::remove_file(root.join("README.md")).expect("removable"),
        expect!["README.md: missing, although LOCK has it"],
    );
    // Weights are left to whoever loads them.
    let model = model();
    fs::write(model.path().join("model.safetensors"), "WEIGHTS").expect("writable");
    manifest.check_without_weights(model.path()).expect("the rest is right");
    let found = hash_file(&model.path().join("model.safetensors")).expect("readable");
    assert!(manifest.check("model.safetensors", &found).is_err());
    check_refused(lock.model(&path, "other"), expect![[r#"tramontane.lock: no model "other", only model"#]]);
}

#[test]
fn locks_that_are_wrong() {
    let file =
        |path: &str, digest: &str| format!("[[model.file]]\npath = \"{path}\"\nbytes = 1\nsha256 = \"{digest}\"\n");
    let digest = "0".repeat(64);
    let model = |files: &str| {
        format!("version = 1\n[[model]]\nname = \"m\"\nsource = \"s\"\nrevision = \"r\"\nlicence = \"l\"\n{files}")
    };
    let check = |text: &str, expected: Expect| check_refused(Lock::parse(Path::new("LOCK"), text.as_bytes()), expected);
    check("version = 1\n", expect!["accepted"]);
    check(&model(&file("a", &digest)), expect!["accepted"]);
    check("version = 2\n", expect!["LOCK: version = 2: this program reads version 1"]);
    check(
        &model(""),
        expect![[r#"
        LOCK: TOML parse error at line 2, column 1
          |
        2 | [[model]]
          | ^^^^^^^^^
        missing field `file`"#]],
    );
    for path in ["../a", "/a", "a//b", "a/./b", "a\\\\b", ""] {
        let refused = Lock::parse(Path::new("LOCK"), model(&file(path, &digest)).as_bytes()).expect_err(path);
        assert!(refused.to_string().ends_with("expected a path below the model's directory"), "{refused}");
    }
    check(
        &model(&(file("b", &digest) + &file("a", &digest))),
        expect![[r#"LOCK: model "m": file "a": expected each once, sorted by path"#]],
    );
    check(
        &model(&file("a", "00")),
        expect![[r#"LOCK: model "m": file "a": sha256 = "00": expected 64 hexadecimal digits"#]],
    );
    let twice = model(&file("a", &digest)) + model(&file("a", &digest)).trim_start_matches("version = 1\n");
    check(&twice, expect![[r#"LOCK: two models are called "m""#]]);
    for text in [
        "version = 1\ncolour = 1\n",
        &model(&(String::from("colour = 1\n") + &file("a", &digest))),
        &model(&(file("a", &digest) + "mode = 1\n")),
        "version",
        "",
    ] {
        assert!(Lock::parse(Path::new("LOCK"), text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn signatures_that_the_model_signing_package_made() {
    let verify = |signature: &str, key: &str| signed_manifest(&data(signature), &keys(key));
    for (signature, key) in [
        ("p256.sig", "p256.pub.pem"),
        ("p384.sig", "p384.pub.pem"),
        ("certificate.sig", "certificate.pem"),
        ("certificate.sig", "p256.pub.pem"),
    ] {
        let (manifest, signer) = verify(signature, key).unwrap_or_else(|error| panic!("{signature}: {error}"));
        assert_eq!(manifest.len(), 4);
        assert!(signer.starts_with("sha256:"));
        manifest.check_all(&data("model")).expect("the model that was signed");
        let model = model();
        fs::write(model.path().join("config.json"), "{}").expect("writable");
        assert!(manifest.check_all(model.path()).is_err(), "{signature}");
    }
    let stranger = expect!["p256.sig: made by no trusted key, or changed since"];
    check_refused(verify("p256.sig", "p384.pub.pem"), stranger);
    check_refused(verify("p256.sig", "ed25519.pub.pem"), expect!["p256.sig: made by no trusted key, or changed since"]);
    check_refused(
        TrustedKeys::open(&data("p521.pub.pem")),
        expect!["p521.pub.pem: a key on P-521 cannot be used here: sign with P-256 or P-384"],
    );
    check_refused(
        verify("shards.sig", "p256.pub.pem"),
        expect![[r#"shards.sig: serialization.method = "shards": expected "files""#]],
    );
}

#[test]
fn no_byte_of_a_signature_can_be_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.sig");
    let text = fs::read_to_string(data("p256.sig")).expect("a signature");
    let key = keys("p256.pub.pem");
    let bundle: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for part in ["payload", "sig"] {
        let value = if part == "payload" {
            &bundle["dsseEnvelope"]["payload"]
        } else {
            &bundle["dsseEnvelope"]["signatures"][0]["sig"]
        };
        let value = value.as_str().expect("text");
        for at in (0..value.len() - 4).step_by(17) {
            let other = if value.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &value[..at], &value[at + 1..]);
            fs::write(&path, text.replace(value, &changed)).expect("writable");
            assert!(signed_manifest(&path, &key).is_err(), "{part} at {at}");
        }
    }
    let check = |from: &str, to: &str, word: &str| {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replace(from, to)).expect("writable");
        let refused = signed_manifest(&path, &key).expect_err(to).to_string();
        assert!(refused.contains(word), "{refused}");
    };
    check("\"tlogEntries\":[]", "\"tlogEntries\":[{}]", "keyless");
    check("\"publicKey\":{", "\"certificate\":{", "keyless");
    check("bundle.v0.3+json", "bundle.v0.2+json", "mediaType");
    check("\"signatures\":[", "\"signatures\":[{\"sig\":\"\"},", "2 signatures");
    check("vnd.in-toto+json", "json", "payloadType");
}
