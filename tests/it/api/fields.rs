//! The table of request fields, asked for over HTTP and compared with `docs/api.md`.

use std::{fs, path::Path};

use axum::http::Method;
use serde_json::{Value, json};
use tramontane::{
    api::{
        fields::{self, AGENT_CHANGES, AGENT_COMPLETIONS, AGENTS, CHAT, COMPLETIONS, FIM, Field, Support, Table},
        unserved,
    },
    types::{Activation, Pooling},
};

use super::{
    admin, mistral_conversations,
    storage::{Part, form},
    support::{Answer, Harness, babbles, merged},
};

const BEGIN: &str = "<!-- generated from src/api/fields/tables.rs: do not edit -->\n";
const BEGIN_UNSERVED: &str = "<!-- generated from src/api/unserved.rs: do not edit -->\n";
const END: &str = "<!-- end of the generated part -->\n";

/// A request with a body of JSON.
pub(super) struct Prepared {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
}

/// A request that is as it should be but for these members, and its answer.
pub(super) async fn ask(harness: &Harness, table: &Table, members: &str) -> Answer {
    if table.resource == "POST /v1/files" {
        return harness.post_form("/v1/files", file_form(&as_object(members))).await;
    }
    let Prepared { method, path, body } = prepared(harness, table, members).await;
    harness.ask(method, &path, &body).await
}

/// The same without asking, for all tables but that of a form. What it names is there.
pub(super) async fn prepared(harness: &Harness, table: &Table, members: &str) -> Prepared {
    if let Some(prepared) = mistral_conversations::prepared(harness, table, members).await {
        return prepared;
    }
    if table.resource.contains("/admin/") {
        return admin::prepared(harness, table, as_object(members)).await;
    }
    // The file of the samples is one that there is.
    let stored = match table.resource {
        "POST /v1/batches" | "POST /v1/batch/jobs" => Some(harness.upload(b"{}").await),
        _ => None,
    };
    let members = members.replace("file-abc123", stored.as_deref().unwrap_or_default());
    // So are the response and the conversation.
    let (members, path) = match table.resource {
        "POST /v1/responses" | "POST /v1/responses/input_tokens" => {
            let earlier = harness.response(json!({ "max_output_tokens": 1 })).await;
            let members = members.replace("resp_abc123", earlier["id"].as_str().expect("an id"));
            (members.replace("conv_abc123", &new_conversation(harness).await), None)
        }
        "POST /v1/conversations/{id}" | "POST /v1/conversations/{id}/items" => {
            let path = table.resource.strip_prefix("POST ").expect("a POST");
            (members, Some(path.replace("{id}", &new_conversation(harness).await)))
        }
        _ => (members, None),
    };
    let more = as_object(&members);
    let message = json!([{ "role": "user", "content": "Hello there, how do you do?" }]);
    let base = match table.resource {
        "POST /v1/chat/completions" => json!({ "model": "tiny", "messages": message, "max_tokens": 4 }),
        "POST /v1/completions" => json!({ "model": "tiny", "prompt": "Hello there", "max_tokens": 4 }),
        "POST /v1/batches" => {
            json!({ "input_file_id": stored, "endpoint": "/v1/completions", "completion_window": "24h" })
        }
        "POST /v1/batch/jobs" if more.get("requests").is_some() => json!({ "endpoint": "/v1/completions" }),
        "POST /v1/batch/jobs" => json!({ "input_files": [stored], "endpoint": "/v1/completions" }),
        "POST /v1/embeddings" | "POST /classify" => json!({ "model": "tiny", "input": "Hello there, how do you do?" }),
        "POST /v1/moderations" => json!({ "model": "tiny", "input": "Hello there" }),
        "POST /v1/chat/moderations" => json!({ "model": "tiny", "input": message }),
        "POST /v1/rerank" => json!({ "model": "tiny", "query": "Hello there", "documents": ["Hello", "Good bye"] }),
        "POST /v1/score" => {
            let queries = more.get("text_1").map_or(json!("Hello there"), |_| Value::Null);
            let documents = more.get("text_2").map_or(json!(["Hello", "Good bye"]), |_| Value::Null);
            json!({ "model": "tiny", "queries": queries, "documents": documents })
        }
        "POST /v1/fim/completions" => json!({ "model": "tiny", "prompt": "def f():", "max_tokens": 4 }),
        "POST /v1/responses" => json!({ "model": "tiny", "input": "Hello there", "max_output_tokens": 4 }),
        "POST /v1/responses/input_tokens" => json!({ "model": "tiny", "input": "Hello there" }),
        "POST /v1/conversations" | "POST /v1/conversations/{id}" => json!({}),
        "POST /v1/conversations/{id}/items" => json!({ "items": [{ "role": "user", "content": "Hello" }] }),
        "POST /tokenize" if more.get("messages").is_some() => json!({ "model": "tiny" }),
        "POST /tokenize" => json!({ "model": "tiny", "prompt": "Hello" }),
        "POST /detokenize" => json!({ "model": "tiny", "tokens": [1] }),
        other => panic!("{other}: no base request"),
    };
    let mut body = merged(base, more.clone());
    if more.get("max_completion_tokens").is_some() {
        body.as_object_mut().expect("an object").remove("max_tokens");
    }
    let path = path.unwrap_or_else(|| table.resource.strip_prefix("POST ").expect("a POST").to_owned());
    Prepared { method: Method::POST, path, body }
}

