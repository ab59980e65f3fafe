//! `tramontane quota`: sets, lists and removes quotas, and shows what is used of budgets, beside a running server or without
//! one.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{data, keys};
use crate::{
    config::{Args, Config, DataArgs},
    governance::{
        Governance, GovernanceError,
        quota::{Limits, Quota, Scope},
    },
};

/// Limit what keys, tenants and models may be asked for
#[derive(Debug, clap::Args)]
pub(super) struct QuotaArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// Set limits in place of those that there were
    Set {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// All quotas
    List,
    /// One quota
    Show {
        #[command(flatten)]
        scope: ScopeArgs,
    },
    /// Limit it no more
    Unset {
        #[command(flatten)]
        scope: ScopeArgs,
    },
    /// Tokens used of the days and months in which there were quotas
    Usage,
}

#[derive(Debug, clap::Args)]
struct ScopeArgs {
    /// Id of a key, the beginning of that, its name, or the subject of a token
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A tenant; * is every tenant that has no quota itself, each by itself
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// A model, by the first name that it is served under
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

#[derive(Debug, clap::Args)]
struct LimitArgs {
    /// Requests admitted in any 60 seconds
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers admitted in any 60 seconds
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Requests answered at once
    #[arg(long, value_name = "N")]
    concurrent_requests: Option<u64>,
    /// Tokens of a day in UTC
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    /// Tokens of a month in UTC
    #[arg(long, value_name = "N")]
    tokens_per_month: Option<u64>,
}

impl QuotaArgs {
    pub(super) fn settings(&self) -> Args {
        keys::settings(&self.data)
    }

    pub(super) fn run(&self, config: &Config) -> Result<()> {
        let governance = data::lasting_governance(&config.storage.place)?;
        self.run_with(&governance).map_err(keys::usage)
    }

    fn run_with(&self, governance: &Governance) -> Result<()> {
        let only = match &self.command {
            QuotaCommand::Set { scope, limits } => {
                let scope = scope.resolve(governance)?;
                governance.set_quota(&Quota { scope: scope.clone(), limits: limits.to_limits() })?;
                Some(scope)
            }
            QuotaCommand::Unset { scope } => {
                governance.unset_quota(&scope.resolve(governance)?)?;
                None
            }
            QuotaCommand::Show { scope } => Some(scope.resolve(governance)?),
            QuotaCommand::List => None,
            QuotaCommand::Usage => return self.show_usage(governance),
        };
        let mut quotas = governance.list_quotas()?;
        if let Some(scope) = only {
            quotas.retain(|quota| quota.scope == scope);
            if quotas.is_empty() {
                return Err(GovernanceError::Missing { kind: "quota", name: scope.to_string() }.into());
            }
        }
        if self.json {
            return super::print(&format!("{:#}\n", json!(quotas)));
        }
        if quotas.is_empty() {
            return super::print("there are no quotas\n");
        }
        super::print(&quotas.iter().map(line).collect::<String>())
    }

    fn show_usage(&self, governance: &Governance) -> Result<()> {
        let usage = governance.quota_usage()?;
        if self.json {
            return super::print(&format!("{:#}\n", json!(usage)));
        }
        let line = |used: &crate::governance::quota::Usage| {
            format!("{}  {}  {} tokens\n", used.period, used.scope, used.tokens)
        };
        super::print(&usage.iter().map(line).collect::<String>())
    }
}

impl ScopeArgs {
    /// A key by any of its names; what is none is the subject of a token.
    fn resolve(&self, governance: &Governance) -> Result<Scope, GovernanceError> {
        let key = match self.key.as_deref().map(|name| (name, governance.key(name))) {
            None => None,
            Some((_, Ok(key))) => Some(key.id),
            Some((subject, Err(GovernanceError::Missing { .. }))) => Some(subject.to_owned()),
            Some((_, Err(error))) => return Err(error),
        };
        Ok(Scope { key, tenant: self.tenant.clone(), model: self.model.clone() })
    }
}

impl LimitArgs {
    fn to_limits(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrent_requests: self.concurrent_requests,
            tokens_per_day: self.tokens_per_day,
            tokens_per_month: self.tokens_per_month,
        }
    }
}

fn line(quota: &Quota) -> String {
    let Limits { requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month } =
        quota.limits;
    let limits = [
        ("requests a minute", requests_per_minute),
        ("tokens a minute", tokens_per_minute),
        ("requests at once", concurrent_requests),
        ("tokens a day", tokens_per_day),
        ("tokens a month", tokens_per_month),
    ];
    let limits = limits.iter().filter_map(|(name, limit)| limit.map(|limit| format!("{limit} {name}")));
    format!("{}: {}\n", quota.scope, limits.collect::<Vec<_>>().join(", "))
}
