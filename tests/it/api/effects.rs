//! What every honoured field of chat and completions changes: a row for each, and an answer with and without it.

mod looks;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tramontane::{
    api::fields::{CHAT, COMPLETIONS, Support, Table},
    engine::EngineConfig,
};

use self::looks::*;
use super::support::{
    Answer, EOS, Harness, answers, codec, control, eventually, ids, merged, send, small_engine, thinks,
};
use crate::fixtures;

/// A field; who answers; members of both requests, members of the second one only; what to look at, and what is
/// seen there without the field and with it. In members, `$la` stands for the id of " la".
struct Row(&'static str, Model, &'static str, &'static str, fn(&Answer) -> String, [&'static str; 2]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Model {
    /// Says " la lo li" and ends. If it may not end, it begins again.
    Sings,
    /// Says " la" for ever; " lo" and " li" would be nearly as good.
    Hums,
    /// Thinks "Hm.", then says "Yes.".
    Thinks,
    /// Calls the function f twice.
    Calls,
    /// Has a tokenizer whose version knows efforts; says nothing.
    Reasons,
    /// Answers one request at a time, the first with " la", the second with " lo", the third with " li". The one
    /// that is looked at arrives last, while the first is being answered.
    Counts,
}
use Model::{Calls, Counts, Hums, Reasons, Sings, Thinks};

/// Sampled, and nothing but a song: with weights of 0.48, 0.29 and 0.23.
const SAMPLED: &str = r#""temperature": 2, "seed": 7, "allowed_token_ids": [$la, $lo, $li], "max_tokens": 6"#;
const SAMPLED_RANDOM_SEED: &str =
    r#""temperature": 2, "random_seed": 7, "allowed_token_ids": [$la, $lo, $li], "max_tokens": 6"#;
const SHOW_IDS: &str = r#""return_token_ids": true"#;
const TOOLS: &str = r#""tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "return_token_ids": true"#;
const BEGUN: &str = r#""messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}],
    "return_token_ids": true"#;
const CONTINUED: &str = r#""messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}],
    "continue_final_message": true"#;

