//! `/openapi.json` beside the router, beside the tables of fields, and beside what the server answers.

use std::{collections::BTreeSet, fs, path::Path};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use tramontane::api::{
    fields::{self, Support, Table},
    openapi,
};

use super::{
    admin::admin_key,
    fields::{ask, fitting, harnesses},
    support::{Answer, Harness, babbles, send},
};

/// A validator of one place of the document.
pub(super) fn validator(mut document: Value, pointer: &str) -> jsonschema::Validator {
    let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
    let components = document["components"].take();
    let whole = json!({ "allOf": [schema], "components": components });
    jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{pointer}: {error}"))
}

/// The document with answers that may have no keys but those it names.
pub(super) fn strict() -> Value {
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

/// Method and path of a table, and where the schema of its body is: of two dialects that share a path, Mistral's is the
/// second.
fn place_of(document: &Value, table: &Table) -> (String, &'static str, String) {
    let (method, path) = table.resource.split_once(' ').expect("a method and a path");
    let (method, path) = (method.to_ascii_lowercase(), path.trim_end_matches(" (Mistral)"));
    let content = format!("/paths/{}/{method}/requestBody/content", escaped(path));
    let media_type = document.pointer(&content).and_then(|content| content.as_object()?.keys().next()).expect("a body");
    let mut pointer = format!("{content}/{}/schema", escaped(media_type));
    if document.pointer(&format!("{pointer}/anyOf")).is_some() {
        pointer += if table.resource.ends_with("(Mistral)") { "/anyOf/1" } else { "/anyOf/0" };
    }
    (method, path, pointer)
}

/// What the tables call accepted is in the schemas too, and the answer is as described.
#[tokio::test]
async fn samples_of_fields_fit_the_schemas_and_so_do_their_answers() {
    let harnesses = harnesses();
    let (document, strict) = (openapi::document(), strict());
    for table in fields::ALL {
        let harness = fitting(&harnesses, table);
        let (method, path, pointer) = place_of(&document, table);
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
                let answer = ask(harness, table, &members).await;
                if !answer.body.starts_with("data: ") && !answer.body.starts_with("event: ") {
                    check_answer(&strict, &method, path, &answer);
                }
            }
        }
    }
}

/// Every refusal of the tables has one of the shapes of `Error`.
#[tokio::test]
async fn refusals_have_the_shape_that_the_document_says() {
    let harnesses = harnesses();
    let document = strict();
    for table in fields::ALL {
        let harness = fitting(&harnesses, table);
        let (method, path, _) = place_of(&document, table);
        for field in table.fields() {
            let (Support::Honoured { refused, .. } | Support::Label { refused, .. } | Support::Neutral { refused, .. }) =
                field.support;
            check_answer(&document, &method, path, &ask(harness, table, refused).await);
        }
    }
}

/// Objects that paths without a body of their own are asked for.
struct Objects {
    file: String,
    batch: String,
    response: String,
    conversation: String,
    item: String,
    mistral_conversation: String,
    agent: String,
    key: String,
}

