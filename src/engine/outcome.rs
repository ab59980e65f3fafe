//! What a step leads to for a sequence: known in part when it is started, in whole when its results are read. Pure
//! functions over one sequence's rows.

use super::{
    TokenLogprobs,
    batch::OutputRows,
    forward::{Results, Row},
    in_flight::{ChooseError, Chosen, InFlight},
    request::Task,
    sampler::{self, SampleError},
    sequence::{Outlook, Sequence},
};
use crate::types::RowResult;

/// What one sequence's rows led to.
pub(super) struct Outcome {
    pub(super) prompt_entries: Vec<TokenLogprobs>,
    /// The next token, and one more for each drafted token that has come.
    pub(super) chosen: Vec<Chosen>,
    /// Why there is no token after those.
    pub(super) failure: Option<ChooseError>,
    /// What was asked of the prompt instead of tokens.
    pub(super) values: Option<Vec<f32>>,
}

/// What computing these rows leads to.
pub(super) fn outlook(request: &InFlight, sequence: &Sequence, rows: &OutputRows, max_sequence_len: usize) -> Outlook {
    if rows.pooled.is_some() {
        return Outlook::End;
    }
    let Some(row) = rows.next else { return Outlook::Prefill };
    if !request.wants_tokens() {
        return Outlook::End;
    }
    let n_tokens = sequence.num_tokens() + 1;
    let is_last = request.is_last(n_tokens - sequence.prompt().len(), n_tokens >= max_sequence_len);
    if is_last { Outlook::LastToken(row as u32) } else { Outlook::Token(row as u32) }
}

/// Reads one sequence's rows: prompt log-probabilities, and the next tokens where the prefill is complete. A drafted
/// token counts if it is the one that is chosen, so that a draft changes nothing but when tokens come.
pub(super) fn read_rows(
    request: &InFlight,
    sequence: &Sequence,
    rows: &OutputRows,
    results: &Results,
) -> Result<Outcome, String> {
    let next_ids = &sequence.tokens()[rows.first_position + 1..];
    let prompt_entry = |(row, &id): (usize, &u32)| match results.row(row) {
        Row::Logits(logits) => Ok(request.prompt_entry(id, logits)),
        Row::Chosen(_) => Err("a token was chosen in the middle of a prompt".to_owned()),
    };
    let prompt_entries = rows.prompt.clone().zip(next_ids).map(prompt_entry).collect::<Result<_, _>>()?;
    let mut outcome = Outcome { prompt_entries, chosen: Vec::new(), failure: None, values: None };
    if let Some(values) = asked_values(request, rows, results)? {
        outcome.values = Some(values);
        return Ok(outcome);
    }
    let Some(next) = rows.next.filter(|_| request.wants_tokens()) else { return Ok(outcome) };
    for n_accepted in 0..=rows.drafted {
        let chosen = match results.row(next + n_accepted) {
            Row::Logits(logits) => request.choose(sequence, n_accepted, logits),
            Row::Chosen(RowResult::Token { id, logprobs }) => Ok(Chosen { id: *id, logprobs: logprobs.clone() }),
            Row::Chosen(RowResult::NothingAllowed) => Err(SampleError::NothingAllowed.into()),
            Row::Chosen(RowResult::NotFinite | RowResult::Logits(_) | RowResult::Pooled(_)) => {
                Err(SampleError::NotFinite.into())
            }
        };
        match chosen {
            Ok(chosen) => {
                let as_drafted = sequence.draft().get(n_accepted) == Some(&chosen.id) && !request.ends_at(chosen.id);
                outcome.chosen.push(chosen);
                if !as_drafted {
                    break;
                }
            }
            Err(error) => {
                outcome.failure = Some(error);
                break;
            }
        }
    }
    Ok(outcome)
}

/// What a request asks of its prompt instead of tokens, if its prompt is complete with these rows.
fn asked_values(request: &InFlight, rows: &OutputRows, results: &Results) -> Result<Option<Vec<f32>>, String> {
    let values = match (request.task(), rows.pooled, rows.next) {
        (Task::Pool, Some(pooled), _) => results.pooled(pooled).ok_or("a row was not pooled")?.to_vec(),
        (Task::Weigh(ids), _, Some(next)) => match results.row(next) {
            Row::Logits(logits) => ids.iter().map(|&id| sampler::token_logprobs(logits, id, 0).logprob).collect(),
            Row::Chosen(_) => return Err("a token was chosen where none was asked for".to_owned()),
        },
        (Task::Pool | Task::Weigh(_) | Task::Generate, _, _) => return Ok(None),
    };
    if values.iter().any(|value: &f32| value.is_nan()) {
        return Err("what the model computed is no number".to_owned());
    }
    Ok(Some(values))
}
