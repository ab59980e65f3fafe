//! From scores to what a draw can yield: temperature, then `min_p`, `top_k`, `top_p` and `typical_p`, each
//! on what the one before it left. Candidates stay in the order of their ids.
//!
//! A vocabulary has up to 131,072 ids and mostly a few hundred matter, so nothing sorts it: exact bounds
//! ([`kth_bound`], [`mass_bound`]) drop ids that no stage could keep, and the stages work on the rest.

use std::cmp::Ordering;

use crate::types::SamplingParams;

/// Below this many candidates, sorting is cheaper than dividing further.
const SORT_BELOW: usize = 256;

/// Ids and weights to draw from. Weights are relative to each other.
pub(super) enum Candidates {
    /// Every id, by index.
    All(Vec<f32>),
    /// The ids that truncation left, ascending.
    Some(Vec<Candidate>),
}

/// One id that can be drawn.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    id: u32,
    score: f32,
    weight: f32,
}

impl Candidates {
    /// All stages after the logit edits. `max` is the largest score, the temperature is above 0.
    pub(super) fn new(scores: &[f32], max: f32, params: &SamplingParams) -> Self {
        let top_k = Some(params.top_k as usize).filter(|&k| k > 0 && k < scores.len());
        let (mut kept, total) = if top_k.is_some() || params.min_p > 0.0 {
            let kept = cut_by_score(scores, max, params, top_k);
            let total = mass(&kept);
            (kept, total)
        } else {
            let weights: Vec<f32> = scores.iter().map(|&score| weight((score - max) / params.temperature)).collect();
            if params.top_p == 1.0 && params.typical_p == 1.0 {
                return Self::All(weights);
            }
            let total = sum(&weights);
            (collect(scores, &weights, mass_bound(params.top_p, total, scores.len())), total)
        };
        if params.top_p < 1.0 {
            keep_top_p(&mut kept, f64::from(params.top_p) * total);
        }
        if params.typical_p < 1.0 {
            keep_typical(&mut kept, f64::from(params.typical_p));
        }
        Self::Some(kept)
    }

    /// The id at `uniform` (in [0, 1)) of the cumulative weight, ids in ascending order.
    pub(super) fn pick(&self, uniform: f64) -> u32 {
        match self {
            Self::All(weights) => pick_dense(weights, uniform),
            Self::Some(kept) => {
                let weights = kept.iter().map(|candidate| candidate.weight);
                kept[pick_index(weights, uniform * mass(kept))].id
            }
        }
    }

    /// Normalised weights into a row of zeros.
    pub(super) fn write_probabilities(&self, row: &mut [f64]) {
        match self {
            Self::All(weights) => {
                let total = sum(weights);
                for (probability, &weight) in row.iter_mut().zip(weights) {
                    *probability = f64::from(weight) / total;
                }
            }
            Self::Some(kept) => {
                let total = mass(kept);
                for candidate in kept {
                    row[candidate.id as usize] = f64::from(candidate.weight) / total;
                }
            }
        }
    }
}

/// `min_p` and `top_k`. Every id equal to the k-th most likely stays.
fn cut_by_score(scores: &[f32], max: f32, params: &SamplingParams, top_k: Option<usize>) -> Vec<Candidate> {
    let floor = top_k.map_or(f32::NEG_INFINITY, |k| kth_bound(scores, k));
    let log_min_p = params.min_p.ln();
    let mut kept = Vec::new();
    for (id, &score) in scores.iter().enumerate() {
        if score < floor || score == f32::NEG_INFINITY {
            continue;
        }
        let log_weight = (score - max) / params.temperature;
        if log_weight >= log_min_p {
            kept.push(Candidate { id: id as u32, score, weight: weight(log_weight) });
        }
    }
    if let Some(k) = top_k.filter(|&k| k < kept.len()) {
        let mut by_score = kept.clone();
        let (_, kth, _) = by_score.select_nth_unstable_by(k - 1, more_likely);
        let kth = kth.score;
        kept.retain(|candidate| candidate.score >= kth);
    }
    kept
}

