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

/// Records about one subject of one tenant.
#[derive(Clone, Debug)]
pub struct SubjectRecords {
    directory: PathBuf,
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

    /// Each record about it with what was captured, if that is still there, until somebody has heard enough.
    pub fn visit(&self, each: &mut dyn FnMut(Record, Option<Content>) -> bool) -> Result<(), AuditError> {
        self.names(&mut |record, name, contents| {
            let content = name.map(|name| contents.read(&name)).transpose()?.flatten();
            Ok(each(record, content))
        })
    }

    /// Deletes what was captured. Says of how many inferences there was something.
    pub fn erase(&self) -> Result<u64, AuditError> {
        let mut erased = 0;
        self.names(&mut |_, name, contents| {
            if let Some(name) = name {
                erased += u64::from(contents.erase(&name)?);
            }
            Ok(true)
        })?;
        Ok(erased)
    }

    /// Each record about it, and the name of what was captured, if it was. Without records nobody could say whose it is.
    fn names(
        &self,
        each: &mut dyn FnMut(Record, Option<String>, &Contents) -> Result<bool, AuditError>,
    ) -> Result<(), AuditError> {
        Directory::at(&self.directory).check_not_emptied()?;
        let (contents, mut outcome) = (Contents::of(&self.directory), Ok(true));
        query::visit(&self.directory, &self.query, &mut |record| {
            let text = |name: &str| record.members.get(name).and_then(Value::as_str);
            if [text("subject"), text("line_subject")].contains(&Some(self.hash.as_str())) {
                let name = text("content").map(str::to_owned);
                outcome = each(record, name, &contents);
            }
            matches!(outcome, Ok(true))
        })?;
        outcome.map(drop)
    }
}
