//! Lines of files that are about a subject: found, and taken out of files that have lines about others as well.
//!
//! What a line says is its owner's business: a [`LineForm`] reads it. Invariant: a file has a line that was taken out no more,
//! and all others as they were.

use std::collections::HashSet;

use memchr::memchr;
use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;

/// How the lines of batches are read.
#[derive(Clone, Copy, Debug)]
pub struct LineForm {
    /// Whom the line of a request is about, if it says so.
    pub subject: fn(&[u8]) -> Option<String>,
    /// The id that the line of a result has.
    pub custom_id: fn(&[u8]) -> Option<String>,
}

/// A file that may have lines about a subject.
pub(super) struct SubjectFile {
    pub(super) row: i64,
    pub(super) id: String,
    /// Ids of results that are about it.
    results: HashSet<String>,
}

/// A line, and the pieces of the file's parts that it consists of, its line break included.
pub(super) struct FoundLine {
    pub(super) text: Vec<u8>,
    pieces: Vec<Piece>,
}

struct Piece {
    part: u64,
    start: usize,
    end: usize,
}

/// Files that are not the subject's as a whole. Each must be read: what is in them is not known otherwise.
pub(super) fn files(connection: &Connection, subject: &str) -> Result<Vec<SubjectFile>, StoreError> {
    let mut files = connection.prepare_cached("SELECT row, id FROM files WHERE subject IS NOT ?1 ORDER BY row")?;
    let mut results = connection
        .prepare_cached("SELECT custom_id FROM result_subjects WHERE file = ?1 AND subject = ?2 ORDER BY row")?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Vec<(i64, String)> = files.query_map([subject], read)?.collect::<Result<_, _>>()?;
    let complete = |(row, id)| {
        let results = results.query_map(params![row, subject], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(SubjectFile { row, id, results })
    };
    found.into_iter().map(complete).collect()
}

/// The lines of a file that are about a subject.
pub(super) fn find(
    connection: &Connection,
    file: &SubjectFile,
    subject: &str,
    form: LineForm,
) -> Result<Vec<FoundLine>, StoreError> {
    let is_about = |line: &[u8]| {
        let is_result = || (form.custom_id)(line).is_some_and(|id| file.results.contains(&id));
        (!file.results.is_empty() && is_result()) || (form.subject)(line).is_some_and(|found| found == subject)
    };
    let mut select = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 AND part = ?2")?;
    let mut found = Vec::new();
    let (mut text, mut pieces, mut part) = (Vec::new(), Vec::new(), 0);
    while let Some(data) = select.query_row(params![file.row, part], |row| row.get::<_, Vec<u8>>(0)).optional()? {
        let mut start = 0;
        while start < data.len() {
            let line_end = memchr(b'\n', &data[start..]);
            let end = line_end.map_or(data.len(), |at| start + at + 1);
            text.extend_from_slice(&data[start..end]);
            pieces.push(Piece { part, start, end });
            if line_end.is_some() {
                let line = FoundLine { text: std::mem::take(&mut text), pieces: std::mem::take(&mut pieces) };
                found.extend(is_about(&line.text).then_some(line));
            }
            start = end;
        }
        part += 1;
    }
    let last = FoundLine { text, pieces };
    found.extend((!last.text.is_empty() && is_about(&last.text)).then_some(last));
    Ok(found)
}

/// Takes the lines about a subject out of a file, and says how many they were. Only a file that has some holds up others.
pub(super) fn take_out(
    connection: &mut Connection,
    file: &SubjectFile,
    subject: &str,
    form: LineForm,
) -> Result<u64, StoreError> {
    if file.results.is_empty() && find(connection, file, subject, form)?.is_empty() {
        return Ok(0);
    }
    let transaction = connection.transaction()?;
    let lines = find(&transaction, file, subject, form)?;
    remove(&transaction, file.row, &lines)?;
    transaction.execute("DELETE FROM result_subjects WHERE file = ?1 AND subject = ?2", params![file.row, subject])?;
    transaction.commit()?;
    Ok(lines.len() as u64)
}

fn remove(connection: &Connection, file: i64, lines: &[FoundLine]) -> Result<(), StoreError> {
    let mut select = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 AND part = ?2")?;
    let mut update = connection.prepare_cached("UPDATE parts SET data = ?3 WHERE file = ?1 AND part = ?2")?;
    let mut taken = 0;
    // From the end, so that what is in front keeps its place.
    let mut pieces = lines.iter().rev().flat_map(|line| line.pieces.iter().rev()).peekable();
    while let Some(first) = pieces.peek().map(|piece| piece.part) {
        let mut data: Vec<u8> = select.query_row(params![file, first], |row| row.get(0))?;
        while let Some(piece) = pieces.next_if(|piece| piece.part == first) {
            data.drain(piece.start..piece.end);
            taken += piece.end - piece.start;
        }
        update.execute(params![file, first, data])?;
    }
    connection.execute("UPDATE files SET bytes = bytes - ?2 WHERE row = ?1", params![file, taken])?;
    Ok(())
}
