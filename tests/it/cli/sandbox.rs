//! What a server cannot do once it serves, and what it still has to be able to.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use super::{checkpoint, egress::identity_file, run, serve::Server, tramontane, write};

/// Whether this system can do all of it.
fn is_supported() -> bool {
    let support: Value = serde_json::from_str(&run(&mut tramontane(&["doctor", "--json"])).out).unwrap();
    let support = support["sandbox"].as_str().unwrap();
    let is_supported = support.contains("landlock") && !support.contains("no ");
    if !is_supported {
        eprintln!("SKIPPED: this system has {support}");
    }
    is_supported
}

#[test]
fn the_sandbox_refuses_what_a_server_has_no_use_for() {
    if !is_supported() {
        return;
    }
    let attempts = |arguments: &[&str]| {
        let ran = run(tramontane(&["doctor", "--try-sandbox", "--json", "models/tiny"]).args(arguments));
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        let refused = value["refused"].as_object().unwrap();
        let left: Vec<String> =
            refused.iter().filter(|(_, refused)| **refused == false).map(|(what, _)| what.clone()).collect();
        assert_eq!(ran.code, i32::from(!left.is_empty()), "{}", ran.err);
        (refused.len(), left)
    };
    assert_eq!(attempts(&["--sandbox", "on"]), (7, vec![]));
    assert_eq!(attempts(&["--sandbox", "off"]).1.len(), 7);
    // A reason to connect leaves connections open, and nothing else.
    let directory = tempfile::tempdir().unwrap();
    let file = identity_file(directory.path(), "https://id.example.org/keys");
    let (_, left) = attempts(&["--sandbox", "on", "--identity-file", &file]);
    assert_eq!(left, ["connect to another program", "connect a socket that there was", "open a socket for datagrams"]);
}

/// As Kubernetes mounts them: links through a link that is swapped for another.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    fn put(&self, version: &str, file: &str, text: &str) {
        let directory = self.0.join(format!("..{version}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), text).unwrap();
        let link = self.0.join(file);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(file), link).unwrap();
        }
    }

    fn swap(&self, version: &str) {
        symlink(format!("..{version}"), self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
    }
}

#[test]
fn links_are_followed_when_files_are_read_again() {
    if !is_supported() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        fs::create_dir_all(place.path().join(name)).unwrap();
        place.path().join(name)
    };
    let (model, shared, policies, mounted) = (at("model"), at("shared"), at("policies"), at("mounted"));
    checkpoint::write(&model);
    // A directory of policies whose files lie elsewhere, and a file in a mount.
    write(&shared, "all.cedar", "permit (principal, action, resource);");
    symlink("../shared/all.cedar", policies.join("all.cedar")).unwrap();
    let guardrail = |word: &str| {
        format!("[[guardrail]]\nname = \"words\"\nstage = \"input\"\nwords = [\"{word}\"]\naction = \"block\"\n")
    };
    let mount = Mount(&mounted);
    mount.put("1", "guardrails.toml", &guardrail("crane"));
    mount.swap("1");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments =
        ["--sandbox", "on", "--policy-dir", &path(&policies), "--guardrails", &path(&mounted.join("guardrails.toml"))];
    let mut server = Server::start(&model, &arguments);

    write(&shared, "all.cedar", "permit (principal, action, resource) when { true };");
    mount.put("2", "guardrails.toml", &guardrail("heron"));
    mount.swap("2");
    fs::remove_dir_all(mounted.join("..1")).unwrap();
    server.hang_up("the guardrails were read again");
    let body = |word: &str| format!(r#"{{"model": "model", "prompt": "the {word}", "max_tokens": 1}}"#);
    let ask = |word: &str| super::serve::answer(server.post("/v1/completions", &body(word)));
    assert!(ask("crane").starts_with("HTTP/1.1 200"));
    let blocked = ask("heron");
    assert!(blocked.starts_with("HTTP/1.1 4") && blocked.contains("words"), "{blocked}");
    let (code, log) = server.stop();
    assert!(code == Some(0) && log.contains("the policies were read again"), "{log}");
}
