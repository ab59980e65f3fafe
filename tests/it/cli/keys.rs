//! Keys and tenants from the command line, and what a running server makes of them.

use serde_json::Value;

use super::{check_failure, checkpoint, run, serve, succeeds, tramontane, with_data};

#[test]
fn a_key_is_printed_once_and_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    assert_eq!(succeeds(data, &["keys", "list"]), "there are no keys\n");
    let made = run(&mut with_data(data, &["keys", "create", "app", "--role", "service", "--attribute", "team=red"]));
    let secret = made.out.trim_end();
    assert_eq!((made.code, made.out.lines().count()), (0, 1));
    assert!(secret.starts_with("tmk_") && !made.err.contains(secret), "{}", made.err);
    assert!(made.err.contains("Nobody can be shown this key again"), "{}", made.err);
    let listed: Value = serde_json::from_str(&succeeds(data, &["keys", "list", "--json"])).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    assert!(secret.starts_with(&format!("{id}_")));
    assert_eq!((&listed[0]["state"], &listed[0]["attributes"]["team"]), (&"active".into(), &"red".into()));
    for arguments in [&["keys", "list"][..], &["keys", "show", "app"], &["keys", "show", &id[..8], "--json"]] {
        let shown = succeeds(data, arguments);
        assert!(shown.contains(id) && !shown.contains(secret), "{shown}");
    }
    let rotated: Value =
        serde_json::from_str(&succeeds(data, &["keys", "rotate", "app", "--overlap", "1h", "--json"])).unwrap();
    assert!(rotated["key"].as_str().unwrap().starts_with(rotated["id"].as_str().unwrap()));
    assert!(succeeds(data, &["keys", "show", id]).contains("  expires "));
    let revoked = succeeds(data, &["keys", "revoke", id]);
    assert!(revoked.contains("revoked"), "{revoked}");
}

#[test]
fn tenants_are_made_before_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let create = ["keys", "create", "app", "--role", "service", "--tenant", "acme"];
    check_failure(&mut with_data(data, &create), 2, &["there is no tenant", "acme"]);
    assert_eq!(succeeds(data, &["tenants", "create", "acme"]), "acme  0 keys\n");
    succeeds(data, &create);
    assert_eq!(succeeds(data, &["tenants", "share", "acme", "friends"]), "acme  1 keys  shares with friends\n");
    assert_eq!(succeeds(data, &["tenants", "unshare", "acme"]), "acme  1 keys\n");
    assert_eq!(succeeds(data, &["tenants", "list"]), "acme  1 keys\ndefault  0 keys\n");
    let shown: Value = serde_json::from_str(&succeeds(data, &["tenants", "show", "acme", "--json"])).unwrap();
    assert_eq!((&shown["name"], &shown["keys"]), (&"acme".into(), &1.into()));
    let deleted = "acme is deleted, 1 keys are revoked, what it had stored is erased\n";
    assert_eq!(succeeds(data, &["tenants", "delete", "acme"]), deleted);
    assert_eq!(succeeds(data, &["tenants", "list"]), "default  0 keys\n");
    check_failure(&mut with_data(data, &["tenants", "delete", "acme"]), 2, &["there is no tenant", "acme"]);
}

#[test]
fn keys_are_found_among_many() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    succeeds(data, &["tenants", "create", "acme"]);
    let create = |name: &str, tenant: &str| {
        let made = succeeds(data, &["keys", "create", name, "--role", "service", "--tenant", tenant]);
        made[..14].to_owned()
    };
    let (one, two) = (create("one", "acme"), create("two", "default"));
    succeeds(data, &["keys", "revoke", "two"]);
    let list = |arguments: &[&str]| succeeds(data, &[&["keys", "list"], arguments].concat());
    for (arguments, found) in [
        (&["--tenant", "acme"][..], &one),
        (&["--prefix", &two[..9]], &two),
        (&["--state", "revoked"], &two),
        (&["--state", "active"], &one),
        (&["--name", "one"], &one),
    ] {
        let listed = list(arguments);
        assert!(listed.lines().count() == 1 && listed.starts_with(found.as_str()), "{arguments:?}: {listed}");
    }
    assert_eq!(list(&["--prefix", "tmk_nobody"]), "there are no keys\n");
    assert_eq!(list(&["--prefix", "tmk_nobody", "--json"]), "[]\n");
    check_failure(&mut with_data(data, &["keys", "list", "--state", "good"]), 2, &["--state", "good", "active"]);
}

#[test]
fn roles_are_told_with_what_they_may_do() {
    let roles = |arguments: &[&str]| run(&mut tramontane(&[&["roles"], arguments].concat()));
    let list = roles(&["list"]).out;
    assert!(list.lines().count() == 5 && list.contains("auditor   reads everything"), "{list}");
    let auditor: Value = serde_json::from_str(&roles(&["show", "auditor", "--json"]).out).unwrap();
    let rights = auditor["allowed"].as_array().unwrap();
    assert!(rights.iter().any(|right| right["action"] == "readAdministration" && right["resource"] == "keys"));
    assert!(rights.iter().all(|right| right["action"].as_str().unwrap().starts_with("read")), "{auditor}");
    assert!(roles(&["show", "service"]).out.contains("infer"));
    check_failure(&mut tramontane(&["roles", "show", "boss"]), 2, &["boss", "auditor"]);
}

