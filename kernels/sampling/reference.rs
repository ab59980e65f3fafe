//! The definition: edits in f32, as the scores are stored, then probabilities in f64 and plain sorting.

use std::collections::BTreeMap;

use super::cuda::{Bias, Row};

/// Why no token can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NotFinite,
    NothingAllowed,
}

/// What a row is edited with.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// One entry per id, if there is a mask.
    pub(super) allowed: Option<Vec<bool>>,
    pub(super) biases: Vec<Bias>,
    pub(super) prompt: Vec<u32>,
    pub(super) output: Vec<u32>,
}

/// The ids that a draw can yield, ascending, with their probabilities.
pub(super) fn distribution(logits: &[f32], row: &Row, context: &Context) -> Result<Vec<(u32, f64)>, Failure> {
    largest(logits)?;
    let scores = edited(logits, row, context);
    let max = largest(&scores)?;
    let by_id = |id: &usize| scores[*id] > f32::NEG_INFINITY;
    let mut order: Vec<usize> = (0..scores.len()).filter(by_id).collect();
    if row.temperature == 0.0 {
        order.retain(|&id| scores[id] == max);
        return Ok(vec![(order[0] as u32, 1.0)]);
    }
    let log_weight = |id: usize| (scores[id] - max) / row.temperature;
    let weight = |id: usize| f64::from(log_weight(id)).exp();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.retain(|&id| log_weight(id) >= row.min_p.ln());
    let top_k = row.top_k as usize;
    if top_k > 0 && top_k < order.len() {
        let kth = scores[order[top_k - 1]];
        order.retain(|&id| scores[id] >= kth);
    }
    if row.top_p < 1.0 {
        let mut missing = f64::from(row.top_p) * order.iter().map(|&id| weight(id)).sum::<f64>();
        let reached = order.iter().position(|&id| {
            missing -= weight(id);
            missing <= 0.0
        });
        order.truncate(reached.map_or(order.len(), |last| last + 1));
    }
    order.sort_unstable();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    Ok(order.into_iter().map(|id| (id as u32, weight(id) / total)).collect())
}

/// Log-probability and rank of `token`, and of the `n_top` most likely ids.
pub(super) fn logprobs(logits: &[f32], token: u32, n_top: usize) -> ((f64, u32), Vec<(u32, f64)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp()).sum();
    let logprob = |id: usize| f64::from(logits[id]) - f64::from(max) - total.ln();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let token = token as usize;
    let rank = 1 + logits.iter().filter(|&&logit| logit > logits[token]).count();
    let top = order.into_iter().take(n_top).map(|id| (id as u32, logprob(id))).collect();
    ((logprob(token), rank as u32), top)
}

fn edited(logits: &[f32], row: &Row, context: &Context) -> Vec<f32> {
    let mut scores = logits.to_vec();
    if let Some(allowed) = &context.allowed {
        for (score, _) in scores.iter_mut().zip(allowed).filter(|(_, allowed)| !**allowed) {
            *score = f32::NEG_INFINITY;
        }
    }
    for bias in &context.biases {
        if let Some(score) = scores.get_mut(bias.id as usize) {
            *score += bias.bias;
        }
    }
    let edits = &row.edits;
    if edits.counts.is_none() {
        return scores;
    }
    for &id in occurrences(context.prompt.iter().chain(&context.output)).keys() {
        let score = &mut scores[id as usize];
        *score = if *score > 0.0 { *score / edits.repetition_penalty } else { *score * edits.repetition_penalty };
    }
    for (&id, &count) in &occurrences(context.output.iter()) {
        let score = &mut scores[id as usize];
        *score = *score - edits.frequency_penalty * count as f32 - edits.presence_penalty;
    }
    scores
}

fn occurrences<'a>(ids: impl Iterator<Item = &'a u32>) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for &id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

fn largest(scores: &[f32]) -> Result<f32, Failure> {
    if scores.iter().any(|score| score.is_nan() || *score == f32::INFINITY) {
        return Err(Failure::NotFinite);
    }
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY { Err(Failure::NothingAllowed) } else { Ok(max) }
}
