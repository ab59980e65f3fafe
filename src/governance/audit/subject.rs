//! What a log has of somebody: records by a keyed hash, and what was captured with them.
//!
//! Main type: [`SubjectRecords`]. Records stay when somebody's data is deleted, as the chain would break without them; without
//! what was captured they hold nothing that somebody said.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    AuditError, Content, Contents, Kind, SUBJECT_HASH, TextHasher,
    query::{self, Query, Record},
    segments::Directory,
};

/// What is done with a record about the subject, and with the name of what was captured, if it was.
type Each<'a> = dyn FnMut(Record, Option<String>, &Contents) -> Result<(), AuditError> + 'a;

/// Records about one subject of one tenant.
#[derive(Clone, Debug)]
pub struct SubjectRecords {
    directory: PathBuf,
    /// What is true of all of them but whom they are about.
    query: Query,
    hash: String,
}

impl SubjectRecords {
    /// Those of a log, be it on or off now, for a tenant by its name and the id of its place; none, if there is no log.
    pub fn of(directory: &Path, (tenant, place): (&str, &str), subject: &str) -> Result<Option<Self>, AuditError> {
        if !directory.exists() {
            return Ok(None);
        }
        let Some(hasher) = TextHasher::of_directory(directory)? else { return Ok(None) };
        let hash = hasher.of_tenant(place).hash(SUBJECT_HASH, subject.as_bytes());
        let query = Query { tenant: Some(tenant.to_owned()), kinds: vec![Kind::Begun], ..Query::default() };
        Ok(Some(Self { directory: directory.to_owned(), query, hash }))
    }

    /// The subject as records have it.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Each record about it with what was captured, if that is still there, while somebody hears it: that is asked at every
    /// record of the log, as it may be long to the next that is about the subject.
    pub fn visit(
        &self,
        is_heard: &dyn Fn() -> bool,
        each: &mut dyn FnMut(Record, Option<Content>),
    ) -> Result<(), AuditError> {
        self.names(is_heard, &mut |record, name, contents| {
            let content = name.map(|name| contents.read(&name)).transpose()?.flatten();
            each(record, content);
            Ok(())
        })
    }

    /// Deletes what was captured. Says of how many inferences there was something. One that cannot be deleted keeps no other;
    /// the first error is told in the end.
    pub fn erase(&self) -> Result<u64, AuditError> {
        let (mut erased, mut failed) = (0, None);
        self.names(&|| true, &mut |_, name, contents| {
            match name.map(|name| contents.erase(&name)) {
                Some(Ok(was_there)) => erased += u64::from(was_there),
                Some(Err(error)) => _ = failed.get_or_insert(error),
                None => {}
            }
            Ok(())
        })?;
        failed.map_or(Ok(erased), Err)
    }

    /// Each record about it, and the name of what was captured, if it was. Without records nobody could say whose it is.
    fn names(&self, is_heard: &dyn Fn() -> bool, each: &mut Each<'_>) -> Result<(), AuditError> {
        Directory::at(&self.directory).check_not_emptied()?;
        let (contents, mut outcome) = (Contents::of(&self.directory), Ok(()));
        query::visit(&self.directory, &Query::default(), &mut |record| {
            if !is_heard() {
                return false;
            }
            if self.is_subject_of(&record) {
                let name = record.members.get("content").and_then(Value::as_str).map(str::to_owned);
                outcome = each(record, name, &contents);
            }
            outcome.is_ok()
        })?;
        outcome
    }

    fn is_subject_of(&self, record: &Record) -> bool {
        let text = |name: &str| record.members.get(name).and_then(Value::as_str);
        self.query.matches(record, None) && [text("subject"), text("line_subject")].contains(&Some(self.hash.as_str()))
    }
}
