//! Acts of administration become records of the log.

use std::io;

use serde::Serialize;
use serde_json::Value;

use super::Audit;
use crate::governance::{Act, ActKind, ActLog, ActedBy};

/// An act as a record says it; the time is the record's own.
#[derive(Serialize)]
struct Recorded<'a> {
    by: &'a ActedBy,
    action: ActKind,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    details: &'a Value,
}

impl ActLog for Audit {
    /// Whoever administers identities makes a source of them, so the log is awake from then on. While it cannot be opened nothing
    /// is administered, whatever is answered without it.
    fn record(&self, act: &Act) -> io::Result<()> {
        let Act { kind, subject, tenant, details, by, at: _ } = act;
        let recorded = Recorded { by, action: *kind, target: subject, tenant: tenant.as_deref(), details };
        self.wake().map_err(io::Error::other)?;
        if self.is_wanted() && !self.is_on() {
            return Err(io::Error::other("the audit log cannot be opened"));
        }
        self.act_blocking(&recorded).map_err(io::Error::other)
    }
}
