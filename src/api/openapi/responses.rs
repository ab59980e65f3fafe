//! OpenAI's responses and conversations.

use serde_json::{Value, json};

use super::{
    inputs::{MOST, integer_within},
    operations::{AFTER, Answer, Body, LIMIT, ORDER, Operation, PAGE_NUMBER, PAGE_SIZE, Parameter, get, post},
    schema::{constant, flag, integer, list, map_of, null, number, object, or_null, reference, text, words},
};
use crate::api::fields::{
    CONVERSATION, CONVERSATION_ITEMS, CONVERSATIONS, INPUT_TOKENS, MISTRAL_APPEND, MISTRAL_CONVERSATIONS, RESPONSES,
};

const TAG: &str = "Responses";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "createResponse",
        tag: TAG,
        summary: "Answers items, and what they continue; keeps both unless `store` is false.",
        answer: Answer::JsonOrEvents("Response", "ResponseEvent"),
        ..post("/v1/responses", &RESPONSES)
    },
    Operation {
        id: "countResponseInputTokens",
        tag: TAG,
        summary: "How many tokens the prompt of a response would have.",
        answer: Answer::Json("InputTokens"),
        ..post("/v1/responses/input_tokens", &INPUT_TOKENS)
    },
    Operation {
        id: "compactResponse",
        tag: TAG,
        summary: "Not served: `truncation` can be auto.",
        method: "post",
        answer: Answer::Never,
        ..get("/v1/responses/compact")
    },
    Operation {
        id: "getResponse",
        tag: TAG,
        summary: "A response as it is now, or the events of its stream.",
        query: &[
            INCLUDE,
            Parameter {
                name: "stream",
                schema: r#"{ "type": "boolean" }"#,
                note: "Follows a response that was created with `background` and `stream` true.",
            },
            Parameter {
                name: "starting_after",
                schema: r#"{ "type": "integer", "minimum": 0 }"#,
                note: "Only events after the one of this number; needs `stream`.",
            },
            Parameter {
                name: "include_obfuscation",
                schema: r#"{ "type": "boolean" }"#,
                note: "Of a stream, which has none.",
            },
        ],
        answer: Answer::JsonOrEvents("Response", "ResponseEvent"),
        ..get("/v1/responses/{id}")
    },
    Operation {
        id: "deleteResponse",
        tag: TAG,
        summary: "Deletes a response.",
        method: "delete",
        answer: Answer::Json("Deleted"),
        ..get("/v1/responses/{id}")
    },
    Operation {
        id: "cancelResponse",
        tag: TAG,
        summary: "A response in the background will not be answered.",
        method: "post",
        answer: Answer::Json("Response"),
        ..get("/v1/responses/{id}/cancel")
    },
    Operation {
        id: "listResponseInputItems",
        tag: TAG,
        summary: "What a response was asked with, newest first.",
        query: ITEM_LIST,
        answer: Answer::Json("ItemList"),
        ..get("/v1/responses/{id}/input_items")
    },
    Operation {
        id: "createConversation",
        tag: TAG,
        summary: "Begins a conversation: in OpenAI's API with items, in Mistral's with an answer.",
        body: Body::Either(&CONVERSATIONS, &MISTRAL_CONVERSATIONS),
        answer: Answer::EitherOrEvents("Conversation", "ConversationResponse", "ConversationEvent"),
        ..post("/v1/conversations", &CONVERSATIONS)
    },
    Operation {
        id: "listConversations",
        tag: TAG,
        summary: "Conversations of Mistral's API, newest first.",
        query: &[
            PAGE_NUMBER,
            PAGE_SIZE,
            Parameter {
                name: "metadata",
                schema: r#"{ "type": "string" }"#,
                note: "Only conversations with these labels, as JSON.",
            },
        ],
        answer: Answer::Json("MistralConversationList"),
        ..get("/v1/conversations")
    },
    Operation {
        id: "getConversation",
        tag: TAG,
        summary: "A conversation without its items.",
        answer: Answer::Either("Conversation", "MistralConversation"),
        ..get("/v1/conversations/{id}")
    },
    Operation {
        id: "updateConversation",
        tag: TAG,
        summary: "In OpenAI's API changes the labels of a conversation; in Mistral's goes on with it.",
        body: Body::Either(&CONVERSATION, &MISTRAL_APPEND),
        answer: Answer::EitherOrEvents("Conversation", "ConversationResponse", "ConversationEvent"),
        ..post("/v1/conversations/{id}", &CONVERSATION)
    },
    Operation {
        id: "deleteConversation",
        tag: TAG,
        summary: "Deletes a conversation with its items.",
        method: "delete",
        answer: Answer::JsonOrNothing("Deleted"),
        ..get("/v1/conversations/{id}")
    },
    Operation {
        id: "listConversationItems",
        tag: TAG,
        summary: "Items of a conversation, newest first.",
        query: ITEM_LIST,
        answer: Answer::Json("ItemList"),
        ..get("/v1/conversations/{id}/items")
    },
    Operation {
        id: "createConversationItems",
        tag: TAG,
        summary: "Adds items to a conversation.",
        query: &[INCLUDE],
        required: &["items"],
        answer: Answer::Json("ItemList"),
        ..post("/v1/conversations/{id}/items", &CONVERSATION_ITEMS)
    },
    Operation {
        id: "getConversationItem",
        tag: TAG,
        summary: "One item.",
        query: &[INCLUDE],
        answer: Answer::Json("Item"),
        ..get("/v1/conversations/{id}/items/{item}")
    },
    Operation {
        id: "deleteConversationItem",
        tag: TAG,
        summary: "Deletes one item; answers with the conversation.",
        method: "delete",
        answer: Answer::Json("Conversation"),
        ..get("/v1/conversations/{id}/items/{item}")
    },
];

