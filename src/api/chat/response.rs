//! An answer as one JSON object.

use serde::Serialize;
use serde_json::Value;

use super::{
    Head,
    mistral::{Beginning, MessageContent},
    request::ChatCall,
};
use crate::api::{
    answer::{Answer, ToolCall, Usage, UsageCounter},
    dialect::Dialect,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: Option<MessageContent>,
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
    /// Mistral's clients take a call without one for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
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
    let as_token_ids = call.options.tokens_as_token_ids;
    let names = TokenNames { codec: &model.codec, as_token_ids, dialect: call.dialect };
    // vLLM has those of the prompt once, Mistral has them in each choice.
    let prompt_logprobs = match call.dialect {
        Dialect::OpenAi => answers.first_mut().and_then(|answer| answer.prompt_logprobs.take()),
        Dialect::Mistral => None,
    };
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
    let Beginning { reasoning, content } = call.beginning.clone();
    let reasoning = reasoning + &answer.reasoning;
    let content = content + &answer.content;
    // A message that only calls tools has no content at all.
    let content = (!content.is_empty() || answer.tool_calls.is_empty()).then_some(content);
    let prompt_logprobs = answer.prompt_logprobs.filter(|_| call.dialect == Dialect::Mistral);
    let prompt_logprobs = prompt_logprobs.map(|logprobs| names.chat_prompt(&call.job.prompt_ids, &logprobs));
    Choice {
        index,
        message: message(call, reasoning, content, answer.tool_calls),
        logprobs: call.job.params.logprobs.map(|_| ChatLogprobs { content: names.chat(&answer.logprobs) }),
        prompt_logprobs: prompt_logprobs.map(|content| ChatLogprobs { content }),
        finish_reason: call.finish_reason(answer.finished.reason),
        stop_reason: stop_reason(answer.finished.stop_reason),
        token_ids: call.options.return_token_ids.then_some(answer.token_ids),
    }
}

fn message(call: &ChatCall, reasoning: String, content: Option<String>, calls: Vec<ToolCall>) -> Message {
    let reasoning = Some(reasoning).filter(|text| call.include_reasoning && !text.is_empty());
    let (content, reasoning) = match call.dialect {
        Dialect::OpenAi => (content.map(MessageContent::Text), reasoning),
        Dialect::Mistral => (MessageContent::with_thinking(reasoning.unwrap_or_default(), content), None),
    };
    let tool_calls = calls.into_iter().enumerate().map(|(index, it)| tool_call(index, it, call.dialect)).collect();
    Message { role: "assistant", content, refusal: None, reasoning, tool_calls }
}

fn tool_call(index: usize, call: ToolCall, dialect: Dialect) -> ToolCallBody {
    ToolCallBody {
        id: call.id,
        r#type: "function",
        function: FunctionBody { name: call.name, arguments: call.arguments },
        index: (dialect == Dialect::Mistral).then_some(index),
    }
}
