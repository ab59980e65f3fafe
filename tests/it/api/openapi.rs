//! `/openapi.json` beside the router, beside the tables of fields, and beside what the server answers.

use std::{collections::BTreeSet, fs, path::Path};

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tramontane::api::{
    fields::{self, Support},
    openapi,
};

use super::{
    fields::ask,
    support::{Answer, Harness, babbles, send},
};

/// A validator of one place of the document.
fn validator(mut document: Value, pointer: &str) -> jsonschema::Validator {
    let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
    let components = document["components"].take();
    let whole = json!({ "allOf": [schema], "components": components });
    jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{pointer}: {error}"))
}

/// The document with answers that may have no keys but those it names.
fn strict() -> Value {
    fn close(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(close);
                if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                    map.insert("additionalProperties".to_owned(), false.into());
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut document = openapi::document();
    close(&mut document["components"]);
    document
}

fn escaped(path: &str) -> String {
    path.replace('~', "~0").replace('/', "~1")
}

/// Fails unless the answer is one that the document describes.
fn check_answer(document: &Value, method: &str, path: &str, answer: &Answer) {
    let status = match answer.status {
        200 => "200",
        400..=499 => "4XX",
        _ => "5XX",
    };
    let pointer = format!("/paths/{}/{method}/responses/{status}/content/application~1json/schema", escaped(path));
    let errors: Vec<String> = validator(document.clone(), &pointer)
        .iter_errors(&answer.json())
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{method} {path}: {}\n{}", errors.join("\n"), answer.body);
}

/// Every route in the sources of the API, such as `get /v1/models`.
fn routes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            routes(&path, found);
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source");
        let source = source.split("#[cfg(test)]").next().expect("what is no test");
        for route in source.split(".route(").skip(1) {
            let (path, rest) = route.trim_start().trim_start_matches('"').split_once('"').expect("a path");
            let handlers = rest.split("\n        .").next().unwrap_or(rest).split(';').next().unwrap_or(rest);
            let handlers = handlers.split("\n}").next().unwrap_or(handlers);
            let path = path.replace("{*", "{");
            let has = |method: &&str| handlers.contains(&format!("{method}("));
            let methods: Vec<&str> = ["get", "post", "delete", "patch", "put"].into_iter().filter(has).collect();
            assert!(!methods.is_empty(), "{path}: {handlers}");
            found.extend(methods.into_iter().map(|method| format!("{method} {path}")));
        }
    }
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let mut found = BTreeSet::new();
    routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api"), &mut found);
    let document = openapi::document();
    let paths = document["paths"].as_object().expect("paths").iter();
    let documented: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().expect("methods").keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert_eq!(found, documented);
}

#[test]
fn names_of_operations_are_unique_and_references_lead_somewhere() {
    let document = openapi::document();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let methods = document["paths"].as_object().expect("paths").values().flat_map(|path| path.as_object().expect("it"));
    let ids: Vec<&str> = methods.map(|(_, method)| method["operationId"].as_str().expect("an id")).collect();
    let unique: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    assert!(!ids.contains(&""));
}

