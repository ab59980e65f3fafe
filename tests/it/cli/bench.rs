//! `tramontane bench`: against its own server without a model, against the built-in model, and against servers
//! that misbehave.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
};

use serde_json::Value;
use tramontane::{
    bench::{Calibration, Prompts},
    prompt::{Codec, CodecOptions},
};

use super::{Ran, check_failure, run, serve::Server, tramontane};

/// `tramontane bench null-server`, ended with the value.
struct NullServer {
    process: Child,
    url: String,
}

impl NullServer {
    fn start(arguments: &[&str]) -> Self {
        let mut command = tramontane(&["bench", "null-server"]);
        let mut process = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned() }
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// From the body of a request to the whole response.
type Respond = fn(&str) -> String;

/// Answers every connection with what `respond` makes of the request's body, and closes it.
fn scripted(respond: Respond) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap(), respond));
        }
    });
    url
}

fn answer(mut stream: TcpStream, respond: Respond) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    // The client may have gone away: that is what some tests are about.
    let _ = stream.write_all(respond(std::str::from_utf8(&body).unwrap()).as_bytes());
}

fn status(line: &str, body: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn stream(events: &[&str]) -> String {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{body}")
}

/// Runs with a JSON report.
fn bench(url: &str, arguments: &[&str]) -> (Ran, Value) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let mut command = tramontane(&["bench", "serve", "--url", url, "--json", json.to_str().unwrap()]);
    let ran = run(command.args(arguments));
    let report = std::fs::read_to_string(json).unwrap_or("null".to_owned());
    (ran, serde_json::from_str(&report).unwrap())
}

