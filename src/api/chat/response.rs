//! An answer as one JSON object.

use serde::Serialize;
use serde_json::Value;

use super::{Head, request::ChatCall};
use crate::api::{
    answer::{Answer, ToolCall, Usage, UsageCounter},
    generation::StopReason,
    logprobs::{ChatLogprobs, TokenNames},
    state::ServedModel,
};

#[derive(Debug, Serialize)]
pub(super) struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
    system_fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallBody>,
}

#[derive(Debug, Serialize)]
struct ToolCallBody {
    id: String,
    r#type: &'static str,
    function: FunctionBody,
}

#[derive(Debug, Serialize)]
struct FunctionBody {
    name: String,
    arguments: String,
}

/// The whole answer.
pub(super) fn body(
    head: Head,
    call: &ChatCall,
    model: &ServedModel,
    mut answers: Vec<Answer>,
    usage: &UsageCounter,
) -> ChatCompletion {
    let names = TokenNames { codec: &model.codec, as_token_ids: call.options.tokens_as_token_ids };
    let prompt_logprobs = answers.first_mut().and_then(|answer| answer.prompt_logprobs.take());
    let choices = answers.into_iter().enumerate().map(|(index, answer)| choice(index, answer, call, &names));
    ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: choices.collect(),
        usage: usage.usage(),
        system_fingerprint: head.system_fingerprint,
        prompt_logprobs: prompt_logprobs.map(|logprobs| names.prompt(&call.job.prompt_ids, &logprobs)),
        prompt_token_ids: call.options.return_token_ids.then(|| call.job.prompt_ids.clone()),
    }
}

/// `stop_reason` on the wire: the text or the id.
pub(in crate::api) fn stop_reason(reason: Option<StopReason>) -> Option<Value> {
    reason.map(|reason| match reason {
        StopReason::Text(text) => text.into(),
        StopReason::Token(id) => id.into(),
    })
}

fn choice(index: usize, answer: Answer, call: &ChatCall, names: &TokenNames) -> Choice {
    let reasoning = (call.include_reasoning && !answer.reasoning.is_empty()).then_some(answer.reasoning);
    // A message that only calls tools has no content at all.
    let content = (!answer.content.is_empty() || answer.tool_calls.is_empty()).then_some(answer.content);
    Choice {
        index,
        message: Message {
            role: "assistant",
            content,
            refusal: None,
            reasoning,
            tool_calls: answer.tool_calls.into_iter().map(tool_call).collect(),
        },
        logprobs: call.job.params.logprobs.map(|_| ChatLogprobs { content: names.chat(&answer.logprobs) }),
        finish_reason: answer.finished.reason.as_str(),
        stop_reason: stop_reason(answer.finished.stop_reason),
        token_ids: call.options.return_token_ids.then_some(answer.token_ids),
    }
}

fn tool_call(call: ToolCall) -> ToolCallBody {
    ToolCallBody {
        id: call.id,
        r#type: "function",
        function: FunctionBody { name: call.name, arguments: call.arguments },
    }
}
