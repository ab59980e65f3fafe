//! `tramontane serve` from start to stop.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{check_failure, checkpoint, hub, run, tramontane, write};

/// A server that logs JSON; killed when dropped.
pub(super) struct Server {
    process: Child,
    log: BufReader<std::process::ChildStderr>,
    seen: String,
    pub(super) address: String,
}

impl Server {
    /// Starts it and waits until it says that it is ready.
    pub(super) fn start(model: &Path, arguments: &[&str]) -> Server {
        Self::start_with(model, arguments, &[])
    }

    /// The same with some variables in its environment.
    fn start_with(model: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        Self::of(Self::command(model, arguments).envs(variables.iter().copied()))
    }

    /// What starts it, for a test that wraps it.
    pub(super) fn command(model: &Path, arguments: &[&str]) -> Command {
        Self::serving(tramontane(&["serve", model.to_str().unwrap()]), arguments)
    }

    /// Starts a command that serves.
    pub(super) fn start_as(command: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        Self::of(Self::serving(command, arguments).envs(variables.iter().copied()))
    }

    fn serving(mut command: Command, arguments: &[&str]) -> Command {
        if !arguments.contains(&"--bind") {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        command.args(arguments);
        command
    }

    /// Starts a command that ends in a server.
    pub(super) fn of(command: &mut Command) -> Server {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut server = Server { process, log, seen: String::new(), address: String::new() };
        server.address = server.log_until("ready")["address"].as_str().unwrap().to_owned();
        server
    }

    /// Reads log lines, each of them JSON, up to one that contains `text`.
    pub(super) fn log_until(&mut self, text: &str) -> Value {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            self.seen += &line;
            if value["message"].as_str().unwrap_or_default().contains(text) {
                return value;
            }
            line.clear();
        }
        panic!("the log ended before {text:?}");
    }

    pub(super) fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// What it answers to these bytes until it closes the connection.
    pub(super) fn request(&self, request: &str) -> String {
        answer(self.connect(request))
    }

