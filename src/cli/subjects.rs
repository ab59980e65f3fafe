//! `tramontane subjects`: tells and deletes everything that is held about somebody, beside a running server or without one.

use anyhow::{Context, Result, anyhow, ensure};
use clap::Subcommand;
use serde_json::json;

use super::{data, error::UsageError, keys};
use crate::{
    api::{SubjectData, SubjectError},
    config::{Args, Config, DataArgs},
    governance::{AboutSubject, ActKind, Actor, DEFAULT_TENANT, Governance, GovernanceError},
    store::{Held, Store, SubjectDeletion},
    types::unix_seconds,
};

/// Tell and delete everything that is held about somebody
#[derive(Debug, clap::Args)]
pub(super) struct SubjectsArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: SubjectsCommand,
}

#[derive(Debug, Subcommand)]
enum SubjectsCommand {
    /// Everything that is held about somebody: a line for each thing, or with --json all of it
    Export(SubjectArgs),
    /// Delete everything that is held about somebody; what is stored is overwritten when this ends
    Delete(SubjectArgs),
}

#[derive(Debug, clap::Args)]
struct SubjectArgs {
    /// As X-Tramontane-Subject, `safety_identifier` or `user` has it
    subject: String,
    /// Whose data it is
    #[arg(long, default_value = DEFAULT_TENANT)]
    tenant: String,
}

impl SubjectsArgs {
    pub(super) fn settings(&self) -> Args {
        keys::settings(&self.data)
    }

    pub(super) fn run(&self, config: &Config) -> Result<()> {
        let (SubjectsCommand::Export(args) | SubjectsCommand::Delete(args)) = &self.command;
        // Nothing is found where nobody has looked.
        if let Some(directory) = &config.audit.directory {
            ensure!(directory.exists(), "audit_dir = {}: there is no such directory", directory.display());
        }
        let governance = data::lasting_governance(&config.storage.place)?.with_audit(data::audit(config)?);
        let governance = data::with_captured(governance, config)?;
        let about = args.about(&governance, self.command.act())?;
        let store = args.store(config, &about)?;
        let subject = SubjectData::new(about, store);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let done = match &self.command {
            SubjectsCommand::Export(_) => runtime.block_on(self.export(subject)),
            SubjectsCommand::Delete(_) => runtime.block_on(self.delete(subject)),
        };
        governance.audit().close();
        done
    }

    async fn export(&self, subject: SubjectData) -> Result<()> {
        let (sender, told) = tokio::sync::mpsc::channel::<Held>(1);
        let printed = async move {
            let (mut told, mut count) = (told, 0); // whoever cannot print does not listen any more
            while let Some(held) = told.recv().await {
                self.print_held(&held, count)?;
                count += 1;
            }
            Ok::<_, anyhow::Error>(count)
        };
        let (exported, printed) = tokio::join!(subject.export(sender), printed);
        let count = printed?;
        exported?;
        match (self.json, count) {
            (true, 0) => super::print("[]\n"),
            (true, _) => super::print("\n]\n"),
            (false, 0) => super::print("nothing is held about this subject\n"),
            (false, _) => Ok(()),
        }
    }

    /// One thing at a time, as all of them may be long.
    fn print_held(&self, held: &Held, index: usize) -> Result<()> {
        if !self.json {
            let Held { kind, id, content } = held;
            let length = content.to_string().len();
            return super::print(&format!("{kind}  {id}  {length} bytes\n"));
        }
        let before = if index == 0 { "[\n" } else { ",\n" };
        super::print(&format!("{before}{}", json!(held)))
    }

    async fn delete(&self, subject: SubjectData) -> Result<()> {
        let (SubjectDeletion { deleted, being_read }, failed) = match subject.delete().await {
            Ok(deletion) => (deletion, None),
            Err(error) => {
                // What was deleted is said in any case.
                let SubjectError::NotErased { stored, .. } = &error else { return Err(error.into()) };
                (stored.clone(), Some(anyhow::Error::from(error)))
            }
        };
        if self.json {
            let counts: serde_json::Map<_, _> =
                deleted.iter().map(|(kind, count)| ((*kind).to_owned(), (*count).into())).collect();
            super::print(&format!("{:#}\n", json!({ "deleted": counts, "being_read": being_read })))?;
        } else if deleted.is_empty() && failed.is_none() {
            super::print("nothing was held about this subject\n")?;
        } else {
            super::print(
                &deleted.iter().map(|(kind, count)| format!("deleted  {kind}  {count}\n")).collect::<String>(),
            )?;
        }
        let read = (!being_read.is_empty()).then(|| {
            let batches = being_read.join(", ");
            anyhow!("the lines of {batches} are being read, so some may be stored again: run this again")
        });
        match (failed, read) {
            (None, None) => Ok(()),
            (Some(error), None) | (None, Some(error)) => Err(error),
            (Some(error), Some(read)) => Err(error.context(read)),
        }
    }
}

impl SubjectsCommand {
    fn act(&self) -> ActKind {
        match self {
            Self::Export(_) => ActKind::ExportSubject,
            Self::Delete(_) => ActKind::DeleteSubject,
        }
    }
}

impl SubjectArgs {
    /// Where all of it is, once it is written down what for.
    fn about(&self, governance: &Governance, kind: ActKind) -> Result<AboutSubject> {
        let administration = governance.administered_by(&Actor::CommandLine);
        let about = administration.about_subject(kind, (&self.tenant, &self.subject), unix_seconds());
        about.map_err(|error| match error {
            GovernanceError::Missing { .. } => {
                UsageError(format!("--tenant {:?}: there is no such tenant", self.tenant)).into()
            }
            error => keys::usage(error.into()),
        })
    }

    /// That of its tenant, if there is any.
    fn store(&self, config: &Config, about: &AboutSubject) -> Result<Option<Store>> {
        let tenant = (self.tenant != DEFAULT_TENANT).then_some(about.place.id.as_str());
        data::stores(&config.storage)?.beside(tenant).with_context(|| data::cannot_store(&config.storage))
    }
}
