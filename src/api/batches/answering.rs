//! Lines are answered by the routes that clients use, a few at a time, marked as [`Background`]. A line that meets a
//! server which is busy, loading or stopping is not refused but waits.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tower::ServiceExt;

use super::{
    results::{Answered, unanswered},
    runner::Worker,
};
use crate::{
    api::{
        about::About,
        audit::Cause,
        behalf::caller_of,
        dialect::Dialect,
        error::ApiError,
        request::{Background, RequestId},
        state::{Readiness, unix_seconds},
    },
    store::{Batch, BatchState, Kept, Line, Outcome, StoreError},
};

/// After something that was not possible just now: twice as long each time, up to the last.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(8);

/// A line to ask.
struct Upcoming {
    line: Line,
    /// How many answers it wants.
    answers: usize,
}

/// A line that was asked.
struct Done {
    number: u64,
    answers: usize,
    outcome: Outcome,
    result: String,
}

/// What all lines of a batch have in common.
struct Asking<'a> {
    batch: &'a str,
    endpoint: &'a str,
    behalf: Option<&'a str>,
    background: Background,
    kept: &'a Kept,
}

/// As much of a request as says how many answers it wants.
#[derive(Default, Deserialize)]
struct Wants<'a> {
    n: Option<serde_json::Value>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

impl Worker {
    /// Asks every line that has no outcome yet; returns when none is left, time is over, or the batch was cancelled.
    pub(super) async fn answer_lines(&self, batch: &Batch) -> Result<(), StoreError> {
        let left = Duration::from_secs(batch.request.expires_at.saturating_sub(unix_seconds()));
        let deadline = Instant::now() + left;
        let dialect = batch.request.dialect.as_deref().and_then(Dialect::of_name);
        let asking = Asking {
            batch: &batch.id,
            endpoint: &batch.request.endpoint,
            behalf: batch.request.behalf.as_deref(),
            background: Background { deadline, dialect },
            kept: &batch.kept,
        };
        let most = self.state.limits().storage.answers_at_once;
        let mut expiry = pin!(sleep(left));
        let mut asked = FuturesUnordered::new();
        let (mut upcoming, mut last, mut answers) = (None, 0, 0);
        loop {
            loop {
                if upcoming.is_none() {
                    upcoming = self.next_line(batch, last).await?;
                }
                let has_place = |line: &mut Upcoming| asked.is_empty() || answers + line.answers <= most;
                let Some(line) = upcoming.take_if(has_place) else { break };
                last = line.line.number;
                answers += line.answers;
                asked.push(self.ask(&asking, line));
            }
            if asked.is_empty() {
                break;
            }
            tokio::select! {
                Some(done) = asked.next() => {
                    answers -= done.answers;
                    self.store().record_line(&batch.id, done.number, done.outcome, done.result).await?;
                }
                () = self.tended.notified() => {
                    if self.store().batch(&batch.id).await?.state != BatchState::InProgress {
                        return Ok(());
                    }
                }
                () = &mut expiry => break,
            }
        }
        self.store().finalize_batch(&batch.id, None, unix_seconds()).await
    }

    /// One by one: a line may be as long as a request.
    async fn next_line(&self, batch: &Batch, last: u64) -> Result<Option<Upcoming>, StoreError> {
        let line = self.store().lines_to_do(&batch.id, last, 1).await?.pop();
        Ok(line.map(|line| Upcoming { answers: answers_of(&line.request), line }))
    }