impl Objects {
    async fn new(harness: &Harness) -> Self {
        let id = |answer: Answer| answer.json()["id"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
        let file = harness.upload(b"{}").await;
        let batch = json!({ "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h" });
        let items = json!({ "items": [{ "role": "user", "content": "Hello" }] });
        let conversation = id(harness.post("/v1/conversations", &items).await);
        let added = harness.post(&format!("/v1/conversations/{conversation}/items"), &items).await.json();
        // In the background, as no other can be cancelled.
        let response = json!({ "input": "Hello", "background": true, "max_output_tokens": 2000 });
        let inputs = json!({ "model": "tiny", "inputs": "Hello", "completion_args": { "max_tokens": 2 } });
        let talk = harness.post("/v1/conversations", &inputs).await.json();
        let agent = json!({ "model": "tiny", "name": "Ann" });
        Self {
            batch: id(harness.post("/v1/batches", &batch).await),
            file,
            response: id(harness.post("/v1/responses", &response).await),
            conversation,
            item: added["data"][0]["id"].as_str().expect("an id").to_owned(),
            mistral_conversation: talk["conversation_id"].as_str().expect("an id").to_owned(),
            agent: id(harness.post("/v1/agents", &agent).await),
            key: admin_key(harness).await,
        }
    }

    /// A path with the ids of objects, and what its query needs.
    fn fill_in(&self, path: &str, operation: &Value) -> String {
        let id = match (path.split('/').nth(2), path.rsplit('/').next()) {
            (Some("batch" | "batches"), _) => &self.batch,
            (Some("responses"), _) => &self.response,
            (Some("agents"), _) => &self.agent,
            (Some("v1"), _) => &self.key, // of /admin/v1
            (Some("conversations"), Some("history" | "messages")) => &self.mistral_conversation,
            (Some("conversations"), _) => &self.conversation,
            _ => &self.file,
        };
        let path = path.replace("{id}", id).replace("{model}", "tiny").replace("{item}", &self.item);
        let path = path.replace("{name}", "acme");
        let needed = operation["parameters"].as_array().into_iter().flatten().filter_map(|parameter| {
            match parameter["name"].as_str() {
                Some("alias") => Some("alias=beta"),
                Some("model") if operation["operationId"] == "deleteQuota" => Some("model=another"),
                Some("subject") => Some("subject=ada"),
                Some("version") if parameter["in"] == "query" => Some("version=0"),
                _ => None,
            }
        });
        path.replace("{version}", "0") + "?" + &needed.collect::<Vec<_>>().join("&")
    }
}

#[tokio::test]
async fn every_operation_without_a_body_answers_as_described() {
    let harness = Harness::administered(babbles());
    let acme = harness.post("/admin/v1/tenants", &json!({ "name": "acme" })).await;
    assert_eq!(acme.status, 200, "{}", acme.body);
    let quota = json!({ "model": "another", "tokens_per_day": 1000 });
    assert_eq!(harness.ask(Method::PUT, "/admin/v1/quotas", &quota).await.status, 200);
    let document = strict();
    let objects = Objects::new(&harness).await;
    let paths = document["paths"].as_object().expect("paths").iter();
    let mut operations: Vec<(&String, &String, &Value)> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().expect("methods").iter().map(move |(it, what)| (path, it, what))
        })
        .filter(|(.., operation)| {
            let answers = |status: &str| operation["responses"].get(status).is_some();
            operation.get("requestBody").is_none() && (answers("200") || answers("204"))
        })
        .collect();
    // What deletes comes at the end, parts before the whole.
    operations.sort_by_key(|(path, method, _)| (*method == "delete", std::cmp::Reverse(path.len())));
    for (path, method, operation) in operations {
        let url = objects.fill_in(path, operation);
        let request = Request::builder().method(method.to_ascii_uppercase().as_str()).uri(url);
        let answer = send(harness.app(), request.body(Body::empty()).expect("a request")).await;
        let is_json = operation.pointer("/responses/200/content/application~1json").is_some();
        match answer.status {
            200 if is_json => check_answer(&document, method, path, &answer),
            200 => assert!(operation.pointer("/responses/200").is_some(), "{method} {path}"),
            204 => assert!(operation.pointer("/responses/204").is_some(), "{method} {path}"),
            // Nobody works on batches here, so this one does not end.
            409 if operation["operationId"] == "deleteBatchJob" => check_answer(&document, method, path, &answer),
            status => panic!("{method} {path}: {status} {}", answer.body),
        }
    }
}

#[tokio::test]
async fn the_server_hands_out_its_document() {
    let answer = Harness::guessing(babbles()).get("/openapi.json").await;
    assert_eq!((answer.status, answer.json()), (200, openapi::document()));
}