/// A score that at least `k` ids reach: the k-th largest of the maxima of disjoint groups.
fn kth_bound(scores: &[f32], k: usize) -> f32 {
    const GROUP: usize = 32;
    let mut maxima: Vec<f32> =
        scores.chunks(GROUP).map(|group| group.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
    if maxima.len() < k {
        return f32::NEG_INFINITY;
    }
    *maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// A weight so small that all ids below it together weigh less than `1 - top_p`: the others reach `top_p`
/// without them.
fn mass_bound(top_p: f32, total: f64, n_ids: usize) -> f32 {
    const ROUNDING: f64 = 0.99;
    (ROUNDING * (1.0 - f64::from(top_p)) * total / n_ids as f64) as f32
}

fn collect(scores: &[f32], weights: &[f32], floor: f32) -> Vec<Candidate> {
    let mut kept = Vec::new();
    for (id, (&score, &weight)) in scores.iter().zip(weights).enumerate() {
        if weight >= floor && score > f32::NEG_INFINITY {
            kept.push(Candidate { id: id as u32, score, weight });
        }
    }
    kept
}

/// Keeps the shortest run of most likely ids that reaches `target`; among equals the lower id comes first.
fn keep_top_p(kept: &mut Vec<Candidate>, target: f64) {
    let mut order = kept.clone();
    let mut missing = target;
    let mut range = 0..order.len();
    while range.len() > SORT_BELOW {
        let half = range.len() / 2;
        let middle = range.start + half;
        order[range.clone()].select_nth_unstable_by(half, more_likely);
        let upper = mass(&order[range.start..middle]);
        if upper >= missing {
            range.end = middle;
        } else {
            missing -= upper;
            range.start = middle;
        }
    }
    let rest = &mut order[range];
    rest.sort_unstable_by(more_likely);
    let last = rest.iter().find(|candidate| {
        missing -= f64::from(candidate.weight);
        missing <= 0.0
    });
    if let Some(last) = last {
        kept.retain(|candidate| more_likely(candidate, last) != Ordering::Greater);
    }
}

/// transformers' `TypicalLogitsWarper`: the ids whose surprise is nearest to the entropy, up to the mass.
fn keep_typical(kept: &mut Vec<Candidate>, typical_p: f64) {
    let total = mass(kept);
    kept.retain(|candidate| candidate.weight > 0.0);
    let surprise = |candidate: &Candidate| -(f64::from(candidate.weight) / total).ln();
    let entropy: f64 = kept.iter().map(|candidate| f64::from(candidate.weight) / total * surprise(candidate)).sum();
    let distance = |candidate: &Candidate| (surprise(candidate) - entropy).abs();

    let mut order: Vec<(f64, f32)> = kept.iter().map(|c| (distance(c), c.weight)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut missing = typical_p * total;
    let last = order.iter().find(|(_, weight)| {
        missing -= f64::from(*weight);
        missing <= 0.0
    });
    if let Some(&(furthest, _)) = last {
        kept.retain(|candidate| distance(candidate) <= furthest);
    }
}

fn more_likely(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

fn pick_dense(weights: &[f32], uniform: f64) -> u32 {
    const GROUP: usize = 1024;
    let groups: Vec<f64> = weights.chunks(GROUP).map(sum).collect();
    let total: f64 = groups.iter().sum();
    let mut rest = uniform * total;
    let (mut start, mut within) = (0, 0.0);
    for (index, &group) in groups.iter().enumerate() {
        if group > 0.0 {
            (start, within) = (index * GROUP, rest);
            rest -= group;
            if rest < 0.0 {
                break;
            }
        }
    }
    let end = weights.len().min(start + GROUP);
    (start + pick_index(weights[start..end].iter().copied(), within)) as u32
}

/// The first index where the running sum exceeds `target`. If rounding left the target beyond the sum, the
/// last index that has any weight.
fn pick_index(weights: impl Iterator<Item = f32>, target: f64) -> usize {
    let mut rest = target;
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = index;
            rest -= f64::from(weight);
            if rest < 0.0 {
                break;
            }
        }
    }
    last
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

fn sum(weights: &[f32]) -> f64 {
    // Independent lanes, so that the additions need not wait for each other.
    const LANES: usize = 8;
    let mut lanes = [0.0; LANES];
    let chunks = weights.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks.chain([rest]) {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    lanes.iter().sum()
}

/// `2^115 * e^x` for `x <= 0`, and 0 below e^-166.
///
/// The scale keeps ids in the support that plain f32 would lose at e^-87; only ratios matter. Without a call
/// or a branch the compiler vectorises it, and the result is the same on every platform. Polynomial and constants: Cephes `expf`, relative error below 2e-7.
fn weight(x: f32) -> f32 {
    const SCALE: u32 = 115;
    const LOWEST: f32 = -166.0;
    /// 1.5 * 2^23: adding it rounds to an integer, which then is in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > LOWEST { x } else { LOWEST };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127 + SCALE) << 23);
    if x < LOWEST { 0.0 } else { (p * r * r + r + 1.0) * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exponentials() {
        let scale = 2f64.powi(115);
        for step in 0..=16_600 {
            let x = step as f32 * -0.01;
            let (got, want) = (f64::from(weight(x)) / scale, f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "x {x}: got {got}, want {want}");
        }
        assert_eq!([weight(-166.1), weight(f32::NEG_INFINITY)], [0.0, 0.0]);
    }

    #[test]
    fn the_bounds_change_nothing() {
        // Against the plain definition: sort everything, cut.
        let scores: Vec<f32> = (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1e-6).collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let total: f64 = scores.iter().map(|&score| f64::from(score - max).exp()).sum();
        for (top_k, top_p) in [(1, 1.0), (90, 1.0), (2999, 1.0), (0, 0.3), (0, 0.95), (0, 0.999)] {
            let params = SamplingParams { top_k, top_p, ..SamplingParams::default() };
            let Candidates::Some(kept) = Candidates::new(&scores, max, &params) else { panic!("not truncated") };
            let mut mass = 0.0;
            let mut want: Vec<usize> = order
                .iter()
                .copied()
                .take_while(|&id| {
                    let go_on = mass < f64::from(top_p) * total;
                    mass += f64::from(scores[id] - max).exp();
                    go_on
                })
                .collect();
            if top_k > 0 {
                want.truncate(top_k as usize);
            }
            want.sort_unstable();
            let got: Vec<usize> = kept.iter().map(|candidate| candidate.id as usize).collect();
            assert_eq!(got, want, "top_k {top_k}, top_p {top_p}");
        }
    }

    #[test]
    fn a_pick_never_has_weight_zero() {
        let weights = [0.0, 1.0, 0.0, 3.0, 0.0];
        for uniform in [0.0, 0.2, 0.25, 0.5, 1.0 - f64::EPSILON, 1.0] {
            let id = pick_dense(&weights, uniform);
            assert_eq!(id, if uniform < 0.25 { 1 } else { 3 }, "{uniform}");
        }
        let mut long = vec![0.0; 5000];
        long[1500] = 1.0;
        assert_eq!([pick_dense(&long, 0.0), pick_dense(&long, 1.0)], [1500, 1500]);
    }
}
