//! Answers of a form from the model that comes with the repository, through the running server, at a temperature at which it
//! says anything.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::serve::{Server, answer};

/// Answers per schema: two thousand for the forty schemas.
const ANSWERS: usize = 50;
/// Choices of one request.
const CHOICES: usize = 25;

/// Schemas with the keywords of the JSON Schema test suite that llguidance knows, and such as applications send; each
/// bounds its answers, which the limit of tokens could cut off otherwise.
#[test]
fn two_thousand_answers_at_temperature_1_5_fulfil_their_schemas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/data/schemas/schemas.json")).unwrap();
    let schemas: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(schemas.len() * ANSWERS, 2000);
    let server = Server::start(&root.join("models/tiny"), &[]);
    let mut checked = 0;
    for (index, (name, schema)) in schemas.iter().enumerate() {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for round in 0..ANSWERS / CHOICES {
            let body = json!({
                "model": "tiny", "temperature": 1.5, "n": CHOICES, "seed": 1000 * index + 100 * round, "max_tokens": 1800,
                "messages": [{ "role": "user", "content": "Give me some data." }],
                "response_format": { "type": "json_schema", "json_schema": { "name": "data", "strict": true, "schema": schema } },
            });
            let answer = answer(server.post("/v1/chat/completions", &body.to_string()));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {body}"));
            for choice in body["choices"].as_array().unwrap() {
                let text = choice["message"]["content"].as_str().unwrap_or_default();
                assert_eq!(choice["finish_reason"], "stop", "{name}: {text}");
                let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
                if let Err(error) = validator.validate(&value) {
                    panic!("{name}: {error}: {text}");
                }
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 2000);
}
