//! The types of request fields. A schema says what is never taken; not everything that it allows is: what fields mean
//! together, and what depends on the model, is told by the refusal.

use serde_json::{Value, json};

use super::{admin, agents, responses, schema::words, whole_texts};
use crate::api::batches::ENDPOINTS;

/// Integers as the server reads them.
pub(super) const MOST: i64 = i64::MAX;

/// The schema of a field that is honoured, or a label.
///
/// # Panics
///
/// If there is none. A test asks for every field of every table.
pub(super) fn schema(resource: &str, field: &str) -> Value {
    admin::field(resource, field)
        .or_else(|| agents::field(resource, field))
        .or_else(|| responses::field(resource, field))
        .or_else(|| whole_texts::field(resource, field))
        .or_else(|| special(resource, field))
        .or_else(|| sampling(field))
        .or_else(|| conversation(field))
        .or_else(|| shape(field))
        .unwrap_or_else(|| panic!("{resource}: `{field}` has no schema in openapi/inputs.rs"))
}

/// Fields that mean something else to this resource than to others.
fn special(resource: &str, field: &str) -> Option<Value> {
    let schema = match (resource, field) {
        ("POST /v1/completions", "prompt") => json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 128 },
            token_ids(1),
            { "type": "array", "items": token_ids(1), "minItems": 1, "maxItems": 128 },
        ]}),
        ("POST /v1/completions", "logprobs") => integer_within(0, 20),
        ("POST /v1/completions", "max_tokens") => integer_within(0, MOST),
        ("POST /v1/chat/completions", "prompt_logprobs") => {
            json!({ "anyOf": [integer_within(0, 20), { "type": "boolean" }] })
        }
        ("POST /v1/files", "file") => json!({ "type": "string", "contentMediaType": "application/octet-stream" }),
        ("POST /v1/files", "purpose") => words(&["batch"]),
        ("POST /v1/files", "expires_after") | ("POST /v1/batches", "output_expires_after") => json!({
            "type": "object",
            "properties": { "anchor": { "const": "created_at" }, "seconds": integer_within(1, MOST) },
            "required": ["anchor", "seconds"],
            "additionalProperties": false,
        }),
        ("POST /v1/files", "expiry") => integer_within(1, MOST),
        ("POST /v1/batches" | "POST /v1/batch/jobs", "metadata") => json!({
            "type": "object",
            "maxProperties": 16,
            "additionalProperties": { "type": "string", "maxLength": 512 },
        }),
        _ => return None,
    };
    Some(schema)
}

/// How tokens are chosen, and when that ends.
fn sampling(field: &str) -> Option<Value> {
    let schema = match field {
        "temperature" => number_within(0.0, 2.0),
        "top_p" | "typical_p" => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
        "min_p" => number_within(0.0, 1.0),
        "top_k" => integer_within(-1, i64::from(u32::MAX)),
        "frequency_penalty" | "presence_penalty" => number_within(-2.0, 2.0),
        "repetition_penalty" => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 10 }),
        "seed" | "random_seed" | "priority" => json!({ "type": "integer" }),
        "n" | "best_of" => integer_within(1, 128),
        "max_tokens" | "max_completion_tokens" => integer_within(1, MOST),
        "min_tokens" => integer_within(0, MOST),
        "stop" => json!({ "anyOf": [
            { "type": "string", "minLength": 1, "maxLength": 1024 },
            { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 1024 }, "maxItems": 16 },
        ]}),
        "stop_token_ids" => token_ids(0),
        "allowed_token_ids" => token_ids(1),
        "logit_bias" => json!({ "type": "object", "additionalProperties": number_within(-100.0, 100.0) }),
        "bad_words" => json!({ "anyOf": [
            { "type": "string", "minLength": 1, "maxLength": 1024 },
            { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 1024 }, "maxItems": 128 },
        ]}),
        "truncate_prompt_tokens" => json!({ "type": "integer", "minimum": -1, "maximum": MOST, "not": { "const": 0 } }),
        "truncation_side" => words(&["left", "right"]),
        "cache_salt" => json!({ "type": "string", "minLength": 1, "maxLength": 1024 }),
        _ => return None,
    };
    Some(schema)
}

