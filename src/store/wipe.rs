//! A whole store that is to be no more.
//!
//! Files are overwritten before they are deleted, as rows are.

use std::{fs, io, path::Path};

use super::{Home, LOCK, StoreError};
use crate::types::overwrite;

/// Overwrites and deletes all files of a directory, and the directory; its lock goes last.
pub(super) fn wipe(home: Home) -> Result<(), StoreError> {
    let directory = home.directory.as_path();
    remove(directory).map_err(|source| StoreError::Directory { path: directory.into(), source })
}

fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name != LOCK) {
            overwrite(&path)?;
        }
    }
    fs::remove_file(directory.join(LOCK))?;
    fs::remove_dir(directory)
}
