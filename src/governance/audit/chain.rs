//! The log as whoever appends to it has it: records are chained, signed, written and on disk, or nothing of them is there.
//!
//! Main type: [`Chain`]. Several processes may append to one directory, one batch at a time: whoever has the lock looks whether
//! another has appended before it chains on. Invariant: a batch that failed leaves no byte behind that anybody takes for a
//! record.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde_json::json;

use super::{
    AuditError, AuditOptions,
    keys::{PublicKey, Signer, TextHasher},
    line::{self, Hash, Kind, Line, NO_HASH, Place, now_us, time_of_text},
    segments::{Directory, Tail},
};
use crate::types::hexadecimal;

/// Version of the format, in the head of each segment.
pub(super) const FORMAT: u64 = 1;

/// Appends to a directory.
pub(super) struct Chain {
    directory: Directory,
    options: AuditOptions,
    signer: Signer,
    lock: Arc<File>,
    tail: Option<Tail>,
    /// Records behind the last signature.
    unsigned: u64,
}

/// A record before it has a place.
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// A JSON object.
    pub(super) fields: String,
    /// The record that it belongs to.
    pub(super) about: Option<About>,
}

/// Another record.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    /// By its sequence number.
    Seq(u64),
    /// By its place in the same batch, before this one.
    Entry(usize),
}

/// What a batch has become.
pub(super) struct Committed {
    /// Sequence numbers of the entries, in their order.
    pub(super) seqs: Vec<u64>,
    pub(super) bytes: u64,
    /// Lines of checkpoints.
    pub(super) checkpoints: Vec<String>,
    /// Kinds of all records that were written.
    pub(super) kinds: Vec<Kind>,
}

/// Lines on their way to the disk.
struct Draft {
    bytes: Vec<u8>,
    seq: u64,
    hash: Hash,
    time_us: u64,
    unsigned: u64,
    kinds: Vec<Kind>,
    checkpoints: Vec<String>,
}

impl Chain {
    pub(super) fn open(path: &Path, options: AuditOptions) -> Result<Self, AuditError> {
        let directory = Directory::create(path)?;
        let lock = directory.lock_file()?;
        let held = Held::of(&lock, path)?;
        directory.check_not_emptied()?; // before keys are made
        let signer = Signer::open(path)?;
        let stated = PublicKey::of_directory(path)?;
        if stated != signer.public_key() {
            let reason = "it is not the public key of the signing key";
            return Err(AuditError::Key { path: path.join("signing.pub"), reason });
        }
        drop(held);
        Ok(Self { directory, options, signer, lock: Arc::new(lock), tail: None, unsigned: 0 })
    }

    /// Makes hashes of texts by the directory's secret.
    pub(super) fn hasher(&self) -> Result<TextHasher, AuditError> {
        let _held = Held::of(&self.lock, self.directory.path())?;
        TextHasher::open(self.directory.path())
    }

    /// Is there something that no checkpoint covers?
    pub(super) fn is_unsigned(&self) -> bool {
        self.unsigned > 0
    }

    /// Has all entries on disk when it returns, or none. `sign_now` ends the batch with a checkpoint, if anything is new.
    pub(super) fn commit(&mut self, entries: &[Entry], sign_now: Sign) -> Result<Committed, AuditError> {
        let lock = Arc::clone(&self.lock);
        let _held = Held::of(&lock, self.directory.path())?;
        let mut committed = Committed { seqs: Vec::new(), bytes: 0, checkpoints: Vec::new(), kinds: Vec::new() };
        let torn = self.look()?;
        if self.must_rotate() {
            self.rotate(&mut committed)?;
        }
        let mut draft = self.draft();
        if torn > 0 {
            draft.record(Kind::Recovered, &json!({ "cut_bytes": torn }).to_string());
        }
        for entry in entries {
            let about = entry.about.and_then(|about| match about {
                About::Seq(seq) => Some(seq),
                About::Entry(index) => committed.seqs.get(index).copied(),
            });
            committed.seqs.push(match about {
                Some(seq) => draft.record(entry.kind, &with_about(seq, &entry.fields)),
                None => draft.record(entry.kind, &entry.fields),
            });
            if draft.unsigned >= self.options.checkpoint_records {
                draft.checkpoint(&self.chain_id(), &self.signer);
            }
        }
        if sign_now == Sign::Now && draft.unsigned > 0 {
            draft.checkpoint(&self.chain_id(), &self.signer);
        }
        self.write(draft, &mut committed)?;
        Ok(committed)
    }