/// What is said, and what may be answered.
fn conversation(field: &str) -> Option<Value> {
    let schema = match field {
        "messages" => json!({ "type": "array", "items": message(), "minItems": 1 }),
        "tools" => json!({ "type": "array", "items": tool() }),
        "tool_choice" => json!({ "anyOf": [
            words(&["auto", "none", "required", "any"]),
            {
                "type": "object",
                "properties": { "type": { "const": "function" }, "function": {
                    "type": "object",
                    "properties": { "name": { "type": "string" } },
                    "required": ["name"],
                    "additionalProperties": false,
                } },
                "required": ["function"],
                "additionalProperties": false,
            },
        ]}),
        "prediction" => json!({
            "type": "object",
            "properties": {
                "type": { "const": "content" },
                "content": { "anyOf": [{ "type": "string" }, {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": { "type": { "const": "text" }, "text": { "type": "string" } },
                        "required": ["type", "text"],
                        "additionalProperties": false,
                    },
                }]},
            },
            "required": ["type", "content"],
        }),
        "response_format" => json!({
            "type": "object",
            "properties": {
                "type": words(&["text", "json_object", "json_schema"]),
                "json_schema": { "anyOf": [{ "type": "null" }, {
                    "type": "object",
                    "properties": { "schema": { "type": "object" } },
                    "required": ["schema"],
                }]},
            },
            "required": ["type"],
        }),
        "structured_outputs" => json!({
            "type": "object",
            "properties": {
                "json": { "type": ["object", "string", "null"] },
                "json_object": { "type": ["boolean", "null"] },
                "regex": { "type": ["string", "null"] },
                "choice": { "type": ["array", "null"], "items": { "type": "string" }, "minItems": 1, "maxItems": 1024 },
                "grammar": { "type": ["string", "null"] },
                "structural_tag": { "type": ["object", "string", "null"] },
                "whitespace_pattern": { "type": ["string", "null"] },
            },
        }),
        "reasoning_effort" => words(&["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        "prompt_mode" => words(&["reasoning"]),
        "prompt" | "suffix" => json!({ "type": "string" }),
        "tokens" => token_ids(0),
        "requests" => json!({
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": { "custom_id": { "type": ["string", "null"] }, "body": { "type": "object" } },
                "required": ["body"],
            },
        }),
        _ => return None,
    };
    Some(schema)
}

/// How the answer is given, and everything else.
fn shape(field: &str) -> Option<Value> {
    let schema = match field {
        "stream"
        | "logprobs"
        | "echo"
        | "add_special_tokens"
        | "return_token_strs"
        | "return_token_ids"
        | "return_tokens_as_token_ids"
        | "include_stop_str_in_output"
        | "ignore_eos"
        | "skip_special_tokens"
        | "continue_final_message"
        | "add_generation_prompt"
        | "include_reasoning"
        | "safe_prompt"
        | "parallel_tool_calls" => json!({ "type": "boolean" }),
        "top_logprobs" | "top_prompt_logprobs" => integer_within(0, 20),
        "prompt_logprobs" => json!({ "anyOf": [integer_within(0, 20), { "type": "boolean" }] }),
        "stream_options" => json!({
            "type": "object",
            "properties": {
                "include_usage": { "type": ["boolean", "null"] },
                "continuous_usage_stats": { "type": ["boolean", "null"] },
                "include_obfuscation": { "enum": [false, null] },
            },
        }),
        "metadata" => json!({ "type": "object" }),
        "model" | "user" | "safety_identifier" | "session_id" | "prompt_cache_key" | "input_file_id" => {
            json!({ "type": "string" })
        }
        "request_id" => json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
        "endpoint" => words(ENDPOINTS),
        "completion_window" => json!({ "const": "24h" }),
        "input_files" => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 100 }),
        "timeout_hours" => integer_within(1, 168),
        _ => return None,
    };
    Some(schema)
}

fn message() -> Value {
    let text_or_chunks = json!({ "type": ["string", "array", "null"], "items": {
        "type": "object",
        "properties": { "type": words(&["text", "thinking"]) },
        "required": ["type"],
    }});
    json!({
        "type": "object",
        "properties": {
            "role": words(&["system", "developer", "user", "assistant", "tool"]),
            "content": text_or_chunks,
            "prefix": { "type": ["boolean", "null"] },
            "tool_calls": { "type": ["array", "null"], "items": {
                "type": "object",
                "properties": { "function": {
                    "type": "object",
                    "properties": { "name": { "type": "string" }, "arguments": { "type": ["string", "object", "null"] } },
                    "required": ["name", "arguments"],
                } },
                "required": ["function"],
            }},
        },
        "required": ["role"],
    })
}

fn tool() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": { "const": "function" },
            "function": {
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "description": { "type": ["string", "null"] },
                    "parameters": { "type": ["object", "null"] },
                    "strict": { "type": ["boolean", "null"] },
                },
                "required": ["name"],
            },
        },
        "required": ["function"],
    })
}

pub(super) fn token_ids(least: usize) -> Value {
    json!({ "type": "array", "items": integer_within(0, i64::from(u32::MAX)), "minItems": least })
}

pub(super) fn integer_within(least: i64, most: i64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

pub(super) fn number_within(least: f64, most: f64) -> Value {
    json!({ "type": "number", "minimum": least, "maximum": most })
}
