//! Records of a log by what is looked for: an id, a tenant, a principal, a time, a kind. Reads files from the beginning, less
//! the segments that are too old, and never holds more than it was asked for.
//!
//! [`find`] is the seam. It believes what it reads; whether that is what was written is for `verify` to say.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde_json::{Map, Value};

use super::{
    AuditError,
    line::{Kind, time_of_text, time_text},
    segments::Directory,
    verify::{Break, open_segment, snapshot},
};

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place in the chain.
    pub seq: u64,
    /// When it was written, RFC 3339.
    pub time: String,
    /// What it tells.
    pub kind: Kind,
    /// All its members.
    pub members: Map<String, Value>,
    /// As it is in the file, without the end of the line.
    pub line: String,
}

/// What is looked for: what all of these say, where they say something.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// A request's id, or a sequence number.
    pub id: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this principal.
    pub principal: Option<String>,
    /// Of these kinds; all, if there are none.
    pub kinds: Vec<Kind>,
    /// Not before this moment, in microseconds since 1970.
    pub from_us: Option<u64>,
    /// Before this moment.
    pub until_us: Option<u64>,
    /// Behind this record: where the page before ended.
    pub after: Option<u64>,
}

/// What somebody does with a record: go on, or stop.
pub type Visit<'v> = &'v mut dyn FnMut(Record) -> bool;

/// The first `limit` records that are looked for, in order, and where to go on if there may be more.
pub fn find(directory: &Path, query: &Query, limit: usize) -> Result<(Vec<Record>, Option<u64>), AuditError> {
    let mut found: Vec<Record> = Vec::new();
    let mut has_more = false;
    visit(directory, query, &mut |record| {
        has_more = found.len() == limit;
        if !has_more {
            found.push(record);
        }
        !has_more
    })?;
    let next = found.last().map(|record| record.seq).filter(|_| has_more);
    Ok((found, next))
}

/// The last `count` records that are looked for, in order.
pub fn find_last(directory: &Path, query: &Query, count: usize) -> Result<Vec<Record>, AuditError> {
    let mut last = std::collections::VecDeque::new();
    visit(directory, query, &mut |record| {
        last.push_back(record);
        if last.len() > count {
            last.pop_front();
        }
        true
    })?;
    Ok(last.into())
}

/// All records that are looked for, in order, one at a time.
pub fn visit(directory: &Path, query: &Query, visit: Visit<'_>) -> Result<(), AuditError> {
    let (directory, mut query) = (Directory::at(directory), query.clone());
    while !visit_files(&directory, &mut query, visit)? {}
    Ok(())
}

/// Visits the files that there are now. False if the newest of them was gone when it was to be read, as retention has removed it
/// and others are behind it: the query is then for what comes after all that was read.
fn visit_files(directory: &Directory, query: &mut Query, visit: Visit<'_>) -> Result<bool, AuditError> {
    let files = snapshot(directory)?;
    let from = query.from_us.map(time_text);
    let until = query.until_us.map(time_text);
    let mut begins = Vec::new();
    for (number, path, _) in &files {
        begins.push(open_segment(directory, *number)?.map(|file| head(path, file)).transpose()?.flatten());
    }
    let mut is_whole = true;
    for (index, (number, path, len)) in files.iter().enumerate() {
        // All of it is older than the next one's beginning.
        if let Some(Some(next)) = begins.get(index + 1) {
            let is_old = from.as_ref().is_some_and(|from| next.time < *from)
                || query.after.is_some_and(|after| next.seq <= after);
            if is_old {
                continue;
            }
        }
        let file = open_segment(directory, *number)?;
        is_whole = file.is_some();
        let Some(file) = file else { continue };
        let (mut reader, mut line, mut number) = (BufReader::new(file.take(*len)), Vec::new(), 0);
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(|error| AuditError::file(path, error))?;
            // What a crash has left unfinished at the end was never told to anybody.
            if line.pop() != Some(b'\n') {
                break;
            }
            number += 1;
            let record = parse(&line).ok_or_else(|| odd(path, number))?;
            if until.as_ref().is_some_and(|until| record.time >= *until) {
                return Ok(true);
            }
            let (seq, is_wanted) = (record.seq, query.matches(&record, from.as_deref()));
            if is_wanted && !visit(record) {
                return Ok(true);
            }
            query.after = query.after.max(Some(seq));
        }
    }
    Ok(is_whole)
}

/// A moment as it is written on a command line or in a query: RFC 3339, in microseconds since 1970.
pub fn moment(field: &'static str, text: &str) -> Result<u64, AuditError> {
    let expected = "a moment such as 2026-01-31T12:00:00Z";
    time_of_text(text).ok_or_else(|| AuditError::Invalid { field, value: text.to_owned(), expected })
}

impl Query {
    pub(super) fn matches(&self, record: &Record, from: Option<&str>) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let text = |name: &str| record.members.get(name).and_then(Value::as_str);
        let principal = record.members.get("principal").or_else(|| record.members.get("by"));
        let principal = principal.and_then(|principal| principal.as_str().or_else(|| principal.get("id")?.as_str()));
        (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && from.is_none_or(|from| record.time.as_str() >= from)
            && self.after.is_none_or(|after| record.seq > after)
            && is(&self.tenant, text("tenant"))
            && is(&self.principal, principal)
            && self.id.as_deref().is_none_or(|id| text("request") == Some(id) || record.is_about(id))
    }
}

impl Record {
    /// Is it the record of this number, or does it tell how that went on?
    fn is_about(&self, number: &str) -> bool {
        let Ok(number) = number.parse() else { return false };
        self.seq == number || self.members.get("begun").and_then(Value::as_u64) == Some(number)
    }
}

fn head(path: &Path, file: File) -> Result<Option<Record>, AuditError> {
    let line = BufReader::new(file).split(b'\n').next().transpose();
    Ok(line.map_err(|error| AuditError::file(path, error))?.and_then(|line| parse(&line)))
}

fn parse(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line).ok()?;
    let members: Map<String, Value> = serde_json::from_str(line).ok()?;
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    Some(Record {
        seq: members.get("seq")?.as_u64()?,
        time: text("time")?.to_owned(),
        kind: Kind::of_name(text("kind")?)?,
        line: line.to_owned(),
        members,
    })
}

fn odd(path: &Path, line: u64) -> AuditError {
    let reason = "it is no record".to_owned();
    AuditError::Broken(Box::new(Break { file: path.to_owned(), line: Some(line), sequence: None, reason }))
}