    /// Removes segments that ended before `cutoff_us`, and leaves a signed record of that. Says how many it removed.
    pub(super) fn prune(&mut self, cutoff_us: u64) -> Result<(usize, Committed), AuditError> {
        let lock = Arc::clone(&self.lock);
        let _held = Held::of(&lock, self.directory.path())?;
        let mut committed = Committed { seqs: Vec::new(), bytes: 0, checkpoints: Vec::new(), kinds: Vec::new() };
        let torn = self.look()?;
        let mut draft = self.draft();
        if torn > 0 {
            draft.record(Kind::Recovered, &json!({ "cut_bytes": torn }).to_string());
        }
        let numbers = self.directory.segments()?;
        let old = self.old_segments(&numbers, cutoff_us)?;
        let (Some(first), Some(last)) = (old.first(), old.last()) else {
            if torn > 0 {
                self.write(draft, &mut committed)?;
            }
            return Ok((0, committed));
        };
        let fields = json!({
            "chain": self.chain_id(),
            "from": first.first,
            "through": last.next.seq_before,
            "last_hash": hexadecimal(&last.next.hash_before),
            "before": line::time_text(cutoff_us),
        });
        draft.signed(Kind::Pruned, &fields.to_string(), &self.signer);
        self.write(draft, &mut committed)?;
        // What is left of them after a crash is removed the next time.
        for segment in &old {
            let path = self.directory.segment_path(segment.number);
            fs::remove_file(&path).map_err(|error| AuditError::file(&path, error))?;
        }
        self.directory.sync().map_err(|error| AuditError::file(self.directory.path(), error))?;
        Ok((old.len(), committed))
    }

    /// Those that are old enough.
    fn old_segments(&self, numbers: &[u64], cutoff_us: u64) -> Result<Vec<OldSegment>, AuditError> {
        let mut old = Vec::new();
        for pair in numbers.windows(2) {
            let (head, next) = (self.head(pair[0])?, self.head(pair[1])?);
            if next.time_us >= cutoff_us {
                break; // its last record is hardly older than the next one's first
            }
            old.push(OldSegment { number: pair[0], first: head.seq_before + 1, next });
        }
        Ok(old)
    }

    fn head(&self, number: u64) -> Result<NextHead, AuditError> {
        let path = self.directory.segment_path(number);
        let text = first_line(&path).map_err(|error| AuditError::file(&path, error))?;
        let broken = |reason: &str| {
            AuditError::Broken(Box::new(super::verify::Break {
                file: path.clone(),
                line: Some(1),
                sequence: None,
                reason: reason.to_owned(),
            }))
        };
        let line = Line::parse(&text).map_err(broken)?;
        let time_us = line.text("time").and_then(time_of_text).unwrap_or(0);
        Ok(NextHead { seq_before: line.seq.saturating_sub(1), hash_before: line.prev, time_us })
    }

    /// Sees what others have appended, and cuts what they left unfinished. Says how many bytes that were.
    fn look(&mut self) -> Result<u64, AuditError> {
        if let Some(tail) = &self.tail {
            let len = tail.file.metadata().map(|metadata| metadata.len());
            if len.is_ok_and(|len| len == tail.len)
                && tail.path.exists()
                && !self.directory.segment_path(tail.number + 1).exists()
            {
                return Ok(0);
            }
        }
        self.tail = None; // an error leaves nothing that is believed
        self.tail = self.directory.tail()?;
        self.unsigned = self.tail.as_ref().map_or(0, |tail| u64::from(tail.last_kind != Kind::Checkpoint));
        Ok(self.tail.as_ref().map_or(0, |tail| tail.torn))
    }

    fn chain_id(&self) -> String {
        self.tail.as_ref().map_or_else(String::new, |tail| tail.chain.clone())
    }

    /// Is the newest segment due to be ended although nothing is to be written? One that has nothing but its head and a
    /// checkpoint is not.
    pub(super) fn is_stale(&self) -> bool {
        self.must_rotate() && self.tail.as_ref().is_some_and(|tail| tail.seq > tail.first_seq + 1)
    }

    fn must_rotate(&self) -> bool {
        let Some(tail) = &self.tail else { return true };
        let age = Duration::from_micros(now_us().saturating_sub(tail.began_us));
        tail.len >= self.options.segment_bytes || age >= self.options.segment_age
    }

