//! Errors of the command line: which of them are the user's, and how the process ends with one.

use std::{io, process::ExitCode};

use anyhow::{Error, Result};

use crate::{config::ConfigError, telemetry::logs::LogStyle};

/// What was typed cannot be done, and would not be on a second try either.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// An error with the way to report it.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) style: LogStyle,
}

impl Failure {
    /// For an error that happened before it was known what logs look like.
    pub(super) fn before_logs(error: impl Into<Error>) -> Self {
        Self { error: error.into(), style: LogStyle::Human }
    }
}

/// Writes the whole chain on one line, as a log line where logs are for machines, and picks the exit code.
pub(super) fn report(failure: &Failure) -> ExitCode {
    let chain = one_line(&failure.error);
    match failure.style {
        LogStyle::Human => eprintln!("error: {chain}"),
        LogStyle::Json => tracing::error!("{chain}"),
    }
    let usage = failure.error.chain().any(|cause| cause.is::<UsageError>() || cause.is::<ConfigError>());
    ExitCode::from(if usage { 2 } else { 1 })
}

/// The reader of our output (`head`, a pager) may leave early: that is not a failure.
pub(super) fn ignore_closed_pipe(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn one_line(error: &Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
