//! Nothing leaves the machine: a server that has no network works, and one that could have it opens no connection. What a
//! configuration would lead to is told beforehand, and the sandbox holds the server to it.

mod everything;

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use self::everything::Everything;
use super::{
    checkpoint, hub, run,
    serve::{Server, answer},
    tramontane, write,
};

/// Set for a test that runs in a network namespace of its own.
const INSIDE: &str = "TRAMONTANE_TEST_INSIDE";
/// Whoever cannot have namespaces or trace programs says so by `egress` in this variable. CI does where a machine gives neither, and
/// says so at its end.
const MAY_SKIP: &str = "TRAMONTANE_TESTS_MAY_SKIP";

/// A test of what matters that much is not to be passed over in silence.
fn skip_or_fail(why: &str) {
    let may_skip = std::env::var(MAY_SKIP).is_ok_and(|tests| tests.split(',').any(|test| test == "egress"));
    assert!(may_skip, "{why}; to go on without these tests set {MAY_SKIP}=egress");
    eprintln!("SKIPPED: {why}");
}

fn model() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::write(directory.path());
    directory
}

/// A directory of policies, for a server that reads them again.
fn policies() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "all.cedar", "permit (principal, action, resource);");
    directory
}

/// Of everything that a server does, some.
fn traffic(server: &Server, model: &Path) {
    let name = model.file_name().unwrap().to_str().unwrap();
    let chat = |more: &str| {
        format!(r#"{{"model": "{name}", "messages": [{{"role": "user", "content": "Hi"}}], "max_tokens": 3{more}}}"#)
    };
    let ask = |path: &str, body: &str| answer(server.post(path, body));
    assert!(ask("/v1/chat/completions", &chat("")).starts_with("HTTP/1.1 200"));
    assert!(ask("/v1/chat/completions", &chat(r#", "stream": true"#)).contains("[DONE]"));
    let pictured = r#"{"type": "image_url", "image_url": {"url": "http://192.0.2.1/picture.png"}}"#;
    let refused = ask("/v1/chat/completions", &chat("").replace("\"Hi\"", &format!("[{pictured}]")));
    assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    let response = format!(r#"{{"model": "{name}", "input": "Hi", "max_output_tokens": 3}}"#);
    assert!(ask("/v1/responses", &response).starts_with("HTTP/1.1 200"));
    assert!(ask("/v1/embeddings", &format!(r#"{{"model": "{name}", "input": "Hi"}}"#)).starts_with("HTTP/1.1"));
    assert!(ask("/v1/chat/completions", "{").starts_with("HTTP/1.1 4"));
    for path in ["/v1/models", "/metrics", "/health/ready", "/version", "/v1/files", "/openapi.json"] {
        assert!(server.get(path).starts_with("HTTP/1.1 200"), "{path}");
    }
}

/// From start to end, with a signal to read everything again.
fn live(mut server: Server, model: &Path) {
    traffic(&server, model);
    server.hang_up("the guardrails were read again");
    traffic(&server, model);
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_server_without_a_network_works() {
    if std::env::var_os(INSIDE).is_none() {
        return within_loopback_only("cli::egress::a_server_without_a_network_works");
    }
    let outside = TcpStream::connect("192.0.2.1:9").unwrap_err();
    assert_eq!(outside.kind(), std::io::ErrorKind::NetworkUnreachable, "there is no way out");
    let (model, policies, data) = (model(), policies(), tempfile::tempdir().unwrap());
    let at = |directory: &tempfile::TempDir| directory.path().to_str().unwrap().to_owned();
    let arguments = ["--ephemeral=off", "--data-dir", &at(&data), "--policy-dir", &at(&policies)];
    live(Server::start(model.path(), &arguments), model.path());
    let everything = Everything::new();
    everything.live(everything.start(&["--sandbox", "auto"]));
}

/// Runs a test of this binary again where there is nothing but loopback.
fn within_loopback_only(test: &str) {
    let enter = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "sh", "-c", command]);
        unshare
    };
    if !enter("ip link set lo up").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip_or_fail(
            "this machine gives no network namespace to an unprivileged user, or has no `ip` (iproute2)",
        );
    }
    let mut again = enter("ip link set lo up && exec \"$0\" \"$@\"");
    again.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "yes");
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// The network calls of a server's whole life, and which files of names it opens; `None` where calls cannot be traced.
fn traced(server: &Command, act: impl FnOnce(Server)) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calls");
    let runs = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !runs.is_ok_and(|status| status.success()) {
        skip_or_fail("strace is not installed, or may not trace");
        return None;
    }
    let mut command = Command::new("strace");
    // With -D the tracer is a child, so that the server is ours: its id, signals and exit code.
    command.args(["-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=%network,openat", "-e", "signal=none", "-o"]);
    command.arg(&file).arg(server.get_program()).args(server.get_args());
    command.env_clear().envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    act(Server::of(&mut command));
    Some(fs::read_to_string(file).unwrap())
}

/// Those calls that reach out: connections but to sockets of this machine's own programs, datagrams, look-ups of names.
fn outbound(calls: &str) -> Vec<&str> {
    let reaches_out = |call: &&str| {
        let connects = call.contains("connect(") && !call.contains("sa_family=AF_UNIX");
        let sends =
            ["sendto(", "sendmsg(", "sendmmsg("].iter().any(|name| call.contains(name)) && call.contains("AF_INET");
        let datagrams = call.contains("socket(AF_INET") && !call.contains("SOCK_STREAM");
        let names = ["/etc/resolv.conf", "/etc/hosts", "htons(53)"].iter().any(|name| call.contains(name));
        connects || sends || datagrams || names
    };
    calls.lines().filter(reaches_out).collect()
}

#[test]
fn a_server_opens_no_connection() {
    let (model, policies) = (model(), policies());
    // Not even if nothing holds it back.
    let arguments = ["--sandbox", "off", "--policy-dir", policies.path().to_str().unwrap()];
    let calls = traced(&Server::command(model.path(), &arguments), |server| live(server, model.path()));
    check_silent(calls.as_deref());
}

/// One that has everything which could have a reason: TLS, issuers, an audit log with an anchor, work in the background. What
/// the sandbox refuses is seen by no tracer, so it is off.
#[test]
fn a_server_with_everything_on_opens_no_connection() {
    let everything = Everything::new();
    let command = everything.command(&["--sandbox", "off"]);
    check_silent(traced(&command, |server| everything.live(server)).as_deref());
}

/// Of calls that were traced, if they could be.
#[track_caller]
fn check_silent(calls: Option<&str>) {
    let Some(calls) = calls else { return };
    assert!(calls.contains("listen(") && calls.contains("accept4("), "what happens is traced:\n{calls}");
    assert_eq!(outbound(calls), [""; 0]);
    let sockets: Vec<&str> = calls.lines().filter(|call| call.contains("socket(AF_INET")).collect();
    assert_eq!(sockets.len(), 1, "one socket, which listens: {sockets:#?}");
}

/// The same test sees a connection where there is a reason for one.
#[test]
fn a_connection_that_is_configured_is_seen() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = identity_file(directory.path(), &format!("http://127.0.0.1:{port}/keys"));
    let arguments = ["--sandbox", "auto", "--identity-file", &file];
    let Some(calls) = traced(&Server::command(model.path(), &arguments), |mut server| {
        server.log_until("the issuer's keys cannot be read"); // nobody is there
        drop(server.stop());
    }) else {
        return;
    };
    let reached = outbound(&calls);
    assert!(reached.iter().any(|call| call.contains(&format!("htons({port})"))), "{reached:#?}");
}

/// Every way out is one that the tests would see.
#[test]
fn ways_out_are_told_from_what_a_server_does() {
    for line in [
        r#"7 connect(9, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16) = 0"#,
        r#"7 connect(9, {sa_family=AF_INET6, sin6_port=htons(443)}, 28) = -1 EACCES (Permission denied)"#,
        r#"7 sendto(9, "\0", 1, 0, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 1"#,
        r#"7 sendmsg(9, {msg_name={sa_family=AF_INET6, sin6_port=htons(9)}, msg_namelen=28}, 0) = 1"#,
        "7 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP) = 9",
        r#"7 openat(AT_FDCWD, "/etc/resolv.conf", O_RDONLY|O_CLOEXEC) = 9"#,
    ] {
        assert_eq!(outbound(line), [line]);
    }
    for line in [
        "7 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 9",
        "7 accept4(9, {sa_family=AF_INET, sin_port=htons(50000)}, [128 => 16], SOCK_CLOEXEC|SOCK_NONBLOCK) = 10",
        r#"7 sendto(10, "HTTP/1.1", 8, MSG_NOSIGNAL, NULL, 0) = 8"#,
        r#"7 connect(9, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT"#,
    ] {
        assert_eq!(outbound(line), [""; 0]);
    }
}

pub(super) fn identity_file(directory: &Path, url: &str) -> String {
    let text = format!(
        "[[issuer]]\nissuer = \"https://id.example.org\"\naudiences = [\"tramontane\"]\nalgorithms = [\"ES256\"]\n\
         keys.url = \"{url}\"\ntenant = \"default\"\n"
    );
    write(directory, "identity.toml", &text)
}

fn reasons(arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    let mut command = tramontane(&["doctor", "--egress", "--json"]);
    let ran = run(command.args(arguments).envs(variables.iter().copied()));
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn the_doctor_tells_every_reason_to_leave_the_machine() {
    let (directory, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path().to_str().unwrap();
    let addresses = |reasons: &Value| -> Vec<String> {
        reasons.as_array().unwrap().iter().map(|reason| reason["address"].as_str().unwrap().to_owned()).collect()
    };
    let proxy = ("HTTPS_PROXY", "http://me:secret@proxy.example.org:3128");
    assert_eq!(reasons(&["models/tiny"], &[proxy]), serde_json::json!([]));
    let none = run(&mut tramontane(&["doctor", "--egress"])).out;
    assert_eq!(none, "none: nothing in this configuration leaves the machine\n");

    let fetched = reasons(&[hub::REPOSITORY], &[("HF_HOME", home), ("HF_ENDPOINT", "https://hub.example.org"), proxy]);
    assert_eq!(addresses(&fetched), ["https://hub.example.org", "http://proxy.example.org:3128"]);
    assert_eq!(reasons(&[hub::REPOSITORY, "--offline"], &[("HF_HOME", home)]), serde_json::json!([]));

    let file = identity_file(directory.path(), "https://id.example.org:8443/keys?token=secret");
    let issuer = reasons(&["--identity-file", &file], &[]);
    let told = (addresses(&issuer), &issuer[0]["when"]);
    assert_eq!(told, (vec!["https://id.example.org:8443".to_owned()], &"serving".into()));
    // From the environment and the configuration file as well.
    assert_eq!(reasons(&[], &[("TRAMONTANE_IDENTITY_FILE", &file)]), issuer);
    let config = write(directory.path(), "tramontane.toml", &format!("identity_file = {file:?}\n"));
    assert_eq!(reasons(&["--config", &config], &[]), issuer);
}

/// Where the program was put alone, without the model that comes with it.
#[test]
fn the_doctor_needs_no_model_to_tell_the_rest() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = place.path().join("a/b/c/d/e/f");
    fs::create_dir_all(&directory).unwrap();
    let (program, file) = (directory.join("tramontane"), identity_file(place.path(), "https://id.example.org/keys"));
    fs::hard_link(env!("CARGO_BIN_EXE_tramontane"), &program)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_tramontane"), &program).map(drop))
        .unwrap();
    let egress = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", "/nonexistent").current_dir(&directory);
        run(command.args(["doctor", "--egress", "--identity-file", &file]).args(arguments))
    };
    let ran = egress(&[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("https://id.example.org: ") && ran.out.lines().count() == 1, "{}", ran.out);
    assert!(ran.err.contains("no model is configured"), "{}", ran.err);
    let listed: Value = serde_json::from_str(&egress(&["--json"]).out).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    // One that is named and is none is wrong.
    let wrong = egress(&["/nonexistent/model"]);
    assert!(wrong.code == 2 && wrong.err.contains("neither a directory nor a hub id"), "{}", wrong.err);
}
