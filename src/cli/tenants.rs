//! `tramontane tenants`: makes, lists and deletes tenants, beside a running server or without one.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{data, keys};
use crate::{
    config::{Args, Config, DataArgs},
    governance::{Actor, DeletedTenant, Governance, Tenant},
    store::{StoreError, Stores},
    types::unix_seconds,
};

/// Make, list and delete tenants
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
    /// One tenant
    Show {
        /// Its name
        name: String,
    },
    /// Have a tenant share cached prefixes with those of a group
    Share {
        /// Its name
        name: String,
        /// The group's
        group: String,
    },
    /// Have a tenant share cached prefixes with nobody
    Unshare {
        /// Its name
        name: String,
    },
    /// Delete a tenant: its keys are revoked, and all that it has stored is erased
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
        let governance = data::lasting_governance(&config.storage.place)?.with_audit(data::audit(config)?);
        let governance = data::with_captured(governance, config)?;
        self.run_with(&governance, config).map_err(keys::usage)
    }

    fn run_with(&self, governance: &Governance, config: &Config) -> Result<()> {
        let (administration, now) = (governance.administered_by(&Actor::CommandLine), unix_seconds());
        let name = match &self.command {
            TenantsCommand::List => {
                let tenants = administration.tenants()?;
                return self.show(&json!(tenants), || tenants.iter().map(line).collect());
            }
            TenantsCommand::Delete { name } => {
                let deleted = administration.delete_tenant(name, now)?;
                return self.show_deleted(&deleted, erase(governance, &data::stores(&config.storage)?, &deleted)?);
            }
            TenantsCommand::Show { name } => name,
            TenantsCommand::Create { name, share_group } => {
                administration.create_tenant(name, share_group.as_deref(), now)?;
                name
            }
            TenantsCommand::Share { name, group } => {
                administration.share_tenant(name, Some(group), now)?;
                name
            }
            TenantsCommand::Unshare { name } => {
                administration.share_tenant(name, None, now)?;
                name
            }
        };
        let tenant = administration.tenant(name)?;
        self.show(&json!(tenant), || line(&tenant))
    }

    fn show_deleted(&self, deleted: &DeletedTenant, erased: Erased) -> Result<()> {
        let is_erased = erased == Erased::Now;
        let value = json!({ "name": deleted.name, "revoked_keys": deleted.keys, "erased": is_erased });
        let data =
            if is_erased { "what it had stored is erased" } else { "the server that runs erases what it had stored" };
        self.show(&value, || format!("{} is deleted, {} keys are revoked, {data}\n", deleted.name, deleted.keys))
    }

    fn show(&self, value: &Value, text: impl FnOnce() -> String) -> Result<()> {
        super::print(&if self.json { format!("{value:#}\n") } else { text() })
    }
}

fn line(tenant: &Tenant) -> String {
    let group = tenant.share_group.as_ref().map_or_else(String::new, |group| format!("  shares with {group}"));
    format!("{}  {} keys{group}\n", tenant.name, tenant.keys)
}

/// Who erases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erased {
    Now,
    /// The server, which has it open.
    ByServer,
}

/// What was a tenant's is no more, unless a server runs that has it open: that sees within a moment that it is to go.
fn erase(governance: &Governance, stores: &Stores, deleted: &DeletedTenant) -> Result<Erased> {
    match stores.destroy(&deleted.place) {
        Ok(()) => governance.erased(&deleted.place)?,
        Err(StoreError::InUse { .. }) => return Ok(Erased::ByServer),
        Err(error) => return Err(error.into()),
    }
    Ok(Erased::Now)
}
