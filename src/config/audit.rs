//! Settings of the audit log.

use std::{path::PathBuf, time::Duration};

use super::{
    ByteSize, ConfigError, DataPlace, Span,
    layers::Layers,
    values::{Setting, Switch, words},
};

words! {
    /// Is it written down what is done?
    AuditMode, "auto, on or off", {
        /// Once there is a source of identities, if the data directory lasts.
        Auto = "auto",
        /// From the beginning.
        On = "on",
        /// Never.
        Off = "off",
    }
}

words! {
    /// What happens to requests while the audit log cannot be written.
    AuditOnFailure, "refuse or continue", {
        /// They are refused.
        Refuse = "refuse",
        /// They are answered without a record.
        Continue = "continue",
    }
}

/// A place for checkpoints of the audit log beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditAnchor {
    /// Lines are appended to this file.
    File(PathBuf),
    /// Lines are written to standard output.
    Stdout,
    /// Each line is the body of a POST to this URL.
    Url(String),
}

impl AuditAnchor {
    /// As it may be logged: of a URL only the host, as the rest may hold a secret.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
            Self::Url(url) => {
                let authority = url.split("://").nth(1).unwrap_or_default().split(['/', '?', '#']).next();
                authority.unwrap_or_default().rsplit('@').next().unwrap_or_default().to_owned()
            }
        }
    }
}

impl Setting for AuditAnchor {
    const EXPECTED: &'static str = "stdout, the path of a file, or a URL with http:// or https://";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "stdout" => Some(Self::Stdout),
            _ if text.starts_with("https://") || text.starts_with("http://") => Some(Self::Url(text.to_owned())),
            _ if text.contains("://") => None,
            _ => Some(Self::File(text.into())),
        }
    }

    fn to_toml(&self) -> String {
        match self {
            Self::File(path) => path.to_toml(),
            Self::Stdout => super::values::quoted("stdout"),
            Self::Url(url) => super::values::quoted(url),
        }
    }
}

/// What is written down of what is done.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Whether.
    pub mode: AuditMode,
    /// Where, if not in the data directory.
    pub directory: Option<PathBuf>,
    /// What happens to requests while it cannot be.
    pub on_failure: AuditOnFailure,
    /// Where checkpoints go beside it.
    pub anchor: Option<AuditAnchor>,
    /// After which time it is removed.
    pub retention: Option<Duration>,
    /// A file of it that has this many bytes is ended.
    pub segment: ByteSize,
    /// Are prompts and answers kept as well?
    pub capture: Switch,
}

impl AuditConfig {
    pub(super) fn take(layers: &mut Layers, place: &DataPlace) -> Result<Self, ConfigError> {
        let config = Self {
            mode: layers.take("audit", AuditMode::Auto)?,
            directory: layers.take_optional("audit_dir", "audit in the data directory")?,
            on_failure: layers.take("audit_on_failure", AuditOnFailure::Refuse)?,
            anchor: layers.take_optional("audit_anchor", "checkpoints are in the audit log alone")?,
            retention: layers.take_optional("audit_retention", "the audit log is kept for ever")?.map(Span::into),
            segment: layers.take_where(
                "audit_segment",
                ByteSize::mib(64),
                "a size of at least 64KiB, such as 64MiB",
                |size| size.bytes() >= 64 << 10,
            )?,
            capture: layers.take("audit_capture", Switch::Off)?,
        };
        let lasts = config.directory.is_some() || *place != DataPlace::Memory;
        match config.mode {
            AuditMode::On if !lasts => {
                Err(ConfigError::Lacking { key: "audit", value: "on".into(), needed: "audit_dir, or a data_dir" })
            }
            AuditMode::Auto | AuditMode::On | AuditMode::Off => Ok(config),
        }
    }
}
