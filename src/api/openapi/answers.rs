//! The schemas of answers, by name. A test compares them with what the server answers, both ways: no key is missing, and
//! none is there that a schema does not name.

use serde_json::{Value, json};

use super::{
    admin, agents, responses,
    schema::{constant, flag, integer, list, map_of, null, number, object, or_null, reference, text, words},
    streams, whole_texts,
};

/// All of them: `components.schemas` of the document.
pub(super) fn schemas() -> Value {
    let schemas = [
        generation(),
        whole_texts::schemas(),
        responses::schemas(),
        agents::schemas(),
        streams::schemas(),
        stored(),
        operation(),
        admin::schemas(),
    ]
    .into_iter()
    .flatten();
    Value::Object(schemas.map(|(name, schema)| (name.to_owned(), schema)).collect())
}

fn generation() -> Vec<(&'static str, Value)> {
    let finish_reason = words(&["stop", "length", "tool_calls", "content_filter", "model_length"]);
    let tool_call = object(&[
        ("id", text()),
        ("type", constant("function")),
        ("function", object(&[("name", text()), ("arguments", text())])),
        ("index?", integer()),
    ]);
    let chunk = json!({ "anyOf": [
        object(&[("type", constant("text")), ("text", text())]),
        object(&[
            ("type", constant("thinking")),
            ("thinking", list(object(&[("type", constant("text")), ("text", text())]))),
        ]),
    ]});
    let message = object(&[
        ("role", constant("assistant")),
        ("content", json!({ "anyOf": [text(), { "type": "null" }, list(reference("ContentChunk"))] })),
        ("refusal", null()),
        ("reasoning?", text()),
        ("tool_calls?", list(tool_call)),
    ]);
    let token = [("token", text()), ("logprob", number()), ("bytes", list(integer())), ("token_id?", integer())];
    let top = [("top_logprobs", list(object(&token)))];
    let logprobs = object(&[("content", list(object(&[&token[..], &top[..]].concat())))]);
    let prompt_logprobs = list(json!({ "anyOf": [{ "type": "null" }, map_of(object(&[
        ("logprob", number()),
        ("rank", or_null(integer())),
        ("decoded_token", text()),
    ]))]}));
    let chat_choice = object(&[
        ("index", integer()),
        ("message", message),
        ("logprobs", or_null(reference("ChatLogprobs"))),
        ("prompt_logprobs?", reference("ChatLogprobs")),
        ("finish_reason", finish_reason.clone()),
        ("stop_reason", json!({ "type": ["string", "integer", "null"] })),
        ("token_ids?", list(integer())),
    ]);
    let completion_logprobs = object(&[
        ("text_offset", list(integer())),
        ("token_logprobs", list(or_null(number()))),
        ("tokens", list(text())),
        ("top_logprobs", list(or_null(map_of(number())))),
    ]);
    let completion_choice = object(&[
        ("index", integer()),
        ("text", text()),
        ("logprobs", or_null(reference("CompletionLogprobs"))),
        ("finish_reason", finish_reason),
        ("stop_reason", json!({ "type": ["string", "integer", "null"] })),
        ("prompt_logprobs?", prompt_logprobs.clone()),
        ("token_ids?", list(integer())),
        ("prompt_token_ids?", list(integer())),
    ]);
    let head = |kind: &str, choice: Value| {
        [
            ("id", text()),
            ("object", constant(kind)),
            ("created", integer()),
            ("model", text()),
            ("choices", list(choice)),
            ("usage", reference("Usage")),
            ("system_fingerprint", text()),
        ]
    };
    let of_prompt = [("prompt_logprobs?", prompt_logprobs), ("prompt_token_ids?", list(integer()))];
    let usage = object(&[
        ("prompt_tokens", integer()),
        ("total_tokens", integer()),
        ("completion_tokens", integer()),
        ("prompt_tokens_details", object(&[("cached_tokens", integer())])),
        ("completion_tokens_details", object(&[("reasoning_tokens", integer())])),
    ]);
    vec![
        ("ChatCompletion", object(&[&head("chat.completion", chat_choice)[..], &of_prompt[..]].concat())),
        ("ChatLogprobs", logprobs),
        ("ContentChunk", chunk),
        ("CompletionLogprobs", completion_logprobs),
        ("Completion", object(&head("text_completion", completion_choice))),
        ("Usage", usage),
        (
            "Tokenized",
            object(&[
                ("count", integer()),
                ("max_model_len", integer()),
                ("tokens", list(integer())),
                ("token_strs", or_null(list(text()))),
            ]),
        ),
        ("Detokenized", object(&[("prompt", text())])),
    ]
}

