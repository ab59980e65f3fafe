//! Is a log what it was written as? Reads it from its first record to its last, without the server, and finds where it is not.
//!
//! [`verify`] is the seam. What it cannot find is the loss of records behind the last checkpoint, and of everything behind a
//! point if the log ends there: for that it takes checkpoints that were kept elsewhere. Whoever has the signing key can write
//! another log; for that it takes its checkpoints, too.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    AuditError,
    chain::FORMAT,
    keys::PublicKey,
    line::{Hash, Kind, Line, NO_HASH, signed_part, unhexadecimal},
    segments::Directory,
};
use crate::types::hexadecimal;

/// Where a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// In this file.
    pub file: PathBuf,
    /// In this line of it, the first is 1.
    pub line: Option<u64>,
    /// The sequence number that was expected there.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, ", record {sequence}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What a log is held against, beside itself.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// In place of the one beside the log.
    pub public_key: Option<PathBuf>,
    /// Lines of checkpoints that were kept elsewhere.
    pub checkpoints: Option<PathBuf>,
}

/// A log that is what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its id.
    pub chain: String,
    /// The key that its checkpoints are signed with.
    pub public_key: String,
    /// Files.
    pub segments: u64,
    /// Lines.
    pub records: u64,
    /// Sequence number of the first record that is still there.
    pub first: u64,
    /// Of the last.
    pub last: u64,
    /// Hash of the last.
    pub last_hash: String,
    /// Signatures.
    pub checkpoints: u64,
    /// The last record that a signature covers.
    pub signed_through: u64,
    /// Records that retention has removed, if it has.
    pub pruned_through: Option<u64>,
    /// Inferences without an end: those under way, or cut by a crash.
    pub unfinished: u64,
    /// Checkpoints from elsewhere that the log has.
    pub anchored: u64,
    /// Checkpoints from elsewhere whose records retention has removed.
    pub anchored_but_pruned: u64,
}

/// Reads a whole log. Fails with [`AuditError::Broken`] at the first thing that is wrong.
pub fn verify(directory: &Path, evidence: &Evidence) -> Result<Report, AuditError> {
    Directory::at(directory).check_not_emptied()?;
    let key = match &evidence.public_key {
        Some(path) => PublicKey::open(path)?,
        None => PublicKey::of_directory(directory)?,
    };
    let anchored = match &evidence.checkpoints {
        Some(path) => Anchored::read(path, key)?,
        None => Anchored::default(),
    };
    loop {
        let mut walk = Walk::new(key, anchored.clone());
        match walk.all(&Directory::at(directory))? {
            Outcome::Read => return walk.finish(directory, evidence),
            Outcome::Removed => {} // what is there now is another beginning
        }
    }
}

/// Opens a segment of a snapshot; `None` if retention has removed it since.
pub(super) fn open_segment(directory: &Directory, number: u64) -> Result<Option<File>, AuditError> {
    let path = directory.segment_path(number);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Only the oldest are removed: one that is missing between others is no matter of time.
            let first = snapshot(directory)?.first().map(|(number, _, _)| *number);
            if first.is_some_and(|first| first > number) { Ok(None) } else { Err(AuditError::file(&path, error)) }
        }
        Err(error) => Err(AuditError::file(&path, error)),
    }
}

/// How reading all of it went.
enum Outcome {
    Read,
    /// Retention has removed what was to be read.
    Removed,
}

/// Number, path and length of all segments at one moment, so that a log can be read while others append.
pub(super) fn snapshot(directory: &Directory) -> Result<Vec<(u64, PathBuf, u64)>, AuditError> {
    let lock = directory.existing_lock_file();
    if let Some(lock) = &lock {
        lock.lock_shared().map_err(|error| AuditError::file(directory.path(), error))?;
    }
    let mut files = Vec::new();
    for number in directory.segments()? {
        let path = directory.segment_path(number);
        let len = path.metadata().map_err(|error| AuditError::file(&path, error))?.len();
        files.push((number, path, len));
    }
    Ok(files) // the lock goes with its file
}

/// Checkpoints from elsewhere.
#[derive(Clone, Default)]
struct Anchored {
    chain: Option<String>,
    hashes: HashMap<u64, Hash>,
}

impl Anchored {
    fn read(path: &Path, key: PublicKey) -> Result<Self, AuditError> {
        let file = File::open(path).map_err(|error| AuditError::file(path, error))?;
        let mut anchored = Self::default();
        for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
            let text = line.map_err(|error| AuditError::file(path, error))?;
            if text.is_empty() {
                continue;
            }
            let broken = |reason: &str| broken(path, Some(index as u64 + 1), None, reason);
            let line = Line::parse(&text).map_err(broken)?;
            if line.kind != Kind::Checkpoint {
                return Err(broken("it is no checkpoint"));
            }
            check_signature(&text, key).map_err(broken)?;
            let chain = line.text("chain").unwrap_or_default();
            if anchored.chain.get_or_insert_with(|| chain.to_owned()) != chain {
                return Err(broken("it is of another chain than the checkpoints before it"));
            }
            if anchored.hashes.insert(line.seq, line.hash).is_some_and(|other| other != line.hash) {
                return Err(broken("there is another checkpoint of the same number: the key has signed two logs"));
            }
        }
        Ok(anchored)
    }
}

