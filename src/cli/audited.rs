//! What the audit log has of somebody: records by a keyed hash, and what was captured with them.
//!
//! Records stay when somebody's data is deleted, as the chain would break without them; without what was captured they hold
//! nothing that somebody said.

use anyhow::{Result, ensure};

use super::data;
use crate::{
    config::Config,
    governance::{
        Place,
        audit::{
            Contents, Kind, SUBJECT_HASH, TextHasher,
            query::{self, Query, Record},
        },
    },
};

/// Records about one subject of one tenant.
#[derive(Default)]
pub(super) struct Audited {
    found: Option<(std::path::PathBuf, Query, String)>,
}

impl Audited {
    /// Those of a log, if there is one, be it on or off now.
    pub(super) fn of(config: &Config, (tenant, place): (&str, &Place), subject: &str) -> Result<Self> {
        let Some(directory) = data::audit_directory(config)? else { return Ok(Self::default()) };
        if !directory.exists() {
            // Nothing is found where nobody has looked.
            ensure!(
                config.audit.directory.is_none(),
                "audit_dir = {}: there is no such directory",
                directory.display()
            );
            return Ok(Self::default());
        }
        let Some(hasher) = TextHasher::of_directory(&directory)? else { return Ok(Self::default()) };
        let hasher = hasher.of_tenant(&place.id);
        let query = Query { tenant: Some(tenant.to_owned()), kinds: vec![Kind::Begun], ..Query::default() };
        Ok(Self { found: Some((directory, query, hasher.hash(SUBJECT_HASH, subject.as_bytes()))) })
    }

    /// The subject as records have it, if there is a log.
    pub(super) fn hash(&self) -> Option<&str> {
        self.found.as_ref().map(|(_, _, hash)| hash.as_str())
    }

    /// Each record about it, and the id of what was captured, if it was.
    pub(super) fn visit(&self, mut each: impl FnMut(Record, Option<String>, &Contents) -> Result<()>) -> Result<()> {
        let Some((directory, query, hash)) = &self.found else { return Ok(()) };
        let (contents, mut outcome) = (Contents::of(directory), Ok(()));
        query::visit(directory, query, &mut |record| {
            let text = |name: &str| record.members.get(name).and_then(|value| value.as_str()).map(str::to_owned);
            if text("subject").as_ref() == Some(hash) {
                let content = text("content");
                outcome = each(record, content, &contents);
            }
            outcome.is_ok()
        })?;
        outcome
    }

    /// Deletes what was captured; how many times there was something.
    pub(super) fn erase(&self) -> Result<u64> {
        let mut erased = 0;
        self.visit(|_, content, contents| {
            if let Some(id) = content {
                erased += u64::from(contents.erase(&id)?);
            }
            Ok(())
        })?;
        Ok(erased)
    }
}
