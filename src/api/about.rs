//! What a request says of the data that it brings: what for, with whose consent, and about whom.
//!
//! Main type: [`About`]. An [`AppState`](super::AppState) that has one stores nothing without these marks, and nothing at all
//! where the purpose says so.

use axum::http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::Value;

use super::{
    access_error::AccessError,
    actions::{Target, needs},
    body::wrong,
    error::ApiError,
    stored_error::StoredError,
};
use crate::{
    governance::{
        LONGEST_SUBJECT,
        policy::{Action, Circumstances},
        purposes::{Data, Keeping, PurposeFile, Stated},
    },
    store::{Kept, LineForm, Store},
};

/// Longest value of a header in which a request says something of itself, in bytes.
const LONGEST_CIRCUMSTANCE: usize = 256;
/// The header that says whom a request is about.
const SUBJECT: &str = "x-tramontane-subject";

/// How lines of batches say whom they are about.
pub const LINES: LineForm = LineForm { subject: subject_of_line, custom_id: custom_id_of_result };

/// What a request says of its data. Cheap enough to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    pub(super) kept: Kept,
    /// Whom a line of a batch says that it is about, be the batch about somebody else.
    pub(super) line_subject: Option<String>,
    pub(super) storing: Storing,
}

/// May anything of a request be stored?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Storing {
    #[default]
    Allowed,
    /// Not for this purpose.
    Forbidden { purpose: String },
}

impl Storing {
    /// Is it to be stored, whose `store` says this and is true by default?
    pub(super) fn decide(&self, wish: Option<bool>) -> Result<bool, ApiError> {
        match (self, wish) {
            (Self::Allowed, wish) => Ok(wish.unwrap_or(true)),
            (Self::Forbidden { .. }, Some(false) | None) => Ok(false),
            (Self::Forbidden { purpose }, Some(true)) => {
                let error = StoredError::NotKept { purpose: purpose.clone() };
                let (param, code) = (Some("store".to_owned()), Some(error.code()));
                Err(ApiError::Invalid { message: error.to_string(), param, code })
            }
        }
    }
}

impl About {
    /// What the head of a request says.
    pub(super) fn of(
        headers: &HeaderMap,
        circumstances: &Circumstances,
        purposes: &PurposeFile,
        (tenant, data): (&str, Data),
    ) -> Result<Self, AccessError> {
        let Circumstances { purpose, consent, .. } = circumstances;
        let stated = Stated { tenant, purpose: purpose.as_deref(), consent: consent.as_deref(), data };
        let purpose = purposes.of(stated).map_err(AccessError::Purpose)?;
        let subject = circumstance(headers, SUBJECT)?;
        let mut about = Self { kept: Kept { subject, ..Kept::default() }, ..Self::default() };
        if let Some(purpose) = purpose {
            match purpose.keeping {
                Keeping::Nothing => about.storing = Storing::Forbidden { purpose: purpose.name.clone() },
                Keeping::For(time) => about.kept.keep_s = time.map(|time| time.as_secs()),
            }
            about.kept.purpose = Some(purpose.name.clone());
            about.kept.consent.clone_from(consent);
        }
        Ok(about)
    }

    /// What goes on with something that is stored, and so may be.
    pub(super) fn of_kept(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// What a line of a batch goes on with, which may say itself whom it is about.
    pub(super) fn of_line(kept: &Kept, line_subject: Option<String>) -> Self {
        Self { line_subject: line_subject.clone(), ..Self::of_kept(kept.clone()) }.or_subject(line_subject)
    }

    /// The same about somebody, if nobody else is known whom it is about.
    pub(super) fn or_subject(mut self, subject: Option<String>) -> Self {
        self.kept.subject = self.kept.subject.or(subject);
        self
    }

    /// A store that marks what is created in it.
    pub(super) fn marking(&self, store: &Store) -> Store {
        match &self.storing {
            Storing::Allowed => store.marking(self.kept.clone()),
            Storing::Forbidden { purpose } => store.keeping_nothing(purpose),
        }
    }
}

/// Does such a request bring data that is processed? That is one which has the model compute, or new content to store.
pub(super) fn data_of(method: &Method, route: &str) -> Data {
    let takes_content = *method == Method::POST && ["/v1/files", "/v1/conversations/{id}/items"].contains(&route);
    let infers = needs(method, route).is_some_and(|needs| needs.contains(&(Action::Infer, Target::Model)));
    if takes_content || infers { Data::Brought } else { Data::None }
}

/// What the request says of itself.
pub(super) fn circumstances(headers: &HeaderMap, route: &str) -> Result<Circumstances, AccessError> {
    Ok(Circumstances {
        route: route.to_owned(),
        purpose: circumstance(headers, "x-tramontane-purpose")?,
        data_classification: circumstance(headers, "x-tramontane-data-classification")?,
        consent: circumstance(headers, "x-tramontane-consent")?,
    })
}

fn circumstance(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, AccessError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_printable = |text: &&str| {
        (1..=LONGEST_CIRCUMSTANCE).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    let text = value.to_str().ok().filter(is_printable).filter(|_| values.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or(AccessError::Circumstance { name, limit: LONGEST_CIRCUMSTANCE })
}

/// Whom the fields of a body say that it is about; the first of them counts.
pub(super) fn subject_of(fields: [(&'static str, &Value); 2]) -> Result<Option<String>, ApiError> {
    for (name, value) in fields {
        if let Some(subject) = value.as_str() {
            let length = subject.chars().count();
            if !(1..=LONGEST_SUBJECT).contains(&length) || subject.contains(char::is_control) {
                let expected = format!("1 to {LONGEST_SUBJECT} printable characters: what is stored is marked with it");
                return Err(wrong(name, expected, value));
            }
            return Ok(Some(subject.to_owned()));
        }
    }
    Ok(None)
}

/// As much of a line as says whom it is about.
#[derive(Deserialize)]
struct RequestLine {
    body: Body,
}

/// As much of a body as says whom it is about.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    safety_identifier: Value,
    #[serde(default)]
    user: Value,
}

#[derive(Deserialize)]
struct ResultLine {
    custom_id: String,
}

/// Whom the body of a line of a batch is about.
pub(super) fn subject_of_body(body: &str) -> Option<String> {
    serde_json::from_str(body).ok().and_then(Body::subject)
}

fn subject_of_line(line: &[u8]) -> Option<String> {
    serde_json::from_slice(line).ok().and_then(|RequestLine { body }| body.subject())
}

fn custom_id_of_result(line: &[u8]) -> Option<String> {
    serde_json::from_slice(line).ok().map(|ResultLine { custom_id }| custom_id)
}

impl Body {
    fn subject(self) -> Option<String> {
        let text = |value: Value| value.as_str().map(str::to_owned);
        text(self.safety_identifier).or_else(|| text(self.user))
    }
}
