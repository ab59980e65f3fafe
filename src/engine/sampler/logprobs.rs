//! Log-probabilities as the API reports them: of the untouched logits, before any sampling stage.

use crate::engine::TokenLogprobs;

/// The log-probability and rank of `token`, and the `n_top` most likely ids, best first (lower ids first
/// among equals). Computed in f64. Source: vLLM's V1 sampler, `raw_logprobs`.
pub fn token_logprobs(logits: &[f32], token: u32, n_top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;

    let chosen = logits[token as usize];
    let above = logits.iter().filter(|&&logit| logit > chosen).count();
    let top = most_likely(logits, n_top).into_iter().map(|id| (id, logprob(logits[id as usize]))).collect();
    TokenLogprobs { logprob: logprob(chosen), rank: above as u32 + 1, top }
}

fn most_likely(logits: &[f32], n_top: usize) -> Vec<u32> {
    let n_top = n_top.min(logits.len());
    if n_top == 0 {
        return Vec::new();
    }
    let order = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.select_nth_unstable_by(n_top - 1, order);
    ids.truncate(n_top);
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_values() {
        let logits = [0.0, 2.0, 1.0, 2.0, f32::NEG_INFINITY];
        let sum: f64 = [0.0f64, 2.0, 1.0, 2.0].map(f64::exp).iter().sum();
        let got = token_logprobs(&logits, 2, 3);
        let want = |logit: f64| (logit - sum.ln()) as f32;
        assert_eq!(
            got,
            TokenLogprobs { logprob: want(1.0), rank: 3, top: vec![(1, want(2.0)), (3, want(2.0)), (2, want(1.0))] }
        );
        assert_eq!(token_logprobs(&logits, 1, 0).top, []);
        assert_eq!(token_logprobs(&logits, 4, 9).top.len(), 5);
    }
}