    /// Ends the newest segment with a checkpoint and begins another.
    fn rotate(&mut self, committed: &mut Committed) -> Result<(), AuditError> {
        if self.tail.as_ref().is_some_and(|tail| tail.last_kind != Kind::Checkpoint) {
            let mut draft = self.draft();
            draft.checkpoint(&self.chain_id(), &self.signer);
            self.write(draft, committed)?;
        }
        let mut draft = self.draft();
        let number = self.tail.as_ref().map_or(1, |tail| tail.number + 1);
        let chain =
            self.tail.as_ref().map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), |tail| tail.chain.clone());
        let fields = json!({
            "chain": chain,
            "format": FORMAT,
            "segment": number,
            "public_key": self.signer.public_key().to_hexadecimal(),
        });
        let began_us = draft.time_us.max(now_us());
        draft.record(Kind::Segment, &fields.to_string());
        let (path, file) = self.directory.create_segment(number)?;
        if let Err(error) = file.write_all_at(&draft.bytes, 0).and_then(|()| file.sync_data()) {
            // If even that fails, the next look finds a segment without a whole line, and removes it.
            drop(fs::remove_file(&path));
            return Err(AuditError::file(&path, error));
        }
        committed.take(&draft);
        self.tail = Some(Tail {
            number,
            path,
            file,
            len: draft.bytes.len() as u64,
            seq: draft.seq,
            hash: draft.hash,
            last_kind: Kind::Segment,
            last_time_us: draft.time_us,
            chain,
            first_seq: draft.seq,
            began_us,
            torn: 0,
        });
        self.unsigned = draft.unsigned;
        Ok(())
    }

    fn draft(&self) -> Draft {
        let (seq, hash, time_us) =
            self.tail.as_ref().map_or((0, NO_HASH, 0), |tail| (tail.seq, tail.hash, tail.last_time_us));
        let (kinds, checkpoints) = (Vec::new(), Vec::new());
        Draft { bytes: Vec::new(), seq, hash, time_us, unsigned: self.unsigned, kinds, checkpoints }
    }

    /// Puts lines behind the last one, all or none of them.
    fn write(&mut self, draft: Draft, committed: &mut Committed) -> Result<(), AuditError> {
        let Some(tail) = &mut self.tail else { return Err(AuditError::Closed) };
        if draft.bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = put(&tail.file, &draft.bytes, tail.len) {
            let error = AuditError::file(&tail.path, error);
            // If even cutting fails, the next look cuts an unfinished line; whole lines that nobody was told of may stay.
            drop(tail.file.set_len(tail.len).and_then(|()| tail.file.sync_data()));
            self.tail = None;
            return Err(error);
        }
        tail.len += draft.bytes.len() as u64;
        (tail.seq, tail.hash, tail.last_time_us) = (draft.seq, draft.hash, draft.time_us);
        tail.last_kind = draft.kinds.last().copied().unwrap_or(tail.last_kind);
        self.unsigned = draft.unsigned;
        committed.take(&draft);
        Ok(())
    }
}

/// Does a batch end with a checkpoint?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Now,
    WhenDue,
}

/// A segment that retention removes.
struct OldSegment {
    number: u64,
    /// Its first record.
    first: u64,
    next: NextHead,
}

/// What the first line of a segment says of what is before it.
#[derive(Clone, Copy)]
struct NextHead {
    seq_before: u64,
    hash_before: Hash,
    time_us: u64,
}

impl Committed {
    fn take(&mut self, draft: &Draft) {
        self.bytes += draft.bytes.len() as u64;
        self.kinds.extend_from_slice(&draft.kinds);
        self.checkpoints.extend_from_slice(&draft.checkpoints);
    }
}

impl Draft {
    fn record(&mut self, kind: Kind, fields: &str) -> u64 {
        self.line(kind, fields, None)
    }

    fn signed(&mut self, kind: Kind, fields: &str, signer: &Signer) {
        self.line(kind, fields, Some(&|bytes| signer.sign(bytes)));
    }

    fn checkpoint(&mut self, chain: &str, signer: &Signer) {
        let from = self.bytes.len();
        self.signed(Kind::Checkpoint, &json!({ "chain": chain }).to_string(), signer);
        self.unsigned = 0;
        self.checkpoints.push(String::from_utf8_lossy(&self.bytes[from..]).into_owned());
    }

    fn line(&mut self, kind: Kind, fields: &str, sign: Option<line::Sign<'_>>) -> u64 {
        self.seq += 1;
        self.time_us = self.time_us.max(now_us());
        let place = Place { seq: self.seq, prev: &self.hash, time_us: self.time_us };
        self.hash = line::write(&mut self.bytes, place, kind, fields, sign);
        self.unsigned += 1;
        self.kinds.push(kind);
        self.seq
    }
}

fn with_about(seq: u64, fields: &str) -> String {
    let rest = fields.strip_prefix('{').unwrap_or("}");
    let comma = if rest == "}" { "" } else { "," };
    format!(r#"{{"begun":{seq}{comma}{rest}"#)
}

fn put(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)?;
    file.sync_data()
}

fn first_line(path: &Path) -> io::Result<Vec<u8>> {
    use io::BufRead;
    let mut line = Vec::new();
    io::BufReader::new(File::open(path)?).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}

/// The directory's lock while it is held.
struct Held<'f> {
    file: &'f File,
}

impl<'f> Held<'f> {
    fn of(file: &'f File, path: &Path) -> Result<Self, AuditError> {
        file.lock().map_err(|error| AuditError::file(path, error))?;
        Ok(Self { file })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // A lock that cannot be given back goes with its file.
        drop(self.file.unlock());
    }
}
