//! What Mistral's clients know of a file beside its purpose: where it comes from, and what its lines are.

use serde_json::Value;

use super::{BATCH, BATCH_OUTPUT, ERROR_FILE};
use crate::{
    api::{body::wrong, error::ApiError, query::QueryFields},
    store::{FileDetails, FileKind},
};

/// Mistral's words for a kind of files.
pub(super) struct Kind {
    pub(super) source: &'static str,
    pub(super) sample_type: &'static str,
    files: FileKind,
}

const KINDS: [Kind; 3] = [
    Kind { source: "upload", sample_type: "batch_request", files: FileKind { purpose: BATCH, ending: None } },
    Kind {
        source: "mistral",
        sample_type: "batch_error",
        files: FileKind { purpose: BATCH_OUTPUT, ending: Some((ERROR_FILE, true)) },
    },
    Kind {
        source: "mistral",
        sample_type: "batch_result",
        files: FileKind { purpose: BATCH_OUTPUT, ending: Some((ERROR_FILE, false)) },
    },
];

const SOURCES: [&str; 3] = ["upload", "repository", "mistral"];
const SAMPLE_TYPES: [&str; 5] = ["pretrain", "instruct", "batch_request", "batch_result", "batch_error"];

/// The kind of a file: each is of one, and what is no input and no list of errors is a result.
pub(super) fn of(details: &FileDetails) -> &'static Kind {
    let is_of = |kind: &&Kind| {
        let FileKind { purpose, ending } = kind.files;
        let ends = |(text, is): (&str, bool)| details.filename.ends_with(text) == is;
        details.purpose == purpose && ending.is_none_or(ends)
    };
    KINDS.iter().find(is_of).unwrap_or(&KINDS[2])
}

/// Takes `source` and `sample_type`, each of which may be there several times: the kinds that are one of either. Some of
/// Mistral's words name files that there are none of here.
pub(super) fn take(query: &mut QueryFields) -> Result<Option<Vec<FileKind>>, ApiError> {
    let sources = take_words(query, "source", &SOURCES)?;
    let types = take_words(query, "sample_type", &SAMPLE_TYPES)?;
    if sources.is_empty() && types.is_empty() {
        return Ok(None);
    }
    let has = |words: &[String], word: &str| words.is_empty() || words.iter().any(|wanted| wanted == word);
    let is_wanted = |kind: &&Kind| has(&sources, kind.source) && has(&types, kind.sample_type);
    Ok(Some(KINDS.iter().filter(is_wanted).map(|kind| kind.files).collect()))
}

fn take_words(query: &mut QueryFields, name: &str, known: &[&str]) -> Result<Vec<String>, ApiError> {
    let words: Vec<String> = query.all(name).into_iter().filter(|word| !word.is_empty()).collect();
    match words.iter().find(|word| !known.contains(&word.as_str())) {
        Some(other) => Err(wrong(name, known.join(", "), &Value::from(other.as_str()))),
        None => Ok(words),
    }
}
