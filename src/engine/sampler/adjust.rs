//! The stages that edit single logits, in vLLM's order: the form of the answer, allowed ids, bad words, ids forbidden for now,
//! `logit_bias`, repetition, frequency and presence penalty. A masked id has the score negative infinity.

use super::{History, SampleError};
use crate::types::SamplingParams;

/// Edits the scores in place and returns the largest.
pub(super) fn adjust(scores: &mut [f32], params: &SamplingParams, history: &History<'_>) -> Result<f32, SampleError> {
    finite_max(scores)?;
    mask(scores, params, history);
    for &(id, bias) in &params.logit_bias {
        edit(scores, id, |score| score + bias);
    }
    penalize(scores, params, history);
    finite_max(scores)
}

/// True if [`adjust`] would leave every score as it is.
pub(super) fn changes_nothing(params: &SamplingParams, history: &History<'_>) -> bool {
    params.allowed_token_ids.is_none()
        && params.bad_words.is_empty()
        && history.forbidden_ids.is_empty()
        && history.allowed.is_none()
        && params.logit_bias.is_empty()
        && !penalizes(params)
}

/// True if scores depend on which ids have occurred.
pub(super) fn penalizes(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0
}

/// The ids that would complete a bad word.
pub(super) fn completed_words<'a>(
    params: &'a SamplingParams,
    history: &History<'a>,
) -> impl Iterator<Item = u32> + use<'a> {
    let output_ids = history.output_ids;
    params.bad_words.iter().filter_map(move |word| {
        let (&last, before) = word.split_last()?;
        output_ids.ends_with(before).then_some(last)
    })
}

/// The largest score; refuses NaN and positive infinity.
pub(super) fn finite_max(scores: &[f32]) -> Result<f32, SampleError> {
    // Independent lanes, no early exit and chunks of a fixed length, so that the compiler vectorises it.
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut valid = [true; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut see = |lane: usize, score: f32| {
        valid[lane] &= score < f32::INFINITY;
        max[lane] = if score > max[lane] { score } else { max[lane] };
    };
    for chunk in chunks {
        (0..LANES).for_each(|lane| see(lane, chunk[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, &score)| see(lane, score));
    if valid.contains(&false) {
        return Err(SampleError::NotFinite);
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY { Err(SampleError::NothingAllowed) } else { Ok(max) }
}

fn mask(scores: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    if let Some(allowed) = history.allowed {
        allowed.mask(scores);
    }
    if let Some(allowed) = &params.allowed_token_ids {
        let kept: Vec<(u32, f32)> = allowed.iter().map(|&id| (id, scores[id as usize])).collect();
        scores.fill(f32::NEG_INFINITY);
        for (id, score) in kept {
            scores[id as usize] = score;
        }
    }
    for id in completed_words(params, history).chain(history.forbidden_ids.iter().copied()) {
        edit(scores, id, |_| f32::NEG_INFINITY);
    }
}

fn penalize(scores: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    if params.repetition_penalty != 1.0 {
        let penalty = params.repetition_penalty;
        for (id, _) in occurrences(history.prompt_ids.iter().chain(history.output_ids)) {
            edit(scores, id, |score| if score > 0.0 { score / penalty } else { score * penalty });
        }
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        for (id, count) in occurrences(history.output_ids.iter()) {
            edit(scores, id, |score| score - params.frequency_penalty * count as f32 - params.presence_penalty);
        }
    }
}

/// Each id once, with how often it occurs.
fn occurrences<'a>(ids: impl Iterator<Item = &'a u32>) -> Vec<(u32, u32)> {
    let mut sorted: Vec<u32> = ids.copied().collect();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).collect()
}

/// Ids beyond the vocabulary are passed over: stop ids may come from a larger tokenizer.
fn edit(scores: &mut [f32], id: u32, change: impl FnOnce(f32) -> f32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = change(*score);
    }
}
