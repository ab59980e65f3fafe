//! Requests of a recorded load. Main type: [`Trace`]. The format is that of the Mooncake traces
//! (<https://github.com/kvcache-ai/Mooncake>, `FAST25-release/traces`): one JSON object per line with
//! `timestamp` (milliseconds), `input_length`, `output_length` and `hash_ids`, each of which stands for the
//! same 512 tokens wherever it occurs; `prompt`, a text, may stand in place of `input_length` and `hash_ids`.

use std::{fs::File, io::BufRead, io::BufReader, path::Path, time::Duration};

use serde::Deserialize;

use super::arrivals::after;

/// Tokens that one of `hash_ids` stands for.
pub const HASHED_TOKENS: u32 = 512;
const MOST_TOKENS: u32 = 10_000_000;

/// Requests in the order of their times.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// At least one.
    pub rows: Vec<TraceRow>,
}

/// One request of a trace.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TraceRow {
    /// When it was made, in milliseconds since some beginning.
    pub timestamp: Option<f64>,
    /// Tokens of the prompt; needed where there is no `prompt`.
    pub input_length: Option<u32>,
    /// Tokens of the answer.
    pub output_length: u32,
    /// Blocks of the prompt, in order; like ids are like tokens.
    #[serde(default)]
    pub hash_ids: Vec<u64>,
    /// The prompt itself.
    pub prompt: Option<String>,
}

/// A file that is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("cannot read the trace: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no request.
    #[error("line {line} of the trace: {problem}")]
    Row {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to do.
    #[error("the trace has no requests")]
    Empty,
}

impl Trace {
    /// Reads a file of JSON lines; empty lines are skipped.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        Self::parse(BufReader::new(File::open(path)?))
    }

    /// Reads JSON lines.
    pub fn parse(lines: impl BufRead) -> Result<Self, TraceError> {
        let mut rows: Vec<TraceRow> = Vec::new();
        for (index, line) in lines.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let problem = |problem: String| TraceError::Row { line: index + 1, problem };
            let row: TraceRow = serde_json::from_str(&line).map_err(|error| problem(error.to_string()))?;
            row.check(rows.last()).map_err(problem)?;
            rows.push(row);
        }
        if rows.is_empty() { Err(TraceError::Empty) } else { Ok(Self { rows }) }
    }

    /// When each request is due after the first one, if they say so. `speed` 2 is twice as fast.
    pub fn times(&self, speed: f64) -> Option<Vec<Duration>> {
        let first = self.rows[0].timestamp?;
        let due = |row: &TraceRow| row.timestamp.map(|ms| after((ms - first) / 1000.0 / speed));
        self.rows.iter().map(due).collect()
    }
}

impl TraceRow {
    fn check(&self, before: Option<&Self>) -> Result<(), String> {
        let allowed = 1..=MOST_TOKENS;
        match (self.input_length, &self.prompt) {
            (None, None) => return Err("it needs input_length or prompt".to_owned()),
            (Some(_), Some(_)) => return Err("input_length and prompt exclude each other".to_owned()),
            (Some(length), None) if !allowed.contains(&length) => {
                return Err(format!("input_length {length} is not from 1 to {MOST_TOKENS}"));
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        if !allowed.contains(&self.output_length) {
            return Err(format!("output_length {} is not from 1 to {MOST_TOKENS}", self.output_length));
        }
        let Some(before) = before else { return Ok(()) };
        if before.timestamp.is_some() != self.timestamp.is_some() {
            return Err("either all lines have a timestamp or none has".to_owned());
        }
        let earlier = self.timestamp < before.timestamp;
        if earlier { Err("its timestamp is before that of the line above".to_owned()) } else { Ok(()) }
    }
}
