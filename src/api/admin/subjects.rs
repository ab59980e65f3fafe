//! `/admin/v1/subjects`: tells and deletes everything that is held about somebody, who is named in the query.
//!
//! Invariants: it is written down before anything is told or deleted, and what runs keeps its places, be its client there or not.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
};

use super::AdminWork;
use crate::{
    api::{
        error::ApiError,
        query::QueryFields,
        request::joined,
        subjects::{SubjectData, SubjectError},
        tenancy::Tenancy,
    },
    engine::TakenPlace,
    governance::{AboutSubject, ActKind},
    store::{Held, StoreError, SubjectDeletion},
};

/// An answer that is being written.
enum Telling {
    Begun(Export),
    Further(Export),
    Over,
}

struct Export {
    told: Receiver<Held>,
    running: JoinHandle<Result<(), SubjectError>>,
    _leave: Arc<Leave>,
}

/// Places among requests and among exports. They are free when nothing is read any more and nothing is left to be told.
struct Leave {
    _work: AdminWork,
    _export: TakenPlace,
}

/// All of it, one thing after the other as the client reads them.
pub(super) async fn export(work: AdminWork, query: QueryFields) -> Result<Response, ApiError> {
    let place = work.state.admit_export(&work.own_tenant().into())?;
    let about = about(&work, query, ActKind::ExportSubject).await?;
    let tenancy = work.state.tenancy_at(&about.tenant, &about.place.id).await?;
    let data = SubjectData::new(about, tenancy.map(|tenancy| tenancy.store.clone()));
    let (sender, told) = mpsc::channel(1);
    let leave = Arc::new(Leave { _work: work, _export: place });
    let kept = Arc::clone(&leave);
    let running = tokio::spawn(async move {
        let _kept = kept;
        data.export(sender).await
    });
    let pieces = stream::try_unfold(Telling::Begun(Export { told, running, _leave: leave }), next_piece);
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response())
}

/// Deletes all of it. What is stored is overwritten when this answers.
pub(super) async fn delete(work: AdminWork, query: QueryFields) -> Result<Json<Value>, ApiError> {
    let about = about(&work, query, ActKind::DeleteSubject).await?;
    let (subject, tenant) = (about.subject.clone(), about.tenant.clone());
    let found = work.state.tenancy_at(&about.tenant, &about.place.id).await?;
    // What has begun is done, were the client to leave.
    let deleting = tokio::spawn(async move {
        let _work = work;
        let data = SubjectData::new(about, found.as_ref().map(|tenancy| tenancy.store.clone()));
        let deletion = data.delete().await.map_err(ApiError::from);
        // Workers end what is not there any more.
        if let Some(tenancy) = &found {
            tend(tenancy);
        }
        deletion
    });
    let SubjectDeletion { deleted, being_read } = joined(deleting).await?;
    let counts: serde_json::Map<_, _> =
        deleted.into_iter().map(|(kind, count)| (kind.to_owned(), count.into())).collect();
    Ok(Json(json!({
        "object": "admin.subject.deleted",
        "subject": subject,
        "tenant": tenant,
        "deleted": counts,
        "being_read": being_read,
    })))
}

/// Whom the query names, once it is written down what for.
async fn about(work: &AdminWork, mut query: QueryFields, kind: ActKind) -> Result<AboutSubject, ApiError> {
    let missing = || ApiError::invalid("subject", "`subject` is missing: say whom the data is about.");
    let subject = query.text("subject")?.ok_or_else(missing)?;
    let tenant = query.text("tenant")?.unwrap_or_else(|| work.own_tenant().to_owned());
    query.finish()?;
    work.run(move |administration, now| administration.about_subject(kind, (&tenant, &subject), now)).await
}

fn tend(tenancy: &Tenancy) {
    tenancy.batches_changed.notify_one();
    tenancy.responses_changed.notify_one();
    tenancy.response_streams.ring_all();
}

/// A list whose things are written as they are told. One that cannot be told to its end is broken off, so that nobody takes it
/// for all there is.
async fn next_piece(telling: Telling) -> io::Result<Option<(Bytes, Telling)>> {
    let (mut export, before) = match telling {
        Telling::Begun(export) => (export, r#"{"object":"list","data":["#),
        Telling::Further(export) => (export, ","),
        Telling::Over => return Ok(None),
    };
    let is_first = before != ",";
    if let Some(held) = export.told.recv().await {
        let mut piece = before.as_bytes().to_vec();
        serde_json::to_writer(&mut piece, &held)?;
        return Ok(Some((piece.into(), Telling::Further(export))));
    }
    match export.running.await {
        Ok(Ok(())) => {
            let end = if is_first { format!("{before}]}}") } else { "]}".to_owned() };
            Ok(Some((end.into(), Telling::Over)))
        }
        Ok(Err(error)) => {
            let is_gone = matches!(error, SubjectError::Store(StoreError::Closed));
            if !is_gone {
                tracing::error!(%error, "what is held about somebody cannot be told to its end");
            }
            Err(io::Error::other("not all could be told"))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