/// What has been read so far.
struct Walk {
    key: PublicKey,
    anchored: Anchored,
    chain: Option<String>,
    first: Option<First>,
    is_gap_covered: bool,
    seq: u64,
    hash: Hash,
    last_kind: Option<Kind>,
    open: HashSet<u64>,
    report: Report,
    last_file: PathBuf,
}

/// What is before the first record that is there.
struct First {
    file: PathBuf,
    missing_through: u64,
    hash: Hash,
}

impl Walk {
    fn new(key: PublicKey, anchored: Anchored) -> Self {
        let report = Report {
            chain: String::new(),
            public_key: key.to_hexadecimal(),
            segments: 0,
            records: 0,
            first: 0,
            last: 0,
            last_hash: String::new(),
            checkpoints: 0,
            signed_through: 0,
            pruned_through: None,
            unfinished: 0,
            anchored: 0,
            anchored_but_pruned: 0,
        };
        Self {
            key,
            anchored,
            chain: None,
            first: None,
            is_gap_covered: false,
            seq: 0,
            hash: NO_HASH,
            last_kind: None,
            open: HashSet::new(),
            report,
            last_file: PathBuf::new(),
        }
    }

    fn all(&mut self, directory: &Directory) -> Result<Outcome, AuditError> {
        for (number, path, len) in snapshot(directory)? {
            let Some(file) = open_segment(directory, number)? else { return Ok(Outcome::Removed) };
            self.segment(number, (&path, file), len)?;
        }
        Ok(Outcome::Read)
    }

    fn segment(&mut self, number: u64, (path, file): (&Path, File), len: u64) -> Result<(), AuditError> {
        if self.last_kind.is_some_and(|kind| kind != Kind::Checkpoint) {
            let reason = "the segment does not end with a checkpoint, and another one follows: its end is missing";
            return Err(broken(&self.last_file, None, Some(self.seq + 1), reason));
        }
        let mut reader = BufReader::with_capacity(1 << 16, file.take(len));
        let (mut text, mut number_of_line) = (Vec::new(), 0);
        while read_line(&mut reader, &mut text).map_err(|error| AuditError::file(path, error))? {
            number_of_line += 1;
            let expected = (self.first.is_some()).then_some(self.seq + 1);
            let broken = |reason: &str| broken(path, Some(number_of_line), expected, reason);
            if text.pop() != Some(b'\n') {
                let bytes = text.len() + 1;
                return Err(broken(&format!(
                    "the record is unfinished ({bytes} bytes): a crash left it so, and the next start cuts it, or it was cut"
                )));
            }
            let line = Line::parse(&text).map_err(broken)?;
            self.record(&Place { number, number_of_line, path }, &text, line).map_err(|reason| broken(&reason))?;
        }
        if number_of_line == 0 {
            return Err(broken(path, None, Some(self.seq + 1), "the segment is empty"));
        }
        self.report.segments += 1;
        path.clone_into(&mut self.last_file);
        Ok(())
    }

    fn record(&mut self, place: &Place<'_>, text: &[u8], line: Line) -> Result<(), String> {
        let is_head = line.kind == Kind::Segment;
        if is_head != (place.number_of_line == 1) {
            return Err("a segment has one head, its first line".to_owned());
        }
        if self.first.is_none() {
            let missing_through = line.seq.saturating_sub(1);
            (self.seq, self.hash) = (missing_through, line.prev);
            if missing_through == 0 && line.prev != NO_HASH {
                return Err("the first record of all says that there is one before it".to_owned());
            }
            self.first = Some(First { file: place.path.to_owned(), missing_through, hash: line.prev });
            self.report.first = line.seq;
        }
        if line.seq != self.seq + 1 {
            return Err(format!("it is record {}: records are missing, or not where they were", line.seq));
        }
        if line.prev != self.hash {
            return Err("it does not follow the record before it: one of them was changed or put there".to_owned());
        }
        match line.kind {
            Kind::Segment => self.head(place, &line)?,
            Kind::Checkpoint => self.checkpoint(text, &line)?,
            Kind::Pruned => self.pruned(text, &line)?,
            Kind::Begun => _ = self.open.insert(line.seq),
            Kind::Ended => _ = line.count("begun").map(|begun| self.open.remove(&begun)),
            Kind::Act | Kind::Refused | Kind::Recovered => {}
        }
        match self.anchored.hashes.remove(&line.seq) {
            Some(hash) if hash != line.hash => {
                return Err("the checkpoint that was kept elsewhere is another: the log was written anew".to_owned());
            }
            Some(_) => self.report.anchored += 1,
            None => {}
        }
        (self.seq, self.hash, self.last_kind) = (line.seq, line.hash, Some(line.kind));
        self.report.records += 1;
        Ok(())
    }

