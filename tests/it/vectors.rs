//! Every golden vector, token for token: what mistral-common 1.13.1 does, this crate must do.
//!
//! `TRAMONTANE_VECTORS_DIR` points the test at another directory of the same layout. All rows are
//! run; the first failures are printed with what was expected and what came out.

use std::fmt::Debug;

use tramontane::prompt::json::Value;
use tramontane::prompt::{ChatRequest, Codec, FimRequest, PromptError, SpecialTokens};

use crate::fixtures::{Codecs, Data, read};

/// How many failures are printed.
const SHOWN_FAILURES: usize = 20;

type Row = serde_json::Value;
type RowResult = Result<(), String>;
type RowCheck = fn(&Row, &Codecs) -> RowResult;

#[test]
fn vectors() {
    let data = Data::from_environment();
    let codecs = data.codecs();
    let checks: [(&str, RowCheck); 6] = [
        ("encode.jsonl", encode_row),
        ("decode.jsonl", decode_row),
        ("streaming.jsonl", streaming_row),
        ("chat.jsonl", chat_row),
        ("fim.jsonl", fim_row),
        ("invalid.jsonl", invalid_row),
    ];
    let mut failures = Vec::new();
    for (name, check) in checks {
        let text = String::from_utf8(read(&data.vectors.join(name))).expect("vectors are UTF-8");
        let mut n_rows = 0;
        let mut n_passed = 0;
        for line in text.lines() {
            let row: Row = serde_json::from_str(line).expect("a row is JSON");
            n_rows += 1;
            match check(&row, &codecs) {
                Ok(()) => n_passed += 1,
                Err(failure) => failures.push(format!("{}: {failure}", row["id"])),
            }
        }
        println!("{name}: {n_passed} of {n_rows} rows passed");
        assert!(n_rows > 0, "{name} has no rows");
    }
    for failure in failures.iter().take(SHOWN_FAILURES) {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} rows failed", failures.len());
}

fn encode_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer", codecs);
    let text = string(row, "text");
    let ids = codec.encode_text(text, false);
    same("ids", &ids_of(row, "ids"), &ids)?;
    same("control tokens", &0, &ids.iter().filter(|id| codec.is_control(**id)).count())?;
    same("decoded", string(row, "decoded"), codec.decode(&ids, SpecialTokens::Skip).as_str())
}

fn decode_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer", codecs);
    let ids = ids_of(row, "ids");
    same("ignore", string(row, "ignore"), codec.decode(&ids, SpecialTokens::Skip).as_str())?;
    same("keep", string(row, "keep"), codec.decode(&ids, SpecialTokens::Keep).as_str())?;
    same("raise", &row["raise"].as_bool(), &Some(ids.iter().any(|id| codec.is_control(*id))))
}

fn streaming_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer", codecs);
    let mut detokenizer = codec.detokenizer(SpecialTokens::Skip, &ids_of(row, "context_ids"));
    let chunks: Vec<String> = ids_of(row, "ids").into_iter().map(|id| detokenizer.push(id)).collect();
    let tail = detokenizer.finish();
    let expected: Vec<String> = serde_json::from_value(row["chunks"].clone()).expect("chunks");
    same("chunks", &expected, &chunks)?;
    same("tail", string(row, "tail"), tail.as_str())?;
    same("text", string(row, "expected_text"), (chunks.concat() + &tail).as_str())
}

fn chat_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer_version", codecs);
    let ids = encode_chat(codec, &request_text(row)).map_err(|error| format!("refused: {error}"))?;
    if ids == ids_of(row, "ids") {
        return Ok(());
    }
    same("text", string(row, "text"), codec.decode(&ids, SpecialTokens::Keep).as_str())?;
    same("ids", &ids_of(row, "ids"), &ids)
}

fn fim_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer_version", codecs);
    let ids = encode_fim(codec, &request_text(row)).map_err(|error| format!("refused: {error}"))?;
    same("ids", &ids_of(row, "ids"), &ids)
}

fn invalid_row(row: &Row, codecs: &Codecs) -> RowResult {
    let codec = codec_of(row, "tokenizer_version", codecs);
    let encoded = match string(row, "kind") {
        "chat" => encode_chat(codec, &request_text(row)),
        "fim" => encode_fim(codec, &request_text(row)),
        other => return Err(format!("unknown kind {other}")),
    };
    let must_accept = match (string(row, "class"), string(row, "scenario")) {
        ("must_reject" | "crash", _) => false,
        // One constructor of the library accepts a result without an id where ids are not written;
        // OpenAI clients send `tool_choice: null` for the default.
        ("lenient", "result_id_missing" | "tool_choice_null") => true,
        // Sampling limits are the API layer's decision; the prompt does not depend on them.
        ("params", _) => true,
        (class, scenario) => return Err(format!("no decision for class {class}, scenario {scenario}")),
    };
    match encoded {
        Ok(_) if must_accept => Ok(()),
        Ok(ids) => Err(format!("accepted, expected {:?}; got {ids:?}", row["error_message"])),
        Err(error) if must_accept => Err(format!("refused: {error}")),
        Err(error) if error.field().is_some() => Ok(()),
        Err(error) => Err(format!("the error names no field: {error}")),
    }
}

/// What the server does with a body: parse it once, read what the prompt needs, encode.
fn encode_chat(codec: &Codec, body: &str) -> Result<Vec<u32>, PromptError> {
    codec.encode_chat(&ChatRequest::from_json(&Value::parse(body)?)?)
}

fn encode_fim(codec: &Codec, body: &str) -> Result<Vec<u32>, PromptError> {
    let request = FimRequest::from_json(&Value::parse(body)?)?;
    codec.encode_fim(&request.prompt, request.suffix.as_deref())
}

/// The exact body where the row has it: number spelling and duplicate keys matter.
fn request_text(row: &Row) -> String {
    match row["request_json"].as_str() {
        Some(text) => text.to_owned(),
        None => row["request"].to_string(),
    }
}

fn codec_of<'a>(row: &Row, key: &str, codecs: &'a Codecs) -> &'a Codec {
    let name = string(row, key);
    codecs.get(name).unwrap_or_else(|| panic!("no tokenizer {name} in index.json"))
}

fn string<'a>(row: &'a Row, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{}: no string {key}", row["id"]))
}

fn ids_of(row: &Row, key: &str) -> Vec<u32> {
    serde_json::from_value(row[key].clone()).unwrap_or_else(|error| panic!("{}: {key}: {error}", row["id"]))
}

fn same<T: PartialEq + Debug + ?Sized>(what: &str, expected: &T, got: &T) -> RowResult {
    if expected == got {
        return Ok(());
    }
    Err(format!("{what}\n  expected {expected:?}\n       got {got:?}"))
}
