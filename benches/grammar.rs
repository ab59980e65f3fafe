//! What a form costs per token: working out which ids may come next, at vocabularies of 32,768 and 131,072. The time is
//! hidden behind the model's as long as it is shorter. `cargo bench --bench grammar`

#![allow(missing_docs, reason = "a program")]

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod fixtures;

use std::time::{Duration, Instant};

use tramontane::prompt::{AnswerForm, ContentForm, ContentKind, json};

use fixtures::codec;

/// Walks of each answer, each as the first of a request: a lexer knows nothing of other requests.
const WALKS: usize = 20;

/// Schemas, and answers of their form.
const SAMPLES: [(&str, &str, &str); 4] = [
    (
        "person",
        r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
            "email": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["name", "age"], "additionalProperties": false}"#,
        r#"{"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["mathematics", "poetry", "engines"]}"#,
    ),
    (
        "any object",
        r#"{"type": "object"}"#,
        r#"{"title": "La tramontane vient de plus loin", "numbers": [1, 2.5, -3e7], "nested": {"a": {"b": [true, false, null]}}}"#,
    ),
    (
        "tree",
        r##"{"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"label": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["label"],
            "additionalProperties": false}}}"##,
        r#"{"label": "root", "children": [{"label": "left", "children": [{"label": "leaf"}]}, {"label": "right"}]}"#,
    ),
    (
        "choices",
        r#"{"type": "object", "properties": {"kind": {"enum": ["invoice", "receipt", "order", "letter", "other"]},
            "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            "amount": {"type": "number"}, "currency": {"enum": ["EUR", "USD", "CHF"]}},
            "required": ["kind", "date", "amount", "currency"], "additionalProperties": false}"#,
        r#"{"kind": "invoice", "date": "2026-11-27", "amount": 1299.95, "currency": "EUR"}"#,
    ),
];

fn main() {
    println!("| vocabulary | form | compile | sets | p50 | p90 | p99 | most |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for codec in [codec("v3-spm"), codec("v3-tekken")] {
        codec.prepare_constraints().expect("a vocabulary");
        let eos = codec.eos_id().expect("an end");
        for (name, schema, answer) in SAMPLES {
            let kind = ContentKind::Json { schema: json::Value::parse(schema).expect("a schema"), whitespace: None };
            let form = AnswerForm { content: Some(ContentForm { field: "form".to_owned(), kind }), calls: None };
            let began = Instant::now();
            let constraint = codec.constraint(&form, &[eos], &[]).expect("a form");
            let compile = began.elapsed();
            let ids = codec.encode_text(answer, false);
            let mut times: Vec<Duration> = Vec::new();
            for _ in 0..WALKS {
                let mut constraint = constraint.clone();
                for &id in &ids {
                    let began = Instant::now();
                    let allowed = constraint.allowed().expect("a set");
                    times.push(began.elapsed());
                    assert!(allowed.contains(id), "{name}: {answer}");
                    constraint.advance(id).expect("it is allowed");
                }
                assert!(constraint.allowed().expect("a set").contains(eos), "{name}: {answer}");
            }
            times.sort();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
            println!(
                "| {} | {name} | {:.1} ms | {} | {:.0} us | {:.0} us | {:.0} us | {:.0} us |",
                codec.vocab_size(),
                compile.as_secs_f64() * 1e3,
                times.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0),
            );
        }
    }
}
