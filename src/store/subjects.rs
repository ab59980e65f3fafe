//! Everything that is held about a subject is deleted; `subject_export` tells it.
//!
//! It is found by the marks that stored objects have ([`super::Kept`]), and by what lines of batches say themselves. Invariant:
//! when [`Store::delete_subject`] has said that all is deleted, none of it is in the database's files any more.

use rusqlite::Connection;

use super::{
    Store, StoreError, erase_leftovers,
    removal::{CONVERSATIONS, RESPONSES, Which},
    subject_lines::{self, LineForm, SubjectFile},
};

/// Lines may come while others are taken out, as long as a batch is being read.
const MOST_PASSES: usize = 10;

/// What was deleted, and what could not be yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectDeletion {
    /// Kinds of things, as in [`Held`](super::Held), with how many of them.
    pub deleted: Vec<(&'static str, u64)>,
    /// Ids of batches whose lines are being read: some of them may be stored again.
    pub being_read: Vec<String>,
}

impl Store {
    /// Deletes everything that is held about a subject. What is hidden first nobody sees any more; others are served between
    /// the steps. It may be called again.
    pub async fn delete_subject(&self, subject: &str, form: LineForm) -> Result<SubjectDeletion, StoreError> {
        let owned = subject.to_owned();
        let (batches, files, mut deletion) = self.call_reserved(move |connection| hide(connection, &owned)).await?;
        for batch in batches {
            match self.discard_lines(&batch).await {
                Ok(()) | Err(StoreError::Missing { .. }) => {} // a sweep may come first
                Err(error) => return Err(error),
            }
            let delete = move |connection: &mut Connection| {
                Ok(connection.execute("DELETE FROM batches WHERE id = ?1", [batch])?)
            };
            self.call_reserved(delete).await?;
        }
        for file in files {
            self.remove_file(&file).await?;
        }
        self.remove(&RESPONSES, Which::Expired(0)).await?;
        self.remove(&CONVERSATIONS, Which::Expired(0)).await?;
        let (lines, file_lines) = self.take_lines_out(subject, form, &mut deletion.being_read).await?;
        deletion.deleted.extend([("batch line", lines), ("file line", file_lines)]);
        deletion.deleted.retain(|(_, count)| *count > 0);
        self.call(erase_all).await?;
        Ok(deletion)
    }

    /// Takes lines about a subject out of batches and files of others, file by file. Says how many lines of batches and of
    /// files they were, and adds the batches that are being read.
    async fn take_lines_out(
        &self,
        subject: &str,
        form: LineForm,
        being_read: &mut Vec<String>,
    ) -> Result<(u64, u64), StoreError> {
        let (mut lines, mut file_lines, mut touched) = (0, 0, Vec::new());
        for _ in 0..MOST_PASSES {
            let owned = subject.to_owned();
            // First those of batches, which nobody then moves to a file.
            let (of_batches, files) =
                self.call_reserved(move |connection| take_from_batches(connection, &owned)).await?;
            lines += of_batches;
            for file in files {
                let (owned, id) = (subject.to_owned(), file.id.clone());
                let take = move |connection: &mut Connection| subject_lines::take_out(connection, &file, &owned, form);
                let taken = self.call_reserved(take).await?;
                file_lines += taken;
                touched.extend((taken > 0).then_some(id));
            }
            let (owned, read) = (subject.to_owned(), touched.clone());
            let (left, reading) = self.call(move |connection| what_is_left(connection, &owned, &read)).await?;
            *being_read = reading;
            if left == 0 {
                break;
            }
        }
        Ok((lines, file_lines))
    }
}