const INCLUDE: Parameter = Parameter {
    name: "include",
    schema: r#"{ "type": "array", "items": { "const": "message.output_text.logprobs" } }"#,
    note: "They are there in any case.",
};

const ITEM_LIST: &[Parameter] = &[INCLUDE, LIMIT, AFTER, ORDER, PAGE_NUMBER, PAGE_SIZE];

/// Types of fields that other resources do not have, or that mean something else here.
pub(super) fn field(resource: &str, field: &str) -> Option<Value> {
    let ours = ["POST /v1/responses", "POST /v1/responses/input_tokens", "POST /v1/conversations"];
    let is_ours = ours.contains(&resource) || resource.starts_with("POST /v1/conversations/{id}");
    if !is_ours {
        return None;
    }
    let schema = match field {
        "input" => json!({ "anyOf": [{ "type": "string" }, list(json!({ "type": "object" }))] }),
        "items" => json!({ "type": "array", "items": { "type": "object" }, "maxItems": 20 }),
        "instructions" | "previous_response_id" => text(),
        "conversation" => json!({ "anyOf": [text(), {
            "type": "object",
            "properties": { "id": text() },
            "required": ["id"],
            "additionalProperties": false,
        }]}),
        "tools" => list(json!({
            "type": "object",
            "properties": {
                "type": { "const": "function" },
                "name": text(),
                "description": or_null(text()),
                "parameters": or_null(json!({ "type": "object" })),
                "strict": or_null(flag()),
            },
            "required": ["type", "name"],
        })),
        "tool_choice" => json!({ "anyOf": [
            words(&["auto", "none", "required"]),
            { "type": "object", "properties": { "type": words(&["function", "allowed_tools"]) }, "required": ["type"] },
        ]}),
        "text" => json!({ "type": "object", "properties": {
            "format": or_null(json!({ "type": "object" })),
            "verbosity": { "enum": ["medium", null] },
        }, "additionalProperties": { "type": "null" } }),
        "reasoning" => json!({ "type": "object" }),
        "truncation" => words(&["auto", "disabled"]),
        "store" | "background" => flag(),
        "max_output_tokens" | "max_tool_calls" => integer_within(1, MOST),
        "include" => list(constant("message.output_text.logprobs")),
        "stream_options" => json!({
            "type": "object",
            "properties": { "include_obfuscation": { "enum": [false, null] } },
            "additionalProperties": { "type": "null" },
        }),
        "metadata" => json!({
            "type": "object",
            "maxProperties": 16,
            "additionalProperties": { "type": "string", "maxLength": 512 },
        }),
        _ => return None,
    };
    Some(schema)
}

