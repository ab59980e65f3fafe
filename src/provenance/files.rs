//! The files of a model's directory, and their digests.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::ProvenanceError;
use crate::types::hexadecimal;

/// Folders within folders that are looked into. Models have one, such as `1_Pooling`.
const DEEPEST: usize = 4;
/// Most files of a model.
const MOST_FILES: usize = 10_000;
/// Endings of what Tramontane, or who signs, puts beside a model, into its directory itself. A tokenizer could have such a
/// name, so whoever reads one asks for it by name ([`super::Manifest::check`]).
const BESIDE: [&str; 4] = [".panels", ".lock", ".sig", ".lock.tmp"];

/// Size and SHA-256 of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Size.
    pub bytes: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// Reads files to their ends, several at a time. Paths are relative to the directory; digests are in their order.
pub(super) fn hash_files(directory: &Path, paths: &[String]) -> Result<Vec<FileDigest>, ProvenanceError> {
    // One error of several is told, and always the same: that of the first file.
    let found: Vec<_> = paths.par_iter().map(|path| hash_file(&directory.join(path))).collect();
    found.into_iter().collect()
}

/// Reads a file to its end.
pub fn hash_file(path: &Path) -> Result<FileDigest, ProvenanceError> {
    let unreadable = |source| ProvenanceError::Unreadable { path: path.into(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(FileDigest { bytes, sha256: hexadecimal(&hasher.finalize()) }),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// Paths of a model's files, relative to its directory and with `/` between their parts, sorted. What is hidden, as `.git` is,
/// is left out, and what is put beside a model.
pub(super) fn list(directory: &Path) -> Result<Vec<String>, ProvenanceError> {
    let mut found = Vec::new();
    walk(directory, "", &mut found)?;
    found.sort();
    Ok(found)
}

/// Is this one of the files that hold weights? They lie in the model's own directory.
pub(super) fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.contains('/')
}

fn walk(directory: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), ProvenanceError> {
    let unreadable = |source| ProvenanceError::Unreadable { path: directory.into(), source };
    let refuse = |reason: String| ProvenanceError::Invalid { path: directory.into(), reason };
    if prefix.matches('/').count() > DEEPEST {
        return Err(refuse(format!("more than {DEEPEST} folders within folders are no model")));
    }
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().into_string().map_err(|name| refuse(format!("{name:?} is not UTF-8")))?;
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        // The hub's cache consists of links, so they are followed.
        let is_directory = fs::metadata(&path).map_err(unreadable)?.is_dir();
        if !is_directory && prefix.is_empty() && BESIDE.iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        if is_directory {
            walk(&path, &format!("{prefix}{name}/"), found)?;
        } else {
            found.push(format!("{prefix}{name}"));
        }
        if found.len() > MOST_FILES {
            return Err(refuse(format!("more than {MOST_FILES} files are no model")));
        }
    }
    Ok(())
}
