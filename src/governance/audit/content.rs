//! What was asked and answered, word for word, where that is to be kept: files beside the log, one per inference.
//!
//! The log only has keyed hashes, so a file can be deleted while the log stays what it was. Main type: [`Contents`]. Knows
//! nothing of who decides what is kept.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::AuditError;

const FOLDER: &str = "content";

/// Tokens of one inference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// What the model was given, each text or prompt apart.
    pub prompts: Vec<Vec<u32>>,
    /// What decided the answer besides them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Value>,
    /// What it generated, each choice apart.
    pub answers: Vec<Vec<u32>>,
}

/// Content on its way to the disk.
pub(super) struct NewContent {
    pub(super) id: String,
    pub(super) content: Content,
}

/// Where captured content is.
#[derive(Clone, Debug)]
pub struct Contents {
    folder: PathBuf,
}

impl Contents {
    /// That of a log's directory.
    pub fn of(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER) }
    }

    /// What is kept of an inference; nothing, if it was never kept or was deleted.
    pub fn read(&self, id: &str) -> Result<Option<Content>, AuditError> {
        let path = self.path(id)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(AuditError::file(&path, error)),
        };
        let content = serde_json::from_slice(&text);
        content.map(Some).map_err(|error| AuditError::file(&path, io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Deletes what is kept of an inference. False if there was nothing.
    pub fn erase(&self, id: &str) -> Result<bool, AuditError> {
        let path = self.path(id)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(AuditError::file(&path, error)),
        }
    }

    pub(super) fn store(&self, new: &NewContent) -> Result<(), AuditError> {
        let path = self.path(&new.id)?;
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(&self.folder))?;
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            file.write_all(&serde_json::to_vec(&new.content)?)?;
            file.sync_data()
        };
        write().map_err(|error| AuditError::file(&path, error))
    }

    /// Deletes what is older.
    pub(super) fn prune(&self, cutoff_us: u64) -> Result<(), AuditError> {
        let cutoff = SystemTime::UNIX_EPOCH + Duration::from_micros(cutoff_us);
        let prune = || -> io::Result<()> {
            for folder in fs::read_dir(&self.folder)? {
                for file in fs::read_dir(folder?.path())? {
                    let file = file?;
                    if file.metadata()?.modified()? < cutoff {
                        fs::remove_file(file.path())?;
                    }
                }
            }
            Ok(())
        };
        match prune() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AuditError::file(&self.folder, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Ids are ours: anything else would be another file.
    fn path(&self, id: &str) -> Result<PathBuf, AuditError> {
        let is_ours = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        match id.get(..2).filter(|_| is_ours) {
            Some(folder) => Ok(self.folder.join(folder).join(format!("{id}.json"))),
            None => {
                let expected = "32 hexadecimal digits";
                Err(AuditError::Invalid { field: "content", value: id.to_owned(), expected })
            }
        }
    }
}
