//! The rows of Mistral's agents.

use super::{Field, Table, honoured, neutral};

/// `POST /v1/agents`.
pub static AGENTS: Table = Table { resource: "POST /v1/agents", groups: &[DEFINITION, VERSION] };

/// `PATCH /v1/agents/{id}`.
pub static AGENT_CHANGES: Table = Table {
    resource: "PATCH /v1/agents/{id}",
    groups: &[
        DEFINITION,
        VERSION,
        &[neutral(
            "deployment_chat",
            &["false"],
            r#""deployment_chat": true"#,
            "There is no chat to deploy agents to.",
        )],
    ],
};

/// Who answers, where an agent is asked for a completion.
pub(super) const ASKED: &[Field] = &[
    honoured(
        "agent_id",
        r#""agent_id": "ag_abc123""#,
        r#""agent_id": "ag_unknown""#,
        "The agent; its instructions stand before the messages, its tools before the request's, and its arguments hold \
         where the request says nothing.",
    ),
    neutral("model", &[], r#""model": "tiny""#, "It is the agent's."),
];

/// What Mistral allows of a chat's arguments, each with the meaning that it has there.
pub(super) const COMPLETION_ARGS: Field = honoured(
    "completion_args",
    r#""completion_args": {"temperature": 0.5, "max_tokens": 20, "stop": ["a"], "random_seed": 1}"#,
    r#""completion_args": {"temperature": 9}"#,
    "`stop`, `presence_penalty`, `frequency_penalty`, `temperature`, `top_p`, `max_tokens`, `random_seed`, `prediction`, \
     `response_format`, `tool_choice` and `reasoning_effort`, checked as chats are.",
);

/// The functions that are offered.
pub(super) const TOOLS: Field = honoured(
    "tools",
    r#""tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]"#,
    r#""tools": [{"type": "web_search"}]"#,
    "Functions only: the server runs no tools.",
);

/// What the model is told before anything else.
pub(super) const INSTRUCTIONS: Field = honoured(
    "instructions",
    r#""instructions": "Be brief.""#,
    r#""instructions": 1"#,
    "Stand as a system message before the conversation.",
);

/// Moderation.
pub(super) const GUARDRAILS: Field =
    neutral("guardrails", &["[]"], r#""guardrails": [{"block_on_error": true}]"#, "There is no moderation model.");

/// Labels of any JSON.
pub(super) const METADATA: Field = honoured(
    "metadata",
    r#""metadata": {"a": "b", "c": 1}"#,
    r#""metadata": []"#,
    "Kept and given back: up to 64 members, 16 KiB as JSON.",
);

const DEFINITION: &[Field] = &[
    honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; any other answers 404."),
    honoured("name", r#""name": "Ann""#, r#""name": """#, "1 to 256 characters."),
    INSTRUCTIONS,
    honoured("description", r#""description": "Rolls dice.""#, r#""description": 1"#, "Up to 4096 characters."),
    TOOLS,
    COMPLETION_ARGS,
    GUARDRAILS,
    honoured(
        "handoffs",
        r#""handoffs": ["ag_abc123"]"#,
        r#""handoffs": ["ag_unknown"]"#,
        "Up to 32 agents that this one can hand a conversation over to.",
    ),
    METADATA,
];

const VERSION: &[Field] = &[honoured(
    "version_message",
    r#""version_message": "First.""#,
    r#""version_message": 1"#,
    "What is new in this version: up to 4096 characters.",
)];
