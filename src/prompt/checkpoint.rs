//! Which files of a checkpoint say how to talk to its model.
//!
//! Main function: [`open`]. The tokenizer version comes from the file: `config.version` of a
//! `tekken.json`, the suffix of a `tokenizer.model.v3`; a bare `tokenizer.model` is v1. A
//! `tokenizer.json` states none: its chats are formatted by the checkpoint's Jinja template, unless
//! the operator names a version.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::PromptError;
use super::jinja::TemplateSources;
use super::tokenizer::TekkenFile;
use super::version::TokenizerVersion;
use super::whole_text::Ends;
use super::{Codec, CodecOptions, TemplateChoice};
use crate::types::hexadecimal;

/// The longest file that is read; the largest tokenizer of a released model has 20 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Opens the tokenizer of the checkpoint in `dir`.
pub(super) fn open(dir: &Path, options: &CodecOptions) -> Result<Codec, PromptError> {
    let path = tokenizer_file(dir, options)?;
    let codec = open_tokenizer(&path, options.tokenizer_version)?.with_ends(Ends::read(dir)?);
    let wants_jinja = match options.template {
        TemplateChoice::Auto => codec.version().is_none(),
        TemplateChoice::Native if codec.version().is_none() => {
            let reason = "its version is not known, so the native format cannot be chosen; state a tokenizer version";
            return Err(PromptError::file(path.display().to_string(), reason));
        }
        TemplateChoice::Native => false,
        TemplateChoice::Jinja => true,
    };
    if !wants_jinja {
        return Ok(match find_system_prompt(dir)? {
            Some(text) => codec.with_reasoning_prompt(&text),
            None => codec,
        });
    }
    match (find_templates(dir)?, options.template) {
        (Some(sources), _) => codec.with_templates(&sources),
        (None, TemplateChoice::Jinja) => {
            let reason = format!("{} has no chat_template.jinja and no chat_template in its JSON files", dir.display());
            Err(PromptError::ChatTemplate { reason })
        }
        // Completions need no template; a chat request will be told that there is none.
        (None, TemplateChoice::Auto | TemplateChoice::Native) => Ok(codec),
    }
}

/// The file that says what the tokens are.
pub(super) fn tokenizer_file(dir: &Path, options: &CodecOptions) -> Result<PathBuf, PromptError> {
    match &options.tokenizer_file {
        Some(path) => Ok(path.clone()),
        None => find(dir),
    }
}

fn open_tokenizer(path: &Path, version: Option<TokenizerVersion>) -> Result<Codec, PromptError> {
    let name = path.display().to_string();
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(kind) = kind_of(&file_name) else {
        return Err(PromptError::file(name, "expected a name like tekken.json, tokenizer.model.v3 or tokenizer.json"));
    };
    let bytes = read(path)?;
    let codec = match kind {
        Kind::Tekken => Codec::from_tekken(&TekkenFile::parse(&bytes, &name)?, version),
        Kind::SentencePiece(stated) => {
            let codec = Codec::from_sentencepiece(&bytes, version.unwrap_or(stated), &name)?;
            if version.is_none() && stated == TokenizerVersion::V1 && codec.has_control("[INST]") {
                tracing::warn!(
                    file = name,
                    "a tokenizer.model without a version is read as v1, but this one has the control token [INST]; \
                     state the tokenizer version of the model"
                );
            }
            Ok(codec)
        }
        Kind::HuggingFace => Codec::from_huggingface(&bytes, version, &name),
    }?;
    let digest = hexadecimal(&Sha256::digest(&bytes));
    Ok(Codec { digest: Some(digest.into()), ..codec })
}

fn read(path: &Path) -> Result<Vec<u8>, PromptError> {
    let file = path.display().to_string();
    let read_error = |source| PromptError::Read { file: file.clone(), source };
    let n_bytes = std::fs::metadata(path).map_err(read_error)?.len();
    if n_bytes > MAX_FILE_BYTES {
        return Err(PromptError::file(&file, format!("has {n_bytes} bytes, expected at most {MAX_FILE_BYTES}")));
    }
    std::fs::read(path).map_err(read_error)
}

/// What the checkpoint tells its model beforehand.
fn find_system_prompt(dir: &Path) -> Result<Option<String>, PromptError> {
    let path = dir.join("SYSTEM_PROMPT.txt");
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8(read(&path)?);
    text.map(Some).map_err(|error| PromptError::file(path.display().to_string(), error.to_string()))
}

/// The content of a JSON file, if there is one.
pub(super) fn read_json(path: &Path) -> Result<Option<serde_json::Value>, PromptError> {
    if !path.is_file() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&read(path)?);
    value.map(Some).map_err(|error| PromptError::file(path.display().to_string(), error.to_string()))
}

/// The Jinja templates of the checkpoint, if it has any.
fn find_templates(dir: &Path) -> Result<Option<TemplateSources>, PromptError> {
    let jinja = dir.join("chat_template.jinja");
    if jinja.is_file() {
        let default = String::from_utf8(read(&jinja)?)
            .map_err(|error| PromptError::ChatTemplate { reason: format!("{}: {error}", jinja.display()) })?;
        return Ok(Some(TemplateSources { default, tool_use: None }));
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        if let Some(config) = read_json(&dir.join(name))?
            && let Some(sources) = templates_of(&config["chat_template"])
        {
            return Ok(Some(sources));
        }
    }
    Ok(None)
}

/// `chat_template` is one template, or a list of `{"name": .., "template": ..}`.
fn templates_of(chat_template: &serde_json::Value) -> Option<TemplateSources> {
    if let Some(default) = chat_template.as_str() {
        return Some(TemplateSources { default: default.to_owned(), tool_use: None });
    }
    let named = |name: &str| {
        let entry = chat_template.as_array()?.iter().find(|entry| entry["name"] == name)?;
        entry["template"].as_str().map(str::to_owned)
    };
    Some(TemplateSources { default: named("default")?, tool_use: named("tool_use") })
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
