//! Where log lines go: standard error, for people on a terminal and as JSON otherwise. Prompts, answers and
//! secrets are never logged, at any level.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// What log lines look like, once decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// Time, level and message, coloured on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogStyle {
    /// Resolves `auto` by what standard error is.
    pub fn choose(format: LogFormat) -> Self {
        match format {
            LogFormat::Human => Self::Human,
            LogFormat::Json => Self::Json,
            LogFormat::Auto if std::io::stderr().is_terminal() => Self::Human,
            LogFormat::Auto => Self::Json,
        }
    }
}

/// Installs the subscriber of this process. A second call changes nothing.
pub fn init(config: &LogConfig) -> LogStyle {
    let style = LogStyle::choose(config.format);
    let builder =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(config.level.as_str())).with_writer(std::io::stderr);
    // The only failure is that a subscriber exists, as in a test binary that starts two servers.
    let installed = match style {
        LogStyle::Human => {
            let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_target(false).with_ansi(coloured).try_init()
        }
        LogStyle::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    drop(installed);
    style
}
