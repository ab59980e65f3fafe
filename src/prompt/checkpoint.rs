//! Which files of a checkpoint say how to talk to its model.
//!
//! Main function: [`open`]. The tokenizer version comes from the file: `config.version` of a
//! `tekken.json`, the suffix of a `tokenizer.model.v3`; a bare `tokenizer.model` is v1.

use std::path::{Path, PathBuf};

use super::error::PromptError;
use super::tokenizer::TekkenFile;
use super::version::TokenizerVersion;
use super::{Codec, CodecOptions};

/// Opens the tokenizer of the checkpoint in `dir`.
pub(super) fn open(dir: &Path, options: &CodecOptions) -> Result<Codec, PromptError> {
    let path = match &options.tokenizer_file {
        Some(path) => path.clone(),
        None => find(dir)?,
    };
    let name = path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|source| PromptError::Read { file: name.clone(), source })?;
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match kind_of(&file_name) {
        Some(Kind::Tekken) => Codec::from_tekken(&TekkenFile::parse(&bytes, &name)?, options.tokenizer_version),
        Some(Kind::SentencePiece(version)) => {
            Codec::from_sentencepiece(&bytes, options.tokenizer_version.unwrap_or(version), &name)
        }
        Some(Kind::HuggingFace) => Codec::from_huggingface(&bytes, options.tokenizer_version, &name),
        None => Err(PromptError::file(name, "expected a name like tekken.json, tokenizer.model.v3 or tokenizer.json")),
    }
}

/// What a file's name says about its format.
enum Kind {
    Tekken,
    SentencePiece(TokenizerVersion),
    HuggingFace,
}

fn kind_of(file_name: &str) -> Option<Kind> {
    if file_name.ends_with(".json") {
        return Some(if file_name.contains("tekken") { Kind::Tekken } else { Kind::HuggingFace });
    }
    if file_name.ends_with(".model") {
        return Some(Kind::SentencePiece(TokenizerVersion::V1));
    }
    let (_, suffix) = file_name.rsplit_once(".model.")?;
    // `v7m1` is version v7 with pictures.
    let version = suffix.split('m').next()?;
    version.parse().ok().map(Kind::SentencePiece)
}

fn find(dir: &Path) -> Result<PathBuf, PromptError> {
    let read_error = |source| PromptError::Read { file: dir.display().to_string(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read_error)? {
        names.push(entry.map_err(read_error)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let is_model =
        |name: &&String| name.starts_with("tokenizer") && matches!(kind_of(name), Some(Kind::SentencePiece(_)));
    // Of several models the one with a version says most; v7 sorts behind v3 and the bare name.
    let found = names
        .iter()
        .find(|name| *name == "tekken.json")
        .or_else(|| names.iter().rfind(is_model))
        .or_else(|| names.iter().find(|name| *name == "tokenizer.json"));
    match found {
        Some(name) => Ok(dir.join(name)),
        None => Err(PromptError::file(
            dir.display().to_string(),
            "no tekken.json, tokenizer.model* or tokenizer.json in this folder",
        )),
    }
}
