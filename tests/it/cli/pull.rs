//! `tramontane pull` against a hub on the loopback interface.

use std::{fs, path::Path, process::Command};

use super::{
    check_failure,
    hub::{COMMIT, Faults, MockHub, REPOSITORY, TOKEN},
    run, tramontane,
};

fn pull(hub: &MockHub, home: &Path, arguments: &[&str]) -> Command {
    let mut command = tramontane(&["pull", REPOSITORY]);
    command.args(arguments).env("HF_HOME", home).env("HF_ENDPOINT", &hub.endpoint);
    command
}

fn repository(home: &Path) -> std::path::PathBuf {
    home.join("hub/models--owner--model")
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn fetches_what_a_checkpoint_needs_and_nothing_twice() {
    let (hub, home) = (MockHub::start(Faults::default()), tempfile::tempdir().unwrap());
    let ran = run(&mut pull(&hub, home.path(), &[]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let snapshot = repository(home.path()).join("snapshots").join(COMMIT);
    assert_eq!(ran.out, format!("{}\n", snapshot.display()));
    assert_eq!(names(&snapshot), ["config.json", "model.safetensors", "tokenizer.model.v3"]);
    for name in names(&snapshot) {
        let expected = &hub.files().iter().find(|file| file.name == name).unwrap().content;
        assert_eq!(&fs::read(snapshot.join(&name)).unwrap(), expected, "{name}");
    }
    assert_eq!(fs::read_to_string(repository(home.path()).join("refs/main")).unwrap(), COMMIT);

    hub.take_large_requests();
    let requests = hub.hub_requests();
    let again = run(&mut pull(&hub, home.path(), &[]));
    assert_eq!((again.code, again.out), (0, ran.out));
    assert_eq!(hub.hub_requests(), requests + 1, "only the listing is asked for again");
    assert_eq!(hub.take_large_requests(), []);
}

#[test]
fn native_layout_on_demand() {
    let (hub, home) = (MockHub::start(Faults::default()), tempfile::tempdir().unwrap());
    let ran = run(&mut pull(&hub, home.path(), &["--native"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let snapshot = repository(home.path()).join("snapshots").join(COMMIT);
    assert_eq!(names(&snapshot), ["config.json", "consolidated.safetensors", "tokenizer.model.v3"]);
}

#[test]
fn goes_on_where_it_was_cut_off() {
    let cut = Faults { cut_after: Some(1_500), ..Faults::default() };
    let (hub, home) = (MockHub::start(cut), tempfile::tempdir().unwrap());
    // Four attempts of 1,500 bytes are enough for the tokenizer's 3,000, not for the model's 10,000.
    check_failure(&mut pull(&hub, home.path(), &[]), 1, &["model.safetensors", "4 attempts"]);
    assert!(!repository(home.path()).join("refs/main").exists(), "an incomplete checkpoint must not be found");

    hub.set(Faults::default());
    hub.take_large_requests();
    let ran = run(&mut pull(&hub, home.path(), &[]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ranges: Vec<String> = hub.take_large_requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=6000-"], "only the rest of the model is fetched");
}

#[test]
fn a_wrong_digest_deletes_the_file_and_names_it() {
    let corrupt = Faults { corrupt_large: true, ..Faults::default() };
    let (hub, home) = (MockHub::start(corrupt), tempfile::tempdir().unwrap());
    check_failure(&mut pull(&hub, home.path(), &[]), 1, &["tokenizer.model.v3", "sha256"]);
    let root = repository(home.path());
    assert_eq!(names(&root.join("snapshots").join(COMMIT)), ["config.json"], "unchecked files get no name");
    let blobs = names(&root.join("blobs"));
    assert_eq!(blobs.iter().filter(|name| !name.ends_with(".lock")).count(), 1, "config.json's only: {blobs:?}");
    assert!(!root.join("refs/main").exists());

    hub.set(Faults { corrupt_small: true, ..Faults::default() });
    let home = tempfile::tempdir().unwrap();
    check_failure(&mut pull(&hub, home.path(), &[]), 1, &["config.json", "git blob"]);
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    let (hub, home) = (MockHub::start(Faults::default()), tempfile::tempdir().unwrap());
    assert_eq!(run(&mut pull(&hub, home.path(), &[])).code, 0);
    let model = repository(home.path()).join("snapshots").join(COMMIT).join("model.safetensors");
    let good = fs::read(&model).unwrap();
    fs::write(fs::canonicalize(&model).unwrap(), b"damaged").unwrap();
    assert_eq!(run(&mut pull(&hub, home.path(), &[])).code, 0);
    assert_eq!(fs::read(&model).unwrap(), good);
}

#[test]
fn a_gated_repository_needs_the_token() {
    let gated = Faults { gated: true, ..Faults::default() };
    let (hub, home) = (MockHub::start(gated), tempfile::tempdir().unwrap());
    check_failure(&mut pull(&hub, home.path(), &[]), 1, &[REPOSITORY, "HF_TOKEN"]);
    check_failure(pull(&hub, home.path(), &[]).env("HF_TOKEN", "hf_wrong"), 1, &[REPOSITORY, "not accepted"]);
    let ran = run(pull(&hub, home.path(), &[]).env("HF_TOKEN", TOKEN).env("TRAMONTANE_LOG_LEVEL", "trace"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains(TOKEN), "the token was logged");
    assert!(!ran.err.contains("signature=secret"), "a signed address was logged");
    let file = home.path().join("my-token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    assert_eq!(run(pull(&hub, home.path(), &[]).env("HF_TOKEN_PATH", &file)).code, 0);
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let gated = Faults { gated: true, ..Faults::default() };
    let (hub, home) = (MockHub::start(gated), tempfile::tempdir().unwrap());
    assert_eq!(run(pull(&hub, home.path(), &[]).env("HF_TOKEN", TOKEN)).code, 0);
    let requests = hub.take_large_requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| !request.authorized), "{requests:?}");
}

#[test]
fn what_is_not_there_and_what_is_no_id() {
    let (hub, home) = (MockHub::start(Faults::default()), tempfile::tempdir().unwrap());
    let pull = |id: &str| {
        let mut command = tramontane(&["pull", id]);
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &hub.endpoint);
        command
    };
    check_failure(&mut pull("owner/other"), 1, &["owner/other", "no such model"]);
    check_failure(&mut pull("owner/model@v9"), 1, &["owner/model@v9", "revision"]);
    assert_eq!(run(&mut pull("model")).code, 2);
    assert_eq!(run(&mut pull("owner/model@../x")).code, 2);
    let ran = run(&mut pull(&format!("owner/model@{COMMIT}")));
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn offline_means_no_connection() {
    let (hub, home) = (MockHub::start(Faults::default()), tempfile::tempdir().unwrap());
    check_failure(&mut pull(&hub, home.path(), &["--offline"]), 2, &["offline"]);
    check_failure(pull(&hub, home.path(), &[]).env("HF_HUB_OFFLINE", "1"), 2, &["offline"]);
    check_failure(pull(&hub, home.path(), &[]).env("TRAMONTANE_OFFLINE", "true"), 2, &["offline"]);
    assert_eq!(hub.hub_requests(), 0);
}

#[test]
fn no_token_over_plain_http() {
    let mut command = tramontane(&["pull", REPOSITORY]);
    command.env("HF_ENDPOINT", "http://hub.example").env("HF_TOKEN", TOKEN);
    check_failure(&mut command, 2, &["HF_ENDPOINT", "https"]);
    let ran = run(&mut command);
    assert!(!ran.err.contains(TOKEN));
}

#[test]
fn nobody_there() {
    let home = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut command = tramontane(&["pull", REPOSITORY]);
    check_failure(command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &endpoint), 1, &[REPOSITORY, &endpoint]);
}
