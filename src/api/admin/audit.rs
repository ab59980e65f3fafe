//! `/admin/v1/audit`: what was written down, and whether it is still what was written.
//!
//! Whoever is of a tenant other than the default one reads that tenant's records alone, and none of another that had its name
//! before. To read a log takes as long as the log is, so few do at once, and what reads keeps its place, be its client there
//! or not.

use axum::Json;
use serde_json::{Value, json};

use super::AdminWork;
use crate::{
    api::{body::wrong, error::ApiError, query::QueryFields},
    governance::{
        Administration, GovernanceError,
        audit::{
            AuditError, Evidence, Kind,
            query::{self, Query},
            verify,
        },
    },
};

/// Records of a part of the list unless told otherwise, and at most.
const PART: u64 = 100;
const MOST: u64 = 1000;

/// Records that are looked for, the oldest first.
pub(super) async fn list(work: AdminWork, mut fields: QueryFields) -> Result<Json<Value>, ApiError> {
    let limit = usize::try_from(fields.integer("limit", 1..=MOST)?.unwrap_or(PART)).unwrap_or(usize::MAX);
    let query = read(&mut fields)?;
    fields.finish()?;
    let directory = work.state.governance().audit().directory().map(ToOwned::to_owned);
    let found = work.read_log(move |administration| {
        let Some(query) = within(query, administration)? else { return Ok(Default::default()) };
        let Some(directory) = directory.filter(|directory| directory.is_dir()) else { return Ok(Default::default()) };
        Ok(query::find(&directory, &query, limit)?)
    });
    let (records, next) = found.await?;
    Ok(Json(json!({
        "object": "list",
        "recording": work.state.governance().audit().is_on(),
        "data": records.into_iter().map(|record| Value::Object(record.members)).collect::<Vec<_>>(),
        "next": next,
        "has_more": next.is_some(),
    })))
}

/// Is all of it what was written?
pub(super) async fn check(work: AdminWork, fields: QueryFields) -> Result<Json<Value>, ApiError> {
    fields.finish()?;
    let directory = work.state.governance().audit().directory().map(ToOwned::to_owned);
    let checked = work.read_log(move |administration| {
        administration.whole_server("the audit log as a whole")?;
        let Some(directory) = directory.filter(|directory| directory.is_dir()) else { return Ok(None) };
        match verify(&directory, &Evidence::default()) {
            Ok(report) => Ok(Some((true, json!(report), Value::Null))),
            Err(AuditError::Broken(found)) => Ok(Some((false, Value::Null, json!(found)))),
            Err(error) => Err(GovernanceError::from(error)),
        }
    });
    let (intact, report, found) = match checked.await? {
        Some((intact, report, found)) => (Value::Bool(intact), report, found),
        None => (Value::Null, Value::Null, Value::Null),
    };
    Ok(Json(json!({
        "object": "admin.audit.verification",
        "recording": work.state.governance().audit().is_on(),
        "intact": intact,
        "report": report,
        "break": found,
    })))
}

fn read(fields: &mut QueryFields) -> Result<Query, ApiError> {
    let kind = |name: String| {
        let expected = || format!("one of {}", Kind::ALL.map(Kind::name).join(", "));
        Kind::of_name(&name).ok_or_else(|| wrong("kind", expected(), &name.into()))
    };
    let mut moment = |name: &'static str| {
        let read = |text: String| {
            query::moment(name, &text).map_err(|_| wrong(name, "a moment such as 2026-01-31T12:00:00Z", &text.into()))
        };
        fields.text(name)?.map(read).transpose()
    };
    let (from_us, until_us) = (moment("from")?, moment("until")?);
    Ok(Query {
        id: fields.text("id")?,
        tenant: fields.text("tenant")?,
        principal: fields.text("principal")?,
        kinds: fields.all("kind").into_iter().filter(|name| !name.is_empty()).map(kind).collect::<Result<_, _>>()?,
        from_us,
        until_us,
        after: fields.integer("after", 0..=u64::MAX)?,
    })
}

/// What is looked for, as far as it is reached; nothing, if it is another tenant's.
fn within(query: Query, administration: &Administration<'_>) -> Result<Option<Query>, GovernanceError> {
    let Some(only) = administration.only_tenant() else { return Ok(Some(query)) };
    if query.tenant.as_ref().is_some_and(|asked| asked != only) {
        return Ok(None);
    }
    // Records know a tenant by its name, which another may have had.
    let since_us = administration.tenant(only)?.created_at.saturating_mul(1_000_000);
    let from_us = Some(query.from_us.map_or(since_us, |from_us| from_us.max(since_us)));
    Ok(Some(Query { tenant: Some(only.to_owned()), from_us, ..query }))
}
