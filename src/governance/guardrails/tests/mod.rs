//! Tests of guardrails as a whole.

mod classifier;
mod config;
mod input;
mod labelled;
mod numbers;
mod resolve;
mod stream;
mod worst_cases;

use std::{fs, ops::Range, path::PathBuf};

use super::{ActiveGuardrails, Guardrails, GuardrailsConfig, GuardrailsError};

fn compile(config: &str) -> Result<Guardrails, GuardrailsError> {
    let config: GuardrailsConfig = toml::from_str(config).unwrap();
    Guardrails::new(config, None)
}

/// The guardrails of a configuration in TOML, for a request that names nothing in particular.
fn active(config: &str) -> ActiveGuardrails {
    compile(config).unwrap().select("acme", "mistral-small", "/v1/chat/completions")
}

/// What is to be found, by the name of its detector.
type Labels = Vec<(String, Range<usize>)>;

/// Texts, and what is in them.
fn labelled_texts() -> Vec<(String, Labels)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/guardrails");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let lines = files.into_iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines
        .map(|line| read(serde_json::from_str::<serde_json::Value>(&line).unwrap()["text"].as_str().unwrap()))
        .collect()
}

fn read(marked: &str) -> (String, Labels) {
    let marked = marked.replace("~~", "");
    let (mut text, mut labels, mut rest) = (String::new(), Vec::new(), marked.as_str());
    while let Some((before, label)) = rest.split_once('⟦') {
        let (name, label) = label.split_once(':').unwrap();
        let (value, after) = label.split_once('⟧').unwrap();
        text.push_str(before);
        labels.push((name.to_owned(), text.len()..text.len() + value.len()));
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    (text, labels)
}
