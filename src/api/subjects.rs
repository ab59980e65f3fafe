//! Everything that is held about somebody, in the store of a tenant and beside the audit log: told, and deleted.
//!
//! Main type: [`SubjectData`]. The command line and `/admin/v1/subjects` call the same methods, once governance has written
//! down what for. Invariants: things are told one at a time, however much there is, and no longer than somebody listens; what
//! cannot be deleted in one place keeps nothing from being deleted in the other.

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
    records: Result<Option<SubjectRecords>, AuditError>,
}

/// Why not all of it was told or deleted.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// What is stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// All was told but what was written down and captured.
    #[error("what is stored was told, but not what the audit log has: {0}")]
    NotTold(AuditError),
    /// All was deleted but what was captured.
    #[error("what is stored was deleted, but not what was captured beside the audit log: {reason}")]
    NotErased {
        /// What was deleted.
        stored: SubjectDeletion,
        /// Why the rest was not.
        reason: AuditError,
    },
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
        let Some(records) = records.map_err(SubjectError::NotTold)? else { return Ok(()) };
        off_thread(move || tell_records(&records, &told)).await
    }

    /// Deletes it. The records of the log stay, as they are no more than hashes. Of two errors that of the store is told.
    pub async fn delete(self) -> Result<SubjectDeletion, SubjectError> {
        let Self { subject, store, records } = self;
        let stored = match store {
            Some(store) => store.delete_subject(&subject, LINES).await,
            None => Ok(SubjectDeletion::default()),
        };
        let erased = match records {
            Ok(Some(records)) => off_thread(move || Ok(records.erase())).await?,
            Ok(None) => Ok(0),
            Err(error) => Err(error),
        };
        match (stored, erased) {
            (Ok(mut deletion), Ok(erased)) => {
                deletion.deleted.extend((erased > 0).then_some((CAPTURED, erased)));
                Ok(deletion)
            }
            (Ok(stored), Err(reason)) => Err(SubjectError::NotErased { stored, reason }),
            (Err(error), Ok(_)) => Err(error.into()),
            (Err(error), Err(reason)) => {
                tracing::error!(%reason, "what was captured beside the audit log cannot be deleted either");
                Err(error.into())
            }
        }
    }
}

/// Records about somebody, with what was captured.
fn tell_records(records: &SubjectRecords, told: &Sender<Held>) -> Result<(), SubjectError> {
    let visited = records.visit(&|| !told.is_closed(), &mut |record, captured| {
        let content = json!({ "record": record.members, "captured": captured });
        let held = Held { kind: "audit record", id: record.seq.to_string(), content };
        // That nobody has heard it is seen before the next.
        drop(told.blocking_send(held));
    });
    visited.map_err(SubjectError::NotTold)?;
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
            SubjectError::NotTold(_) => {
                tracing::error!(%error, "not all that is held about somebody could be told");
                Self::Internal { message: "The audit log cannot be read; the server's log has more.".to_owned() }
            }
            SubjectError::NotErased { ref stored, .. } => {
                tracing::error!(%error, "not all that is held about somebody could be deleted");
                let mut message =
                    "What is stored was deleted; what was captured beside the audit log was not, and the \
                                   server's log says why."
                        .to_owned();
                if !stored.being_read.is_empty() {
                    let batches = stored.being_read.join(", ");
                    message += &format!(" The lines of {batches} are being read, so some may be stored again.");
                }
                Self::Internal { message }
            }
        }
    }
}