fn stored() -> Vec<(&'static str, Value)> {
    let file = object(&[
        ("id", text()),
        ("object", constant("file")),
        ("bytes", integer()),
        ("created_at", integer()),
        ("expires_at", integer()),
        ("filename", text()),
        ("purpose", words(&["batch", "batch_output"])),
        ("status", constant("processed")),
        ("status_details", null()),
        ("source", words(&["upload", "mistral"])),
        ("sample_type", words(&["batch_request", "batch_result", "batch_error"])),
        ("num_lines", null()),
        ("mimetype", null()),
        ("signature", null()),
        ("deleted", json!({ "const": false })),
    ]);
    let metadata = or_null(map_of(text()));
    let time = or_null(integer());
    let batch = object(&[
        ("id", text()),
        ("object", constant("batch")),
        ("endpoint", text()),
        ("model", or_null(text())),
        ("errors", or_null(object(&[("object", constant("list")), ("data", list(json!({ "type": "object" })))]))),
        ("input_file_id", or_null(text())),
        ("completion_window", text()),
        (
            "status",
            words(&[
                "validating",
                "failed",
                "in_progress",
                "finalizing",
                "completed",
                "expired",
                "cancelling",
                "cancelled",
            ]),
        ),
        ("output_file_id", or_null(text())),
        ("error_file_id", or_null(text())),
        ("created_at", integer()),
        ("in_progress_at", time.clone()),
        ("expires_at", integer()),
        ("finalizing_at", time.clone()),
        ("completed_at", time.clone()),
        ("failed_at", time.clone()),
        ("expired_at", time.clone()),
        ("cancelling_at", time.clone()),
        ("cancelled_at", time.clone()),
        ("request_counts", object(&[("total", integer()), ("completed", integer()), ("failed", integer())])),
        ("metadata", metadata.clone()),
    ]);
    let job = object(&[
        ("id", text()),
        ("object", constant("batch")),
        ("input_files", list(text())),
        ("metadata", metadata),
        ("endpoint", text()),
        ("model", or_null(text())),
        ("agent_id", null()),
        ("output_file", or_null(text())),
        ("error_file", or_null(text())),
        ("errors", list(object(&[("message", text()), ("count", integer())]))),
        ("outputs", or_null(list(json!({ "type": "object" })))),
        (
            "status",
            words(&[
                "QUEUED",
                "RUNNING",
                "SUCCESS",
                "FAILED",
                "TIMEOUT_EXCEEDED",
                "CANCELLATION_REQUESTED",
                "CANCELLED",
            ]),
        ),
        ("created_at", integer()),
        ("total_requests", integer()),
        ("completed_requests", integer()),
        ("succeeded_requests", integer()),
        ("failed_requests", integer()),
        ("started_at", time.clone()),
        ("completed_at", time),
    ]);
    let page = [
        ("object", constant("list")),
        ("first_id", or_null(text())),
        ("last_id", or_null(text())),
        ("has_more", flag()),
    ];
    let page_of = |name: &str| [&page[..], &[("data", list(reference(name)))]].concat();
    vec![
        ("File", file),
        ("FileList", object(&[&page_of("File")[..], &[("total", or_null(integer()))]].concat())),
        ("Deleted", object(&[("id", text()), ("object", text()), ("deleted", flag())])),
        ("Batch", batch),
        ("BatchList", object(&page_of("Batch"))),
        ("BatchJob", job),
        (
            "BatchJobList",
            object(&[("object", constant("list")), ("data", list(reference("BatchJob"))), ("total", integer())]),
        ),
    ]
}

fn operation() -> Vec<(&'static str, Value)> {
    let capabilities = [
        "completion_chat",
        "function_calling",
        "reasoning",
        "completion_fim",
        "fine_tuning",
        "vision",
        "ocr",
        "classification",
        "moderation",
        "audio",
    ];
    let capabilities: Vec<(&str, Value)> = capabilities.into_iter().map(|name| (name, flag())).collect();
    let maybe = or_null(text());
    let provenance = object(&[
        ("state", words(&["signed", "locked", "unlocked"])),
        ("weights_digest", text()),
        ("tokenizer_digest", text()),
        ("signer", maybe.clone()),
        ("source", maybe.clone()),
        ("revision", maybe.clone()),
        ("licence", maybe.clone()),
    ]);
    let model = object(&[
        ("id", text()),
        ("object", constant("model")),
        ("created", integer()),
        ("owned_by", text()),
        ("root", text()),
        ("parent", null()),
        ("max_model_len", integer()),
        ("name", text()),
        ("description", null()),
        ("max_context_length", integer()),
        ("aliases", list(text())),
        ("deprecation", null()),
        ("deprecation_replacement_model", null()),
        ("default_model_temperature", or_null(number())),
        ("type", constant("base")),
        ("provenance", provenance),
        ("capabilities", object(&capabilities)),
    ]);
    let error = [("message", text()), ("type", text()), ("param", maybe.clone()), ("code", maybe.clone())];
    let location = list(json!({ "type": ["string", "integer"] }));
    let errors = json!({
        "description": "OpenAI's shape, or in Mistral's dialect one of Mistral's.",
        "anyOf": [
            object(&[("error", object(&error))]),
            object(&[&[("object", constant("error"))], &error[..]].concat()),
            object(&[("detail", list(object(&[("loc", location), ("msg", text()), ("type", text())])))]),
        ],
    });
    vec![
        ("Model", model),
        ("ModelList", object(&[("object", constant("list")), ("data", list(reference("Model")))])),
        ("Health", object(&[("status", words(&["live", "ready", "loading", "draining", "wedged"]))])),
        ("Load", object(&[("server_load", integer())])),
        ("Version", object(&[("version", text()), ("model", maybe.clone()), ("model_digest", maybe)])),
        ("Document", json!({ "type": "object" })),
        ("Error", errors),
    ]
}
