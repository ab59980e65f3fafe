//! A whole store that is to be no more.
//!
//! Files are overwritten before they are deleted, as rows are. What a file system or a disk keeps elsewhere (copies on write,
//! snapshots, worn cells) is beyond that.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use super::{Home, LOCK, StoreError};

static PIECE: [u8; 64 << 10] = [0; 64 << 10];

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
            fs::remove_file(&path)?;
        }
    }
    fs::remove_file(directory.join(LOCK))?;
    fs::remove_dir(directory)
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        let piece = PIECE.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&PIECE);
        file.write_all(piece)?;
        left = left.saturating_sub(piece.len() as u64);
    }
    file.sync_all()
}
