//! Every request field that the server knows, and what becomes of it: the single table behind the checks of
//! `Fields`, behind `docs/api.md`, and behind the test that asks for each field over HTTP.

mod admin;
mod agents;
mod mistral_conversations;
mod responses;
mod stored;
mod tables;
mod whole_texts;

use std::fmt::Write as _;

pub use admin::{ADMIN_EXPLANATION, ADMIN_KEY_ROTATION, ADMIN_KEYS, ADMIN_QUOTAS, ADMIN_SHARE_GROUP, ADMIN_TENANTS};
pub use agents::{AGENT_CHANGES, AGENTS};
pub use mistral_conversations::{MISTRAL_APPEND, MISTRAL_CONVERSATIONS, MISTRAL_RESTART};
pub use responses::{CONVERSATION, CONVERSATION_ITEMS, CONVERSATIONS, INPUT_TOKENS, RESPONSES};
pub use stored::{BATCH_JOBS, BATCHES, FILES};
pub use tables::{AGENT_COMPLETIONS, CHAT, COMPLETIONS, DETOKENIZE, FIM, TOKENIZE};
pub use whole_texts::{CHAT_MODERATIONS, CLASSIFY, EMBEDDINGS, MODERATIONS, RERANK, SCORE};

/// Every resource that reads fields.
pub static ALL: [&Table; 31] = [
    &CHAT,
    &COMPLETIONS,
    &FIM,
    &RESPONSES,
    &INPUT_TOKENS,
    &CONVERSATIONS,
    &CONVERSATION,
    &CONVERSATION_ITEMS,
    &EMBEDDINGS,
    &RERANK,
    &SCORE,
    &CLASSIFY,
    &MODERATIONS,
    &CHAT_MODERATIONS,
    &FILES,
    &BATCHES,
    &BATCH_JOBS,
    &AGENTS,
    &AGENT_CHANGES,
    &AGENT_COMPLETIONS,
    &MISTRAL_CONVERSATIONS,
    &MISTRAL_APPEND,
    &MISTRAL_RESTART,
    &TOKENIZE,
    &DETOKENIZE,
    &ADMIN_KEYS,
    &ADMIN_KEY_ROTATION,
    &ADMIN_TENANTS,
    &ADMIN_SHARE_GROUP,
    &ADMIN_EXPLANATION,
    &ADMIN_QUOTAS,
];

/// The fields of one resource.
#[derive(Debug)]
pub struct Table {
    /// Method and path.
    pub resource: &'static str,
    /// Fields, in groups that resources share.
    pub groups: &'static [&'static [Field]],
}

/// One field of a request.
#[derive(Debug)]
pub struct Field {
    /// Name in the JSON object.
    pub name: &'static str,
    /// What becomes of it.
    pub support: Support,
    /// One sentence for the reader of `docs/api.md`; also ends the error message of a refused value.
    pub note: &'static str,
}

/// What becomes of a field. Samples are members of a JSON object, such as `"n": 2`; null is as good as absent.
#[derive(Debug)]
pub enum Support {
    /// Changes the answer, or is refused.
    Honoured {
        /// Answered with 200.
        sample: &'static str,
        /// Answered with 400 (422 in Mistral's dialect) that names this field or a part of it.
        refused: &'static str,
    },
    /// Type-checked and otherwise without meaning here, as it is nothing but a label.
    Label {
        /// Answered with 200.
        sample: &'static str,
        /// Answered with 400.
        refused: &'static str,
    },
    /// Not supported: only values that ask for nothing are accepted.
    Neutral {
        /// JSON values that ask for nothing.
        accepted: &'static [&'static str],
        /// Answered with 400.
        refused: &'static str,
    },
}

impl Table {
    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.groups.iter().copied().flatten()
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }
}

/// The tables as Markdown: the generated part of `docs/api.md`.
pub fn markdown() -> String {
    let mut text = String::new();
    for table in ALL {
        let _ = write!(text, "\n### `{}`\n\n| field | | example | |\n|---|---|---|---|\n", table.resource);
        for field in table.fields() {
            let (status, example) = match field.support {
                Support::Honoured { sample, .. } => ("honoured", format!("`{sample}`")),
                Support::Label { sample, .. } => ("label", format!("`{sample}`")),
                Support::Neutral { accepted: [], .. } => ("refused", String::new()),
                Support::Neutral { accepted, .. } => ("refused", format!("except `{}`", accepted.join("`, `"))),
            };
            let example = example.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {status} | {example} | {} |", field.name, field.note);
        }
    }
    text
}

const fn honoured(name: &'static str, sample: &'static str, refused: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Honoured { sample, refused }, note }
}

const fn label(name: &'static str, sample: &'static str, refused: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Label { sample, refused }, note }
}

const fn neutral(
    name: &'static str,
    accepted: &'static [&'static str],
    refused: &'static str,
    note: &'static str,
) -> Field {
    Field { name, support: Support::Neutral { accepted, refused }, note }
}