    /// Asks one line until it has an answer that is about the line.
    async fn ask(&self, asking: &Asking<'_>, upcoming: Upcoming) -> Done {
        let Upcoming { line, answers } = upcoming;
        let mut pause = RETRY;
        loop {
            // Trying costs what it costs to read the request.
            while self.state.readiness() != Readiness::Ready {
                sleep(RETRY).await;
            }
            if let Some((outcome, result)) = self.try_line(asking, &line).await {
                return Done { number: line.number, answers, outcome, result };
            }
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_RETRY);
        }
    }

    /// `None` if there can be no answer just now.
    async fn try_line(&self, asking: &Asking<'_>, line: &Line) -> Option<(Outcome, String)> {
        let request_id = uuid::Uuid::new_v4().simple().to_string();
        let request = Request::post(asking.endpoint)
            .header(CONTENT_TYPE, "application/json")
            .extension(asking.background)
            .extension(About::of_line(asking.kept, line.subject.clone()))
            .extension(RequestId(request_id.clone()))
            .extension(Cause::Batch { id: asking.batch.to_owned(), line: line.custom_id.clone() })
            .body(Body::from(line.request.clone()))
            .expect("the endpoint is one of ours");
        let response = self.response(asking, request).await?;
        let response = asking.background.dialect.unwrap_or(Dialect::OpenAi).translated(&Method::POST, response);
        let (head, body) = response.into_parts();
        // A deadline is that of the batch, which ends with it.
        let not_now = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        // Nor is a budget free again soon, or a request smaller later.
        let for_good = matches!(head.extensions.get(), Some(ApiError::Quota(error)) if !error.passes());
        if not_now.contains(&head.status) && !for_good {
            return None;
        }
        let given = head.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let answered = Answered {
            custom_id: &line.custom_id,
            status_code: head.status.as_u16(),
            request_id: given.unwrap_or(&request_id),
            body: std::str::from_utf8(&body).unwrap_or_default(),
        };
        Some(answered.result().unwrap_or_else(|_| {
            let message = "The answer could not be read; this is a bug of the server.";
            (Outcome::Failed, unanswered(Some(&line.custom_id), "server_error", message))
        }))
    }
}

impl Worker {
    /// What the route says, or why whoever asked for the batch may not ask this any more. `None` if that is to be found out
    /// again.
    async fn response(&self, asking: &Asking<'_>, mut request: Request<Body>) -> Option<Response> {
        let caller = match caller_of(&self.state, asking.behalf, asking.endpoint).await {
            Ok(caller) => caller,
            Err(error) => return Some(error.into_response()),
        };
        let principal = caller.principal.clone();
        request.extensions_mut().insert(caller);
        let response = async { self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {}) };
        let Some(principal) = principal else { return Some(response.await) };
        tokio::select! {
            response = response => Some(response),
            _ = principal.until_over() => None,
        }
    }
}

/// How many answers a request wants. One that cannot be read wants one: it is refused when it is asked.
fn answers_of(request: &str) -> usize {
    let wants: Wants = serde_json::from_str(request).unwrap_or_default();
    let prompts = wants.prompt.map_or(1, |prompt| prompts_of(prompt.get()));
    let n = wants.n.and_then(|n| n.as_f64()).map_or(1, |n| n as usize); // saturates
    prompts.saturating_mul(n).max(1)
}

/// A list of texts or of lists has as many prompts; anything else, such as a list of tokens, is one.
fn prompts_of(prompt: &str) -> usize {
    let first = prompt.trim_start().strip_prefix('[').map(str::trim_start);
    if first.is_some_and(|first| first.starts_with(['"', '['])) {
        serde_json::from_str::<Vec<IgnoredAny>>(prompt).map_or(1, |prompts| prompts.len())
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_as_often_as_it_wants_answers() {
        for (request, answers) in [
            (r#"{"messages": []}"#, 1),
            (r#"{"n": 12, "messages": []}"#, 12),
            (r#"{"n": 3.0}"#, 3),
            (r#"{"n": null, "prompt": "Hello"}"#, 1),
            (r#"{"prompt": [1, 2, 3]}"#, 1),
            (r#"{"prompt": ["a", "b"], "n": 2}"#, 4),
            (r#"{"prompt": [[1, 2], [3]]}"#, 2),
            (r#"{"n": 1e300, "prompt": ["a", "b"]}"#, usize::MAX),
            (r#"{"n": -1, "prompt": []}"#, 1),
            (r#"{"n": "many"}"#, 1),
            ("nonsense", 1),
        ] {
            assert_eq!(answers_of(request), answers, "{request}");
        }
    }
}
