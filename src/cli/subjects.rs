//! `tramontane subjects`: tells and deletes everything that is held about somebody, beside a running server or without one.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{data, error::UsageError, keys};
use crate::{
    api::LINES,
    config::{Args, Config, DataArgs},
    governance::DEFAULT_TENANT,
    store::{Held, Store, StoreError, SubjectDeletion},
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
    /// Delete everything that is held about somebody; it is overwritten when this ends
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
        let store = args.store(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        match &self.command {
            SubjectsCommand::Export(args) => runtime.block_on(self.export(store, &args.subject)),
            SubjectsCommand::Delete(args) => runtime.block_on(self.delete(store, &args.subject)),
        }
    }

    async fn export(&self, store: Option<Store>, subject: &str) -> Result<()> {
        let (sender, mut told) = tokio::sync::mpsc::channel::<Held>(1);
        let exported = async {
            let Some(store) = store else { return Ok(()) };
            // Whoever does not listen any more has gone away.
            let tell = move |held| sender.blocking_send(held).map_err(|_| StoreError::Closed);
            store.export_subject(subject, LINES, tell).await
        };
        let printed = async {
            let mut count = 0;
            while let Some(held) = told.recv().await {
                self.print_held(&held, count)?;
                count += 1;
            }
            match (self.json, count) {
                (true, 0) => super::print("[]\n"),
                (true, _) => super::print("\n]\n"),
                (false, 0) => super::print("nothing is held about this subject\n"),
                (false, _) => Ok(()),
            }
        };
        let (exported, printed) = tokio::join!(exported, printed);
        printed?;
        Ok(exported?)
    }

    /// One thing at a time, as all of them may be long.
    fn print_held(&self, held: &Held, index: usize) -> Result<()> {
        let Held { kind, id, content } = held;
        if !self.json {
            let length = content.to_string().len();
            return super::print(&format!("{kind}  {id}  {length} bytes\n"));
        }
        let before = if index == 0 { "[\n" } else { ",\n" };
        super::print(&format!("{before}{}", json!({ "kind": kind, "id": id, "content": content })))
    }

    async fn delete(&self, store: Option<Store>, subject: &str) -> Result<()> {
        let deletion = match store {
            Some(store) => store.delete_subject(subject, LINES).await?,
            None => SubjectDeletion::default(),
        };
        let SubjectDeletion { deleted, being_read } = deletion;
        if self.json {
            let counts: serde_json::Map<_, _> =
                deleted.iter().map(|(kind, count)| ((*kind).to_owned(), (*count).into())).collect();
            super::print(&format!("{:#}\n", json!({ "deleted": counts, "being_read": being_read })))?;
        } else if deleted.is_empty() {
            super::print("nothing was held about this subject\n")?;
        } else {
            super::print(
                &deleted.iter().map(|(kind, count)| format!("deleted  {kind}  {count}\n")).collect::<String>(),
            )?;
        }
        if !being_read.is_empty() {
            bail!("the lines of {} are being read, so some may be stored again: run this again", being_read.join(", "));
        }
        Ok(())
    }
}

impl SubjectArgs {
    /// Where its tenant's data is, if there is any.
    fn store(&self, config: &Config) -> Result<Option<Store>> {
        let governance = data::lasting_governance(&config.storage.place)?;
        let Some(place) = governance.place(&self.tenant)? else {
            return Err(UsageError(format!("--tenant {:?}: there is no such tenant", self.tenant)).into());
        };
        let tenant = (self.tenant != DEFAULT_TENANT).then_some(place.id.as_str());
        data::stores(&config.storage)?.beside(tenant).with_context(|| data::cannot_store(&config.storage))
    }
}
