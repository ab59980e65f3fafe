//! `GET /openapi.json`: the whole interface as one OpenAPI 3.1 document (<https://spec.openapis.org/oas/v3.1.0>).
//!
//! It is made of what the server itself goes by: the `operations`, which a test compares with the router, and the tables
//! of [`fields`](super::fields), which every body is read against; `inputs` adds the types of fields and `answers` those
//! of answers, and tests hold both against what the server takes and gives. Nothing else knows of this module.

mod admin;
mod agents;
mod answers;
mod inputs;
mod operations;
mod responses;
mod schema;
mod streams;
mod whole_texts;

use std::sync::OnceLock;

use axum::{
    body::Bytes,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use self::operations::{Answer, Body, Operation, Parameter};
use super::fields::{Field, Support, Table};

/// The document.
pub(super) async fn get() -> Response {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string().into());
    ([(CONTENT_TYPE, "application/json")], text.clone()).into_response()
}

/// The path of each operation. A test compares them with the router's.
pub(super) fn paths() -> Vec<&'static str> {
    operations::all().map(|operation| operation.path).collect()
}

/// The document as JSON.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tramontane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Open-weight Mistral models on your own hardware, through OpenAI's API and Mistral's.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": answers::schemas() },
    })
}

fn describe(operation: &Operation) -> Value {
    let mut description = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": {
            "4XX": refusal("What is wrong with the request, and what would be right."),
            "5XX": refusal("Not the request's fault."),
        },
    });
    if let Some(content) = content(&operation.answer) {
        let answer = json!({ "description": "The answer.", "content": content, "links": links(operation) });
        description["responses"]["200"] = answer;
    }
    if matches!(operation.answer, Answer::Nothing | Answer::JsonOrNothing(_)) {
        description["responses"]["204"] = json!({ "description": "It is done." });
    }
    for response in description["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        response["headers"] = model_headers();
    }
    let parameters: Vec<Value> =
        path_parameters(operation.path).chain(operation.query.iter().map(query_parameter)).collect();
    if !parameters.is_empty() {
        description["parameters"] = parameters.into();
    }
    let required = operation.required;
    let body = match operation.body {
        Body::None => None,
        Body::Json(table) => Some(("application/json", body_schema(table, required))),
        Body::Either(one, other) => {
            let schemas = [body_schema(one, required), body_schema(other, required)];
            Some(("application/json", json!({ "anyOf": schemas })))
        }
        Body::Form(table) => Some(("multipart/form-data", body_schema(table, required))),
    };
    if let Some((media_type, schema)) = body {
        description["requestBody"] = json!({ "required": true, "content": { media_type: { "schema": schema } } });
    }
    description
}

/// What every answer to whoever was let in says once the model is loaded.
fn model_headers() -> Value {
    let header = |note: &str| json!({ "description": note, "schema": { "type": "string" } });
    json!({
        "x-tramontane-model-digest": header("SHA-256 of the model's weights."),
        "x-tramontane-tokenizer-digest": header("SHA-256 of the tokenizer's file."),
        "x-tramontane-model-provenance": header("Were the model's files checked? signed, locked or unlocked."),
    })
}

fn refusal(description: &str) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema::reference("Error") } } })
}

/// What can be asked of the object that an operation makes.
fn links(maker: &Operation) -> Value {
    let of_object = |operation: &&Operation| {
        let rest = operation.path.strip_prefix(maker.path);
        maker.method == "post" && rest.is_some_and(|rest| rest == "/{id}" || rest.starts_with("/{id}/"))
    };
    let link = |operation: &Operation| {
        let link = json!({ "operationId": operation.id, "parameters": { "id": "$response.body#/id" } });
        (operation.id.to_owned(), link)
    };
    Value::Object(operations::all().filter(of_object).map(link).collect())
}

fn content(answer: &Answer) -> Option<Value> {
    let content = match answer {
        Answer::Json(name) => json!({ "application/json": { "schema": schema::reference(name) } }),
        Answer::JsonOrEvents(name, events) => json!({
            "application/json": { "schema": schema::reference(name) },
            "text/event-stream": { "schema": schema::reference(events) },
        }),
        Answer::JsonOrNothing(name) => json!({ "application/json": { "schema": schema::reference(name) } }),
        Answer::Either(one, other) => json!({ "application/json": { "schema": either(one, other) } }),
        Answer::EitherOrEvents(one, other, events) => json!({
            "application/json": { "schema": either(one, other) },
            "text/event-stream": { "schema": schema::reference(events) },
        }),
        Answer::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Answer::Bytes => json!({ "application/octet-stream": {} }),
        Answer::Nothing | Answer::Never => return None,
    };
    Some(content)
}

fn either(one: &str, other: &str) -> Value {
    json!({ "anyOf": [schema::reference(one), schema::reference(other)] })
}

/// `{id}` of a path template.
fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(
        |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }),
    )
}

fn query_parameter(parameter: &Parameter) -> Value {
    let schema: Value = serde_json::from_str(parameter.schema).expect("a test reads them all");
    json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.note,
        "allowEmptyValue": true,
        "schema": schema,
    })
}

/// A body by its table. Null is as good as absent, so it is allowed wherever a field may be absent.
fn body_schema(table: &Table, required: &[&str]) -> Value {
    let properties = table.fields().map(|field| {
        let mut schema = field_schema(table, field);
        if !required.contains(&field.name) {
            schema = schema::or_null(schema);
        }
        schema["description"] = field.note.into();
        (field.name.to_owned(), schema)
    });
    let properties: Map<String, Value> = properties.collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn field_schema(table: &Table, field: &Field) -> Value {
    match field.support {
        Support::Honoured { .. } | Support::Label { .. } => inputs::schema(table.resource, field.name),
        // Only what asks for nothing.
        Support::Neutral { accepted, .. } => {
            let value = |text: &&str| serde_json::from_str::<Value>(text).expect("the tests of fields read them all");
            let values: Vec<Value> = accepted.iter().map(value).collect();
            if values.is_empty() { json!({ "type": "null" }) } else { json!({ "enum": values }) }
        }
    }
}
