//! Mistral's agents and conversations.

use serde_json::{Value, json};

use super::{
    operations::{Answer, Operation, PAGE_NUMBER, PAGE_SIZE, Parameter, get, post},
    schema::{constant, flag, integer, list, null, object, or_null, reference, text, words},
};
use crate::api::fields::{AGENT_CHANGES, AGENT_COMPLETIONS, AGENTS, MISTRAL_RESTART};

const TAG: &str = "Agents";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "createAgent",
        tag: TAG,
        summary: "Makes an agent.",
        required: &["model", "name"],
        answer: Answer::Json("Agent"),
        ..post("/v1/agents", &AGENTS)
    },
    Operation {
        id: "listAgents",
        tag: TAG,
        summary: "Agents, newest first.",
        query: &[PAGE_NUMBER, PAGE_SIZE, DEPLOYED, SOURCES, NAME, SEARCH, ID, LABELS],
        answer: Answer::Json("AgentList"),
        ..get("/v1/agents")
    },
    Operation {
        id: "listAgentPages",
        tag: TAG,
        summary: "Agents, newest first, as pages that lead from one to the next.",
        query: &[
            PAGE_SIZE,
            Parameter { name: "page_token", schema: r#"{ "type": "string" }"#, note: "`next_page_token` of a page." },
            DEPLOYED,
            SOURCES,
            NAME,
            SEARCH,
            ID,
            LABELS,
        ],
        answer: Answer::Json("AgentPage"),
        ..get("/v1/agents/pages")
    },
    Operation {
        id: "completeWithAgent",
        tag: TAG,
        summary: "Answers a conversation as an agent.",
        required: &["agent_id", "messages"],
        answer: Answer::JsonOrEvents("ChatCompletion", "ChatCompletionEvent"),
        ..post("/v1/agents/completions", &AGENT_COMPLETIONS)
    },
    Operation {
        id: "getAgent",
        tag: TAG,
        summary: "An agent in its current version, or in another.",
        query: &[Parameter {
            name: "agent_version",
            schema: r#"{ "type": "string" }"#,
            note: "A number or an alias; the current version if absent.",
        }],
        answer: Answer::Json("Agent"),
        ..get("/v1/agents/{id}")
    },
    Operation {
        id: "changeAgent",
        tag: TAG,
        summary: "Makes a new version, which becomes the current one.",
        method: "patch",
        answer: Answer::Json("Agent"),
        ..post("/v1/agents/{id}", &AGENT_CHANGES)
    },
    Operation {
        id: "deleteAgent",
        tag: TAG,
        summary: "Deletes an agent with all its versions.",
        method: "delete",
        answer: Answer::Nothing,
        ..get("/v1/agents/{id}")
    },
    Operation {
        id: "setAgentVersion",
        tag: TAG,
        summary: "Makes another version the current one.",
        method: "patch",
        query: &[VERSION],
        answer: Answer::Json("Agent"),
        ..get("/v1/agents/{id}/version")
    },
    Operation {
        id: "listAgentVersions",
        tag: TAG,
        summary: "All versions, newest first.",
        query: &[PAGE_NUMBER, PAGE_SIZE],
        answer: Answer::Json("AgentList"),
        ..get("/v1/agents/{id}/versions")
    },
    Operation {
        id: "getAgentVersion",
        tag: TAG,
        summary: "One version, by its number or an alias.",
        answer: Answer::Json("Agent"),
        ..get("/v1/agents/{id}/versions/{version}")
    },
    Operation {
        id: "listAgentAliases",
        tag: TAG,
        summary: "All names of versions.",
        answer: Answer::Json("AgentAliasList"),
        ..get("/v1/agents/{id}/aliases")
    },
    Operation {
        id: "setAgentAlias",
        tag: TAG,
        summary: "Gives a version a name, or moves a name to it.",
        method: "put",
        query: &[ALIAS, VERSION],
        answer: Answer::Json("AgentAlias"),
        ..get("/v1/agents/{id}/aliases")
    },
    Operation {
        id: "deleteAgentAlias",
        tag: TAG,
        summary: "Takes a name away.",
        method: "delete",
        query: &[ALIAS],
        answer: Answer::Nothing,
        ..get("/v1/agents/{id}/aliases")
    },
    Operation {
        id: "getConversationHistory",
        tag: TAG,
        summary: "All entries of a conversation of Mistral's API.",
        answer: Answer::Json("ConversationHistory"),
        ..get("/v1/conversations/{id}/history")
    },
    Operation {
        id: "getConversationMessages",
        tag: TAG,
        summary: "The messages of a conversation of Mistral's API.",
        answer: Answer::Json("ConversationMessages"),
        ..get("/v1/conversations/{id}/messages")
    },
    Operation {
        id: "restartConversation",
        tag: TAG,
        summary: "A new conversation that goes on from an entry of this one (Mistral's API).",
        required: &["from_entry_id"],
        answer: Answer::JsonOrEvents("ConversationResponse", "ConversationEvent"),
        ..post("/v1/conversations/{id}/restart", &MISTRAL_RESTART)
    },
];