/// Answers.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let state = words(&["in_progress", "completed", "incomplete"]);
    let head = |kind: &str| [("id", text()), ("type", constant(kind)), ("status", state.clone())];
    let output_text = object(&[
        ("type", constant("output_text")),
        ("text", text()),
        ("annotations", list(json!({ "type": "object" }))),
        ("logprobs?", list(json!({ "type": "object", "required": ["token", "logprob", "bytes", "top_logprobs"] }))),
    ]);
    let part = json!({ "anyOf": [
        reference("OutputText"),
        object(&[("type", constant("input_text")), ("text", text())]),
        object(&[("type", constant("refusal")), ("refusal", text())]),
    ]});
    let message = [("role", words(&["user", "assistant", "system", "developer"])), ("content", list(part))];
    let reasoning = [("summary", list(json!({ "type": "object" }))), ("content?", list(reference("ReasoningText")))];
    let call = [("call_id", text()), ("name", text()), ("arguments", text())];
    let output = json!({ "anyOf": [text(), list(object(&[("type", text()), ("text", text())]))] });
    let result = [("call_id", text()), ("output", output)];
    let item = json!({ "anyOf": [
        object(&[&head("message")[..], &message].concat()),
        object(&[&head("reasoning")[..], &reasoning].concat()),
        object(&[&head("function_call")[..], &call].concat()),
        object(&[&head("function_call_output")[..], &result].concat()),
    ]});
    let usage = object(&[
        ("input_tokens", integer()),
        ("input_tokens_details", object(&[("cached_tokens", integer()), ("cache_write_tokens", integer())])),
        ("output_tokens", integer()),
        ("output_tokens_details", object(&[("reasoning_tokens", integer())])),
        ("total_tokens", integer()),
    ]);
    let error = object(&[
        ("code", words(&["rate_limit_exceeded", "invalid_prompt", "server_error"])),
        ("message", text()),
        ("param", or_null(text())),
    ]);
    let maybe = or_null(text());
    let any_object = || json!({ "type": "object" });
    let response = object(&[
        ("id", text()),
        ("object", constant("response")),
        ("created_at", integer()),
        ("status", words(&["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"])),
        ("completed_at", or_null(integer())),
        ("error", or_null(error)),
        ("incomplete_details", or_null(object(&[("reason", words(&["max_output_tokens", "content_filter"]))]))),
        ("output", list(reference("Item"))),
        ("model", text()),
        ("background", flag()),
        ("store", flag()),
        ("previous_response_id", maybe.clone()),
        ("conversation", or_null(object(&[("id", text())]))),
        ("temperature", number()),
        ("top_p", number()),
        ("service_tier", constant("default")),
        ("instructions", maybe.clone()),
        ("parallel_tool_calls", flag()),
        ("max_output_tokens", or_null(integer())),
        ("max_tool_calls", or_null(integer())),
        ("tools", list(any_object())),
        ("tool_choice", json!({ "anyOf": [text(), any_object()] })),
        ("text", object(&[("format", any_object()), ("verbosity", constant("medium"))])),
        ("reasoning", object(&[("effort", maybe.clone()), ("summary", null())])),
        ("top_logprobs", integer()),
        ("truncation", words(&["auto", "disabled"])),
        ("user", maybe.clone()),
        ("safety_identifier", maybe.clone()),
        ("prompt_cache_key", maybe.clone()),
        ("metadata", map_of(text())),
        ("usage", or_null(usage)),
    ]);
    vec![
        ("Response", response),
        ("Item", item),
        ("OutputText", output_text),
        ("ReasoningText", object(&[("type", constant("reasoning_text")), ("text", text())])),
        (
            "ItemList",
            object(&[
                ("object", constant("list")),
                ("data", list(reference("Item"))),
                ("first_id", maybe.clone()),
                ("last_id", maybe),
                ("has_more", flag()),
            ]),
        ),
        ("InputTokens", object(&[("object", constant("response.input_tokens")), ("input_tokens", integer())])),
        (
            "Conversation",
            object(&[
                ("id", text()),
                ("object", constant("conversation")),
                ("created_at", integer()),
                ("metadata", map_of(text())),
            ]),
        ),
    ]
}