    fn head(&mut self, place: &Place<'_>, line: &Line) -> Result<(), String> {
        if line.count("format") != Some(FORMAT) {
            return Err(format!("its format is not {FORMAT}, which this version reads"));
        }
        if line.count("segment") != Some(place.number) {
            return Err("it is the head of another segment".to_owned());
        }
        if line.text("public_key") != Some(&self.key.to_hexadecimal()) {
            return Err("its public key is another than that of the log".to_owned());
        }
        let chain = line.text("chain").unwrap_or_default();
        if self.chain.get_or_insert_with(|| chain.to_owned()) != chain {
            return Err("it is of another chain".to_owned());
        }
        if self.anchored.chain.as_ref().is_some_and(|anchored| anchored != chain) {
            return Err("the checkpoints that were kept elsewhere are of another chain".to_owned());
        }
        Ok(())
    }

    fn checkpoint(&mut self, text: &[u8], line: &Line) -> Result<(), String> {
        self.signed(text, line)?;
        self.report.checkpoints += 1;
        self.report.signed_through = line.seq;
        Ok(())
    }

    fn signed(&self, text: &[u8], line: &Line) -> Result<(), String> {
        check_signature(text, self.key)?;
        if line.text("chain") != self.chain.as_deref() {
            return Err("it is of another chain".to_owned());
        }
        Ok(())
    }

    /// Does it say what has become of the records that are not there?
    fn pruned(&mut self, text: &[u8], line: &Line) -> Result<(), String> {
        self.signed(text, line)?;
        let odd = || "it does not say what was removed".to_owned();
        let through = line.count("through").ok_or_else(odd)?;
        let hash: Hash = line.text("last_hash").and_then(|hash| unhexadecimal(hash.as_bytes())).ok_or_else(odd)?;
        let Some(first) = &self.first else { return Ok(()) };
        if through == first.missing_through && hash != first.hash {
            return Err("the records that retention removed are not those before the first that is there".to_owned());
        }
        self.is_gap_covered |= through >= first.missing_through;
        self.report.pruned_through = self.report.pruned_through.max(Some(through));
        Ok(())
    }

    fn finish(mut self, directory: &Path, evidence: &Evidence) -> Result<Report, AuditError> {
        let Some(first) = &self.first else {
            if let Some((seq, _)) = self.anchored.hashes.iter().max_by_key(|(seq, _)| **seq) {
                return Err(broken(directory, None, Some(*seq), "there is no record, but one was anchored"));
            }
            return Err(broken(directory, None, None, "there is no record"));
        };
        if first.missing_through > 0 && !self.is_gap_covered {
            let reason = "the records before it are missing, and no record says that retention removed them";
            return Err(broken(&first.file, Some(1), Some(first.missing_through + 1), reason));
        }
        let anchors = evidence.checkpoints.clone().unwrap_or_default();
        for seq in self.anchored.hashes.keys() {
            if *seq > self.seq {
                let reason = format!(
                    "it ends with record {}, but {} has a checkpoint of record {seq}: its end was cut",
                    self.seq,
                    anchors.display(),
                );
                return Err(broken(&self.last_file, None, Some(self.seq + 1), &reason));
            }
            self.report.anchored_but_pruned += 1; // all others were found or are before the first
        }
        self.report.chain = self.chain.unwrap_or_default();
        self.report.last = self.seq;
        self.report.last_hash = hexadecimal(&self.hash);
        self.report.unfinished = self.open.len() as u64;
        Ok(self.report)
    }
}

/// Where a line was read.
struct Place<'p> {
    number: u64,
    number_of_line: u64,
    path: &'p Path,
}

fn check_signature(text: &[u8], key: PublicKey) -> Result<(), &'static str> {
    let (signed, signature) = signed_part(text).ok_or("it has no signature")?;
    if key.verifies(signed, &signature) { Ok(()) } else { Err("its signature is wrong") }
}

/// False at the end.
fn read_line(reader: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    Ok(reader.read_until(b'\n', text)? > 0)
}

fn broken(file: &Path, line: Option<u64>, sequence: Option<u64>, reason: &str) -> AuditError {
    AuditError::Broken(Box::new(Break { file: file.to_owned(), line, sequence, reason: reason.to_owned() }))
}
