//! A file of purposes as an operator writes it, and what is checked of it.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{Capture, Consent, Keeping, Purpose};

const LONGEST_NAME_CHARS: usize = 64;
const SHORTEST_RETENTION: Duration = Duration::from_secs(60);

/// Why a file of purposes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PurposeFileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no TOML, or has a key that is not known.
    #[error("{path}: {source}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A value of it is wrong.
    #[error("{path}: {reason}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Which, and what would be right.
        reason: String,
    },
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PurposesText {
    #[serde(default)]
    required: bool,
    #[serde(default)]
    purpose: Vec<PurposeText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurposeText {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    consent: Consent,
    retention: Option<String>,
    store: Option<bool>,
    #[serde(default)]
    capture: Capture,
    tenants: Option<Vec<String>>,
}

impl PurposesText {
    /// Is one required, and which are there?
    pub(super) fn checked(self, retention: Duration) -> Result<(bool, Vec<Arc<Purpose>>), String> {
        if self.required && self.purpose.is_empty() {
            return Err("required = true: expected at least one purpose".to_owned());
        }
        let mut purposes: Vec<Arc<Purpose>> = Vec::new();
        for (index, text) in self.purpose.into_iter().enumerate() {
            if purposes.iter().any(|purpose| purpose.name == text.name) {
                return Err(format!("purpose[{index}].name = {:?}: expected a name that no other has", text.name));
            }
            purposes.push(Arc::new(text.checked(index, retention)?));
        }
        Ok((self.required, purposes))
    }
}

impl PurposeText {
    fn checked(self, index: usize, server: Duration) -> Result<Purpose, String> {
        let wrong = |key: &str, value: &dyn std::fmt::Debug, expected: &str| {
            Err(format!("purpose[{index}].{key} = {value:?}: expected {expected}"))
        };
        let is_name = |text: &str| {
            let is_fit = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.:/".contains(&letter);
            (1..=LONGEST_NAME_CHARS).contains(&text.len()) && text.bytes().all(is_fit)
        };
        if !is_name(&self.name) {
            return wrong("name", &self.name, "1 to 64 letters, digits and -_.:/");
        }
        if let Some([]) = self.tenants.as_deref() {
            return wrong("tenants", &[(); 0], "at least one name, or no such key for all tenants");
        }
        let keeping = match (self.store.unwrap_or(true), &self.retention) {
            (false, Some(time)) => return wrong("retention", time, "none, as store = false keeps nothing"),
            (false, None) if self.capture == Capture::Content => {
                return wrong("capture", &"content", "none, as store = false keeps nothing");
            }
            (false, None) => Keeping::Nothing,
            (true, None) => Keeping::For(None),
            (true, Some(text)) => match humantime::parse_duration(text) {
                Ok(time) if time > server => {
                    let most = humantime::format_duration(server);
                    return wrong("retention", text, &format!("at most {most}, for which the server keeps anything"));
                }
                Ok(time) if time >= SHORTEST_RETENTION => Keeping::For(Some(time)),
                Ok(_) | Err(_) => return wrong("retention", text, "a time of at least a minute, such as 7d"),
            },
        };
        let Self { name, description, consent, capture, tenants, .. } = self;
        Ok(Purpose { name, description, consent, keeping, capture, tenants })
    }
}
