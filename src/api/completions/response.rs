//! An answer as one JSON object.

use serde::Serialize;
use serde_json::Value;

use super::{Head, request::CompletionCall};
use crate::{
    api::{
        answer::{Answer, Usage, UsageCounter},
        chat::stop_reason,
        generation::Job,
        logprobs::{CompletionLogprobs, TokenNames},
        state::ServedModel,
    },
    engine::TokenLogprobs,
    prompt::SpecialTokens,
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
    let names = TokenNames { codec: &model.codec, as_token_ids: call.options.tokens_as_token_ids };
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

/// The prompt as the beginning of an answer, with its log-probabilities if they are wanted.
pub(super) fn echoed(
    job: &Job,
    names: &TokenNames,
    prompt_logprobs: Option<&[Option<TokenLogprobs>]>,
) -> (String, CompletionLogprobs) {
    let text = names.codec.decode(&job.prompt_ids, job.params.special_tokens);
    let mut logprobs = CompletionLogprobs::default();
    if let Some(entries) = prompt_logprobs {
        // Control tokens that are not in the text do not count for the offsets either.
        let shown = |id: &u32| job.params.special_tokens == SpecialTokens::Keep || !names.codec.is_control(*id);
        let mut offset = 0;
        for (&id, entry) in job.prompt_ids.iter().zip(entries) {
            let before = offset;
            names.extend_completion(&mut logprobs, [(id, entry.as_ref())], &mut offset);
            if !shown(&id) {
                offset = before;
            }
        }
    }
    (text, logprobs)
}

fn choice(index: usize, answer: Answer, call: &CompletionCall, names: &TokenNames) -> Choice {
    let job = &call.jobs[index / call.n];
    let (mut text, mut logprobs) = if call.echo {
        echoed(job, names, answer.prompt_logprobs.as_deref().filter(|_| call.logprobs.is_some()))
    } else {
        (String::new(), CompletionLogprobs::default())
    };
    let mut offset = text.chars().count();
    names.extend_completion(&mut logprobs, answer.logprobs.iter().map(|(id, entry)| (*id, Some(entry))), &mut offset);
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
