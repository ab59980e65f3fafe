//! The stages of the sampler as a request to a model that chooses tokens itself. Masks come before biases there, and a
//! forbidden id is one with a bias of negative infinity, which is the same in any order.

use super::{Draw, History, adjust, uniform};
use crate::types::{Penalties, SamplingParams, TokenChoice};

/// What a choice is for, beside the sampling.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Delegate {
    /// Identity of the sequence.
    pub(in crate::engine) sequence: u64,
    /// Tokens of the output that are not in the history.
    pub(in crate::engine) num_unread: usize,
    /// See [`TokenChoice::logprobs`].
    pub(in crate::engine) logprobs: Option<usize>,
}

/// The choice of the next token; `None` for `typical_p`, which is the host's.
pub(in crate::engine) fn delegate<'a>(
    params: &'a SamplingParams,
    history: &History<'a>,
    draw: Draw,
    delegate: Delegate,
) -> Option<TokenChoice<'a>> {
    if params.typical_p < 1.0 {
        return None;
    }
    let forbidden = adjust::completed_words(params, history).chain(history.forbidden_ids.iter().copied());
    let biases = forbidden.map(|id| (id, f32::NEG_INFINITY)).chain(params.logit_bias.iter().copied()).collect();
    Some(TokenChoice {
        uniform: if params.is_greedy() { 0.0 } else { uniform(draw) },
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        allowed_token_ids: params.allowed_token_ids.as_deref(),
        biases,
        penalties: adjust::penalizes(params).then_some(Penalties {
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            sequence: delegate.sequence,
            prompt_ids: history.prompt_ids,
            output_ids: history.output_ids,
            num_unread: delegate.num_unread,
        }),
        logprobs: delegate.logprobs,
    })
}
