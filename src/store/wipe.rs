//! A whole store that is to be no more.
//!
//! Files are overwritten before they are deleted, as rows are.

use std::{fs, io, path::Path};

use super::{Home, LOCK, StoreError};
use crate::types::overwrite;

/// Overwrites and deletes all files of a directory and of those in it, and the directory; its lock goes last.
pub(super) fn wipe(home: Home) -> Result<(), StoreError> {
    let directory = home.directory.as_path();
    remove(directory).map_err(|source| StoreError::Directory { path: directory.into(), source })
}

fn remove(directory: &Path) -> io::Result<()> {
    remove_all_in(directory, Some(LOCK))?;
    fs::remove_file(directory.join(LOCK))?;
    fs::remove_dir(directory)
}

/// Links are deleted, and what they lead to is not ours.
fn remove_all_in(directory: &Path, spared: Option<&str>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if spared.is_some_and(|spared| entry.file_name() == spared) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_all_in(&path, None)?;
            fs::remove_dir(&path)?;
        } else {
            overwrite(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_directories_goes_and_what_links_lead_to_stays() {
        let elsewhere = tempfile::tempdir().expect("a directory");
        let kept = elsewhere.path().join("kept");
        fs::write(&kept, "ours").expect("it is written");
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("tenant");
        fs::create_dir_all(directory.join("a/b")).expect("they are made");
        for name in ["one", "a/two", "a/b/lock", LOCK] {
            fs::write(directory.join(name), "secret").expect("it is written");
        }
        // A second name of a file shows what became of it.
        fs::hard_link(directory.join("a/b/lock"), parent.path().join("seen")).expect("it is linked");
        std::os::unix::fs::symlink(&kept, directory.join("a/link")).expect("it is linked");
        std::os::unix::fs::symlink(elsewhere.path(), directory.join("a/b/way-out")).expect("it is linked");
        remove(&directory).expect("it goes");
        assert!(!directory.exists());
        assert_eq!(fs::read(parent.path().join("seen")).expect("it is there"), [0; 6]);
        assert_eq!(fs::read_to_string(&kept).expect("it is there"), "ours");
    }
}
