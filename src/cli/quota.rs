//! `tramontane quota`: sets, lists and removes quotas, and shows what is used of budgets, beside a running server or without
//! one.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{data, keys};
use crate::{
    config::{Args, Config, DataArgs},
    governance::{
        Actor, Administration,
        quota::{Limits, Quota, QuotaFilter, Scope, Usage},
    },
    types::unix_seconds,
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
        let governance = data::lasting_governance(&config.storage.place)?.with_audit(data::audit(config)?);
        self.run_with(&governance.administered_by(&Actor::CommandLine), unix_seconds()).map_err(keys::usage)
    }

    fn run_with(&self, administration: &Administration<'_>, now: u64) -> Result<()> {
        match &self.command {
            QuotaCommand::Set { scope, limits } => {
                let scope = administration.quota_scope(scope.named())?;
                administration.set_quota(&Quota { scope: scope.clone(), limits: limits.to_limits() }, now)?;
                self.show(&[administration.quota(&scope)?])
            }
            QuotaCommand::Unset { scope } => {
                administration.unset_quota(&administration.quota_scope(scope.named())?, now)?;
                self.show(&administration.quotas(&QuotaFilter::default())?)
            }
            QuotaCommand::Show { scope } => {
                self.show(&[administration.quota(&administration.quota_scope(scope.named())?)?])
            }
            QuotaCommand::List => self.show(&administration.quotas(&QuotaFilter::default())?),
            QuotaCommand::Usage => self.show_usage(&administration.quota_usage(&QuotaFilter::default())?),
        }
    }

    fn show(&self, quotas: &[Quota]) -> Result<()> {
        if self.json {
            return super::print(&format!("{:#}\n", json!(quotas)));
        }
        if quotas.is_empty() {
            return super::print("there are no quotas\n");
        }
        super::print(&quotas.iter().map(line).collect::<String>())
    }

    fn show_usage(&self, usage: &[Usage]) -> Result<()> {
        if self.json {
            return super::print(&format!("{:#}\n", json!(usage)));
        }
        let line = |used: &Usage| format!("{}  {}  {} tokens\n", used.period, used.scope, used.tokens);
        super::print(&usage.iter().map(line).collect::<String>())
    }
}

impl ScopeArgs {
    fn named(&self) -> Scope {
        Scope { key: self.key.clone(), tenant: self.tenant.clone(), model: self.model.clone() }
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
