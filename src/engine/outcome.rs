//! What a step leads to for a sequence: known in part when it is started, in whole when its results are read. Pure
//! functions over one sequence's rows.

use super::{
    TokenLogprobs,
    batch::OutputRows,
    forward::{Results, Row},
    in_flight::{Chosen, InFlight},
    sampler::SampleError,
    sequence::{Outlook, Sequence},
};
use crate::types::RowResult;

/// What one sequence's rows led to.
pub(super) struct Outcome {
    pub(super) prompt_entries: Vec<TokenLogprobs>,
    pub(super) chosen: Option<Chosen>,
}

/// What computing these rows leads to.
pub(super) fn outlook(request: &InFlight, sequence: &Sequence, rows: &OutputRows, max_sequence_len: usize) -> Outlook {
    let Some(row) = rows.next else { return Outlook::Prefill };
    if !request.wants_tokens() {
        return Outlook::End;
    }
    let n_tokens = sequence.num_tokens() + 1;
    let is_last = request.is_last(n_tokens - sequence.prompt().len(), n_tokens >= max_sequence_len);
    if is_last { Outlook::LastToken(row as u32) } else { Outlook::Token(row as u32) }
}

/// Reads one sequence's rows: prompt log-probabilities, and the next token where the prefill is complete.
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
    let Some(row) = rows.next.filter(|_| request.wants_tokens()) else {
        return Ok(Outcome { prompt_entries, chosen: None });
    };
    let chosen = match results.row(row) {
        Row::Logits(logits) => request.choose(sequence, logits),
        Row::Chosen(RowResult::Token { id, logprobs }) => Ok(Chosen { id: *id, logprobs: logprobs.clone() }),
        Row::Chosen(RowResult::NothingAllowed) => Err(SampleError::NothingAllowed),
        Row::Chosen(RowResult::NotFinite | RowResult::Logits(_)) => Err(SampleError::NotFinite),
    };
    Ok(Outcome { prompt_entries, chosen: Some(chosen.map_err(|error| error.to_string())?) })
}