    pub(super) fn get(&self, path: &str) -> String {
        answer(self.connect(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")))
    }

    /// The same with an API key.
    pub(super) fn get_as(&self, key: &str, path: &str) -> String {
        let head = format!("Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}");
        answer(self.connect(&format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n")))
    }

    pub(super) fn post(&self, path: &str, body: &str) -> TcpStream {
        let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        self.connect(&format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    pub(super) fn id(&self) -> String {
        self.process.id().to_string()
    }

    /// Has it stop; its exit code and everything that it has logged.
    pub(super) fn stop(mut self) -> (Option<i32>, String) {
        self.signal();
        self.log.read_to_string(&mut self.seen).unwrap();
        let code = self.process.wait().unwrap().code();
        (code, std::mem::take(&mut self.seen))
    }

    /// Has it read its files again; ends once it says so.
    pub(super) fn hang_up(&mut self, said: &str) {
        assert!(Command::new("kill").args(["-HUP", &self.id()]).status().unwrap().success());
        self.log_until(said);
    }

    /// Ends it as an operator does.
    pub(super) fn stop_well(self) {
        assert_eq!(self.stop().0, Some(0));
    }

    /// Ends it as the machine may at any time.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.id()]).status().unwrap().success());
    }

    fn exit_code(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Waits for the first event of a stream, by when its request is surely running.
fn begun(stream: TcpStream) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(stream);
    let mut text = String::new();
    while !text.contains("\ndata:") {
        assert!(stream.read_line(&mut text).unwrap() > 0, "the stream ended before its first event: {text}");
    }
    stream
}

/// Requests that run far longer than a signal takes; the last of them has begun.
fn long_answers(server: &Server, model: &Path) -> (Vec<TcpStream>, BufReader<TcpStream>) {
    let body = r#"{"model": "NAME", "stream": true, "max_tokens": 2000, "ignore_eos": true, "prompt": "Hello"}"#;
    let body = body.replace("NAME", model.file_name().unwrap().to_str().unwrap());
    let waiting = (0..7).map(|_| server.post("/v1/completions", &body)).collect();
    (waiting, begun(server.post("/v1/completions", &body)))
}

fn model() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::write(directory.path());
    directory
}

#[test]
fn serves_streams_and_stops() {
    let model = model();
    let server = Server::start(model.path(), &["--served-model-name", "small,alias", "--max-running", "4"]);
    assert!(server.get("/health/live").starts_with("HTTP/1.1 200"));
    assert!(server.get("/v1/models").contains("\"small\""));
    let healthy = run(&mut tramontane(&["health", "--bind", &server.address]));
    assert_eq!((healthy.code, healthy.out.as_str()), (0, "ready\n"));

    let body = r#"{"model": "alias", "stream": true, "max_tokens": 5, "ignore_eos": true,
                   "messages": [{"role": "user", "content": "Hello"}]}"#;
    let streamed = answer(server.post("/v1/chat/completions", body));
    assert!(streamed.contains("text/event-stream") && streamed.contains("data: [DONE]"), "{streamed}");

    server.signal();
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_running_request_is_finished_before_the_end() {
    let model = model();
    let mut server = Server::start(model.path(), &[]);
    let body = r#"{"model": "", "stream": true, "max_tokens": 400, "ignore_eos": true, "prompt": "Hello"}"#;
    let name = server.get("/v1/models");
    let name = name.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
    let mut stream = begun(server.post("/v1/completions", &body.replace("\"\"", &format!("\"{name}\""))));
    server.signal();
    server.log_until("stopping");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let model = model();
    let mut server = Server::start(model.path(), &["--drain-timeout", "1h"]);
    let _streams = long_answers(&server, model.path());
    server.signal();
    server.log_until("stopping");
    server.signal();
    assert_eq!(server.exit_code(), Some(130));
}

#[test]
fn requests_that_are_cut_are_a_failure() {
    let model = model();
    let mut server = Server::start(model.path(), &["--drain-timeout", "1ms"]);
    let _streams = long_answers(&server, model.path());
    server.signal();
    let message = server.log_until("drain_timeout")["message"].to_string();
    assert!(message.contains("1ms") && message.contains("cut"), "{message}");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn what_cannot_be_served_is_refused_before_the_port_opens() {
    let model = model();
    let path = model.path().to_str().unwrap();
    let serve = |arguments: &[&str]| {
        let mut command = tramontane(&["serve", path, "--bind", "127.0.0.1:0"]);
        command.args(arguments);
        command
    };
    check_failure(&mut serve(&["--max-model-len", "4096"]), 2, &["max_model_len = 4096", "2048"]);
    check_failure(&mut serve(&["--kv-cache-memory", "900TiB"]), 2, &["kv_cache_memory", "TiB"]);
    check_failure(&mut serve(&["--tokenizer", "missing/tekken.json"]), 1, &["missing/tekken.json"]);
    check_failure(&mut serve(&["--quantize", "q4"]), 1, &["cannot serve", "down_proj", "48 columns"]);
    let draft_model = ["--draft-model", "tests/data/golden/mistral-v03"];
    check_failure(&mut serve(&draft_model), 1, &["mistral-v03", "has a vocabulary of 512", path, "4096"]);
    check_failure(&mut serve(&["--draft-model", "missing/small"]), 1, &["draft_model", "missing/small"]);
    let config = model.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = text.replace("MistralForCausalLM", "GPT2LMHeadModel").replace("\"mistral\"", "\"gpt2\"");
    std::fs::write(&config, other).unwrap();
    check_failure(&mut serve(&[]), 1, &["architecture gpt2", "MistralForCausalLM"]);
    std::fs::write(&config, text.replace("\"hidden_size\":32", "\"hidden_size\":64")).unwrap();
    check_failure(&mut serve(&[]), 1, &["model.embed_tokens.weight", "[4096, 32]", "[4096, 64]"]);
}

const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XX\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"kept.jsonl\"\r\n\r\n{}\r\n--XX--\r\n";

fn upload(server: &Server) -> String {
    let head = "Host: localhost\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=XX";
    let length = FORM.len();
    answer(server.connect(&format!("POST /v1/files HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{FORM}")))
}

#[test]
fn what_is_stored_outlives_the_server_and_belongs_to_one() {
    let (model, data) = (model(), tempfile::tempdir().unwrap());
    let directory = data.path().join("data");
    let arguments = ["--ephemeral=off", "--data-dir", directory.to_str().unwrap()];
    let server = Server::start(model.path(), &arguments);
    assert!(upload(&server).starts_with("HTTP/1.1 200"));
    let mut second = tramontane(&["serve", model.path().to_str().unwrap(), "--bind", "127.0.0.1:0"]);
    check_failure(second.args(arguments), 1, &["data_dir", "in use", "ephemeral"]);
    server.signal();
    assert_eq!(server.exit_code(), Some(0));

    let server = Server::start(model.path(), &arguments);
    assert!(server.get("/v1/files").contains("kept.jsonl"));
    drop(server);
    let file = write(data.path(), "file", "");
    let mut command = tramontane(&["serve", model.path().to_str().unwrap(), "--bind", "127.0.0.1:0"]);
    check_failure(command.args(["--ephemeral=off", "--data-dir", &file]), 1, &["data_dir", &file]);
}

#[test]
fn an_ephemeral_server_leaves_nothing() {
    let (model, home) = (model(), tempfile::tempdir().unwrap());
    let home_path = home.path().to_str().unwrap();
    let at_home = [("HOME", home_path), ("TMPDIR", home_path)];
    let server = Server::start_with(model.path(), &["--ephemeral"], &at_home);
    assert!(upload(&server).starts_with("HTTP/1.1 200"));
    assert!(server.get("/v1/files").contains("kept.jsonl"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    server.signal();
    assert_eq!(server.exit_code(), Some(0));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    // And one that is not finds its place there.
    let server = Server::start_with(model.path(), &["--ephemeral=off"], &at_home);
    assert!(server.get("/v1/files").contains("\"data\":[]"));
    assert!(home.path().join(".local/share/tramontane/tramontane.sqlite").is_file());
}

#[test]
fn a_port_that_is_taken() {
    let (model, taken) = (model(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap().to_string();
    check_failure(&mut tramontane(&["serve", model.path().to_str().unwrap(), "--bind", &address]), 1, &[&address]);
}

#[test]
fn the_network_is_touched_only_for_a_hub_id_and_never_offline() {
    let (hub, home, model) = (hub::MockHub::start(Default::default()), tempfile::tempdir().unwrap(), model());
    let command = |arguments: &[&str]| {
        let mut command = tramontane(arguments);
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &hub.endpoint);
        command
    };
    let directory = model.path().to_str().unwrap();
    assert_eq!(run(&mut command(&["generate", directory, "-p", "Hello", "--max-tokens", "1"])).code, 0);
    check_failure(&mut command(&["serve", "missing/model/path"]), 2, &["missing/model/path", "neither"]);
    check_failure(&mut command(&["serve", hub::REPOSITORY, "--offline"]), 2, &[hub::REPOSITORY, "offline"]);
    check_failure(command(&["serve", hub::REPOSITORY]).env("HF_HUB_OFFLINE", "1"), 2, &["offline"]);
    check_failure(&mut command(&["inspect", hub::REPOSITORY]), 2, &["tramontane pull owner/model"]);
    assert_eq!(hub.hub_requests(), 0);
    // Named by the user and not offline: fetched. What this hub has is no model, which is told next.
    let ran = run(&mut command(&["serve", hub::REPOSITORY]));
    assert!(ran.code == 1 && ran.err.contains("config.json"), "{}", ran.err);
    assert!(hub.hub_requests() > 0);
}