#[test]
fn every_profile_makes_all_its_requests_and_times_every_token() {
    let server = NullServer::start(&["--pace", "1ms", "--ttft", "20ms"]);
    let profiles: [&[&str]; 4] = [
        &["--profile", "synchronous", "--requests", "5"],
        &["--profile", "concurrent", "--concurrency", "7", "--requests", "50"],
        &["--profile", "constant", "--rate", "100", "--requests", "50", "--endpoint", "chat"],
        &["--profile", "poisson", "--rate", "100", "--requests", "50"],
    ];
    for profile in profiles {
        let (ran, report) =
            bench(&server.url, &[profile, &["--input-tokens", "40..60", "--output-tokens", "9"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let requests: u64 =
            profile[profile.iter().position(|word| *word == "--requests").unwrap() + 1].parse().unwrap();
        let figures = &report["runs"][0];
        assert_eq!(figures["completed"], requests, "{figures}");
        assert_eq!(figures["failures"], serde_json::json!({}));
        assert_eq!(figures["tokens"]["output"], 9 * requests);
        assert_eq!(figures["itl_ms"]["count"], 8 * requests);
        assert_eq!(figures["tokens"]["input"], figures["tokens"]["asked_input"], "one token per word");
        // The server's pace is a lower bound, whatever else this machine does.
        assert!(figures["ttft_ms"]["min"].as_f64().unwrap() >= 20.0, "{figures}");
        assert!(figures["e2e_ms"]["min"].as_f64().unwrap() >= 28.0, "{figures}");
        assert_eq!(report["target"]["model"], "null");
        assert!(ran.out.contains("TTFT"), "{}", ran.out);
    }
}

/// The mistake that this must not make: a client that waits for the answer before it makes the next request sees a
/// server that can do one thing at a time as fast.
#[test]
fn a_slow_server_cannot_hide_its_queue() {
    let server = NullServer::start(&["--pace", "1ms", "--ttft", "100ms"]);
    let common = ["--requests", "20", "--output-tokens", "1", "--warmup", "0", "--profile", "constant", "--rate", "50"];
    // One at a time, of 100 ms each, due every 20 ms: the last one is due after 0.38 s and answered after 2 s.
    let (ran, report) = bench(&server.url, &[&common[..], &["--max-in-flight", "1"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let figures = &report["runs"][0];
    assert_eq!(figures["in_flight"]["peak"], 1);
    assert!(figures["ttft_ms"]["max"].as_f64().unwrap() >= 1600.0, "{figures}");
    assert!(figures["send_lag_ms"]["max"].as_f64().unwrap() >= 1500.0, "{figures}");
}

#[test]
fn a_sweep_reaches_from_idle_to_full() {
    let server = NullServer::start(&["--pace", "1ms", "--ttft", "10ms"]);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (html, csv) = (file("report.html"), file("report.csv"));
    let sweep = ["--profile", "sweep", "--concurrency", "4", "--points", "3", "--requests", "12"];
    let outputs = ["--html", &html, "--csv", &csv, "--output-tokens", "5", "--slo", "ttft=10s,tpot=1ns"];
    let (ran, report) = bench(&server.url, &[&sweep[..], &outputs[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let runs = report["runs"].as_array().unwrap();
    let profiles: Vec<&str> =
        runs.iter().map(|run| run["profile"].as_str().unwrap().split(' ').next().unwrap()).collect();
    assert_eq!(profiles, ["synchronous", "concurrent", "poisson", "poisson", "poisson"]);
    assert!(
        runs.iter().all(|run| run["failures"] == serde_json::json!({}) && run["goodput"]["share"] == 0.0),
        "{report}"
    );
    let csv = std::fs::read_to_string(csv).unwrap();
    let requests: BTreeSet<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap()).collect();
    // The full server gets at least five requests per client.
    assert_eq!(requests.len(), 12 + 20 + 3 * 12, "no prompt is used twice: a prefix cache would answer it");
    assert!(std::fs::read_to_string(html).unwrap().matches("<svg").count() >= 6);
}

#[test]
fn a_trace_is_replayed() {
    let server = NullServer::start(&["--pace", "1ms"]);
    let directory = tempfile::tempdir().unwrap();
    let rows = "{\"timestamp\": 500, \"input_length\": 30, \"output_length\": 3, \"hash_ids\": [1]}\n\
                {\"timestamp\": 900, \"prompt\": \"one two three\", \"output_length\": 4}\n";
    let trace = super::write(directory.path(), "trace.jsonl", rows);
    let (ran, report) = bench(&server.url, &["--profile", "replay", "--trace", &trace, "--speed", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let figures = &report["runs"][0];
    assert_eq!((&figures["completed"], &figures["tokens"]["output"]), (&2.into(), &7.into()));
    assert_eq!((&figures["tokens"]["input"], &figures["tokens"]["asked_input"]), (&33.into(), &30.into()));
    assert!(figures["duration_s"].as_f64().unwrap() >= 0.2);
}

#[test]
fn the_built_in_model_counts_as_it_was_asked_to() {
    let server = Server::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny"), &[]);
    for endpoint in ["completions", "chat"] {
        let arguments = ["--endpoint", endpoint, "--profile", "concurrent", "--concurrency", "3", "--requests", "6"];
        let lengths = ["--input-tokens", "100", "--output-tokens", "10", "--shared-prefix", "0.5"];
        let (ran, report) = bench(&format!("http://{}", server.address), &[&arguments[..], &lengths[..]].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let figures = &report["runs"][0];
        assert_eq!((&figures["completed"], &figures["tokens"]["output"]), (&6.into(), &60.into()), "{figures}");
        assert_eq!(figures["tokens"]["input"], 600, "{endpoint}: {}", report["calibration"]);
        // Of 100 tokens 50 are shared; blocks have 16.
        assert!(figures["tokens"]["cached"].as_u64().unwrap() >= 3 * 32, "{figures}");
    }
}

#[test]
fn words_of_prompts_are_one_token_each() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let codec = Codec::open(&root.join("models/tiny"), &CodecOptions::default()).unwrap();
    let text = Prompts::new(1, 0.0, Calibration::ASSUMED).text(0, 5000);
    assert_eq!(codec.encode_text(&text, false).len(), 5000);
}

#[test]
fn what_goes_wrong_is_counted_by_its_kind() {
    const GOOD: [&str; 3] = [
        r#"{"choices": [{"index": 0, "text": "a", "finish_reason": null}]}"#,
        r#"{"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}"#,
        "[DONE]",
    ];
    /// The first two requests, which ask for one token, are the calibration's.
    fn unless_short(body: &str, otherwise: String) -> String {
        if body.contains("\"max_tokens\":1,") { stream(&GOOD) } else { otherwise }
    }
    let cases: [(Respond, &str, &str); 6] = [
        (|body| unless_short(body, status("500 Internal Server Error", "boom")), "status", "500"),
        (|body| unless_short(body, status("429 Too Many Requests", "full")), "refused", "full"),
        (|body| unless_short(body, status("503 Service Unavailable", "loading")), "refused", "loading"),
        (|body| unless_short(body, stream(&GOOD[..1])), "stream", "ended before"),
        (
            |body| unless_short(body, stream(&["{\"error\": {\"message\": \"out of memory\"}}"])),
            "stream",
            "out of memory",
        ),
        (|body| unless_short(body, stream(&["no JSON"])), "stream", "not what the API says"),
    ];
    for (respond, kind, words) in cases {
        let (ran, report) = bench(&scripted(respond), &["--model", "m", "--requests", "3"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains("no request was answered"), "{}", ran.err);
        let figures = &report["runs"][0];
        let failure = &figures["failures"][kind];
        assert_eq!((&figures["completed"], &failure["count"]), (&0.into(), &3.into()), "{figures}");
        assert!(failure["example"].as_str().unwrap().contains(words), "{figures}");
    }
}

#[test]
fn a_server_that_does_not_count_is_counted_for() {
    let url = scripted(|_| {
        let piece = r#"{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}"#;
        stream(&[piece, piece, piece, "[DONE]"])
    });
    let (ran, report) = bench(&url, &["--model", "m", "--requests", "2", "--endpoint", "chat"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(report["calibration"]["measured"], false);
    let tokens = &report["runs"][0]["tokens"];
    assert_eq!((&tokens["output"], &tokens["uncounted_answers"]), (&6.into(), &2.into()));
    assert!(ran.out.contains("does not count"), "{}", ran.out);
}

#[test]
fn what_other_servers_write_is_understood() {
    let url = scripted(|body| {
        assert!(
            !body.contains("ignore_eos") && !body.contains("stream_options") && body.contains("\"top_k\":5"),
            "{body}"
        );
        stream(&[
            r#"{"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": ""}], "usage": null}"#,
            r#"{"choices": [{"delta": {"reasoning": "hm", "content": null}, "finish_reason": null}]}"#,
            r#"{"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}}]}"#,
            r#"{"choices": [{"delta": {}, "finish_reason": "stop"}]}"#,
            r#"{"choices": null, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}"#,
        ])
    });
    let fields = ["--stop-at-eos", "--extra-body", "{\"stream_options\": null, \"top_k\": 5}"];
    let (ran, report) =
        bench(&url, &[&["--model", "m", "--requests", "2", "--endpoint", "chat"][..], &fields[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let figures = &report["runs"][0];
    assert_eq!((&figures["completed"], &figures["itl_ms"]["count"]), (&2.into(), &2.into()), "{figures}");
    assert_eq!(figures["tokens"]["output"], 4);
}

#[test]
fn a_run_ends_by_time_too() {
    let server = NullServer::start(&["--pace", "1ms"]);
    let arguments = ["--profile", "constant", "--rate", "50", "--duration", "300ms", "--output-tokens", "2"];
    let (ran, report) = bench(&server.url, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(report["runs"][0]["completed"], 15, "due every 20 ms, from 0 on");
}

#[test]
fn a_slow_answer_times_out_and_the_others_count() {
    let server = NullServer::start(&["--pace", "1ms"]);
    let directory = tempfile::tempdir().unwrap();
    let rows = "{\"input_length\": 3, \"output_length\": 100000}\n{\"input_length\": 3, \"output_length\": 2}\n";
    let trace = super::write(directory.path(), "trace.jsonl", rows);
    let (ran, report) = bench(&server.url, &["--trace", &trace, "--timeout", "2s", "--warmup", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let figures = &report["runs"][0];
    assert_eq!((&figures["completed"], &figures["failures"]["timeout"]["count"]), (&1.into(), &1.into()), "{figures}");
}

#[test]
fn a_report_that_cannot_be_written_is_known_before_the_run() {
    let server = NullServer::start(&[]);
    let mut command = tramontane(&["bench", "serve", "--url", &server.url, "--html", "/nonexistent/report.html"]);
    check_failure(&mut command, 1, &["cannot write /nonexistent/report.html"]);
}

#[test]
fn a_server_that_never_answers_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut command = tramontane(&["bench", "serve", "--url", &url, "--model", "m", "--timeout", "200ms"]);
    check_failure(&mut command, 1, &["timeout", "200ms"]);
    drop(listener);
    let strict = scripted(|_| status("422 Unprocessable Content", "extra fields"));
    let mut command = tramontane(&["bench", "serve", "--url", &strict, "--model", "m"]);
    check_failure(&mut command, 1, &["422", "extra fields", "--stop-at-eos", "stream_options"]);
    let mut command = tramontane(&["bench", "serve", "--url", "http://127.0.0.1:1"]);
    check_failure(&mut command, 1, &["http://127.0.0.1:1", "refused"]);
}

#[test]
fn options_that_a_profile_does_not_use_are_refused() {
    let check = |arguments: &[&str], words: &[&str]| {
        check_failure(tramontane(&["bench", "serve"]).args(arguments), 2, words);
    };
    check(&["--rate", "3"], &["synchronous does not use --rate"]);
    check(&["--profile", "concurrent"], &["concurrent needs --concurrency"]);
    check(&["--profile", "poisson"], &["poisson needs --rate"]);
    check(&["--profile", "replay"], &["replay needs --trace"]);
    check(&["--profile", "poisson", "--rate", "1", "--points", "3"], &["poisson does not use --points"]);
    check(&["--max-in-flight", "3"], &["synchronous does not use --max-in-flight"]);
    for url in [
        "localhost:8000",
        "ftp://localhost",
        "http://user:secret@localhost",
        "http://localhost#x",
        "http://localhost?x",
    ] {
        check(&["--url", url, "--model", "m"], &[url, "http://127.0.0.1:8000"]);
    }
    check(&["--trace", "missing.jsonl"], &["missing.jsonl"]);
    for wrong in [
        &["--slo", "ttft=fast"][..],
        &["--slo", "latency=5s"],
        &["--shared-prefix", "1.5"],
        &["--rate", "0"],
        &["--input-tokens", "many"],
        &["--extra-body", "[1]"],
        &["--requests", "0"],
        &["--rate", "1e-20"],
        &["--duration", "100years"],
        &["--extra-body", "{\"max_tokens\": 3}"],
    ] {
        let ran = run(tramontane(&["bench", "serve"]).args(wrong));
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.err);
        assert!(ran.err.contains(wrong[0]) && ran.err.contains(wrong[1]), "{}", ran.err);
    }
}

#[test]
fn the_generators_own_cost_is_measured() {
    let ran = run(&mut tramontane(&["bench", "overhead", "--streams", "20", "--duration", "500ms", "--json"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let overhead: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(overhead["asked_tokens_per_s"], 10_000.0);
    assert_eq!((&overhead["sent_tokens"], &overhead["timed_pieces"]), (&5000.into(), &5000.into()), "{overhead}");
    assert_eq!(overhead["failed"], 0);
}

#[test]
fn quantizing_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let measure = |quantize: &str, arguments: &[&str]| {
        let json = directory.path().join("accuracy.json");
        let mut command = tramontane(&["bench", "accuracy", "models/tiny", "--quantize", quantize, "--threads", "2"]);
        command.args(["--sequences", "2", "--tokens", "150", "--json", json.to_str().unwrap()]).args(arguments);
        let ran = run(&mut command);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains(quantize) && ran.out.contains("same top token"), "{}", ran.out);
        let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        assert_eq!((&report["quantize"], &report["tokens"]), (&quantize.into(), &298.into()), "{report}");
        let figure = |name: &str| report[name].as_f64().unwrap();
        (figure("kl_mean"), figure("same_top_share"))
    };
    let (kl_8, same_8) = measure("q8", &[]);
    let (kl_4, _) = measure("q4", &[]);
    assert!(kl_8 > 0.0 && kl_8 < 0.01 && same_8 > 0.95, "q8: {kl_8} {same_8}");
    assert!(kl_4 > kl_8, "q4: {kl_4}, q8: {kl_8}");
    let (kl_of_text, _) = measure("q8", &["--text", "README.md"]);
    assert!(kl_of_text > 0.0 && kl_of_text != kl_8, "{kl_of_text}");
    let bench = |arguments: &[&str]| {
        let mut command = tramontane(&["bench", "accuracy", "models/tiny"]);
        command.args(arguments);
        command
    };
    check_failure(&mut bench(&[]), 2, &["--quantize"]);
    check_failure(&mut bench(&["--quantize", "q8", "--text", "LICENSE", "--tokens", "60000"]), 2, &["--tokens 60000"]);
    check_failure(
        &mut bench(&["--quantize", "q8", "--text", "deny.toml", "--tokens", "4000"]),
        2,
        &["deny.toml", "fewer"],
    );
    check_failure(&mut bench(&["--quantize", "q8", "--text", "missing.txt"]), 1, &["missing.txt"]);
    let ran = run(&mut bench(&["--quantize", "q8", "--text", "README.md", "--seed", "3"]));
    assert!(ran.code == 2 && ran.err.contains("--seed") && ran.err.contains("--text"), "{}", ran.err);
}

#[test]
fn the_model_is_measured_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let mut command = tramontane(&["bench", "engine", "models/tiny", "--json", json.to_str().unwrap()]);
    command.args(["--prefill", "7,600", "--batch", "1,3", "--context", "40", "--repeats", "3", "--threads", "2"]);
    let ran = run(&mut command);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("roofline"), "{}", ran.out);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["threads"], 2);
    let cases = report["cases"].as_array().unwrap();
    let shapes: Vec<_> = cases.iter().map(|case| (&case["phase"], &case["batch"], &case["context"])).collect();
    let (prefill, decode) = (Value::from("prefill"), Value::from("decode"));
    let counts: Vec<Value> = [1, 3, 7, 40, 600].map(Value::from).into();
    let [one, three, seven, forty, many] = &counts[..] else { unreachable!() };
    assert_eq!(shapes, [(&prefill, one, seven), (&prefill, one, many), (&decode, one, forty), (&decode, three, forty)]);
    for case in cases {
        let shares: f64 = case["op_shares"].as_array().unwrap().iter().map(|op| op["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{case}");
        assert!(case["of_roofline"].as_f64().unwrap() > 0.0 && case["median_ms"].as_f64() >= case["best_ms"].as_f64());
    }
    let quantized = ["--quantize", "q4", "--prefill", "40", "--batch", "1", "--context", "40", "--repeats", "1"];
    let ran = run(tramontane(&["bench", "engine", "models/tiny"]).args(quantized));
    assert!(ran.code == 0 && ran.out.contains("bf16 and q4"), "{} {}", ran.out, ran.err);
    let too_long = ["--prefill", "9", "--context", "4000", "--num-blocks", "10"];
    check_failure(tramontane(&["bench", "engine", "models/tiny"]).args(too_long), 2, &["--context 4000", "160 tokens"]);
    let too_much = ["--prefill", "9", "--batch", "64", "--context", "100", "--num-blocks", "10"];
    check_failure(
        tramontane(&["bench", "engine", "models/tiny"]).args(too_much),
        2,
        &["--batch 64", "--context 100", "have 10"],
    );
    let ran = run(&mut tramontane(&["bench", "engine", "models/tiny", "--prefill", "0"]));
    assert!(ran.code == 2 && ran.err.contains("--prefill"), "{}", ran.err);
}
