//! Quotas at the door of the engine: [`Metering`] rides with a request's scheduling, so that nothing is submitted to the
//! engine without being counted. Also what an answer says of them: headers and refusals.

use std::{fmt, sync::Arc};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};

use super::{error::ApiError, state::AppState};
use crate::governance::{
    Principal,
    quota::{Amount, Exceeded, LimitKind, Reservation, Standing, Subject},
};

/// Tokens that an answer without `max_tokens` is taken to have, until it is known how many it has.
const ASSUMED_ANSWER: usize = 1024;

/// What a request is counted by.
#[derive(Clone, Default)]
pub struct Metering(Option<Arc<Asked>>);

struct Asked {
    state: AppState,
    subject: Subject,
}

/// What a request may use: a prompt of so many tokens, and answers of at most so many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) prompt: usize,
    pub(super) answers: usize,
    pub(super) max_tokens: Option<usize>,
    /// Tokens that an answer can have.
    pub(super) room: usize,
}

impl Wanted {
    fn tokens(&self) -> usize {
        let answer = self.max_tokens.unwrap_or(ASSUMED_ANSWER).min(self.room);
        self.prompt.saturating_add(self.answers.saturating_mul(answer))
    }
}

/// A request is more than a quota allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{exceeded}.{}", advice(.exceeded))]
pub struct QuotaError {
    exceeded: Box<Exceeded>,
}

impl Metering {
    pub(super) fn new(state: &AppState, principal: Option<&Principal>, model: &str) -> Self {
        Self(Some(Arc::new(Asked { state: state.clone(), subject: subject(state, principal, model) })))
    }

    /// Takes what a call may use, if anything limits it: all of its requests, or none.
    pub(super) fn reserve(&self, requests: &[Wanted]) -> Result<Option<Arc<Reservation>>, ApiError> {
        let Some(asked) = &self.0 else { return Ok(None) };
        let tokens = requests.iter().fold(0, |sum: usize, wanted| sum.saturating_add(wanted.tokens())) as u64;
        let amount = Amount { requests: requests.len() as u64, tokens };
        let reserved = asked.state.governance().quotas().reserve(&asked.subject, amount, now_ms());
        let reserved = reserved.inspect_err(|exceeded| asked.state.http_metrics().quota_refused(exceeded.kind.name()));
        Ok(reserved.map_err(|exceeded| QuotaError { exceeded: exceeded.into() })?.map(Arc::new))
    }
}

impl PartialEq for Metering {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(|asked| &asked.subject) == other.0.as_ref().map(|asked| &asked.subject)
    }
}

impl Eq for Metering {}

impl fmt::Debug for Metering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metering").field(&self.0.as_ref().map(|asked| &asked.subject)).finish()
    }
}

impl QuotaError {
    /// Will the same request be admitted within a minute or so, or when others have ended?
    pub(super) fn passes(&self) -> bool {
        !self.exceeded.kind.is_budget() && self.exceeded.needed <= self.exceeded.limit
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.exceeded.kind.is_budget() { "insufficient_quota" } else { "rate_limit_error" }
    }

    pub(super) fn code(&self) -> &'static str {
        if self.exceeded.kind.is_budget() { "insufficient_quota" } else { "rate_limit_exceeded" }
    }

    /// Seconds, at least one; nothing where waiting does not help.
    pub(super) fn retry_after(&self) -> Option<HeaderValue> {
        let ms = match self.exceeded.kind {
            LimitKind::ConcurrentRequests if self.passes() => Some(1000),
            _ => self.exceeded.free_in_ms,
        };
        ms.map(|ms| HeaderValue::from(ms.div_ceil(1000).max(1)))
    }
}

fn advice(exceeded: &Exceeded) -> String {
    match exceeded.free_in_ms {
        _ if exceeded.needed > exceeded.limit => {
            let what = match exceeded.kind {
                LimitKind::RequestsPerMinute | LimitKind::ConcurrentRequests => "prompts",
                LimitKind::TokensPerMinute | LimitKind::TokensPerDay | LimitKind::TokensPerMonth => "tokens",
            };
            format!(" It can never be admitted: ask for fewer {what}.")
        }
        Some(ms) => format!(" Try again in {}.", duration(ms)),
        None => " Try again when another has ended.".to_owned(),
    }
}

/// Tells a caller where it stands, in OpenAI's headers, if anything limits it by the minute.
pub(super) fn add_headers(state: &AppState, principal: Option<&Principal>, response: &mut Response) {
    let Some(model) = state.loaded_model() else { return };
    let subject = subject(state, principal, model.name());
    let (requests, tokens) = state.governance().quotas().standing(&subject, now_ms());
    let of_requests = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    let of_tokens = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
    for (names, standing) in [(of_requests, requests), (of_tokens, tokens)] {
        let Some(Standing { limit, remaining, reset_ms }) = standing else { continue };
        let values = [limit.to_string(), remaining.to_string(), duration(reset_ms)];
        for (name, value) in names.into_iter().zip(values) {
            let value = HeaderValue::try_from(value).expect("digits and letters");
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

fn subject(state: &AppState, principal: Option<&Principal>, model: &str) -> Subject {
    let tenant = principal.map_or(state.tenant(), |principal| &principal.asker.tenant).to_owned();
    Subject { key: principal.map(|principal| principal.asker.id.clone()), tenant, model: model.to_owned() }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

/// As OpenAI writes it: `1h2m3s`, `6m0s`, `1s`, `250ms`.
fn duration(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    match (hours, minutes) {
        (0, 0) if ms < 1000 => format!("{ms}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        (_, _) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_written_as_openais() {
        let written = [0, 250, 1000, 59_999, 360_000, 3_723_000].map(duration);
        assert_eq!(written, ["0ms", "250ms", "1s", "59s", "6m0s", "1h2m3s"]);
    }
}
