//! `tramontane keys`: makes, lists, replaces and revokes API keys, beside a running server or without one.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{data, error::UsageError};
use crate::{
    config::{Args, Config, DataArgs, StorageArgs},
    governance::{
        Actor, CreatedKey, DEFAULT_TENANT, Governance, GovernanceError, Key, KeyFilter, KeyState, NewKey, Role,
    },
    types::unix_seconds,
};

/// Make, list, replace and revoke API keys
#[derive(Debug, clap::Args)]
pub(super) struct KeysArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and print it; nobody can be shown it again
    Create(CreateArgs),
    /// Keys, without their secrets, the newest first
    List(ListArgs),
    /// One key, without its secret
    Show {
        /// Its id, the beginning of that, or its name
        key: String,
    },
    /// Make a key in place of another and print it
    Rotate(RotateArgs),
    /// End a key at once, and what its bearers are being answered
    Revoke {
        /// Its id, the beginning of that, or its name
        key: String,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// For people
    name: String,
    /// What its bearer does here: admin, operator, auditor, developer or service; may be given several times
    #[arg(long, required = true, value_name = "ROLE")]
    role: Vec<String>,
    /// Whose key it is
    #[arg(long, default_value = DEFAULT_TENANT)]
    tenant: String,
    /// What policies may ask for; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    attribute: Vec<String>,
    /// After which time it is refused, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// Id, the beginning of that, or name of the key that is replaced
    key: String,
    /// How long that one is still good
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    overlap: Duration,
    /// After which time the new one is refused, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only keys whose id begins so
    #[arg(long)]
    prefix: Option<String>,
    /// Only keys of this name
    #[arg(long)]
    name: Option<String>,
    /// Only keys of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only keys that are active, expired or revoked
    #[arg(long)]
    state: Option<String>,
}

impl KeysArgs {
    pub(super) fn settings(&self) -> Args {
        settings(&self.data)
    }

    pub(super) fn run(&self, config: &Config) -> Result<()> {
        let governance = data::lasting_governance(&config.storage.place)?.with_audit(data::audit(config)?);
        let now = unix_seconds();
        self.run_with(&governance, now).map_err(usage)
    }

    fn run_with(&self, governance: &Governance, now: u64) -> Result<()> {
        let administration = governance.administered_by(&Actor::CommandLine);
        match &self.command {
            KeysCommand::Create(args) => self.show_secret(&administration.create_key(&args.to_key(now)?, now)?, now),
            KeysCommand::Rotate(args) => {
                let expires_at = args.expires.map(|time| now.saturating_add(time.as_secs()));
                let created = administration.rotate_key(&args.key, args.overlap.as_secs(), expires_at, now)?;
                self.show_secret(&created, now)
            }
            KeysCommand::List(args) => {
                let keys = administration.key_page(&args.to_filter()?, now)?.keys;
                self.show(&keys, now)
            }
            KeysCommand::Show { key } => self.show_one(&administration.key(key)?, now),
            KeysCommand::Revoke { key } => self.show_one(&administration.revoke_key(key, now)?, now),
        }
    }

    /// The key alone on standard output, so that a script can take it.
    fn show_secret(&self, created: &CreatedKey, now: u64) -> Result<()> {
        let CreatedKey { key, secret } = created;
        if self.json {
            let mut value = key.to_json(now);
            value["key"] = secret.as_str().into();
            return super::print(&format!("{value:#}\n"));
        }
        eprintln!("{}Nobody can be shown this key again:", line(key, now));
        super::print(&format!("{secret}\n"))
    }

    fn show_one(&self, key: &Key, now: u64) -> Result<()> {
        let text = if self.json { format!("{:#}\n", key.to_json(now)) } else { line(key, now) };
        super::print(&text)
    }

    fn show(&self, keys: &[Key], now: u64) -> Result<()> {
        if self.json {
            let keys: Vec<Value> = keys.iter().map(|key| key.to_json(now)).collect();
            return super::print(&format!("{:#}\n", json!(keys)));
        }
        let lines: String = keys.iter().map(|key| line(key, now)).collect();
        super::print(if lines.is_empty() { "there are no keys\n" } else { &lines })
    }
}

impl ListArgs {
    fn to_filter(&self) -> Result<KeyFilter> {
        let state = |name: &String| {
            let states = KeyState::ALL;
            let names = states.map(KeyState::name).join(", ");
            let found = states.into_iter().find(|state| state.name() == name);
            found.ok_or_else(|| UsageError(format!("--state {name:?}: expected one of {names}")))
        };
        Ok(KeyFilter {
            prefix: self.prefix.clone(),
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            state: self.state.as_ref().map(state).transpose()?,
            ..KeyFilter::default()
        })
    }
}

impl CreateArgs {
    fn to_key(&self, now: u64) -> Result<NewKey> {
        Ok(NewKey {
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            roles: self.role.iter().map(|role| Role::of_name(role)).collect::<Result<_, _>>()?,
            attributes: attributes(&self.attribute)?,
            expires_at: self.expires.map(|time| now.saturating_add(time.as_secs())),
        })
    }
}

/// What `--attribute NAME=VALUE` says, each time that it is given.
pub(super) fn attributes(given: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    let mut attributes = BTreeMap::new();
    for text in given {
        let (name, value) =
            text.split_once('=').ok_or_else(|| UsageError(format!("--attribute {text:?}: expected NAME=VALUE")))?;
        if attributes.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(UsageError(format!("--attribute {text:?}: {name} is given twice")));
        }
    }
    Ok(attributes)
}

/// Settings of a command that needs nothing but the data directory.
pub(super) fn settings(data: &DataArgs) -> Args {
    Args { storage: StorageArgs { data: data.clone(), ..StorageArgs::default() }, ..Args::default() }
}

/// Most of what can go wrong is what was typed.
pub(super) fn usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<GovernanceError>() {
        Some(
            GovernanceError::File { .. }
            | GovernanceError::Newer { .. }
            | GovernanceError::Unrecorded(_)
            | GovernanceError::Audit(_)
            | GovernanceError::Database(_),
        )
        | None => error,
        Some(mistake) => UsageError(mistake.to_string()).into(),
    }
}

fn line(key: &Key, now: u64) -> String {
    let roles: Vec<&str> = key.roles.iter().map(|role| role.name()).collect();
    let mut line =
        format!("{}  {:<8} {}  tenant {}  {}", key.id, key.state(now).name(), key.name, key.tenant, roles.join(","));
    let time = |seconds| humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    // Writing into a string does not fail.
    let _ = write!(line, "  created {}", time(key.created_at));
    for (word, at) in [("expires", key.expires_at), ("revoked", key.revoked_at)] {
        if let Some(at) = at {
            let _ = write!(line, "  {word} {}", time(at));
        }
    }
    line + "\n"
}
