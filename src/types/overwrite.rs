//! Files that are to be no more.
//!
//! What a file system or a disk keeps elsewhere (copies on write, snapshots, worn cells) is beyond this.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

static PIECE: [u8; 64 << 10] = [0; 64 << 10];

/// Overwrites a file with zeros, has them on disk, and deletes it. What is no file of its own, such as a link, is deleted, and
/// what it leads to stays.
pub fn overwrite(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_file() {
        return fs::remove_file(path);
    }
    let Some(mut file) = open_own(path)? else { return fs::remove_file(path) };
    let mut left = file.metadata()?.len();
    while left > 0 {
        let piece = PIECE.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&PIECE);
        file.write_all(piece)?;
        left = left.saturating_sub(piece.len() as u64);
    }
    file.sync_all()?;
    fs::remove_file(path)
}

/// A file for writing, unless it is a link or no file: what is opened is asked, as a name may be another's since it was looked
/// at. Never waits.
fn open_own(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match File::options().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file).filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))),
        // A link; a pipe or a socket that nobody reads.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixListener};

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

    #[test]
    fn what_a_name_has_become_since_it_was_looked_at_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let [kept, link, socket] = ["kept", "link", "socket"].map(|name| folder.path().join(name));
        fs::write(&kept, "ours").expect("it is written");
        std::os::unix::fs::symlink(&kept, &link).expect("it is linked");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        assert!(open_own(&link).expect("it is there").is_none());
        assert!(open_own(&socket).expect("it is there").is_none());
        assert!(open_own(&kept).expect("it is there").is_some());
        assert_eq!(fs::read_to_string(&kept).expect("it stays"), "ours");
        for path in [&link, &socket] {
            overwrite(path).expect("it goes");
            assert!(path.symlink_metadata().is_err());
        }
    }
}
