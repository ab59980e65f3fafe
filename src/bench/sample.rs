//! What became of one request. Main type: [`Sample`].

use serde::Serialize;

/// One request, seen from the client. Times are seconds; `due_s` counts from the beginning of the run, the
/// others from `due_s`, so that waiting for a free connection is part of every latency.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Number of the request within the plan.
    pub index: u64,
    /// When it was due.
    pub due_s: f64,
    /// When it was really sent.
    pub send_lag_s: f64,
    /// First text of the answer.
    pub ttft_s: Option<f64>,
    /// Last text or end of the answer, or end of the attempt.
    pub end_s: f64,
    /// Seconds between the pieces of text, one less than there are pieces.
    pub gaps_s: Vec<f32>,
    /// Tokens that were asked for.
    pub asked: Tokens,
    /// Tokens as the server counts them; of the answer, without such a count, as many as there were pieces.
    pub counted: Tokens,
    /// Did the server count?
    pub has_usage: bool,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Lengths of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Of the prompt; 0 if unknown.
    pub input: u32,
    /// Of the answer.
    pub output: u32,
    /// Of the prompt, found in a prefix cache.
    pub cached: u32,
}

/// A request without a whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For counting.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection, or it broke before an answer began.
    Connection,
    /// It took longer than the time limit.
    Timeout,
    /// The server is full: status 429 or 503.
    Refused,
    /// Another status than 200.
    Status,
    /// The answer broke off, or is not what the API says.
    Stream,
}

impl Sample {
    /// Seconds per token after the first one; for answers of two tokens and more.
    pub fn tpot_s(&self) -> Option<f64> {
        let further = self.counted.output.checked_sub(1).filter(|further| *further > 0)?;
        Some((self.end_s - self.ttft_s?) / f64::from(further))
    }
}

impl FailureKind {
    /// As in the reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Status => "status",
            Self::Stream => "stream",
        }
    }
}
