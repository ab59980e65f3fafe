//! `tramontane roles`: what policies let each role do.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{error::UsageError, policy};
use crate::governance::{DEFAULT_TENANT, Role, RoleRights};

/// Show what policies let each role do
#[derive(Debug, clap::Args)]
pub(super) struct RolesArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Directory of the policies [default: the built-in ones]
    #[arg(long, value_name = "DIR", global = true)]
    policy_dir: Option<PathBuf>,
    /// Of whoever has the role
    #[arg(long, default_value = DEFAULT_TENANT, global = true)]
    tenant: String,
    #[command(subcommand)]
    command: RolesCommand,
}

#[derive(Debug, Subcommand)]
enum RolesCommand {
    /// All roles, and what each is for
    List,
    /// All that one may do
    Show {
        /// admin, operator, auditor, developer or service
        role: String,
    },
}

impl RolesArgs {
    pub(super) fn run(&self) -> Result<()> {
        let policies = policy::load(self.policy_dir.as_deref())?;
        let rights = |role| RoleRights::of(role, &policies, &self.tenant);
        match &self.command {
            RolesCommand::List => {
                let all: Vec<RoleRights> = Role::ALL.into_iter().map(rights).collect::<Result<_, _>>()?;
                let lines = all.iter().map(|role| format!("{:<10}{}\n", role.name, role.description)).collect();
                super::print(&if self.json { format!("{:#}\n", json!(all)) } else { lines })
            }
            RolesCommand::Show { role } => {
                let role = Role::of_name(role).map_err(|error| UsageError(error.to_string()))?;
                let rights = rights(role)?;
                super::print(&if self.json { format!("{:#}\n", json!(rights)) } else { text(&rights) })
            }
        }
    }
}

fn text(role: &RoleRights) -> String {
    let head = format!("{}: {}\n", role.name, role.description);
    let line = |right: &crate::governance::Right| {
        format!("  {:<22}{:<16}by {}\n", right.action, right.resource, right.policies.join(", "))
    };
    role.allowed.iter().map(line).fold(head, |text, line| text + &line)
}
