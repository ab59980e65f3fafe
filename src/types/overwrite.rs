//! Files that are to be no more.
//!
//! What a file system or a disk keeps elsewhere (copies on write, snapshots, worn cells) is beyond this.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

static PIECE: [u8; 64 << 10] = [0; 64 << 10];

/// Overwrites a file with zeros, has them on disk, and deletes it. What is no file of its own, such as a link, is deleted, and
/// what it leads to stays.
pub fn overwrite(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_file() {
        return fs::remove_file(path);
    }
    let mut file = File::options().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        let piece = PIECE.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&PIECE);
        file.write_all(piece)?;
        left = left.saturating_sub(piece.len() as u64);
    }
    file.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_was_in_a_file_is_gone_for_whoever_has_it_open() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for length in [0, 1, PIECE.len(), PIECE.len() + 1] {
            fs::write(file.path(), vec![7; length]).expect("it is written");
            let mut open = File::open(file.path()).expect("it is there");
            overwrite(file.path()).expect("it is ours");
            let mut left = Vec::new();
            open.read_to_end(&mut left).expect("it is still open");
            assert_eq!((left.len(), left.iter().any(|byte| *byte != 0)), (length, false));
            assert!(!file.path().exists());
        }
    }
}
