//! Lines of files that are about a subject: found, and taken out of files that have lines about others as well.
//!
//! What a line says is its owner's business: a [`LineForm`] reads it. Invariant: a file has a line that was taken out no more,
//! and all others as they were.

use std::{collections::HashSet, mem};

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
#[derive(Clone)]
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

/// Reads a file part by part.
pub(super) struct LineScan {
    file: SubjectFile,
    part: u64,
    /// The line that has begun and not ended yet.
    text: Vec<u8>,
    pieces: Vec<Piece>,
    is_over: bool,
}

impl LineScan {
    pub(super) fn new(file: SubjectFile) -> Self {
        Self { file, part: 0, text: Vec::new(), pieces: Vec::new(), is_over: false }
    }

    /// The lines about a subject that end in the next part; `None` behind the last.
    pub(super) fn step(
        &mut self,
        connection: &Connection,
        subject: &str,
        form: LineForm,
    ) -> Result<Option<Vec<FoundLine>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        let mut select = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 AND part = ?2")?;
        let values = params![self.file.row, self.part];
        let Some(data) = select.query_row(values, |row| row.get::<_, Vec<u8>>(0)).optional()? else {
            self.is_over = true;
            let last = self.take_line();
            let is_about = !last.text.is_empty() && self.file.is_about(&last.text, subject, form);
            return Ok(Some(is_about.then_some(last).into_iter().collect()));
        };
        let (mut found, mut start) = (Vec::new(), 0);
        while start < data.len() {
            let line_end = memchr(b'\n', &data[start..]);
            let end = line_end.map_or(data.len(), |at| start + at + 1);
            self.text.extend_from_slice(&data[start..end]);
            self.pieces.push(Piece { part: self.part, start, end });
            if line_end.is_some() {
                let line = self.take_line();
                found.extend(self.file.is_about(&line.text, subject, form).then_some(line));
            }
            start = end;
        }
        self.part += 1;
        Ok(Some(found))
    }

    fn take_line(&mut self) -> FoundLine {
        FoundLine { text: mem::take(&mut self.text), pieces: mem::take(&mut self.pieces) }
    }
}

impl SubjectFile {
    fn is_about(&self, line: &[u8], subject: &str, form: LineForm) -> bool {
        let is_result = || (form.custom_id)(line).is_some_and(|id| self.results.contains(&id));
        (!self.results.is_empty() && is_result()) || (form.subject)(line).is_some_and(|found| found == subject)
    }
}

/// Takes the lines about a subject out of a file, and says how many they were. Only a file that has some holds up others.
pub(super) fn take_out(
    connection: &mut Connection,
    file: &SubjectFile,
    subject: &str,
    form: LineForm,
) -> Result<u64, StoreError> {
    let has_some = |connection: &Connection| -> Result<bool, StoreError> {
        let mut scan = LineScan::new(file.clone());
        while let Some(lines) = scan.step(connection, subject, form)? {
            if !lines.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if file.results.is_empty() && !has_some(connection)? {
        return Ok(0);
    }
    let transaction = connection.transaction()?;
    let (mut scan, mut lines) = (LineScan::new(file.clone()), Vec::new());
    while let Some(found) = scan.step(&transaction, subject, form)? {
        // What they say is not needed to take them out.
        lines.extend(found.into_iter().map(|line| line.pieces));
    }
    remove(&transaction, file.row, &lines)?;
    transaction.execute("DELETE FROM result_subjects WHERE file = ?1 AND subject = ?2", params![file.row, subject])?;
    transaction.commit()?;
    Ok(lines.len() as u64)
}

fn remove(connection: &Connection, file: i64, lines: &[Vec<Piece>]) -> Result<(), StoreError> {
    let mut select = connection.prepare_cached("SELECT data FROM parts WHERE file = ?1 AND part = ?2")?;
    let mut update = connection.prepare_cached("UPDATE parts SET data = ?3 WHERE file = ?1 AND part = ?2")?;
    let mut taken = 0;
    // From the end, so that what is in front keeps its place.
    let mut pieces = lines.iter().rev().flat_map(|pieces| pieces.iter().rev()).peekable();
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