fn as_object(members: &str) -> Value {
    serde_json::from_str(&format!("{{{members}}}")).unwrap_or_else(|error| panic!("{members}: {error}"))
}

/// The id of a conversation without items.
async fn new_conversation(harness: &Harness) -> String {
    harness.post("/v1/conversations", &json!({})).await.json()["id"].as_str().expect("an id").to_owned()
}

/// A model with a classification head.
fn classifier() -> Harness {
    let labels = vec!["no".to_owned(), "yes".to_owned()];
    Harness::pooling(Pooling::Classes { labels, activation: Activation::Softmax })
}

/// Servers that have, together, what tables are about.
pub(super) fn harnesses() -> [Harness; 3] {
    [Harness::guessing(babbles()), classifier(), Harness::administered(babbles())]
}

/// The one of them that has what the table is about.
pub(super) fn fitting<'a>([language_model, classifier, administered]: &'a [Harness; 3], table: &Table) -> &'a Harness {
    match table.resource {
        "POST /classify" => classifier,
        resource if resource.contains("/admin/") => administered,
        _ => language_model,
    }
}

/// The members of a JSON object as the parts of a form.
fn file_form(more: &Value) -> Vec<u8> {
    let members = merged(json!({ "file": "{}", "purpose": "batch" }), more.clone());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut parts: Vec<(String, String)> = Vec::new();
    for (name, value) in members.as_object().expect("an object").iter().filter(|(_, value)| !value.is_null()) {
        match value.as_object() {
            Some(object) => parts.extend(object.iter().map(|(key, value)| (format!("{name}[{key}]"), text(value)))),
            None => parts.push((name.clone(), text(value))),
        }
    }
    let parts: Vec<Part> = parts
        .iter()
        .map(|(name, content)| (name.as_str(), (name == "file").then_some("input.jsonl"), content.as_bytes()))
        .collect();
    form(&parts)
}

