//! `tramontane subjects`: tells and deletes everything that is held about somebody, beside a running server or without one.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use tokio::sync::mpsc::Sender;

use super::{audited::Audited, data, error::UsageError, keys};
use crate::{
    api::LINES,
    config::{Args, Config, DataArgs},
    governance::{ActKind, Actor, DEFAULT_TENANT, Governance, Place},
    store::{Held, Store, StoreError, SubjectDeletion},
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
        let governance = data::lasting_governance(&config.storage.place)?.with_audit(data::audit(config)?);
        let (kind, now) = (self.command.act(), unix_seconds());
        let place = args.place(&governance)?;
        let audited = Audited::of(config, (&args.tenant, &place), &args.subject)?;
        let hash = audited.hash().unwrap_or_default();
        governance.administered_by(&Actor::CommandLine).about_subject(kind, &args.tenant, hash, now)?;
        let store = args.store(config, &place)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let done = match &self.command {
            SubjectsCommand::Export(args) => runtime.block_on(self.export(store, &args.subject, audited)),
            SubjectsCommand::Delete(args) => runtime.block_on(self.delete(store, &args.subject, audited)),
        };
        governance.audit().close();
        done
    }

    async fn export(&self, store: Option<Store>, subject: &str, audited: Audited) -> Result<()> {
        let (sender, mut told) = tokio::sync::mpsc::channel::<Held>(1);
        let exported = async {
            if let Some(store) = store {
                let sender = sender.clone();
                // Whoever does not listen any more has gone away.
                let tell = move |held| sender.blocking_send(held).map_err(|_| StoreError::Closed);
                store.export_subject(subject, LINES, tell).await?;
            }
            tokio::task::spawn_blocking(move || tell_audited(&audited, &sender)).await?
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
        exported
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

    async fn delete(&self, store: Option<Store>, subject: &str, audited: Audited) -> Result<()> {
        let deletion = match store {
            Some(store) => store.delete_subject(subject, LINES).await?,
            None => SubjectDeletion::default(),
        };
        let SubjectDeletion { mut deleted, being_read } = deletion;
        let erased = audited.erase()?;
        if erased > 0 {
            deleted.push(("captured content", erased));
        }
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

/// Records about somebody, with what was captured.
fn tell_audited(audited: &Audited, told: &Sender<Held>) -> Result<()> {
    audited.visit(|record, content, contents| {
        let captured = content.map(|id| contents.read(&id)).transpose()?.flatten();
        let content = json!({ "record": record.members, "captured": captured });
        Ok(told.blocking_send(Held { kind: "audit record", id: record.seq.to_string(), content })?)
    })
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
    fn place(&self, governance: &Governance) -> Result<Place> {
        let unknown = || UsageError(format!("--tenant {:?}: there is no such tenant", self.tenant));
        Ok(governance.place(&self.tenant)?.ok_or_else(unknown)?)
    }

    /// Where its tenant's data is, if there is any.
    fn store(&self, config: &Config, place: &Place) -> Result<Option<Store>> {
        let tenant = (self.tenant != DEFAULT_TENANT).then_some(place.id.as_str());
        data::stores(&config.storage)?.beside(tenant).with_context(|| data::cannot_store(&config.storage))
    }
}