const OF_CHAT: &[Row] = &[
    Row(
        "messages",
        Sings,
        SHOW_IDS,
        r#""messages": [{"role": "user", "content": "Bye"}]"#,
        prompt,
        ["<s>[INST]Hello there, how do you do?[/INST]", "<s>[INST]Bye[/INST]"],
    ),
    Row("max_completion_tokens", Sings, "", r#""max_completion_tokens": 2"#, text, [" la lo li", " la lo"]),
    Row("tools", Sings, SHOW_IDS, TOOLS, offers_tools, ["false", "true"]),
    Row("tool_choice", Sings, TOOLS, r#""tool_choice": "none""#, offers_tools, ["true", "false"]),
    Row("parallel_tool_calls", Calls, TOOLS, r#""parallel_tool_calls": false"#, calls, ["2", "1"]),
    Row("reasoning_effort", Reasons, SHOW_IDS, r#""reasoning_effort": "high""#, effort, ["none", "high"]),
    Row("logprobs", Sings, "", r#""logprobs": true"#, scored_tokens, ["0", "3"]),
    Row("top_logprobs", Sings, r#""logprobs": true"#, r#""top_logprobs": 2"#, alternatives, ["0", "2"]),
    Row(
        "continue_final_message",
        Sings,
        BEGUN,
        r#""continue_final_message": true"#,
        prompt,
        ["400", "<s>[INST]Hi[/INST]He"],
    ),
    // It says what is done anyway, and contradicts a continuation.
    Row("add_generation_prompt", Sings, CONTINUED, r#""add_generation_prompt": true"#, status, ["200", "400"]),
    Row("prompt_mode", Thinks, SHOW_IDS, r#""prompt_mode": "reasoning""#, is_guided, ["false", "true"]),
    Row("safe_prompt", Sings, SHOW_IDS, r#""safe_prompt": true"#, is_safe, ["false", "true"]),
    Row(
        "top_prompt_logprobs",
        Sings,
        r#""prompt_logprobs": true"#,
        r#""top_prompt_logprobs": 2"#,
        prompt_alternatives,
        ["0", "2"],
    ),
    Row("include_reasoning", Thinks, "", r#""include_reasoning": false"#, reasoning, ["Hm.", "none"]),
    Row(
        "return_tokens_as_token_ids",
        Sings,
        r#""logprobs": true"#,
        r#""return_tokens_as_token_ids": true"#,
        names_ids,
        ["false", "true"],
    ),
];

const OF_COMPLETIONS: &[Row] = &[
    Row("prompt", Sings, SHOW_IDS, r#""prompt": "Bye""#, prompt, ["<s>Hello there, how do you do?", "<s>Bye"]),
    Row(
        "suffix",
        Sings,
        r#""prompt": "Hello", "return_token_ids": true"#,
        r#""suffix": "end""#,
        fills_in,
        ["false", "true"],
    ),
    Row("echo", Sings, "", r#""echo": true"#, text, [" la lo li", "Hello there, how do you do? la lo li"]),
    Row("logprobs", Sings, "", r#""logprobs": 2"#, alternatives, ["0", "2"]),
    // It is honoured as far as it asks for nothing but `n`.
    Row("best_of", Sings, "", r#""best_of": 2"#, status, ["200", "400"]),
    Row(
        "add_special_tokens",
        Sings,
        SHOW_IDS,
        r#""add_special_tokens": false"#,
        prompt,
        ["<s>Hello there, how do you do?", "Hello there, how do you do?"],
    ),
    Row(
        "return_tokens_as_token_ids",
        Sings,
        r#""logprobs": 0"#,
        r#""return_tokens_as_token_ids": true"#,
        names_ids,
        ["false", "true"],
    ),
];

const OF_BOTH: &[Row] = &[
    Row("model", Sings, "", r#""model": "alias""#, model, ["tiny", "alias"]),
    Row("max_tokens", Sings, "", r#""max_tokens": 2"#, text, [" la lo li", " la lo"]),
    Row(
        "temperature",
        Hums,
        r#""seed": 7, "allowed_token_ids": [$la, $lo, $li], "max_tokens": 6"#,
        r#""temperature": 2"#,
        text,
        [" la la la la la la", " la la lo lo lo la"],
    ),
    Row("top_p", Hums, SAMPLED, r#""top_p": 0.4"#, text, [" la la lo lo lo la", " la la la la la la"]),
    Row("top_k", Hums, SAMPLED, r#""top_k": 1"#, text, [" la la lo lo lo la", " la la la la la la"]),
    Row("min_p", Hums, SAMPLED, r#""min_p": 0.7"#, text, [" la la lo lo lo la", " la la la la la la"]),
    // The surprise at " lo" is nearest to the expected one.
    Row("typical_p", Hums, SAMPLED, r#""typical_p": 0.2"#, text, [" la la lo lo lo la", " lo lo lo lo lo lo"]),
    Row("n", Sings, "", r#""n": 2"#, text, [" la lo li", " la lo li| la lo li"]),
    Row("stop", Sings, "", r#""stop": [" li"]"#, text, [" la lo li", " la lo"]),
    Row("seed", Hums, SAMPLED, r#""seed": 8"#, text, [" la la lo lo lo la", " la lo li lo lo li"]),
    Row(
        "random_seed",
        Hums,
        SAMPLED_RANDOM_SEED,
        r#""random_seed": 8"#,
        text,
        [" la la lo lo lo la", " la lo li lo lo li"],
    ),
    Row("stream", Sings, "", r#""stream": true"#, content_type, ["application/json", "text/event-stream"]),
    Row(
        "stream_options",
        Sings,
        r#""stream": true"#,
        r#""stream_options": {"include_usage": true}"#,
        streamed_usage,
        ["none", "4"],
    ),
    Row(
        "frequency_penalty",
        Hums,
        r#""max_tokens": 6"#,
        r#""frequency_penalty": 2"#,
        text,
        [" la la la la la la", " la lo li la lo li"],
    ),
    Row(
        "presence_penalty",
        Hums,
        r#""max_tokens": 6"#,
        r#""presence_penalty": 2"#,
        text,
        [" la la la la la la", " la lo li la la la"],
    ),
    Row(
        "repetition_penalty",
        Hums,
        r#""max_tokens": 6"#,
        r#""repetition_penalty": 2"#,
        text,
        [" la la la la la la", " la lo li la la la"],
    ),
    Row("logit_bias", Hums, r#""max_tokens": 2"#, r#""logit_bias": {"$la": -5}"#, text, [" la la", " lo lo"]),
    Row("allowed_token_ids", Hums, r#""max_tokens": 2"#, r#""allowed_token_ids": [$li]"#, text, [" la la", " li li"]),
    Row("bad_words", Hums, r#""max_tokens": 2"#, r#""bad_words": [" la"]"#, text, [" la la", " lo lo"]),
    Row("stop_token_ids", Sings, "", r#""stop_token_ids": [$li]"#, text, [" la lo li", " la lo"]),
    Row(
        "include_stop_str_in_output",
        Sings,
        r#""stop": " li""#,
        r#""include_stop_str_in_output": true"#,
        text,
        [" la lo", " la lo li"],
    ),
    Row("ignore_eos", Sings, r#""max_tokens": 5"#, r#""ignore_eos": true"#, text, [" la lo li", " la lo li la"]),
    Row("min_tokens", Sings, r#""max_tokens": 6"#, r#""min_tokens": 6"#, text, [" la lo li", " la lo li la lo li"]),
    Row(
        "skip_special_tokens",
        Sings,
        r#""ignore_eos": true, "max_tokens": 5"#,
        r#""skip_special_tokens": false"#,
        text,
        [" la lo li la", " la lo li</s> la"],
    ),
    Row(
        "truncate_prompt_tokens",
        Sings,
        SHOW_IDS,
        r#""truncate_prompt_tokens": 2"#,
        cut,
        ["more than 2 tokens, <s> among them", "2 tokens"],
    ),
    Row(
        "truncation_side",
        Sings,
        r#""truncate_prompt_tokens": 2, "return_token_ids": true"#,
        r#""truncation_side": "right""#,
        cut,
        ["2 tokens", "2 tokens, <s> among them"],
    ),
    Row("prompt_logprobs", Sings, "", r#""prompt_logprobs": 1"#, scores_prompt, ["false", "true"]),
    Row(
        "response_format",
        Sings,
        "",
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": 7}}}"#,
        trimmed_text,
        ["la lo li", "7"],
    ),
    Row(
        "structured_outputs",
        Sings,
        "",
        r#""structured_outputs": {"choice": [" la la"]}"#,
        text,
        [" la lo li", " la la"],
    ),
    Row("priority", Counts, r#""max_tokens": 1"#, r#""priority": -1"#, text, [" li", " lo"]),
    Row("request_id", Sings, "", r#""request_id": "abc""#, is_abc, ["false", "true"]),
    Row("cache_salt", Sings, r#""cache_salt": "a""#, r#""cache_salt": "b""#, finds_prefix, ["true", "false"]),
    Row("return_token_ids", Sings, "", SHOW_IDS, answered_ids, ["none", " la lo li</s>"]),
];

#[tokio::test]
async fn every_honoured_field_changes_the_answer() {
    let mut wrong = Vec::new();
    for (table, own) in [(&CHAT, OF_CHAT), (&COMPLETIONS, OF_COMPLETIONS)] {
        for row in own.iter().chain(OF_BOTH) {
            let Row(field, _, both, with, _, expected) = row;
            let seen = [see(row, table, &[both]).await, see(row, table, &[both, with]).await];
            if seen != *expected {
                wrong.push(format!("{}: {field} changes {expected:?}, but: {seen:?}", table.resource));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Decides when an answer comes, which no answer shows: `mistral::a_prediction_is_guessed_from_and_changes_nothing`.
const UNSEEN: &str = "prediction";

#[test]
fn every_honoured_field_has_a_row() {
    for (table, own) in [(&CHAT, OF_CHAT), (&COMPLETIONS, OF_COMPLETIONS)] {
        let is_honoured = |support: &Support| matches!(support, Support::Honoured { .. });
        let honoured: BTreeSet<&str> =
            table.fields().filter(|field| is_honoured(&field.support)).map(|field| field.name).collect();
        let honoured: BTreeSet<&str> = honoured.into_iter().filter(|name| *name != UNSEEN).collect();
        let rows: BTreeSet<&str> = own.iter().chain(OF_BOTH).map(|row| row.0).collect();
        assert_eq!(rows, honoured, "{}", table.resource);
        for Row(field, .., [without, with]) in own.iter().chain(OF_BOTH) {
            assert_ne!(without, with, "{field}");
        }
    }
}

/// What the row looks at in the answer to a request with these members.
async fn see(row: &Row, table: &Table, members: &[&str]) -> String {
    let Row(_, model, both, _, look, _) = row;
    let path = table.resource.strip_prefix("POST ").expect("a POST");
    let harness = harness(*model);
    let answer = if *model == Counts {
        last_of_three(&harness, path, &body(table, &[both]), &body(table, members)).await
    } else {
        // One before it leaves its prefix in the cache.
        harness.post(path, &body(table, &[both])).await;
        harness.idle().await;
        harness.post(path, &body(table, members)).await
    };
    look(&answer)
}

fn body(table: &Table, members: &[&str]) -> Value {
    let mut body = match table.resource {
        "POST /v1/chat/completions" => {
            json!({ "messages": [{ "role": "user", "content": "Hello there, how do you do?" }] })
        }
        _ => json!({ "prompt": "Hello there, how do you do?" }),
    };
    for members in members {
        let mut members = format!("{{{members}}}");
        for (name, id) in [("$la", la()), ("$lo", lo()), ("$li", li())] {
            members = members.replace(name, &id.to_string());
        }
        body = merged(body, serde_json::from_str(&members).unwrap_or_else(|error| panic!("{members}: {error}")));
    }
    body
}

fn harness(model: Model) -> Harness {
    let harness = match model {
        Sings => Harness::with_preferences(Box::new(sing), small_engine()),
        Hums => Harness::with_preferences(Box::new(|_| vec![(la(), 10.0), (lo(), 9.0), (li(), 8.5)]), small_engine()),
        Thinks => Harness::with_codec(thinks(), codec().with_reasoning_prompt("Do [THINK]this[/THINK] first.")),
        Calls => Harness::new(answers([calls_f(), calls_f()].concat())),
        Reasons => Harness::with_codec(Box::new(|_| EOS), fixtures::codec("v15-tekken").clone()),
        Counts => {
            let answered = AtomicUsize::new(0);
            let next = move |_: &[u32]| vec![([la(), lo(), li()][answered.fetch_add(1, Ordering::Relaxed)], 10.0)];
            return Harness::with_preferences(Box::new(next), EngineConfig { max_running: 1, ..small_engine() });
        }
    };
    harness.gate.open();
    harness
}

fn calls_f() -> Vec<u32> {
    [vec![control("[TOOL_CALLS]")], ids("f"), vec![control("[ARGS]")], ids("{}")].concat()
}

fn sing(history: &[u32]) -> Vec<(u32, f32)> {
    match history.last() {
        Some(&id) if id == la() => vec![(lo(), 10.0)],
        Some(&id) if id == lo() => vec![(li(), 10.0)],
        Some(&id) if id == li() => vec![(EOS, 10.0), (la(), 9.0)],
        Some(_) | None => vec![(la(), 10.0)],
    }
}

/// Sends a body twice and another one, one after the other, to a server that answers none of them before.
async fn last_of_three(harness: &Harness, path: &str, others: &Value, last: &Value) -> Answer {
    let engine = harness.state.loaded_model().expect("a model is set").engine.clone();
    let mut answers = Vec::new();
    for (index, body) in [others, others, last].into_iter().enumerate() {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.to_string()));
        answers.push(tokio::spawn(send(harness.app(), request.expect("a valid request"))));
        eventually("the request has arrived", || {
            let load = engine.snapshot();
            load.running + load.waiting == index + 1
        })
        .await;
        eventually("the first request runs", || harness.metric("vllm:prompt_tokens_total") > 0.0).await;
    }
    harness.gate.open();
    answers.pop().expect("three").await.expect("no panic")
}

fn la() -> u32 {
    ids(" la")[0]
}

fn lo() -> u32 {
    ids(" lo")[0]
}

fn li() -> u32 {
    ids(" li")[0]
}