const DEPLOYED: Parameter =
    Parameter { name: "deployment_chat", schema: r#"{ "type": "boolean" }"#, note: "No agent is deployed to a chat." };
const SOURCES: Parameter = Parameter {
    name: "sources",
    schema: r#"{ "type": "array", "items": { "enum": ["api", "playground", "agent_builder_v1"] } }"#,
    note: "All agents here were made through the API.",
};
const NAME: Parameter =
    Parameter { name: "name", schema: r#"{ "type": "string" }"#, note: "Only agents of this name." };
const SEARCH: Parameter =
    Parameter { name: "search", schema: r#"{ "type": "string" }"#, note: "Only agents whose name has this in it." };
const ID: Parameter = Parameter { name: "id", schema: r#"{ "type": "string" }"#, note: "Only this agent." };
const LABELS: Parameter =
    Parameter { name: "metadata", schema: r#"{ "type": "string" }"#, note: "Only objects with these labels, as JSON." };
const VERSION: Parameter = Parameter {
    name: "version",
    schema: r#"{ "type": "integer", "minimum": 0, "maximum": 4294967296 }"#,
    note: "Its number.",
};
const ALIAS: Parameter = Parameter {
    name: "alias",
    schema: r#"{ "type": "string", "minLength": 1, "maxLength": 64 }"#,
    note: "Letters, digits, `-`, `_` and `.`, not digits alone.",
};

/// Types of fields that other resources do not have, or that mean something else here.
pub(super) fn field(resource: &str, field: &str) -> Option<Value> {
    let is_ours = resource.contains("/v1/agents") || resource.contains("(Mistral)") || resource.ends_with("/restart");
    if !is_ours {
        return None;
    }
    let schema = match field {
        "name" if resource.contains("/v1/agents") => json!({ "type": "string", "minLength": 1, "maxLength": 256 }),
        "name" => json!({ "type": "string", "maxLength": 256 }),
        "description" => json!({ "type": "string", "maxLength": 4096 }),
        "instructions" | "version_message" | "agent_id" | "from_entry_id" => text(),
        "agent_version" => json!({ "type": ["integer", "string"] }),
        "completion_args" => json!({ "type": "object" }),
        "handoffs" => list(text()),
        "tools" => list(json!({
            "type": "object",
            "properties": { "type": { "const": "function" }, "function": { "type": "object" } },
            "required": ["function"],
        })),
        "metadata" if !resource.contains("completions") => json!({ "type": "object" }),
        "inputs" => json!({ "anyOf": [text(), list(json!({ "type": "object" }))] }),
        "store" => flag(),
        "handoff_execution" => words(&["server", "client"]),
        _ => return None,
    };
    Some(schema)
}

/// Answers.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let maybe = or_null(text());
    let time = json!({ "type": "string", "format": "date-time" });
    let any_object = || json!({ "type": "object" });
    let agent = object(&[
        ("id", text()),
        ("object", constant("agent")),
        ("created_at", time.clone()),
        ("updated_at", time.clone()),
        ("version", integer()),
        ("versions", list(integer())),
        ("version_message", maybe.clone()),
        ("name", text()),
        ("description", maybe.clone()),
        ("model", text()),
        ("instructions", maybe.clone()),
        ("tools", list(any_object())),
        ("completion_args", any_object()),
        ("guardrails", null()),
        ("handoffs", or_null(list(text()))),
        ("metadata", or_null(any_object())),
        ("deployment_chat", json!({ "const": false })),
        ("source", constant("api")),
        ("owner_id", null()),
    ]);
    let alias = object(&[
        ("alias", text()),
        ("version", integer()),
        ("created_at", time.clone()),
        ("updated_at", time.clone()),
    ]);
    // What an entry has beside its type and its times is told by the type.
    let entry = json!({ "type": "object", "required": ["object", "type", "id", "created_at", "completed_at"] });
    let conversation = [
        ("object", constant("conversation")),
        ("id", text()),
        ("created_at", time.clone()),
        ("updated_at", time),
        ("name", maybe.clone()),
        ("description", maybe.clone()),
        ("metadata", or_null(any_object())),
    ];
    let of_model = [
        ("model", text()),
        ("instructions", maybe),
        ("tools", list(any_object())),
        ("completion_args", any_object()),
        ("guardrails", null()),
    ];
    let of_agent = [("agent_id", text()), ("agent_version", json!({ "type": ["integer", "string", "null"] }))];
    let usage = object(&[
        ("prompt_tokens", integer()),
        ("completion_tokens", integer()),
        ("total_tokens", integer()),
        ("connector_tokens", null()),
        ("connectors", null()),
    ]);
    let part_of_it = |name: &'static str, kind: &str| {
        object(&[("object", constant(kind)), ("conversation_id", text()), (name, list(reference("Entry")))])
    };
    vec![
        ("Agent", agent),
        ("AgentList", list(reference("Agent"))),
        (
            "AgentPage",
            object(&[
                ("object", constant("list")),
                ("data", list(reference("Agent"))),
                ("next_page_token", or_null(text())),
            ]),
        ),
        ("AgentAlias", alias),
        ("AgentAliasList", list(reference("AgentAlias"))),
        ("Entry", entry),
        (
            "MistralConversation",
            json!({ "anyOf": [
                object(&[&conversation[..], &of_model].concat()),
                object(&[&conversation[..], &of_agent].concat()),
            ]}),
        ),
        ("MistralConversationList", list(reference("MistralConversation"))),
        ("ConversationUsage", usage),
        ("ConversationHistory", part_of_it("entries", "conversation.history")),
        ("ConversationMessages", part_of_it("messages", "conversation.messages")),
        (
            "ConversationResponse",
            object(&[
                ("object", constant("conversation.response")),
                ("conversation_id", text()),
                ("outputs", list(reference("Entry"))),
                ("usage", reference("ConversationUsage")),
                ("guardrails", null()),
            ]),
        ),
    ]
}
