//! What was asked and answered, word for word, where that is to be kept: files beside the log, one per inference.
//!
//! `content/PLACE/xx/UNTIL-ID.json`, so that a tenant's can be told from another's, and what is past its time from what is not,
//! by names alone. The log only has keyed hashes, so a file can be deleted while the log stays what it was. Main types:
//! [`Contents`] and [`ContentName`]. Invariants: a file is there whole or not at all; what is deleted is overwritten before; of
//! a tenant that is gone nothing is written any more. Knows nothing of who decides what is kept.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::AuditError;
use crate::types::{overwrite, unix_seconds};

const FOLDER: &str = "content";
const EXTENSION: &str = "json";
/// Of a file that is being written.
const PART: &str = "part";
/// Nobody writes one file for so long.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);
const ID_DIGITS: usize = 32;
const LONGEST_PLACE: usize = 64;

/// Tokens of one inference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// What the model was given, each text or prompt apart.
    pub prompts: Vec<Vec<u32>>,
    /// What decided the answer besides them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<RawJson>,
    /// What it generated, each choice apart.
    pub answers: Vec<Vec<u32>>,
}

/// A JSON value whose bytes can be hashed again, as they are kept as they were written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

/// What content is called: whose it is, until when it is kept, and a number that no other has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentName {
    place: String,
    /// Unix seconds; 0 for as long as the log.
    until: u64,
    id: String,
}

/// Content on its way to the disk.
pub(super) struct NewContent {
    pub(super) name: ContentName,
    pub(super) content: Content,
}

/// Where captured content is. Cheap to clone; clones know the same of who is gone.
#[derive(Clone, Debug)]
pub struct Contents {
    folder: PathBuf,
    gone: Arc<Mutex<HashSet<String>>>,
}

impl RawJson {
    /// That of a value.
    pub fn of(value: &serde_json::Value) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("a value is JSON"))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for RawJson {}

impl ContentName {
    /// That of something new of a tenant, by the place of its data.
    pub fn new(place: &str, until: Option<u64>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { place: place.to_owned(), until: until.unwrap_or(0), id }
    }

    /// As a record has it. Anything else would be another file.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let parsed = text.split_once('/').and_then(|(place, file)| {
            let is_place = (1..=LONGEST_PLACE).contains(&place.len())
                && place.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let (until, id) = of_file(file)?;
            is_place.then(|| Self { place: place.to_owned(), until, id: id.to_owned() })
        });
        let expected = "PLACE/SECONDS-ID, where an id has 32 hexadecimal digits";
        parsed.ok_or_else(|| AuditError::Invalid { field: "content", value: text.to_owned(), expected })
    }

    /// The place of its tenant's data.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn is_over(&self, now: u64) -> bool {
        is_over(self.until, now)
    }
}

impl fmt::Display for ContentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, until, id } = self;
        write!(formatter, "{place}/{until:010}-{id}")
    }
}

