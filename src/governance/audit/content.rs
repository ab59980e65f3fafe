//! What was asked and answered, word for word, where that is to be kept: files beside the log, one per inference.
//!
//! `content/PLACE/HOURS/UNTIL-ID.json`, so that a tenant's can be told from another's, and what is past its time from what is
//! not, by names alone: files lie together that were begun in one hour and go in one hour ([`Hours`]). The log only has keyed
//! hashes, so a file can be deleted while the log stays what it was. Main types: [`Contents`] and [`ContentName`]. Invariants: a
//! file is there whole or not at all, and what was never finished is found and goes; what is deleted is overwritten before; of a
//! tenant that is gone nothing is written any more. Knows nothing of who decides what is kept.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    mem,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AuditError,
    content_name::{ContentName, Hours, is_over, of_file},
};
use crate::types::{overwrite, unix_seconds};

const FOLDER: &str = "content";
const EXTENSION: &str = "json";
/// Of a file that is being written. It lies beside what it becomes: before Linux 5.19 the sandbox (Landlock) denies whatever
/// moves a file from one folder to another.
const PART: &str = "part";
/// Nobody writes one file for so long.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);

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

/// Content on its way to the disk.
pub(super) struct NewContent {
    pub(super) name: ContentName,
    pub(super) content: Content,
}

/// Where captured content is. Cheap to clone; clones know the same of who is gone, and of what was left unfinished.
#[derive(Clone, Debug)]
pub struct Contents {
    folder: PathBuf,
    gone: Arc<Mutex<HashSet<String>>>,
    unfinished: Arc<Mutex<Unfinished>>,
}

/// Where files may lie that nobody will finish.
#[derive(Debug, Default)]
struct Unfinished {
    /// Have all folders been looked through since the start? A crash leaves files in any of them.
    is_known: bool,
    /// Those in which some were, or may be.
    folders: HashSet<PathBuf>,
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

impl Contents {
    /// That of a log's directory.
    pub fn of(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER), gone: Arc::default(), unfinished: Arc::default() }
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
        if text.iter().all(|byte| *byte == 0) {
            return Ok(None); // it is being deleted, or would have been but for a crash
        }
        let content = serde_json::from_slice(&text);
        content.map(Some).map_err(|error| AuditError::file(&path, io::Error::new(ErrorKind::InvalidData, error)))
    }

    /// Overwrites and deletes what is kept of an inference, be it finished or not; what writes it fails then. False if there was
    /// nothing.
    pub fn erase(&self, name: &str) -> Result<bool, AuditError> {
        let name = ContentName::parse(name)?;
        let part = remove(&self.part(&name));
        let whole = remove(&self.path(&name));
        Ok(part? | whole?)
    }

    /// Overwrites and deletes all of a tenant, by the place of its data, of which nothing is written from then on. Says how
    /// much that was.
    pub fn erase_place(&self, place: &str) -> Result<u64, AuditError> {
        // Whatever is being written holds the set: from here on nothing is, and nobody has to wait for the rest of this.
        self.gone().insert(place.to_owned());
        let folder = self.folder.join(place);
        let erased = erase_where(&folder, &mut |_| true, &mut |_| true)?;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(AuditError::file(&folder, error)),
            Ok(()) | Err(_) => Ok(erased),
        }
    }

    /// Overwrites and deletes what is past its time at `now`, in Unix seconds, all that was written before another moment, and
    /// what nobody has finished in an hour. Says how much that was.
    pub fn prune(&self, now: u64, written_before: Option<u64>) -> Result<u64, AuditError> {
        self.prune_opening(now, written_before, &mut |_| {})
    }

    /// The same; says of each folder that it is opened. Those in which nothing can be due are not, but for the first time.
    pub(super) fn prune_opening(
        &self,
        now: u64,
        written_before: Option<u64>,
        opens: &mut dyn FnMut(&Path),
    ) -> Result<u64, AuditError> {
        let (is_known, left) = {
            let mut unfinished = self.unfinished();
            (unfinished.is_known, mem::take(&mut unfinished.folders))
        };
        let mut due = Vec::new();
        let mut enters = |folder: &Path| {
            let hours = self.hours_of(folder);
            let is_due = hours.is_none_or(|hours| hours.is_due(now, written_before));
            let enters = is_due || !is_known || left.contains(folder);
            if enters {
                opens(folder);
                due.extend(hours.filter(|_| is_due).map(|_| folder.to_owned()));
            }
            enters
        };
        let mut goes = |path: &Path| {
            let until = path.file_stem().and_then(|stem| of_file(stem.to_str()?)).map_or(0, |(until, _)| until);
            let is_part = path.extension().is_some_and(|extension| extension == PART);
            let oldest = written_before.max(is_part.then(|| now.saturating_sub(LONGEST_WRITE.as_secs())));
            let goes = is_over(until, now) || oldest.is_some_and(|oldest| is_older(path, oldest));
            if is_part && !goes {
                self.may_be_unfinished_in(path.parent());
            }
            goes
        };
        let erased = erase_where(&self.folder, &mut enters, &mut goes);
        match &erased {
            Ok(_) => self.unfinished().is_known = true,
            Err(_) => self.unfinished().folders.extend(left), // it may be just those
        }
        for folder in due {
            let _nothing_is_written = self.gone();
            drop(fs::remove_dir(folder)); // one that is not empty stays
        }
        erased
    }

    /// Those of a folder of a place; none, if it is of another sort, as those of earlier versions.
    fn hours_of(&self, folder: &Path) -> Option<Hours> {
        let within = folder.strip_prefix(&self.folder).ok()?;
        let is_of_a_place = within.components().count() == 2;
        Hours::of_folder(within.file_name()?.to_str()?).filter(|_| is_of_a_place)
    }

    /// Writes it, unless its tenant is gone.
    pub(super) fn store(&self, new: &NewContent) -> Result<(), AuditError> {
        let gone = self.gone();
        if gone.contains(new.name.place()) {
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
            if fs::remove_file(&part).is_err() {
                self.may_be_unfinished_in(Some(folder)); // what is left of it is deleted later
            }
            AuditError::file(&path, error)
        })
    }

    fn path(&self, name: &ContentName) -> PathBuf {
        self.folder.join(name.place()).join(name.folder()).join(format!("{}.{EXTENSION}", name.file()))
    }

    /// Where it is while it is written.
    pub(super) fn part(&self, name: &ContentName) -> PathBuf {
        self.path(name).with_extension(PART)
    }

    fn may_be_unfinished_in(&self, folder: Option<&Path>) {
        self.unfinished().folders.extend(folder.map(Path::to_owned));
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, HashSet<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Overwrites and deletes those files of a folder, and of folders in it that are entered, which are to go. One that cannot be
/// keeps no other; the first error is told in the end.
fn erase_where(
    folder: &Path,
    enters: &mut dyn FnMut(&Path) -> bool,
    goes: &mut dyn FnMut(&Path) -> bool,
) -> Result<u64, AuditError> {
    let (mut folders, mut erased, mut failed) = (vec![folder.to_owned()], 0, None);
    while let Some(folder) = folders.pop() {
        if !enters(&folder) {
            continue;
        }
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