/// Hides what belongs to a subject as a whole, and deletes what is short. Gives the batches and files that are to be deleted.
fn hide(connection: &mut Connection, subject: &str) -> Result<(Vec<String>, Vec<String>, SubjectDeletion), StoreError> {
    let transaction = connection.transaction()?;
    let count = |sql: &str| transaction.execute(sql, [subject]).map(|count| count as u64);
    let ids = |table: &str| -> Result<Vec<String>, StoreError> {
        let mut select = transaction.prepare_cached(&format!("SELECT id FROM {table} WHERE subject = ?1"))?;
        Ok(select.query_map([subject], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    let (batches, files) = (ids("batches")?, ids("files")?);
    let responses = count(
        "UPDATE responses SET expires_at = 0, \
             state = CASE WHEN state IN ('queued', 'in_progress') THEN 'cancelled' ELSE state END WHERE subject = ?1",
    )?;
    let conversations = count("UPDATE conversations SET expires_at = 0 WHERE subject = ?1")?;
    // No worker goes on with it.
    count("UPDATE batches SET state = 'cancelled', ended_at = ifnull(ended_at, 0), delete_at = 0 WHERE subject = ?1")?;
    count("UPDATE files SET complete = FALSE WHERE subject = ?1")?;
    // Whoever has read them cannot continue what is left.
    count(
        "UPDATE conversations SET last_position = last_position + 1 WHERE subject IS NOT ?1 \
         AND row IN (SELECT conversation FROM items WHERE subject = ?1)",
    )?;
    let items = count(
        "DELETE FROM items WHERE subject = ?1 \
         AND conversation IN (SELECT row FROM conversations WHERE subject IS NOT ?1)",
    )?;
    let agents = count("DELETE FROM agents WHERE subject = ?1")?;
    let deletion = SubjectDeletion {
        deleted: vec![
            ("response", responses),
            ("conversation", conversations),
            ("item", items),
            ("batch", batches.len() as u64),
            ("file", files.len() as u64),
            ("agent", agents),
        ],
        being_read: Vec::new(),
    };
    transaction.commit()?;
    Ok((batches, files, deletion))
}

/// Deletes lines of batches about a subject. Says how many, and which files may have some.
fn take_from_batches(connection: &mut Connection, subject: &str) -> Result<(u64, Vec<SubjectFile>), StoreError> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "UPDATE batches SET \
             total = total - (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1), \
             completed = completed - \
                 (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1 AND outcome = 'completed'), \
             failed = failed - \
                 (SELECT count(*) FROM lines WHERE batch = batches.row AND subject = ?1 AND outcome = 'failed') \
         WHERE row IN (SELECT batch FROM lines WHERE subject = ?1) AND started_at IS NOT NULL",
        [subject],
    )?;
    let deleted = transaction.execute("DELETE FROM lines WHERE subject = ?1", [subject])? as u64;
    let files = subject_lines::files(&transaction, subject)?;
    transaction.commit()?;
    Ok((deleted, files))
}

/// How many lines have come since, and which batches are reading one of the files.
fn what_is_left(connection: &Connection, subject: &str, files: &[String]) -> Result<(u64, Vec<String>), StoreError> {
    let sql = "SELECT (SELECT count(*) FROM lines WHERE subject = ?1) \
                    + (SELECT count(*) FROM result_subjects WHERE subject = ?1)";
    let left = connection.query_row(sql, [subject], |row| row.get(0))?;
    let is_read = |inputs: &String| inputs.lines().any(|input| files.iter().any(|file| file == input));
    let reading = being_read(connection)?.into_iter().filter(|(_, inputs)| is_read(inputs)).map(|(id, _)| id);
    Ok((left, reading.collect()))
}

/// Batches whose lines are being read, and ids of their files, one a line.
fn being_read(connection: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut select = connection.prepare_cached("SELECT id, input_files FROM batches WHERE state = 'validating'")?;
    Ok(select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// Overwrites what was deleted, and says so if somebody beside this process keeps that from being done.
fn erase_all(connection: &mut Connection) -> Result<(), StoreError> {
    erase_leftovers(connection)?;
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))? {
        0 => Ok(()),
        _ => Err(StoreError::NotErased),
    }
}
