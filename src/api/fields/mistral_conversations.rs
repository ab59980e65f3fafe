//! The rows of Mistral's conversations.

use super::{
    Field, Table,
    agents::{COMPLETION_ARGS, GUARDRAILS, INSTRUCTIONS, METADATA, TOOLS},
    honoured, neutral,
};

/// `POST /v1/conversations` as Mistral has it.
pub static MISTRAL_CONVERSATIONS: Table = Table {
    resource: "POST /v1/conversations (Mistral)",
    groups: &[
        BEGUN,
        ANSWER,
        &[
            INSTRUCTIONS,
            TOOLS,
            COMPLETION_ARGS,
            GUARDRAILS,
            honoured("name", r#""name": "A talk""#, r#""name": 1"#, "Up to 256 characters."),
            honoured("description", r#""description": "About.""#, r#""description": 1"#, "Up to 4096 characters."),
            METADATA,
        ],
    ],
};

/// `POST /v1/conversations/{id}` as Mistral has it.
pub static MISTRAL_APPEND: Table = Table {
    resource: "POST /v1/conversations/{id} (Mistral)",
    groups: &[
        ANSWER,
        &[
            COMPLETION_ARGS,
            neutral(
                "tool_confirmations",
                &["[]"],
                r#""tool_confirmations": [{"tool_call_id": "a", "confirmation": "allow"}]"#,
                "The server runs no tools that would have to be confirmed.",
            ),
        ],
    ],
};

/// `POST /v1/conversations/{id}/restart`.
pub static MISTRAL_RESTART: Table = Table {
    resource: "POST /v1/conversations/{id}/restart",
    groups: &[
        &[honoured(
            "from_entry_id",
            r#""from_entry_id": "msg_abc123""#,
            r#""from_entry_id": "msg_unknown""#,
            "The last entry of the old conversation that the new one has.",
        )],
        ANSWER,
        &[
            COMPLETION_ARGS,
            GUARDRAILS,
            METADATA,
            honoured(
                "agent_version",
                r#""agent_version": null"#,
                r#""agent_version": 99"#,
                "A number or an alias; the old conversation's if absent.",
            ),
        ],
    ],
};

const BEGUN: &[Field] = &[
    honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; or give `agent_id`."),
    honoured(
        "agent_id",
        r#""model": null, "agent_id": "ag_abc123""#,
        r#""model": null, "agent_id": "ag_unknown""#,
        "An agent, which has instructions and tools of its own.",
    ),
    honoured(
        "agent_version",
        r#""model": null, "agent_id": "ag_abc123", "agent_version": 0"#,
        r#""agent_version": 0"#,
        "A number or an alias; with `agent_id`. If absent, each answer is the current version's.",
    ),
];

const ANSWER: &[Field] = &[
    honoured(
        "inputs",
        r#""inputs": [{"type": "message.input", "role": "user", "content": "Hello"}]"#,
        r#""inputs": [{"type": "tool.execution", "name": "web_search", "arguments": "{}"}]"#,
        "A text of the user's, or entries: `message.input`, `message.output`, `function.call`, `function.result`, \
         `agent.handoff`.",
    ),
    honoured("stream", r#""stream": true"#, r#""stream": "yes""#, "Server-sent events with a type."),
    honoured("store", r#""store": false"#, r#""store": "no""#, "False keeps nothing of the request and its answer."),
    honoured(
        "handoff_execution",
        r#""handoff_execution": "client""#,
        r#""handoff_execution": "nobody""#,
        "`server` (the next agent answers at once) or `client` (it answers the next request).",
    ),
];