/// A refusal of the right form, in either dialect, that names the field or a part of it.
fn refuses(answer: &Answer, field: &Field) -> bool {
    let body = answer.json();
    let is_detail = |detail: &Value| detail["loc"][0] == "body" && detail["loc"][1] == field.name;
    match answer.status {
        400 => {
            let rest = body["error"]["param"].as_str().and_then(|param| param.strip_prefix(field.name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        }
        422 => body["detail"].as_array().is_some_and(|details| details.iter().all(is_detail)),
        _ => false,
    }
}

#[tokio::test]
async fn every_field_does_what_the_table_says() {
    let harnesses = harnesses();
    let mut wrong = Vec::new();
    for table in fields::ALL {
        let harness = fitting(&harnesses, table);
        for field in table.fields() {
            let (accepted, refused) = match field.support {
                Support::Honoured { sample, refused } | Support::Label { sample, refused } => {
                    (vec![sample.to_owned()], refused)
                }
                Support::Neutral { accepted, refused } => {
                    let members = accepted.iter().map(|value| format!("\"{}\": {value}", field.name));
                    (members.chain([format!("\"{}\": null", field.name)]).collect(), refused)
                }
            };
            for members in accepted {
                let answer = ask(harness, table, &members).await;
                if answer.status != 200 {
                    wrong.push(format!("{}: {members} is accepted, but: {}", table.resource, answer.body));
                }
            }
            let answer = ask(harness, table, refused).await;
            if !refuses(&answer, field) {
                let outcome = format!("{} {}", answer.status, answer.body);
                wrong.push(format!("{}: {refused} is refused, but: {outcome}", table.resource));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whatever a field's value: an answer or a refusal that names it, never a failure of the server.
#[tokio::test]
async fn no_value_of_any_field_makes_the_server_fail() {
    let values = [
        "true",
        "false",
        "0",
        "-1",
        "1.5",
        "1e308",
        "-9223372036854775808",
        "18446744073709551615",
        r#""""#,
        r#""x""#,
        r#""\u0000""#,
        "[]",
        "{}",
        "[null]",
        "[[]]",
        r#"["\ud83e\udd80"]"#,
        r#"{"a": null}"#,
        r#"[{"type": 1}]"#,
    ];
    let harnesses = harnesses();
    for table in fields::ALL {
        let harness = fitting(&harnesses, table);
        for field in table.fields() {
            for value in values {
                let answer = ask(harness, table, &format!("\"{}\": {value}", field.name)).await;
                let request = format!("{}: {} = {value}", table.resource, field.name);
                match answer.status {
                    200 => {}
                    400 if answer.json().get("object").is_none() => {
                        answer.error();
                    }
                    // In Mistral's dialect.
                    400 => assert_eq!(answer.json()["object"], "error", "{request}"),
                    422 => assert!(answer.json()["detail"][0]["msg"].is_string(), "{request}"),
                    404 => assert_eq!(field.name, "model", "{request}"),
                    _ => panic!("{request}: {} {}", answer.status, answer.body),
                }
            }
        }
    }
    for harness in &harnesses {
        harness.idle().await;
    }
}

#[tokio::test]
async fn no_field_is_in_a_table_twice() {
    for table in fields::ALL {
        let mut names: Vec<&str> = table.fields().map(|field| field.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{}", table.resource);
    }
}

/// OpenAI's current list, and what vLLM and Mistral's client add: none may be unknown.
#[tokio::test]
async fn known_clients_meet_no_unknown_field() {
    for name in "messages model max_completion_tokens max_tokens temperature top_p n stop seed stream stream_options tools \
        tool_choice parallel_tool_calls response_format logprobs top_logprobs logit_bias frequency_penalty \
        presence_penalty reasoning_effort verbosity prediction metadata store user safety_identifier prompt_cache_key \
        prompt_cache_retention prompt_cache_options service_tier modalities audio web_search_options moderation \
        functions function_call use_beam_search top_k min_p repetition_penalty watermarking length_penalty \
        stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens \
        spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids \
        allowed_token_ids bad_words echo add_generation_prompt continue_final_message add_special_tokens documents \
        chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id \
        session_id return_tokens_as_token_ids return_token_ids return_prompt_text cache_salt kv_transfer_params \
        vllm_xargs repetition_detection stream_interval thinking_token_budget include_reasoning random_seed safe_prompt \
        prompt_mode guardrails top_prompt_logprobs"
        .split_whitespace()
    {
        assert!(CHAT.field(name).is_some(), "{name}");
    }
    for name in
        "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop \
        stream stream_options suffix temperature top_p user"
            .split_whitespace()
    {
        assert!(COMPLETIONS.field(name).is_some(), "{name}");
    }
    for name in "model prompt suffix temperature top_p max_tokens min_tokens stream stop random_seed metadata \
        prompt_cache_key"
        .split_whitespace()
    {
        assert!(FIM.field(name).is_some(), "{name}");
    }
    for name in "model name instructions tools completion_args guardrails description handoffs metadata version_message"
        .split_whitespace()
    {
        assert!(AGENTS.field(name).is_some() && AGENT_CHANGES.field(name).is_some(), "{name}");
    }
    assert!(AGENT_CHANGES.field("deployment_chat").is_some());
    assert!(AGENT_COMPLETIONS.field("agent_id").is_some());
}

/// `TRAMONTANE_BLESS=1` writes the tables instead of comparing them.
#[test]
fn docs_api_md_is_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let mut text = fs::read_to_string(&path).expect("docs/api.md");
    for (begin, generated) in
        [(BEGIN, fields::markdown()), (BEGIN_UNSERVED, format!("\n| paths | |\n|---|---|\n{}", unserved::markdown()))]
    {
        let (before, rest) = text.split_once(begin).expect("the beginning of the generated part");
        let (found, after) = rest.split_once(END).expect("the end of the generated part");
        if std::env::var_os("TRAMONTANE_BLESS").is_none() {
            assert!(found == generated, "docs/api.md is out of date: run the tests with TRAMONTANE_BLESS=1");
        }
        text = format!("{before}{begin}{generated}{END}{after}");
    }
    if std::env::var_os("TRAMONTANE_BLESS").is_some() {
        fs::write(&path, text).expect("docs/api.md is writable");
    }
}
