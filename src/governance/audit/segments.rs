//! The files of a log: `00000001.jsonl`, `00000002.jsonl`, ... in one directory, and a lock that whoever appends holds.
//!
//! Main types: [`Directory`] and [`Tail`], the end of the newest segment. Knows nothing of what records say but where they
//! stand in the chain.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    AuditError, Contents,
    line::{Hash, Kind, Line, time_of_text},
    verify::Break,
};

const EXTENSION: &str = "jsonl";
const DIGITS: usize = 8;
const LOCK: &str = "lock";
/// The end of a file is read in pieces of so many bytes.
const PIECE: u64 = 64 << 10;

/// Where a log is.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

/// The end of the log, as it was when it was looked at last.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes of whole lines.
    pub(super) len: u64,
    pub(super) seq: u64,
    pub(super) hash: Hash,
    pub(super) last_kind: Kind,
    pub(super) last_time_us: u64,
    /// From the segment's first line.
    pub(super) chain: String,
    pub(super) first_seq: u64,
    pub(super) began_us: u64,
    /// Bytes behind the last whole line that were cut.
    pub(super) torn: u64,
}

impl Directory {
    /// Makes it if it is not there, readable by this user alone.
    pub(super) fn create(path: &Path) -> Result<Self, AuditError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| AuditError::file(path, error))?;
        Ok(Self::at(path))
    }

    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file whose lock orders everybody who appends.
    pub(super) fn lock_file(&self) -> Result<File, AuditError> {
        let path = self.path.join(LOCK);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        opened.map_err(|error| AuditError::file(&path, error))
    }

    /// The same for somebody who only reads; nobody appends to a log that has no such file, or that cannot be written to.
    pub(super) fn existing_lock_file(&self) -> Option<File> {
        File::open(self.path.join(LOCK)).ok()
    }

    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:0DIGITS$}.{EXTENSION}"))
    }

    /// Numbers of all segments, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>, AuditError> {
        let failed = |error| AuditError::file(&self.path, error);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(EXTENSION)?.strip_suffix('.'));
            let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
            numbers.extend(number.filter(|&number| self.segment_path(number).file_name() == Some(&name)));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Fails if something was captured beside a log of which no segment is left: what begins here would be another log.
    pub(super) fn check_not_emptied(&self) -> Result<(), AuditError> {
        if !self.segments()?.is_empty() || !Contents::of(&self.path).has_some()? {
            return Ok(());
        }
        let reason = "there is captured content and no record: the log that it belongs to was removed".to_owned();
        let file = self.path.clone();
        Err(AuditError::Broken(Box::new(Break { file, line: None, sequence: None, reason })))
    }

    /// Makes a file for a new segment.
    pub(super) fn create_segment(&self, number: u64) -> Result<(PathBuf, File), AuditError> {
        let path = self.segment_path(number);
        let create = || {
            let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
            self.sync()?;
            Ok(file)
        };
        let file = create().map_err(|error| AuditError::file(&path, error))?;
        Ok((path, file))
    }

    /// Has names of files on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// The end of the log, less what a crash left unfinished; `None` if there is no record. Whoever calls this holds the
    /// lock.
    pub(super) fn tail(&self) -> Result<Option<Tail>, AuditError> {
        let mut numbers = self.segments()?;
        let mut torn = 0;
        while let Some(number) = numbers.pop() {
            let path = self.segment_path(number);
            let failed = |error| AuditError::file(&path, error);
            let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
            let all = file.metadata().map_err(failed)?.len();
            let (len, last) = last_line(&file, all).map_err(failed)?;
            torn += all - len;
            let Some(last) = last else {
                // Its first line was never finished.
                fs::remove_file(&path).and_then(|()| self.sync()).map_err(failed)?;
                continue;
            };
            if len < all {
                file.set_len(len).and_then(|()| file.sync_data()).map_err(failed)?;
            }
            let broken = |line, reason: &str| {
                AuditError::Broken(Box::new(Break {
                    file: path.clone(),
                    line,
                    sequence: None,
                    reason: reason.to_owned(),
                }))
            };
            let last = Line::parse(&last).map_err(|reason| broken(None, &format!("the last line: {reason}")))?;
            let head = first_line(&file).map_err(failed)?;
            let head = Line::parse(&head).map_err(|reason| broken(Some(1), reason))?;
            let time = |line: &Line| line.text("time").and_then(time_of_text).unwrap_or(0);
            let chain = head.text("chain").filter(|_| head.kind == Kind::Segment);
            return Ok(Some(Tail {
                number,
                len,
                seq: last.seq,
                hash: last.hash,
                last_kind: last.kind,
                last_time_us: time(&last),
                chain: chain.ok_or_else(|| broken(Some(1), "it is no head of a segment"))?.to_owned(),
                first_seq: head.seq,
                began_us: time(&head),
                torn,
                path,
                file,
            }));
        }
        self.check_not_emptied()?;
        Ok(None)
    }
}

/// How many bytes whole lines have, and the last of these lines without its end.
fn last_line(file: &File, len: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut tail = Vec::new();
    let mut begin = len;
    loop {
        let ends: Vec<usize> = tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        let line = match ends.as_slice() {
            [.., before, end] => Some((before + 1, *end)),
            [end] if begin == 0 => Some((0, *end)),
            _ => None,
        };
        if let Some((from, end)) = line {
            return Ok((begin + end as u64 + 1, Some(tail[from..end].to_vec())));
        }
        if begin == 0 {
            return Ok((0, None));
        }
        let from = begin.saturating_sub(PIECE.max(tail.len() as u64));
        let mut piece = vec![0; (begin - from) as usize];
        file.read_exact_at(&mut piece, from)?;
        piece.append(&mut tail);
        (tail, begin) = (piece, from);
    }
}

fn first_line(file: &File) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = file.read_at(&mut piece, line.len() as u64)?;
        let end = piece[..read].iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&piece[..end.unwrap_or(read)]);
        if end.is_some() || read == 0 {
            return Ok(line);
        }
    }
}
