//! The binary as a user runs it: exit codes, the layers of the configuration, and what reaches which stream.

mod audit;
mod bench;
mod checkpoint;
mod egress;
mod hub;
mod keys;
mod lock;
mod policy;
mod pooling;
mod pull;
mod sandbox;
mod secrets;
mod serve;
mod structured;
mod subjects;
mod terminal;
mod tiny;
mod tls;

use std::{
    path::Path,
    process::{Command, Output},
};

/// A command with nothing of this process's environment that could change what it does.
fn tramontane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tramontane"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    command.env("TRAMONTANE_EPHEMERAL", "on"); // what a test stores is nobody else's
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// A command of a data directory.
fn with_data(data: &Path, arguments: &[&str]) -> Command {
    let mut command = tramontane(arguments);
    command.env_remove("TRAMONTANE_EPHEMERAL").env("TRAMONTANE_DATA_DIR", data);
    command
}

/// What it prints, as it must end well.
#[track_caller]
fn succeeds(data: &Path, arguments: &[&str]) -> String {
    let ran = run(&mut with_data(data, arguments));
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    ran.out
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { code: status.code().expect("no signal ended it"), out: text(stdout), err: text(stderr) }
}

#[track_caller]
fn check_failure(command: &mut Command, code: i32, words: &[&str]) {
    let ran = run(command);
    assert_eq!(ran.code, code, "{}", ran.err);
    assert_eq!(ran.out, "");
    assert_eq!(ran.err.trim_end().lines().count(), 1, "one line: {}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        "log_level = \"warn\"\nlog_format = \"json\"\nmax_running = 7\nblock_size = 32\nbind = \"127.0.0.1:1\"\n";
    let file = write(directory.path(), "tramontane.toml", text);
    let mut command = tramontane(&["serve", "--config", &file, "--print-config", "--bind", "127.0.0.1:3"]);
    let ran = run(command.env("TRAMONTANE_BIND", "127.0.0.1:2").env("TRAMONTANE_BLOCK_SIZE", "64"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let line = |key: &str| {
        let line = ran.out.lines().find(|line| line.starts_with(&format!("{key} = "))).expect("every key is printed");
        line.replace(&file, "FILE").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("bind"), r#"bind = "127.0.0.1:3" # --bind"#);
    assert_eq!(line("block_size"), "block_size = 64 # TRAMONTANE_BLOCK_SIZE");
    assert_eq!(line("max_running"), "max_running = 7 # FILE");
    assert_eq!(line("max_waiting"), "max_waiting = 256 # default");
}

#[test]
fn offline_by_the_hubs_own_variable() {
    let offline = |command: &mut Command| {
        let out = run(command).out;
        out.lines().find(|line| line.starts_with("offline")).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let mut command = tramontane(&["serve", "--print-config", "--offline=off"]);
    assert_eq!(offline(&mut command), "offline = \"off\" # --offline");
    assert_eq!(offline(command.env("HF_HUB_OFFLINE", "1")), "offline = \"on\" # HF_HUB_OFFLINE");
}

#[test]
fn secrets_are_not_printed() {
    let mut command = tramontane(&["serve", "--print-config"]);
    let ran = run(command.env("HF_TOKEN", "hf_secret"));
    assert!(!ran.out.contains("hf_secret") && !ran.err.contains("hf_secret"));
}

#[test]
fn wrong_usage_is_code_2_and_one_line() {
    check_failure(
        tramontane(&["doctor", "--log-level", "loud"]).env_clear(),
        2,
        &["log_level", "loud", "--log-level", "debug"],
    );
    check_failure(
        tramontane(&["doctor"]).env("TRAMONTANE_LOG_FORMAT", "xml"),
        2,
        &["TRAMONTANE_LOG_FORMAT", "xml", "json"],
    );
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "tramontane.toml", "colour = 1\n");
    check_failure(&mut tramontane(&["doctor", "--config", &file]), 2, &[&file, "`colour`", "bind"]);
    check_failure(&mut tramontane(&["doctor", "--config", "missing.toml"]), 2, &["missing.toml", "No such file"]);
    let ran = run(&mut tramontane(&["dance"]));
    assert_eq!(ran.code, 2);
}

#[test]
fn help_and_version_are_code_0() {
    for arguments in [&["--help"][..], &["--version"], &["pull", "--help"]] {
        let ran = run(&mut tramontane(arguments));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn the_doctor_knows_this_machine() {
    let ran = run(&mut tramontane(&["doctor", "--json"]));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["threads"].as_u64().unwrap() >= 1);
    assert!(report["kernels"]["instructions"].is_string() && report["gpus"].is_array());
    let ran = run(&mut tramontane(&["doctor"]));
    assert!(ran.code == 0 && ran.out.contains("kernels"), "{}", ran.out);
}

#[test]
fn health_of_nobody() {
    // Bound and never accepted from: the port is ours, and nobody answers on it once it is closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    check_failure(&mut tramontane(&["health", "--bind", &address, "--log-format", "human"]), 1, &[&address]);
}

#[test]
fn errors_are_json_where_logs_are() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ran = run(&mut tramontane(&["health", "--bind", &format!("127.0.0.1:{port}")]));
    let line: serde_json::Value = serde_json::from_str(ran.err.trim_end()).unwrap();
    assert_eq!((ran.code, line["level"].as_str()), (1, Some("ERROR")));
}

#[test]
fn quantized_weights_are_kept_where_the_user_says() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "file", "");
    let cache = directory.path().join("cache");
    let answer = |cache: &Path| {
        let arguments = ["models/tiny", "-p", "Hello", "--max-tokens", "8", "--log-level", "info"];
        let mut command = tramontane(&["generate", "--quantize", "q4"]);
        let ran = run(command.args(arguments).env("TRAMONTANE_QUANTIZE_CACHE", cache));
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran
    };
    let wrote = answer(&cache);
    assert!(wrote.err.contains("written to their cache"), "{}", wrote.err);
    let read = answer(&cache);
    assert!(read.err.contains("read from their cache"), "{}", read.err);
    assert_eq!(read.out, wrote.out);
    let entry = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap();
    std::fs::write(entry.path(), "damaged").unwrap();
    let replaced = answer(&cache);
    assert!(replaced.err.contains("was replaced") && replaced.err.contains("WARN"), "{}", replaced.err);
    let warned = answer(Path::new(&file));
    assert!(warned.err.contains(&format!("cannot be written to {file}")), "{}", warned.err);
    assert_eq!((&replaced.out, &warned.out), (&wrote.out, &wrote.out));
    check_failure(&mut tramontane(&["serve", "--quantize-cache", "on"]), 2, &["quantize_cache", "without quantize"]);
}
