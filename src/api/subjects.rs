//! Everything that is held about somebody, in the store of a tenant and beside the audit log: told, and deleted.
//!
//! Main type: [`SubjectData`]. The command line and `/admin/v1/subjects` call the same methods, once governance has written
//! down what for. Invariants: things are told one at a time, however much there is, and no longer than somebody listens.

use serde_json::json;
use tokio::sync::mpsc::Sender;

use super::{about::LINES, error::ApiError};
use crate::{
    governance::{
        AboutSubject,
        audit::{AuditError, SubjectRecords},
    },
    store::{Held, Store, StoreError, SubjectDeletion},
};

/// What the kind of deleted content is called.
const CAPTURED: &str = "captured content";

/// All that is held about somebody.
pub struct SubjectData {
    subject: String,
    store: Option<Store>,
    records: Option<SubjectRecords>,
}

/// Why not all of it was told or deleted.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// What is stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was written down and captured.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl SubjectData {
    /// In the store of its tenant, if that has one, and in the log, if there is one.
    pub fn new(about: AboutSubject, store: Option<Store>) -> Self {
        Self { subject: about.subject, store, records: about.records }
    }

    /// Tells it. Fails if not all of it could be told; that nobody listens any more is [`StoreError::Closed`], which shows
    /// soon, be there nothing to tell for long.
    pub async fn export(self, told: Sender<Held>) -> Result<(), SubjectError> {
        let Self { subject, store, records } = self;
        if let Some(store) = store {
            store.export_subject(&subject, LINES, &told).await?;
        }
        let Some(records) = records else { return Ok(()) };
        off_thread(move || tell_records(&records, &told)).await
    }

    /// Deletes it. The records of the log stay, as they are no more than hashes.
    pub async fn delete(self) -> Result<SubjectDeletion, SubjectError> {
        let Self { subject, store, records } = self;
        let mut deletion = match store {
            Some(store) => store.delete_subject(&subject, LINES).await?,
            None => SubjectDeletion::default(),
        };
        let Some(records) = records else { return Ok(deletion) };
        let erased = off_thread(move || Ok(records.erase()?)).await?;
        deletion.deleted.extend((erased > 0).then_some((CAPTURED, erased)));
        Ok(deletion)
    }
}

/// Records about somebody, with what was captured.
fn tell_records(records: &SubjectRecords, told: &Sender<Held>) -> Result<(), SubjectError> {
    records.visit(&|| !told.is_closed(), &mut |record, captured| {
        let content = json!({ "record": record.members, "captured": captured });
        let held = Held { kind: "audit record", id: record.seq.to_string(), content };
        // That nobody has heard it is seen before the next.
        drop(told.blocking_send(held));
    })?;
    if told.is_closed() { Err(StoreError::Closed.into()) } else { Ok(()) }
}

/// The log may be long.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SubjectError> + Send + 'static,
) -> Result<T, SubjectError> {
    match tokio::task::spawn_blocking(work).await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(StoreError::Closed.into()),
    }
}

impl From<SubjectError> for ApiError {
    fn from(error: SubjectError) -> Self {
        match error {
            SubjectError::Store(error) => error.into(),
            // What is wrong with the files is the operator's to see.
            SubjectError::Audit(error) => {
                tracing::error!(%error, "what was captured beside the audit log cannot be read or deleted");
                Self::Internal { message: "The audit log cannot be read; the server's log has more.".to_owned() }
            }
        }
    }
}
