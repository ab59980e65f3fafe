//! `tramontane policy`: shows, checks, tests and explains the policies that say who may do what.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{error::UsageError, keys};
use crate::governance::{
    DEFAULT_TENANT,
    policy::{
        Action, Asker, Circumstances, DEFAULT_POLICIES, Policies, Question, Resource, SCHEMA, Trust, check_cases,
    },
};

/// Show, check, test and explain the policies that say who may do what
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print the built-in policies, as a beginning for one's own
    Show {
        /// Print what policies can speak of
        #[arg(long)]
        schema: bool,
    },
    /// Is every policy of a directory right?
    Check {
        /// The directory
        directory: PathBuf,
    },
    /// Do policies decide as a file of cases expects?
    Test {
        /// TOML file of [[case]] tables
        cases: PathBuf,
        /// Directory of the policies [default: the built-in ones]
        #[arg(long, value_name = "DIR")]
        policy_dir: Option<PathBuf>,
    },
    /// May somebody do something, and by which policy?
    Explain(Box<ExplainArgs>),
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// infer, tokenize, readModel, useTool, searchCollection, changeCollection, readStored, writeStored, deleteStored,
    /// readStatus, readAdministration, changeAdministration, grantRole or grantAttribute
    action: String,
    /// The name of the model, tool or collection, the kind of thing (files, keys, server, ..), the role, or NAME=VALUE of the
    /// attribute
    resource: String,
    /// Of whoever asks; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// Of whoever asks
    #[arg(long, default_value = DEFAULT_TENANT)]
    tenant: String,
    /// Of whoever asks; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    attribute: Vec<String>,
    /// Where the request is sent, with parameters in braces
    #[arg(long, default_value = "")]
    route: String,
    /// What the request says of itself
    #[arg(long)]
    purpose: Option<String>,
    /// What the request says of itself
    #[arg(long)]
    data_classification: Option<String>,
    /// What the request says of itself
    #[arg(long)]
    consent: Option<String>,
    /// The model's files are those of a lock
    #[arg(long)]
    locked: bool,
    /// The trusted key that signed the model's files
    #[arg(long, value_name = "KEY")]
    signer: Option<String>,
    /// Directory of the policies [default: the built-in ones]
    #[arg(long, value_name = "DIR")]
    policy_dir: Option<PathBuf>,
}

impl PolicyArgs {
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            PolicyCommand::Show { schema } => {
                self.show(if *schema { ("schema", SCHEMA) } else { ("policies", DEFAULT_POLICIES) })
            }
            PolicyCommand::Check { directory } => self.check(directory),
            PolicyCommand::Test { cases, policy_dir } => self.test(cases, policy_dir.as_deref()),
            PolicyCommand::Explain(args) => self.explain(args),
        }
    }

    fn show(&self, (what, text): (&str, &str)) -> Result<()> {
        super::print(&if self.json { format!("{:#}\n", json!({ what: text })) } else { text.to_owned() })
    }

    fn check(&self, directory: &Path) -> Result<()> {
        let policies = load(Some(directory))?;
        let (names, digest) = (policies.names(), policies.digest());
        if self.json {
            return super::print(&format!("{:#}\n", json!({ "policies": names, "digest": digest })));
        }
        super::print(&format!("{} policies are right: {}\nsha256 {digest}\n", names.len(), names.join(", ")))
    }

    fn test(&self, cases: &Path, policy_dir: Option<&Path>) -> Result<()> {
        let (count, failures) =
            check_cases(&load(policy_dir)?, cases).map_err(|error| UsageError(error.to_string()))?;
        if self.json {
            let failures: Vec<_> =
                failures.iter().map(|failure| json!({ "case": failure.name, "reason": failure.reason })).collect();
            super::print(&format!("{:#}\n", json!({ "cases": count, "failures": failures })))?;
        } else {
            let lines = failures.iter().map(|failure| format!("FAILED {}: {}\n", failure.name, failure.reason));
            super::print(&format!("{}{} of {count} cases hold\n", lines.collect::<String>(), count - failures.len()))?;
        }
        if failures.is_empty() { Ok(()) } else { bail!("{} cases do not hold", failures.len()) }
    }

    fn explain(&self, args: &ExplainArgs) -> Result<()> {
        let policies = load(args.policy_dir.as_deref())?;
        let unknown = || UsageError(format!("action {:?}: expected one of {}", args.action, known_actions()));
        let action = Action::of_name(&args.action).ok_or_else(unknown)?;
        let resource = match action.resource(&args.resource) {
            Resource::Model { name, digest, .. } => {
                Resource::Model { name, digest, trust: Trust { locked: args.locked, signer: args.signer.as_deref() } }
            }
            other => other,
        };
        let (asker, circumstances) = (args.asker()?, args.circumstances());
        let decision = policies.decide(&Question { asker: &asker, action, resource, circumstances: &circumstances })?;
        if self.json {
            let value = json!({
                "allowed": decision.allowed, "policies": decision.policies, "errors": decision.errors,
                "considered": policies.names(), "digest": policies.digest(),
            });
            return super::print(&format!("{value:#}\n"));
        }
        let by = match (decision.policies.is_empty(), decision.allowed) {
            (true, _) => "no policy permits it".to_owned(),
            (false, true) => format!("permitted by {}", decision.policies.join(", ")),
            (false, false) => format!("forbidden by {}", decision.policies.join(", ")),
        };
        let errors: String = decision.errors.iter().map(|error| format!("failed: {error}\n")).collect();
        let word = if decision.allowed { "allowed" } else { "denied" };
        super::print(&format!("{word}: {by}, of {} considered\n{errors}", policies.names().len()))
    }
}

impl ExplainArgs {
    fn asker(&self) -> Result<Asker> {
        Ok(Asker {
            id: "somebody".to_owned(),
            name: "somebody".to_owned(),
            tenant: self.tenant.clone(),
            source: "key".to_owned(),
            roles: self.role.clone(),
            attributes: keys::attributes(&self.attribute)?,
        })
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            route: self.route.clone(),
            purpose: self.purpose.clone(),
            data_classification: self.data_classification.clone(),
            consent: self.consent.clone(),
        }
    }
}

/// Policies of a directory, or the built-in ones.
pub(super) fn load(directory: Option<&Path>) -> Result<Policies> {
    let policies = directory.map_or_else(Policies::built_in, Policies::open);
    Ok(policies.map_err(|error| UsageError(format!("{:#}", anyhow::Error::new(error))))?)
}

fn known_actions() -> String {
    Action::ALL.map(Action::name).join(", ")
}
