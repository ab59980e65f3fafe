//! All tensors of a checkpoint by name, across its files. Each is taken once by the part of the decoder that
//! needs it; whatever is left at the end must be knowingly unused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::error::{CheckpointError, quote};
use super::files::Index;
use super::names;
use super::safetensors_map::{MappedFile, TensorEntry};

/// A tensor and the file that holds it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Position of the file in the checkpoint's list.
    pub(super) file: usize,
    pub(super) entry: TensorEntry,
}

/// The tensors that have not been taken yet.
pub(super) struct Inventory<'a> {
    dir: &'a Path,
    files: &'a [MappedFile],
    tensors: HashMap<&'a str, (usize, &'a TensorEntry)>,
}

/// Tensors that are knowingly unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub tensors: usize,
    /// Their stored size.
    pub bytes: u64,
}

impl<'a> Inventory<'a> {
    /// Lists the tensors of all files; a name may occur once, and where the index says.
    pub(super) fn new(
        dir: &'a Path,
        files: &'a [MappedFile],
        index: Option<&Index>,
    ) -> Result<Inventory<'a>, CheckpointError> {
        let mut tensors: HashMap<&str, (usize, &TensorEntry)> = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for entry in &file.tensors {
                if let Some((other, _)) = tensors.insert(&entry.name, (number, entry)) {
                    return Err(CheckpointError::Tensor {
                        path: file.path.clone(),
                        name: quote(&entry.name),
                        found: format!("also in {}", files[other].path.display()),
                        expected: "one file".into(),
                    });
                }
            }
        }
        if let Some(index) = index {
            for (name, number) in &index.file_of_tensor {
                if tensors.get(name.as_str()).is_none_or(|(file, _)| file != number) {
                    let found = tensors.get(name.as_str()).map_or_else(
                        || "absent".to_string(),
                        |(file, _)| format!("in {}", files[*file].path.display()),
                    );
                    return Err(CheckpointError::Tensor {
                        path: index.path.clone(),
                        name: quote(name),
                        found,
                        expected: format!("in {}, as the index says", files[*number].path.display()),
                    });
                }
            }
        }
        Ok(Inventory { dir, files, tensors })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes a tensor, if there is one.
    pub(super) fn take(&mut self, name: &str) -> Option<Stored> {
        let (file, entry) = self.tensors.remove(name)?;
        Some(Stored { file, entry: entry.clone() })
    }

    /// Takes a tensor of a given shape and of one of several types.
    pub(super) fn require(&mut self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<Stored, CheckpointError> {
        let expected = || {
            let types: Vec<String> = types.iter().map(ToString::to_string).collect();
            format!("{} {shape:?}", types.join(" or "))
        };
        let Some(stored) = self.take(name) else {
            return Err(CheckpointError::MissingTensor {
                dir: self.dir.into(),
                name: name.into(),
                expected: expected(),
            });
        };
        if stored.entry.shape != shape || !types.contains(&stored.entry.dtype) {
            return Err(self.refuse(&stored, &expected()));
        }
        Ok(stored)
    }

    /// The error for a tensor whose type or shape is not the expected one.
    pub(super) fn refuse(&self, stored: &Stored, expected: &str) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.path(stored),
            name: quote(&stored.entry.name),
            found: format!("{} {:?}", stored.entry.dtype, stored.entry.shape),
            expected: expected.into(),
        }
    }

    /// Refuses what nobody took, except for the parts that are knowingly unused.
    pub(super) fn finish(self) -> Result<Skipped, CheckpointError> {
        let mut skipped = Skipped::default();
        let mut unknown: Vec<(&str, usize)> = Vec::new();
        for (name, (file, entry)) in &self.tensors {
            if names::is_skipped(name) {
                skipped.tensors += 1;
                skipped.bytes += entry.n_bytes() as u64;
            } else {
                unknown.push((name, *file));
            }
        }
        match unknown.iter().min() {
            None => Ok(skipped),
            Some((name, file)) => Err(CheckpointError::UnknownTensor {
                path: self.files[*file].path.clone(),
                name: quote(name),
                count: unknown.len(),
            }),
        }
    }

    fn path(&self, stored: &Stored) -> PathBuf {
        self.files[stored.file].path.clone()
    }
}