/// What the tables call accepted is in the schemas too, and the answer is as described.
#[tokio::test]
async fn samples_of_fields_fit_the_schemas_and_so_do_their_answers() {
    let harness = Harness::guessing(babbles());
    let (document, strict) = (openapi::document(), strict());
    for table in fields::ALL {
        let (method, path) = table.resource.split_once(' ').expect("a method and a path");
        let method = method.to_ascii_lowercase();
        let content = document.pointer(&format!("/paths/{}/{method}/requestBody/content", escaped(path)));
        let media_type = content.and_then(Value::as_object).and_then(|content| content.keys().next()).expect("a body");
        let pointer = format!("/paths/{}/{method}/requestBody/content/{}/schema", escaped(path), escaped(media_type));
        let mut schema = document.clone();
        // Samples are members without the rest of a body.
        *schema.pointer_mut(&format!("{pointer}/required")).expect("it is there") = json!([]);
        let validator = validator(schema, &pointer);
        for field in table.fields() {
            let accepted = match field.support {
                Support::Honoured { sample, .. } | Support::Label { sample, .. } => vec![sample.to_owned()],
                Support::Neutral { accepted, .. } => {
                    accepted.iter().map(|value| format!("\"{}\": {value}", field.name)).collect()
                }
            };
            for members in accepted {
                let body: Value = serde_json::from_str(&format!("{{{members}}}")).expect("JSON");
                if let Some(error) = validator.iter_errors(&body).next() {
                    panic!("{}: {members} does not fit: {error}", table.resource);
                }
                let answer = ask(&harness, table, &members).await;
                if !answer.body.starts_with("data: ") {
                    check_answer(&strict, &method, path, &answer);
                }
            }
        }
    }
}

/// Every refusal of the tables has one of the shapes of `Error`, and so has what no handler answers.
#[tokio::test]
async fn refusals_have_the_shape_that_the_document_says() {
    let harness = Harness::guessing(babbles());
    let document = strict();
    for table in fields::ALL {
        let (method, path) = table.resource.split_once(' ').expect("a method and a path");
        for field in table.fields() {
            let (Support::Honoured { refused, .. } | Support::Label { refused, .. } | Support::Neutral { refused, .. }) =
                field.support;
            let answer = ask(&harness, table, refused).await;
            check_answer(&document, &method.to_ascii_lowercase(), path, &answer);
        }
    }
}

#[tokio::test]
async fn every_operation_without_a_body_answers_as_described() {
    let harness = Harness::guessing(babbles());
    let document = strict();
    let file = harness.upload(b"{}").await;
    let id = |answer: Answer| answer.json()["id"].as_str().expect("an id").to_owned();
    let item = json!([{ "role": "user", "content": "Hello" }]);
    let conversation = id(harness.post("/v1/conversations", &json!({ "items": item })).await);
    let path = format!("/v1/conversations/{conversation}/items");
    let item = harness.post(&path, &json!({ "items": item })).await.json()["data"][0]["id"].clone();
    // In the background, as no other can be cancelled.
    let response = json!({ "input": "Hello", "background": true, "max_output_tokens": 1000 });
    let response = id(harness.post("/v1/responses", &response).await);
    let batch = json!({ "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h" });
    let batch = id(harness.post("/v1/batches", &batch).await);
    let paths = document["paths"].as_object().expect("paths");
    let mut last = Vec::new(); // what deletes comes at the end, parts before the whole
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            if operation.get("requestBody").is_some() || operation.pointer("/responses/200").is_none() {
                continue;
            }
            let id = match path.split('/').nth(2) {
                Some("batch" | "batches") => &batch,
                Some("responses") => &response,
                Some("conversations") => &conversation,
                _ => &file,
            };
            let url = path.replace("{id}", id).replace("{model}", "tiny");
            let url = url.replace("{item}", item.as_str().expect("an id"));
            let request = Request::builder().method(method.to_ascii_uppercase().as_str()).uri(url);
            let request = request.body(Body::empty()).expect("a request");
            if method == "delete" {
                last.push((path, method, request));
                continue;
            }
            let answer = send(harness.app(), request).await;
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
            if operation.pointer("/responses/200/content/application~1json").is_some() {
                check_answer(&document, method, path, &answer);
            }
        }
    }
    last.sort_by_key(|(path, ..)| std::cmp::Reverse(path.len()));
    for (path, method, request) in last {
        let answer = send(harness.app(), request).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        check_answer(&document, method, path, &answer);
    }
}

#[tokio::test]
async fn the_server_hands_out_its_document() {
    let answer = Harness::guessing(babbles()).get("/openapi.json").await;
    assert_eq!((answer.status, answer.json()), (200, openapi::document()));
}
