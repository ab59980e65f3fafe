//! The digests that the hub states for its files.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A file's digest in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Digest {
    /// Large files: SHA-256 of the content.
    Sha256(String),
    /// Small files: git's blob id, SHA-1 of `blob <length>\0` and the content.
    GitBlob(String),
}

impl Digest {
    /// The digest itself.
    pub(in crate::cli) fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::GitBlob(hex) => hex,
        }
    }

    /// Its name for people.
    pub(in crate::cli) fn kind(&self) -> &'static str {
        match self {
            Digest::Sha256(_) => "sha256",
            Digest::GitBlob(_) => "git blob id",
        }
    }

    /// Reads the file and compares.
    pub(in crate::cli) fn matches(&self, path: &Path) -> Result<bool> {
        let compute = || -> io::Result<String> {
            let file = File::open(path)?;
            match self {
                Digest::Sha256(_) => absorb(file, Sha256::new()),
                Digest::GitBlob(_) => {
                    let header = format!("blob {}\0", file.metadata()?.len());
                    absorb(file, Sha1::new_with_prefix(header))
                }
            }
        };
        let actual = compute().with_context(|| format!("cannot read {}", path.display()))?;
        Ok(actual.eq_ignore_ascii_case(self.hex()))
    }
}

fn absorb<D: sha2::Digest>(mut file: File, mut hasher: D) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        let check = |digest: Digest, expected: bool| assert_eq!(digest.matches(&path).unwrap(), expected, "{digest:?}");
        // `git hash-object` and `sha256sum` of the same file.
        check(Digest::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".into()), true);
        check(Digest::Sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into()), true);
        check(Digest::Sha256("5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03".into()), true);
        check(Digest::Sha256("ce013625030ba8dba906f756967f9e9ca394464a".into()), false);
    }
}
