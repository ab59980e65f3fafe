//! What rows look at in an answer.

use serde_json::Value;
use tramontane::prompt::SpecialTokens;

use super::la;
use crate::{
    api::support::{Answer, codec},
    fixtures,
};

pub fn status(answer: &Answer) -> String {
    answer.status.to_string()
}

pub fn content_type(answer: &Answer) -> String {
    answer.header("content-type").expect("a type").to_owned()
}

/// The texts of all choices.
pub fn text(answer: &Answer) -> String {
    let answer = answer.json();
    let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("no choices: {answer}")).iter();
    let text = |choice: &Value| choice["message"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned);
    choices.map(|choice| text(choice).expect("a text")).collect::<Vec<_>>().join("|")
}

pub fn trimmed_text(answer: &Answer) -> String {
    text(answer).trim().to_owned()
}

pub fn decoded(ids: &Value) -> Option<String> {
    let ids: Vec<u32> = serde_json::from_value(ids.clone()).ok()?;
    Some(codec().decode(&ids, SpecialTokens::Keep))
}

/// The prompt as the model gets it.
pub fn prompt(answer: &Answer) -> String {
    let json = answer.json();
    let ids = [&json["prompt_token_ids"], &json["choices"][0]["prompt_token_ids"]];
    ids.into_iter().find_map(decoded).unwrap_or_else(|| answer.status.to_string())
}

pub fn fills_in(answer: &Answer) -> String {
    let prompt = prompt(answer);
    (prompt.starts_with("<s>[SUFFIX]") && prompt.ends_with("end[PREFIX]Hello")).to_string()
}

pub fn cut(answer: &Answer) -> String {
    let len = match answer.json()["usage"]["prompt_tokens"].as_u64().expect("a count") {
        0..=2 => "2 tokens",
        _ => "more than 2 tokens",
    };
    let begins = if prompt(answer).contains("<s>") { ", <s> among them" } else { "" };
    format!("{len}{begins}")
}

pub fn offers_tools(answer: &Answer) -> String {
    prompt(answer).contains("[AVAILABLE_TOOLS]").to_string()
}

/// How many tools are called.
pub fn calls(answer: &Answer) -> String {
    answer.json()["choices"][0]["message"]["tool_calls"].as_array().map_or(0, Vec::len).to_string()
}

pub fn effort(answer: &Answer) -> String {
    let ids: Vec<u32> = serde_json::from_value(answer.json()["prompt_token_ids"].clone()).expect("ids");
    let prompt = fixtures::codec("v15-tekken").decode(&ids, SpecialTokens::Keep);
    if prompt.contains("\"high\"") { "high" } else { "none" }.to_owned()
}

/// How many tokens have log-probabilities.
pub fn scored_tokens(answer: &Answer) -> String {
    answer.json()["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len).to_string()
}

/// How many the first token of the answer has.
pub fn alternatives(answer: &Answer) -> String {
    let logprobs = &answer.json()["choices"][0]["logprobs"];
    let of_chat = logprobs["content"][0]["top_logprobs"].as_array().map(Vec::len);
    of_chat.or(logprobs["top_logprobs"][0].as_object().map(|top| top.len())).unwrap_or(0).to_string()
}

/// How many the second token of the prompt has, in Mistral's form.
pub fn prompt_alternatives(answer: &Answer) -> String {
    let tokens = answer.json()["choices"][0]["prompt_logprobs"]["content"].clone();
    tokens[0]["top_logprobs"].as_array().map_or(0, Vec::len).to_string()
}

pub fn is_guided(answer: &Answer) -> String {
    let guide = "<s>[SYSTEM_PROMPT]Do [THINK]this[/THINK] first.[/SYSTEM_PROMPT][INST]";
    prompt(answer).starts_with(guide).to_string()
}

pub fn is_safe(answer: &Answer) -> String {
    prompt(answer).contains("Always assist with care").to_string()
}

pub fn reasoning(answer: &Answer) -> String {
    answer.json()["choices"][0]["message"]["reasoning"].as_str().unwrap_or("none").to_owned()
}

pub fn model(answer: &Answer) -> String {
    answer.json()["model"].as_str().expect("a name").to_owned()
}

pub fn names_ids(answer: &Answer) -> String {
    answer.body.contains(&format!("token_id:{}", la())).to_string()
}

/// Generated tokens by the last event.
pub fn streamed_usage(answer: &Answer) -> String {
    let events = answer.events();
    let usage = events.last().and_then(|event| event["usage"]["completion_tokens"].as_u64());
    usage.map_or("none".to_owned(), |count| count.to_string())
}

pub fn scores_prompt(answer: &Answer) -> String {
    let json = answer.json();
    (json["prompt_logprobs"].is_array() || json["choices"][0]["prompt_logprobs"].is_array()).to_string()
}

pub fn is_abc(answer: &Answer) -> String {
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    (id.ends_with("-abc") && answer.header("x-request-id") == Some("abc")).to_string()
}

pub fn finds_prefix(answer: &Answer) -> String {
    (answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(0)).to_string()
}

pub fn answered_ids(answer: &Answer) -> String {
    decoded(&answer.json()["choices"][0]["token_ids"]).unwrap_or("none".to_owned())
}
