//! What the files of one model must be, whoever says so.

use std::{collections::BTreeMap, path::Path};

use super::{
    ProvenanceError,
    files::{FileDigest, hash_files, is_weights, list},
};

/// Digests of a model's files by their paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is from, for errors.
    origin: String,
    files: BTreeMap<String, Expected>,
    /// Paths that need not be in it.
    ignored: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    sha256: String,
    /// Not everybody states it.
    bytes: Option<u64>,
}

impl Manifest {
    /// Of digests as `origin` states them.
    pub(super) fn new(
        origin: String,
        files: impl IntoIterator<Item = (String, String, Option<u64>)>,
        ignored: Vec<String>,
    ) -> Self {
        let files = files.into_iter().map(|(path, sha256, bytes)| (path, Expected { sha256, bytes })).collect();
        Self { origin, files, ignored }
    }

    /// Checks every file of a directory but those with weights, which are left to [`Self::check`], because whoever reads
    /// them hashes them in passing.
    pub fn check_without_weights(&self, directory: &Path) -> Result<(), ProvenanceError> {
        self.check_files(directory, |path| !is_weights(path))
    }

    /// Checks every file of a directory.
    pub fn check_all(&self, directory: &Path) -> Result<(), ProvenanceError> {
        self.check_files(directory, |_| true)
    }

    /// Checks one file by what was found of it. It must be in the manifest, whatever its name is.
    pub fn check(&self, path: &str, found: &FileDigest) -> Result<(), ProvenanceError> {
        let expected = self.expected(path)?;
        if let Some(bytes) = expected.bytes.filter(|bytes| *bytes != found.bytes) {
            return Err(self.differs(path, format!("{} bytes", found.bytes), format!("{bytes} bytes")));
        }
        if found.sha256 != expected.sha256 {
            return Err(self.differs(path, format!("sha256 {}", found.sha256), expected.sha256.clone()));
        }
        Ok(())
    }

    /// How many files it has.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn check_files(&self, directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<(), ProvenanceError> {
        let present = list(directory)?;
        if let Some(path) = self.files.keys().find(|path| is_wanted(path) && !present.contains(path)) {
            return Err(ProvenanceError::Missing { file: path.clone(), manifest: self.origin.clone() });
        }
        let wanted: Vec<String> =
            present.into_iter().filter(|path| is_wanted(path) && !self.is_ignored(path)).collect();
        wanted.iter().try_for_each(|path| self.expected(path).map(drop))?; // before a long file is read
        let found = hash_files(directory, &wanted)?;
        wanted.iter().zip(&found).try_for_each(|(path, found)| self.check(path, found))
    }

    fn expected(&self, path: &str) -> Result<&Expected, ProvenanceError> {
        let unlisted = || ProvenanceError::Unlisted { file: path.to_owned(), manifest: self.origin.clone() };
        self.files.get(path).ok_or_else(unlisted)
    }

    fn is_ignored(&self, path: &str) -> bool {
        let covers =
            |place: &String| path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.ignored.iter().any(covers) && !self.files.contains_key(path)
    }

    fn differs(&self, path: &str, found: String, expected: String) -> ProvenanceError {
        ProvenanceError::Differs { file: path.to_owned(), manifest: self.origin.clone(), found, expected }
    }
}