/// With a server that has the tenant's data open, the server erases it; without one, the command line does.
#[test]
fn a_deleted_tenants_data_is_erased_at_once() {
    let (directory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    let homes = || std::fs::read_dir(data.join("tenants")).map_or(0, Iterator::count);
    let mut server = serve::Server::start(model.path(), &["--ephemeral=off", "--data-dir", data.to_str().unwrap()]);
    for tenant in ["acme", "other"] {
        succeeds(data, &["tenants", "create", tenant]);
        let secret = succeeds(data, &["keys", "create", tenant, "--role", "developer", "--tenant", tenant]);
        assert!(server.get_as(secret.trim_end(), "/v1/files").starts_with("HTTP/1.1 200"));
    }
    assert_eq!(homes(), 2);
    let deleted: Value = serde_json::from_str(&succeeds(data, &["tenants", "delete", "acme", "--json"])).unwrap();
    // Unless the server was faster than the command line.
    if deleted["erased"] == false {
        server.log_until("what a deleted tenant has stored is erased");
    }
    assert_eq!(homes(), 1);
    drop(server);
    let deleted: Value = serde_json::from_str(&succeeds(data, &["tenants", "delete", "other", "--json"])).unwrap();
    assert_eq!((&deleted["erased"], homes()), (&true.into(), 0));
}

#[test]
fn quotas_are_set_and_unset() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    assert_eq!(succeeds(data, &["quota", "list"]), "there are no quotas\n");
    let set = ["quota", "set", "--tenant", "default", "--tokens-per-day", "1000", "--requests-per-minute", "5"];
    assert_eq!(succeeds(data, &set), "tenant default: 5 requests a minute, 1000 tokens a day\n");
    let shown: Value = serde_json::from_str(&succeeds(data, &["quota", "list", "--json"])).unwrap();
    assert_eq!((&shown[0]["tenant"], &shown[0]["tokens_per_day"]), (&"default".into(), &1000.into()));
    check_failure(&mut with_data(data, &["quota", "set", "--tenant", "default"]), 2, &["limits", "at least one"]);
    check_failure(&mut with_data(data, &["quota", "show", "--model", "tiny"]), 2, &["no quota", "model tiny"]);
    assert_eq!(succeeds(data, &["quota", "unset", "--tenant", "default"]), "there are no quotas\n");
    assert_eq!(succeeds(data, &["quota", "usage", "--json"]), "[]\n");
}

#[test]
fn what_is_wrong_with_a_command() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    for (arguments, words) in [
        (&["keys", "create", "app", "--role", "boss"][..], &["role", "boss", "auditor"][..]),
        (&["keys", "create", "a b", "--role", "service"], &["name", "a b"]),
        (&["keys", "create", "app", "--role", "service", "--attribute", "x"], &["--attribute", "NAME=VALUE"]),
        (&["keys", "show", "nobody"], &["there is no key", "nobody"]),
        (&["keys", "rotate", "nobody"], &["there is no key", "nobody"]),
        (&["tenants", "delete", "default"], &["default"]),
    ] {
        check_failure(&mut with_data(data, arguments), 2, words);
    }
    let config = super::write(data, "tramontane.toml", "ephemeral = true\n");
    check_failure(&mut tramontane(&["keys", "list", "--config", &config]), 2, &["ephemeral"]);
    let file = data.join("file");
    std::fs::write(&file, "").unwrap();
    check_failure(&mut with_data(&file, &["keys", "list"]), 1, &["file"]);
}

#[test]
fn without_a_key_only_this_machine_is_let_in() {
    let (directory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let serve = ["serve", model.path().to_str().unwrap(), "--bind", "0.0.0.0:0"];
    let refused = ["bind = 0.0.0.0:0", "tramontane keys create", "insecure_open"];
    check_failure(&mut with_data(directory.path(), &serve), 2, &refused);
    check_failure(&mut tramontane(&serve), 2, &refused);
    let server = serve::Server::start(model.path(), &["--bind", "0.0.0.0:0", "--insecure-open"]);
    assert!(server.get("/v1/models").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_running_server_knows_what_the_command_line_changes() {
    let (directory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let data = directory.path();
    let server = serve::Server::start(model.path(), &["--ephemeral=off", "--data-dir", data.to_str().unwrap()]);
    assert!(server.get("/v1/models").starts_with("HTTP/1.1 200"), "there are no keys yet");
    let secret = succeeds(data, &["keys", "create", "app", "--role", "developer"]);
    let secret = secret.trim_end();
    assert!(server.get("/v1/models").starts_with("HTTP/1.1 401"));
    assert!(server.get_as(secret, "/v1/models").starts_with("HTTP/1.1 200"));
    let health = |key: Option<&str>| {
        let mut command = tramontane(&["health", "--bind", &server.address]);
        run(command.envs(key.map(|key| ("TRAMONTANE_API_KEY", key))))
    };
    assert_eq!(health(Some(secret)).out, "ready\n");
    let without = health(None);
    assert!(without.code == 1 && without.err.contains("TRAMONTANE_API_KEY"), "{}", without.err);
    succeeds(data, &["keys", "revoke", "app"]);
    assert!(server.get_as(secret, "/v1/models").starts_with("HTTP/1.1 401"), "revoked is refused at once");
    assert!(server.get("/v1/models").starts_with("HTTP/1.1 401"), "nor does the server open again");
}
