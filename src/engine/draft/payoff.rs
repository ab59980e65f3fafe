//! How many tokens to draft for whom: a pure function of estimates.

/// A sequence for which tokens could be drafted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prospect {
    /// Probability that a drafted token comes, if those before it have come.
    pub acceptance: f64,
    /// Most tokens to draft.
    pub most: usize,
}

/// What computing costs, in seconds.
pub struct DraftCosts<'a> {
    /// Tokens that the step computes without drafts.
    pub rows: usize,
    /// Tokens that are chosen after it: what a step without prompts computes.
    pub decodes: usize,
    /// Of drafting one token.
    pub draft_token_s: f64,
    /// Of a step, by the tokens that it computes.
    pub step_s: &'a dyn Fn(usize) -> f64,
}

/// By so much drafts must promise more tokens per second, since estimates are never exact.
const MARGIN: f64 = 1.02;

/// The drafts, `budget` tokens together at most, that promise the most tokens per second, or none if that is as good.
///
/// A draft's token number j comes with probability acceptance^j. The likeliest ones are added one after the other,
/// which is the best choice for every number of them; that number is decided by the time that the step then takes.
/// Prompts in the step are not the drafts' concern: they pay only for what they add to it.
pub fn draft_lengths(prospects: &[Prospect], costs: &DraftCosts<'_>, budget: usize) -> Vec<usize> {
    let mut tokens: Vec<(f64, usize)> = Vec::new();
    for (index, prospect) in prospects.iter().enumerate() {
        let acceptance = prospect.acceptance.clamp(0.0, 1.0);
        tokens.extend((1..=prospect.most).map(|position| (acceptance.powi(position as i32), index)));
    }
    // Stable, so that the tokens of a draft stay in their order.
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0));
    tokens.truncate(budget);

    let decodes = costs.decodes.max(1);
    let decode_s = (costs.step_s)(decodes);
    let rate = |gain: f64, drafted: usize| {
        let added_s = (costs.step_s)(costs.rows + drafted) - (costs.step_s)(costs.rows);
        (decodes as f64 + gain) / (decode_s + added_s.max(0.0) + costs.draft_token_s * drafted as f64)
    };
    let (mut best, mut best_rate) = (0, rate(0.0, 0) * MARGIN);
    let mut gain = 0.0;
    for (index, (probability, _)) in tokens.iter().enumerate() {
        gain += probability;
        let rate = rate(gain, index + 1);
        if rate > best_rate {
            (best, best_rate) = (index + 1, rate);
        }
    }
    let mut lengths = vec![0; prospects.len()];
    for (_, index) in &tokens[..best] {
        lengths[*index] += 1;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `prospects` are (acceptance, most); a step takes `fixed_s` and `row_s` per row.
    #[track_caller]
    fn check(prospects: &[(f64, usize)], (fixed_s, row_s): (f64, f64), expected: &[usize]) {
        let decodes = prospects.len();
        check_costs(prospects, (decodes, 0.0), &|rows| fixed_s + row_s * rows as f64, expected);
    }

    #[track_caller]
    fn check_costs(
        prospects: &[(f64, usize)],
        (rows, draft_token_s): (usize, f64),
        step_s: &dyn Fn(usize) -> f64,
        expected: &[usize],
    ) {
        let decodes = prospects.len();
        let prospects: Vec<_> = prospects.iter().map(|&(acceptance, most)| Prospect { acceptance, most }).collect();
        let costs = DraftCosts { rows, decodes, draft_token_s, step_s };
        assert_eq!(draft_lengths(&prospects, &costs, 16), expected);
    }

    #[test]
    fn free_rows_are_all_used() {
        check(&[(0.9, 8)], (1.0, 0.0), &[8]);
        check(&[(0.9, 3)], (1.0, 0.0), &[3]);
        // Sixteen tokens in all, the likeliest first.
        check(&[(0.9, 8), (0.8, 8), (0.3, 8)], (1.0, 0.0), &[8, 7, 1]);
    }

    #[test]
    fn rows_that_cost_as_much_as_a_step_are_never_used() {
        check(&[(0.99, 8)], (0.0, 1.0), &[0]);
        check(&[(0.99, 8), (0.5, 8)], (0.0, 1.0), &[0, 0]);
    }

    #[test]
    fn length_grows_with_acceptance_and_falls_with_the_price_of_rows() {
        let of = |acceptance, row_s| {
            let costs = DraftCosts { rows: 1, decodes: 1, draft_token_s: 0.0, step_s: &|n| 1.0 + row_s * n as f64 };
            draft_lengths(&[Prospect { acceptance, most: 8 }], &costs, 8)[0]
        };
        assert_eq!([0.02, 0.3, 0.6, 0.8, 0.95].map(|acceptance| of(acceptance, 0.1)), [0, 1, 3, 6, 8]);
        assert_eq!([0.01, 0.1, 0.3, 1.0, 9.0].map(|row_s| of(0.7, row_s)), [8, 4, 2, 1, 0]);
    }

    #[test]
    fn the_more_sequences_share_a_step_the_less_a_draft_is_worth() {
        // Up to eight rows for the price of one, then each costs an eighth.
        let step_s = |rows: usize| (rows as f64 / 8.0).max(1.0);
        check_costs(&[(0.8, 8)], (1, 0.0), &step_s, &[7]);
        check_costs(&[(0.8, 8); 4], (4, 0.0), &step_s, &[1; 4]);
        check_costs(&[(0.8, 8); 8], (8, 0.0), &step_s, &[0; 8]);
    }

    #[test]
    fn beside_a_prompt_a_draft_pays_what_it_adds() {
        let step_s = |rows: usize| 1.0 + 0.1 * rows as f64;
        check_costs(&[(0.6, 8)], (1, 0.0), &step_s, &[3]);
        check_costs(&[(0.6, 8)], (500, 0.0), &step_s, &[3]);
    }

    #[test]
    fn the_drafter_is_paid_too() {
        let step_s = |_: usize| 1.0;
        check_costs(&[(0.7, 8)], (1, 0.05), &step_s, &[6]);
        check_costs(&[(0.7, 8)], (1, 0.3), &step_s, &[2]);
        check_costs(&[(0.7, 8)], (1, 0.8), &step_s, &[0]);
    }
}
