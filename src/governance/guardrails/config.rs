//! Guardrails as an operator writes them. Types for serde; what they mean is checked in `compile`.

use serde::{Deserialize, Serialize};

use super::finding::{Action, Stage};

/// A list of guardrails: the `[[guardrail]]` tables of a TOML file. Keys that are not known are errors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardrailsConfig {
    /// In order: of equal actions on the same text the first one's counts.
    #[serde(default)]
    pub guardrail: Vec<GuardrailConfig>,
}

/// One guardrail. It looks for at least one thing: `detect`, `words`, `patterns`, `max_chars` or `classifier`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardrailConfig {
    /// What it is called in findings, audit records and refusals. 1 to 64 characters, no two the same.
    pub name: String,
    /// What it checks.
    pub stage: Stage,
    /// What it does about a finding.
    pub action: Action,
    /// How `action = "redact"` replaces.
    /// Absent: irreversibly.
    pub mode: Option<Mode>,
    /// Names of detectors, or of classes of them (`personal_data`, `national_id`, `secret`, `injection`, `all`).
    #[serde(default)]
    pub detect: Vec<String>,
    /// Words and phrases that must not occur. Any white space in them stands for any other.
    #[serde(default)]
    pub words: Vec<String>,
    /// Do `words` heed upper and lower case? Absent: no.
    pub case_sensitive: Option<bool>,
    /// Regular expressions in the syntax of the `regex` crate, without assertions (`^`, `$`, `\b`). The longest match
    /// counts, of up to 256 characters.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// Do `words` and `patterns` begin and end where words do? Absent: yes.
    pub whole_words: Option<bool>,
    /// The most characters of a text.
    pub max_chars: Option<usize>,
    /// What the server's own model is asked.
    pub classifier: Option<ClassifierConfig>,
    /// The lowest score that counts, from 0 to 1.
    #[serde(default = "default_threshold")]
    pub threshold: f32,
    /// Tenants that it applies to: names, or beginnings of names that end with `*`. Absent: all.
    pub tenants: Option<Vec<String>>,
    /// Models that it applies to, in the same way.
    pub models: Option<Vec<String>>,
    /// Paths that it applies to, in the same way.
    pub routes: Option<Vec<String>>,
}

/// What a classifier is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The label whose score counts.
    pub label: String,
}

/// How something is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By its kind, `[IBAN]`. Nothing is kept. Always so in answers.
    #[default]
    Irreversible,
    /// By a placeholder, `[IBAN_1]`, that is replaced by what stood there where the answer mentions it.
    Reversible,
}

fn default_threshold() -> f32 {
    0.5
}
