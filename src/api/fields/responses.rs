//! The rows of OpenAI's Responses and Conversations APIs.

use super::{Field, Table, honoured, label, neutral};

/// `POST /v1/responses`.
pub static RESPONSES: Table = Table { resource: "POST /v1/responses", groups: &[ASKED, ANSWER] };

/// `POST /v1/responses/input_tokens`.
pub static INPUT_TOKENS: Table = Table {
    resource: "POST /v1/responses/input_tokens",
    groups: &[ASKED, &[neutral("personality", &[], r#""personality": "friendly""#, "Write it into `instructions`.")]],
};

/// `POST /v1/conversations`.
pub static CONVERSATIONS: Table = Table { resource: "POST /v1/conversations", groups: &[ITEMS, METADATA] };

/// `POST /v1/conversations/{id}`.
pub static CONVERSATION: Table = Table { resource: "POST /v1/conversations/{id}", groups: &[METADATA] };

/// `POST /v1/conversations/{id}/items`.
pub static CONVERSATION_ITEMS: Table = Table { resource: "POST /v1/conversations/{id}/items", groups: &[ITEMS] };

const METADATA: &[Field] = &[honoured(
    "metadata",
    r#""metadata": {"a": "b"}"#,
    r#""metadata": {"a": 1}"#,
    "Kept and given back: up to 16 strings of at most 512 characters.",
)];

const ITEMS: &[Field] = &[honoured(
    "items",
    r#""items": [{"role": "user", "content": "Hello"}]"#,
    r#""items": [{"type": "web_search_call"}]"#,
    "Up to 20 items as in `input` of `/v1/responses`, without references.",
)];

/// What shapes the prompt and the form of the answer.
const ASKED: &[Field] = &[
    honoured(
        "input",
        r#""input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]"#,
        r#""input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]"#,
        "A text, or items: messages, `function_call`, `function_call_output`, `reasoning` with its text, \
         `item_reference` to anything stored.",
    ),
    honoured(
        "instructions",
        r#""instructions": "Be brief.""#,
        r#""instructions": 1"#,
        "The first system message. Not inherited by what continues the response.",
    ),
    honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; the served model if absent."),
    honoured(
        "previous_response_id",
        r#""previous_response_id": "resp_abc123""#,
        r#""previous_response_id": "resp_unknown""#,
        "A stored response that has ended: its input and output, and what they continue, go before the input.",
    ),
    honoured(
        "conversation",
        r#""conversation": "conv_abc123""#,
        r#""conversation": {"id": "conv_unknown"}"#,
        "Its items go before the input; input and output are added to it. Of two at once the second is a 409.",
    ),
    honoured(
        "tools",
        r#""tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}]"#,
        r#""tools": [{"type": "web_search"}]"#,
        "Functions only; with `strict`, which is false if absent, arguments are held to `parameters`.",
    ),
    honoured(
        "tool_choice",
        r#""tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}, "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]"#,
        r#""tool_choice": {"type": "file_search"}"#,
        "`auto`, `none`, `required`, one function, or `allowed_tools`.",
    ),
    honoured(
        "parallel_tool_calls",
        r#""parallel_tool_calls": false"#,
        r#""parallel_tool_calls": 1"#,
        "False allows one call at most; true by default.",
    ),
    honoured(
        "text",
        r#""text": {"format": {"type": "json_object"}, "verbosity": "medium"}"#,
        r#""text": {"format": {"type": "json_schema"}}"#,
        "`format`: text, json_object or json_schema. `verbosity` is medium.",
    ),
    honoured(
        "reasoning",
        r#""reasoning": {"effort": null, "summary": "auto"}"#,
        r#""reasoning": {"summary": "detailed"}"#,
        "`effort` where the tokenizer version has it. Thoughts are given as they are: a `reasoning` item with its text and \
         no summary.",
    ),
    honoured(
        "truncation",
        r#""truncation": "auto""#,
        r#""truncation": "left""#,
        "`auto` leaves out the oldest items, up to a user's message, of an input that is too long.",
    ),
];

/// What else there is to say of an answer.
const ANSWER: &[Field] = &[
    honoured(
        "store",
        r#""store": false"#,
        r#""store": "no""#,
        "True by default: kept for the time of `--retention`. False keeps nothing.",
    ),
    honoured(
        "background",
        r#""background": true"#,
        r#""background": true, "store": false"#,
        "Answered after everybody else, whether the client waits or not; with `stream` it can be followed, left and resumed.",
    ),
    honoured(
        "max_output_tokens",
        r#""max_output_tokens": 4"#,
        r#""max_output_tokens": 0"#,
        "Reasoning included; as many as fit if absent.",
    ),
    label(
        "max_tool_calls",
        r#""max_tool_calls": 3"#,
        r#""max_tool_calls": 0"#,
        "Limits calls of the server's own tools, of which there are none.",
    ),
    honoured("temperature", r#""temperature": 0.5"#, r#""temperature": -1"#, "The model's own default if absent."),
    honoured("top_p", r#""top_p": 0.9"#, r#""top_p": 0"#, "The model's own default if absent."),
    honoured(
        "include",
        r#""include": ["message.output_text.logprobs"]"#,
        r#""include": ["reasoning.encrypted_content"]"#,
        "`message.output_text.logprobs`. All else belongs to tools that are not there, or to thoughts that are hidden.",
    ),
    honoured(
        "top_logprobs",
        r#""top_logprobs": 2, "include": ["message.output_text.logprobs"]"#,
        r#""top_logprobs": 2"#,
        "0 to 20; needs `include` to have `message.output_text.logprobs`.",
    ),
    honoured("stream", r#""stream": true"#, r#""stream": "yes""#, "OpenAI's typed events; there is no `[DONE]`."),
    honoured(
        "stream_options",
        r#""stream": true, "stream_options": {"include_obfuscation": false}"#,
        r#""stream_options": {"include_obfuscation": false}"#,
        "`include_obfuscation` false; needs `stream`.",
    ),
    honoured(
        "metadata",
        r#""metadata": {"a": "b"}"#,
        r#""metadata": {"a": 1}"#,
        "Kept and given back: up to 16 strings of at most 512 characters.",
    ),
    label("user", r#""user": "u""#, r#""user": 1"#, "Given back; marks whom it is about where nothing else does."),
    label(
        "safety_identifier",
        r#""safety_identifier": "u""#,
        r#""safety_identifier": 1"#,
        "Given back; marks whom it is about, unless `X-Tramontane-Subject` does.",
    ),
    label(
        "prompt_cache_key",
        r#""prompt_cache_key": "k""#,
        r#""prompt_cache_key": 1"#,
        "Given back; the prefix cache does not need it.",
    ),
    neutral(
        "prompt_cache_retention",
        &[r#""in_memory""#],
        r#""prompt_cache_retention": "24h""#,
        "The prefix cache is in memory.",
    ),
    neutral(
        "prompt_cache_options",
        &["{}"],
        r#""prompt_cache_options": {"mode": "explicit"}"#,
        "The prefix cache has no settings per request.",
    ),
    neutral(
        "service_tier",
        &[r#""auto""#, r#""default""#],
        r#""service_tier": "priority""#,
        "There is one tier; see `background`.",
    ),
    neutral("prompt", &[], r#""prompt": {"id": "pmpt_1"}"#, "No prompts are stored here."),
    neutral("context_management", &["[]"], r#""context_management": [{"type": "compaction"}]"#, "See `truncation`."),
    neutral("moderation", &[], r#""moderation": {"model": "m"}"#, "There is no moderation model."),
    neutral(
        "background_options",
        &["{}", r#"{"completion_window": "soonest"}"#],
        r#""background_options": {"completion_window": "8h"}"#,
        "There is one queue.",
    ),
    neutral("access_programs", &[], r#""access_programs": {"cyber": "standard"}"#, "There are none."),
    neutral("image", &["{}"], r#""image": {"context_compression": "enabled"}"#, "Only text is served."),
];