impl Contents {
    /// That of a log's directory.
    pub fn of(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER), gone: Arc::default() }
    }

    /// Is there any, be it past its time?
    pub(super) fn has_some(&self) -> Result<bool, AuditError> {
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries.map_err(|error| AuditError::file(&folder, error))?,
            };
            for entry in entries {
                let entry = entry.map_err(|error| AuditError::file(&folder, error))?;
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(_) | Err(_) => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    /// That of the log beside which it is.
    pub fn directory(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// What is kept of an inference; nothing, if it was never kept, was deleted, or is past its time.
    pub fn read(&self, name: &str) -> Result<Option<Content>, AuditError> {
        let name = ContentName::parse(name)?;
        let path = self.path(&name);
        if name.is_over(unix_seconds()) {
            return Ok(None);
        }
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(AuditError::file(&path, error)),
        };
        let content = serde_json::from_slice(&text);
        content.map(Some).map_err(|error| AuditError::file(&path, io::Error::new(ErrorKind::InvalidData, error)))
    }

    /// Overwrites and deletes what is kept of an inference. False if there was nothing.
    pub fn erase(&self, name: &str) -> Result<bool, AuditError> {
        remove(&self.path(&ContentName::parse(name)?))
    }

    /// Overwrites and deletes all of a tenant, by the place of its data, of which nothing is written from then on. Says how
    /// much that was.
    pub fn erase_place(&self, place: &str) -> Result<u64, AuditError> {
        // Whatever is being written holds the set: from here on nothing is, and nobody has to wait for the rest of this.
        self.gone().insert(place.to_owned());
        let folder = self.folder.join(place);
        let erased = erase_where(&folder, &|_| true)?;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(AuditError::file(&folder, error)),
            Ok(()) | Err(_) => Ok(erased),
        }
    }

    /// Overwrites and deletes what is past its time at `now`, in Unix seconds, and all that was written before another moment.
    /// Says how much that was.
    pub fn prune(&self, now: u64, written_before: Option<u64>) -> Result<u64, AuditError> {
        erase_where(&self.folder, &|path| {
            let until = path.file_stem().and_then(|stem| of_file(stem.to_str()?)).map_or(0, |(until, _)| until);
            let is_part = path.extension().is_some_and(|extension| extension == PART);
            let oldest = written_before.max(is_part.then(|| now.saturating_sub(LONGEST_WRITE.as_secs())));
            is_over(until, now) || oldest.is_some_and(|oldest| is_older(path, oldest))
        })
    }

    /// Writes it, unless its tenant is gone.
    pub(super) fn store(&self, new: &NewContent) -> Result<(), AuditError> {
        let gone = self.gone();
        if gone.contains(&new.name.place) {
            return Ok(());
        }
        ContentName::parse(&new.name.to_string())?;
        let path = self.path(&new.name);
        let (folder, part) = (path.parent().unwrap_or(&self.folder), self.part(&new.name));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
            file.write_all(&serde_json::to_vec(&new.content)?)?;
            file.sync_data()?;
            fs::rename(&part, &path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| {
            drop(fs::remove_file(&part)); // what is left of it is deleted later
            AuditError::file(&path, error)
        })
    }

    fn path(&self, name: &ContentName) -> PathBuf {
        let ContentName { place, until, id } = name;
        let folder = id.get(..2).unwrap_or_default();
        self.folder.join(place).join(folder).join(format!("{until:010}-{id}.{EXTENSION}"))
    }

    /// Where it is while it is written.
    pub(super) fn part(&self, name: &ContentName) -> PathBuf {
        self.path(name).with_extension(PART)
    }

    fn gone(&self) -> MutexGuard<'_, HashSet<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when it is kept, and its id, by the name of a file without its end.
fn of_file(stem: &str) -> Option<(u64, &str)> {
    let (until, id) = stem.split_once('-')?;
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_until = until.len() >= 10 && until.bytes().all(|byte| byte.is_ascii_digit());
    Some((until.parse().ok().filter(|_| is_id && is_until)?, id))
}

fn is_over(until: u64, now: u64) -> bool {
    until != 0 && until <= now
}

fn is_older(path: &Path, than: u64) -> bool {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(than);
    path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified < moment)
}

/// False if it is not there.
fn remove(path: &Path) -> Result<bool, AuditError> {
    match overwrite(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(AuditError::file(path, error)),
    }
}

/// Overwrites and deletes those files of a folder, and of folders in it, which are to go. One that cannot be keeps no other;
/// the first error is told in the end.
fn erase_where(folder: &Path, goes: &impl Fn(&Path) -> bool) -> Result<u64, AuditError> {
    let (mut folders, mut erased, mut failed) = (vec![folder.to_owned()], 0, None);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                failed.get_or_insert(AuditError::file(&folder, error));
                continue;
            }
        };
        for entry in entries {
            let found = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir())));
            let removed = match found {
                Ok((path, true)) => {
                    folders.push(path);
                    continue;
                }
                Ok((path, false)) if goes(&path) => remove(&path),
                Ok(_) => continue,
                Err(error) => Err(AuditError::file(&folder, error)),
            };
            match removed {
                Ok(was_there) => erased += u64::from(was_there),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
    }
    failed.map_or(Ok(erased), Err)
}
