//! `tramontane.lock`: which files each model consists of, where they come from, and under which licence.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Manifest, ProvenanceError, TrustedKeys,
    files::{FileDigest, hash_files, list},
    signature::signer_of,
};

/// Raised when what a lock says changes its meaning.
const VERSION: u32 = 1;
/// Longest lock, in bytes.
const LONGEST: u64 = 16 << 20;
const HEADER: &str =
    "# Which files each model consists of. Written by `tramontane lock create`, read by `tramontane serve --lock`.\n";
/// What is not known of a model.
const UNKNOWN: &str = "unknown";

/// A lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    #[serde(default, rename = "model")]
    models: Vec<LockedModel>,
}

/// One model of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedModel {
    /// Unique in the lock: the hub's id, or the directory's name.
    pub name: String,
    /// Where it is from: `hub:owner/name`, or `path:` and the directory's name.
    pub source: String,
    /// The commit, if it is from the hub.
    pub revision: String,
    /// As the model's card states it.
    pub licence: String,
    /// Sorted by path.
    #[serde(rename = "file")]
    pub files: Vec<LockedFile>,
}

/// What is known of where a model is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// `hub:owner/name`, or `path:` and the directory's name.
    pub source: &'a str,
    /// The commit, if it is from the hub.
    pub revision: Option<&'a str>,
    /// If it is not to be looked for in the model's card.
    pub licence: Option<&'a str>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Relative to the model's directory.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, models: Vec::new() }
    }
}

impl Lock {
    /// Reads one and checks all that it says.
    pub fn open(path: &Path) -> Result<Self, ProvenanceError> {
        Self::parse(path, &read(path)?)
    }

    /// Reads one, and tells which of the keys signed it, if there is a signature beside it. One by another key is an error.
    pub fn open_signed(path: &Path, keys: Option<&TrustedKeys>) -> Result<(Self, Option<String>), ProvenanceError> {
        let bytes = read(path)?;
        let signer = match keys.filter(|keys| keys.sign_locks()) {
            Some(keys) => signer_of(path, &bytes, keys)?,
            None => None,
        };
        Ok((Self::parse(path, &bytes)?, signer))
    }

    /// Of the bytes of `path`, which a signature may have been checked for.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ProvenanceError> {
        let invalid = |reason: String| ProvenanceError::Invalid { path: path.into(), reason };
        let text = std::str::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
        let lock: Self = toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
        lock.check().map_err(invalid)?;
        Ok(lock)
    }

    /// The model of that name.
    pub fn model(&self, path: &Path, name: &str) -> Result<&LockedModel, ProvenanceError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            ProvenanceError::UnknownModel { path: path.into(), name: name.to_owned(), known }
        })
    }

    /// All of them.
    pub fn models(&self) -> &[LockedModel] {
        &self.models
    }

    /// Adds a model, in place of the one of its name.
    pub fn put(&mut self, model: LockedModel) {
        self.models.retain(|other| other.name != model.name);
        self.models.push(model);
        self.models.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Writes it so that a reader finds the old one or the new one.
    pub fn write(&self, path: &Path) -> Result<(), ProvenanceError> {
        let unwritable = |source| ProvenanceError::Unwritable { path: path.into(), source };
        let text = toml::to_string(self).expect("a lock is tables of strings and numbers");
        let temporary = path.with_extension("lock.tmp");
        fs::write(&temporary, format!("{HEADER}{text}")).map_err(unwritable)?;
        fs::rename(&temporary, path).map_err(unwritable)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version = {}: this program reads version {VERSION}", self.version));
        }
        for (index, model) in self.models.iter().enumerate() {
            if self.models[..index].iter().any(|other| other.name == model.name) {
                return Err(format!("two models are called {:?}", model.name));
            }
            model.check().map_err(|reason| format!("model {:?}: {reason}", model.name))?;
        }
        Ok(())
    }
}

impl LockedModel {
    /// Hashes every file of a directory.
    pub fn of_directory(name: &str, origin: Origin<'_>, directory: &Path) -> Result<Self, ProvenanceError> {
        let paths = list(directory)?;
        let found = hash_files(directory, &paths)?;
        let locked =
            |(path, found): (String, FileDigest)| LockedFile { path, bytes: found.bytes, sha256: found.sha256 };
        let files = paths.into_iter().zip(found).map(locked).collect();
        let model = Self {
            name: name.to_owned(),
            source: origin.source.to_owned(),
            revision: origin.revision.unwrap_or(UNKNOWN).to_owned(),
            licence: origin.licence.map_or_else(|| licence_of(directory), str::to_owned),
            files,
        };
        model.check().map_err(|reason| ProvenanceError::Invalid { path: directory.into(), reason })?;
        Ok(model)
    }

    /// What its files must be.
    pub fn manifest(&self, lock: &Path) -> Manifest {
        let files = self.files.iter().map(|file| (file.path.clone(), file.sha256.clone(), Some(file.bytes)));
        Manifest::new(lock.display().to_string(), files, Vec::new())
    }

    fn check(&self) -> Result<(), String> {
        if self.files.is_empty() {
            return Err("it has no file".to_owned());
        }
        for (index, file) in self.files.iter().enumerate() {
            if !is_plain_path(&file.path) {
                return Err(format!("file {:?}: expected a path below the model's directory", file.path));
            }
            if self.files[..index].last().is_some_and(|other| other.path >= file.path) {
                return Err(format!("file {:?}: expected each once, sorted by path", file.path));
            }
            if !is_sha256(&file.sha256) {
                return Err(format!(
                    "file {:?}: sha256 = {:?}: expected 64 hexadecimal digits",
                    file.path, file.sha256
                ));
            }
        }
        Ok(())
    }
}

/// Reads a file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ProvenanceError> {
    let unreadable = |source| ProvenanceError::Unreadable { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > LONGEST {
        let reason = format!("{bytes} bytes: expected at most {LONGEST}");
        return Err(ProvenanceError::Invalid { path: path.into(), reason });
    }
    fs::read(path).map_err(unreadable)
}

/// In lower case, as `sha256sum` prints it.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Leads nowhere but below.
pub(super) fn is_plain_path(path: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 1024 && !path.contains(['\\', '\0', '\n']) && path.split('/').all(is_plain)
}

/// What the front matter of a model's card says (`license: apache-2.0`).
fn licence_of(directory: &Path) -> String {
    let card: PathBuf = directory.join("README.md");
    let text = fs::read_to_string(card).unwrap_or_default();
    let Some(front) = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")) else {
        return UNKNOWN.to_owned();
    };
    let value = |key: &str| {
        let line = front.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let text = line.trim().trim_matches(['"', '\'']);
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.+ ".contains(c);
        (!text.is_empty() && text.len() <= 64 && text.chars().all(is_word)).then(|| text.to_owned())
    };
    match value("license") {
        // A licence that the hub has no name for is named beside it.
        Some(other) if other == "other" => value("license_name").unwrap_or(other),
        Some(licence) => licence,
        None => UNKNOWN.to_owned(),
    }
}
