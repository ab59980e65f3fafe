//! Whom data is about: who may have all of it told or deleted, and where it is.
//!
//! Main type: [`AboutSubject`], which [`Administration::about_subject`] gives once it is written down what it is for. What is
//! stored elsewhere is for its caller to find at the place that it names.

use super::{
    ActKind, Administration, GovernanceError, Place,
    administration::Told,
    audit::{AuditError, SubjectRecords},
};

/// Longest name of a subject in a header, in characters.
pub const LONGEST_SUBJECT: usize = 256;

/// Where all is that is held about somebody.
#[derive(Clone, Debug)]
pub struct AboutSubject {
    /// Whom it is about.
    pub subject: String,
    /// The name of the tenant whose data it is.
    pub tenant: String,
    /// Where that tenant's data is.
    pub place: Place,
    /// What the audit log has, if there is one. One in which nobody can be found keeps no other data from being told or deleted.
    pub records: Result<Option<SubjectRecords>, AuditError>,
}

impl Administration<'_> {
    /// Writes down that all that is held about somebody is to be told or deleted, and says where it is.
    pub fn about_subject(
        &self,
        kind: ActKind,
        (tenant, subject): (&str, &str),
        now: u64,
    ) -> Result<AboutSubject, GovernanceError> {
        // Bodies may name whomever they like.
        if subject.is_empty() {
            let expected = "whom requests have named";
            return Err(GovernanceError::Invalid { field: "subject", value: subject.to_owned(), expected });
        }
        let missing = || GovernanceError::Missing { kind: "tenant", name: tenant.to_owned() };
        if self.only_tenant().is_some_and(|only| only != tenant) {
            return Err(missing());
        }
        let place = self.governance.place(tenant)?.ok_or_else(missing)?;
        let records = match self.governance.log_directory() {
            Some(directory) => SubjectRecords::of(directory, (tenant, &place.id), subject),
            None => Ok(None),
        };
        let hash = records.as_ref().ok().and_then(Option::as_ref).map_or("", SubjectRecords::hash).to_owned();
        let told = Told { kind, subject: hash, tenant: Some(tenant.to_owned()), details: serde_json::Value::Null };
        self.agreed(now, told)?;
        let is_whole = match kind {
            ActKind::DeleteSubject => self.governance.audit().settle_captured(),
            _ => Ok(()),
        };
        let records = is_whole.and(records);
        Ok(AboutSubject { subject: subject.to_owned(), tenant: tenant.to_owned(), place, records })
    }
}
