//! `generate`, `chat` and `inspect`: a model without a server.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Ran, check_failure, checkpoint, run, tramontane};
use crate::fixtures::huggingface_bytes;

fn model() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::write(directory.path());
    directory
}

fn with_input(command: &mut Command, input: &str) -> Ran {
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn generate_is_repeatable_and_reads_its_prompt_from_anywhere() {
    let model = model();
    let path = model.path().to_str().unwrap();
    let generate = |arguments: &[&str]| {
        let mut command = tramontane(&["generate", path, "--max-tokens", "12", "--seed", "7"]);
        command.args(arguments);
        command
    };
    let first = run(&mut generate(&["-p", "Hello"]));
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.out.ends_with('\n') && first.out.len() > 1, "{:?}", first.out);
    assert_eq!(run(&mut generate(&["-p", "Hello"])).out, first.out);
    assert_eq!(with_input(&mut generate(&[]), "Hello").out, first.out);
    assert_eq!(with_input(&mut generate(&["-p", "-"]), "Hello").out, first.out);
    for guessing in [&["--speculation", "off"][..], &["--draft-model", path]] {
        assert_eq!(run(generate(&["-p", "Hello"]).args(guessing)).out, first.out, "{guessing:?}");
    }
    assert_ne!(run(&mut generate(&["-p", "Hello", "--raw"])).out, first.out, "no chat format around it");
    check_failure(&mut generate(&["-p", "Hello", "--temperature", "9"]), 2, &["temperature", "9", "between 0 and 2"]);
}

#[test]
fn chat_over_a_pipe() {
    let model = model();
    let mut command = tramontane(&["chat", model.path().to_str().unwrap(), "--max-tokens", "6", "--temperature", "0"]);
    let ran = with_input(&mut command, "Hello\n\n/reset\n/nonsense\nHello\n/quit\nnever read\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("/nonsense is no command"), "{}", ran.err);
    let (first, second) = ran.out.split_at(ran.out.len() / 2);
    assert_eq!(first, second, "after /reset the same question has the same answer");
}

#[test]
fn an_answer_is_cut_off_and_the_chat_goes_on() {
    let model = model();
    let mut command = tramontane(&["chat", model.path().to_str().unwrap(), "--temperature", "0"]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = streams.spawn().unwrap();
    let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let interrupt =
        || assert!(Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap().success());
    for _ in 0..2 {
        input.write_all(b"Hello\n").unwrap();
        // An answer has begun that ends only where the context does.
        output.read_exact(&mut [0; 8]).unwrap();
        interrupt();
        let mut byte = [0];
        while byte != *b"\n" {
            output.read_exact(&mut byte).unwrap();
        }
    }
    input.write_all(b"/quit\n").unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn inspect_tells_who_formats_chats() {
    let model = model();
    let path = model.path();
    let chat_format = || {
        let report: Value =
            serde_json::from_str(&run(&mut tramontane(&["inspect", path.to_str().unwrap(), "--json"])).out).unwrap();
        let text = run(&mut tramontane(&["inspect", path.to_str().unwrap()])).out;
        let line = text.lines().find(|line| line.starts_with("chat format")).unwrap().to_owned();
        (report["tokenizer"]["chat_format"].clone(), line)
    };
    let check = |format: Value, words: &str| {
        let (found, line) = chat_format();
        assert_eq!(found, format);
        assert!(line.contains(words), "{line}");
    };
    check("native".into(), "that of the tokenizer's version");
    std::fs::remove_file(path.join("tekken.json")).unwrap();
    std::fs::write(path.join("tokenizer.json"), huggingface_bytes()).unwrap();
    check(Value::Null, "none: the checkpoint has no template");
    std::fs::write(path.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    check("jinja".into(), "Jinja template");
}

#[test]
fn inspect_tells_what_serving_takes() {
    let model = model();
    let path = model.path().to_str().unwrap();
    let ran = run(&mut tramontane(&["inspect", path, "--json"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["architecture"], "MistralForCausalLM");
    assert_eq!(report["parameters"], checkpoint::PARAMETERS);
    assert_eq!(report["memory"]["dtype"], "f32");
    assert_eq!(report["memory"]["weight_bytes"], 4 * checkpoint::PARAMETERS);
    assert_eq!(report["memory"]["kv_bytes_per_token"], 2 * 16 * 4);
    let weights = std::fs::read(model.path().join("model.safetensors")).unwrap();
    let digest: String = Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["digest"], digest);
    let half: Value =
        serde_json::from_str(&run(&mut tramontane(&["inspect", path, "--json", "--dtype", "bf16"])).out).unwrap();
    assert_eq!(half["memory"]["kv_bytes_per_token"], 2 * 16 * 2);
    let text = run(&mut tramontane(&["inspect", path])).out;
    assert!(text.contains(&digest) && text.contains("keys and values"), "{text}");
}
