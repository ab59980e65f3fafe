//! `tramontane tenants`: makes, lists and removes tenants, beside a running server or without one.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{data, keys};
use crate::{
    config::{Args, Config, DataArgs},
    governance::{Governance, Tenant},
    types::unix_seconds,
};

/// Make, list and remove tenants
#[derive(Debug, clap::Args)]
pub(super) struct TenantsArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: TenantsCommand,
}

#[derive(Debug, Subcommand)]
enum TenantsCommand {
    /// Make a tenant
    Create {
        /// Its name
        name: String,
        /// Tenants of one group share cached prefixes, and can tell by the time of an answer what another has asked
        /// [default: shared with nobody]
        #[arg(long, value_name = "GROUP")]
        share_group: Option<String>,
    },
    /// All tenants
    List,
    /// Remove a tenant whose keys are revoked
    Delete {
        /// Its name
        name: String,
    },
}

impl TenantsArgs {
    pub(super) fn settings(&self) -> Args {
        keys::settings(&self.data)
    }

    pub(super) fn run(&self, config: &Config) -> Result<()> {
        let governance = data::lasting_governance(&config.storage.place)?;
        self.run_with(&governance).map_err(keys::usage)
    }

    fn run_with(&self, governance: &Governance) -> Result<()> {
        match &self.command {
            TenantsCommand::Create { name, share_group } => {
                governance.create_tenant(name, share_group.as_deref(), unix_seconds())?;
            }
            TenantsCommand::Delete { name } => governance.delete_tenant(name)?,
            TenantsCommand::List => {}
        }
        let tenants = governance.tenants()?;
        if self.json {
            return super::print(&format!("{:#}\n", json!(tenants)));
        }
        let line = |tenant: &Tenant| {
            let group = tenant.share_group.as_ref().map_or_else(String::new, |group| format!("  shares with {group}"));
            format!("{}  {} keys{group}\n", tenant.name, tenant.keys)
        };
        super::print(&tenants.iter().map(line).collect::<String>())
    }
}
