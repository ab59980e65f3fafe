//! An answer as one JSON object.

use serde::Serialize;
use serde_json::Value;

use super::{Head, request::CompletionCall};
use crate::api::{
    answer::{Answer, Usage, UsageCounter},
    chat::stop_reason,
    dialect::Dialect,
    logprobs::{CompletionLogprobs, TokenNames},
    state::ServedModel,
};

#[derive(Debug, Serialize)]
pub(super) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
    system_fingerprint: String,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: &'static str,
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// The whole answer.
pub(super) fn body(
    head: Head,
    call: &CompletionCall,
    model: &ServedModel,
    answers: Vec<Answer>,
    usage: &UsageCounter,
) -> Completion {
    let as_token_ids = call.options.tokens_as_token_ids;
    let names = TokenNames { codec: &model.codec, as_token_ids, dialect: Dialect::OpenAi };
    let choices = answers.into_iter().enumerate().map(|(index, answer)| choice(index, answer, call, &names));
    Completion {
        id: head.id,
        object: "text_completion",
        created: head.created,
        model: head.model,
        choices: choices.collect(),
        usage: usage.usage(),
        system_fingerprint: head.system_fingerprint,
    }
}

fn choice(index: usize, answer: Answer, call: &CompletionCall, names: &TokenNames) -> Choice {
    let job = &call.jobs[index / call.n];
    let (mut text, mut logprobs) = if call.echo {
        let prompt_logprobs = answer.prompt_logprobs.as_deref().filter(|_| call.logprobs.is_some());
        let (text, logprobs) = names.echo(&job.prompt_ids, job.params.special_tokens, prompt_logprobs);
        (job.guard.restore(text), logprobs)
    } else {
        (String::new(), CompletionLogprobs::default())
    };
    names.extend_completion(&mut logprobs, &answer.logprobs, text.chars().count());
    text.push_str(&answer.content);
    let prompt_logprobs = answer.prompt_logprobs.filter(|_| call.show_prompt_logprobs);
    Choice {
        index,
        text,
        logprobs: call.logprobs.map(|_| logprobs),
        finish_reason: answer.finished.reason.as_str(),
        stop_reason: stop_reason(answer.finished.stop_reason),
        prompt_logprobs: prompt_logprobs.map(|logprobs| names.prompt(&job.prompt_ids, &logprobs)),
        token_ids: call.options.return_token_ids.then_some(answer.token_ids),
        prompt_token_ids: call.options.return_token_ids.then(|| job.prompt_ids.clone()),
    }
}
