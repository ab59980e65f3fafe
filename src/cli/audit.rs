//! `tramontane audit`: checks the audit log, shows records of it and hands them out, beside a running server or without one.

mod replay;

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{data, error::UsageError, keys};
use crate::{
    config::{Args, Config, DataArgs},
    governance::audit::{
        AuditError, Evidence, Kind, Report,
        query::{self, Query, Record},
        verify,
    },
    telemetry::logs::LogStyle,
};

/// Check the audit log, show records of it, run a recorded request again
#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Read the whole log and say whether it is what was written; the exit code is 1 if it is not
    Verify(VerifyArgs),
    /// Records of a request, or the last ones
    Show(ShowArgs),
    /// Records as they are in the log, one JSON object a line
    Export(ExportArgs),
    /// Run a recorded request again and say whether its tokens are the same; the exit code is 1 if they are not
    Replay(Box<replay::ReplayArgs>),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Checkpoints that were kept elsewhere (--audit-anchor): with them it is also found if the end of the log was cut, or all
    /// of it written anew
    #[arg(long, value_name = "FILE")]
    checkpoints: Option<PathBuf>,
    /// Public key in place of the one beside the log
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Id of a request, or number of a record
    id: Option<String>,
    /// The last so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
    #[command(flatten)]
    filters: FilterArgs,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// File to make [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filters: FilterArgs,
}

#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only of the principal with this id
    #[arg(long, value_name = "ID")]
    principal: Option<String>,
    /// Only of this kind: begun, ended, act, refused, checkpoint, segment, pruned or recovered; may be given several times
    #[arg(long)]
    kind: Vec<String>,
    /// Not before this moment, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl AuditArgs {
    pub(super) fn settings(&self) -> Args {
        match &self.command {
            AuditCommand::Replay(args) => Args { storage: keys::settings(&self.data).storage, ..args.settings() },
            AuditCommand::Verify(_) | AuditCommand::Show(_) | AuditCommand::Export(_) => keys::settings(&self.data),
        }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let directory = data::audit_directory(config)?;
        let directory = directory.ok_or_else(|| UsageError("with ephemeral there is no audit log".to_owned()))?;
        if !directory.is_dir() {
            bail!("there is no audit log in {}", directory.display());
        }
        match &self.command {
            AuditCommand::Verify(args) => self.verify(args, &directory),
            AuditCommand::Show(args) => self.show(args, &directory).map_err(usage),
            AuditCommand::Export(args) => args.run(&directory).map_err(usage),
            AuditCommand::Replay(args) => args.run(&directory, self.json, config, style),
        }
    }

    fn verify(&self, args: &VerifyArgs, directory: &Path) -> Result<()> {
        let VerifyArgs { checkpoints, public_key } = args;
        let evidence = Evidence { checkpoints: checkpoints.clone(), public_key: public_key.clone() };
        match (verify(directory, &evidence), self.json) {
            (Ok(report), true) => print_json(&json!({ "intact": true, "report": report })),
            (Ok(report), false) => super::print(&told(&report)),
            (Err(AuditError::Broken(found)), true) => {
                print_json(&json!({ "intact": false, "break": found }))?;
                bail!("the audit log is not what was written: {found}")
            }
            (Err(AuditError::Broken(found)), false) => bail!("the audit log is not what was written: {found}"),
            (Err(error), _) => Err(error.into()),
        }
    }

    fn show(&self, args: &ShowArgs, directory: &Path) -> Result<()> {
        let query = Query { id: args.id.clone(), ..args.filters.query()? };
        let records = query::find_last(directory, &query, args.last)?;
        if self.json {
            return print_json(&records.iter().map(|record| &record.members).collect::<Vec<_>>());
        }
        if records.is_empty() {
            bail!("no record is like that");
        }
        let whole = args.id.is_some();
        super::print(
            &records.iter().map(|record| if whole { in_full(record) } else { line(record) }).collect::<String>(),
        )
    }
}

impl ExportArgs {
    fn run(&self, directory: &Path) -> Result<()> {
        let mut out: Box<dyn Write> = match &self.output {
            Some(path) => Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?),
            None => Box::new(io::stdout().lock()),
        };
        out = Box::new(io::BufWriter::new(out));
        let mut written = Ok(());
        query::visit(directory, &self.filters.query()?, &mut |record| {
            written = writeln!(out, "{}", record.line);
            written.is_ok()
        })?;
        written.and_then(|()| out.flush())?;
        Ok(())
    }
}

impl FilterArgs {
    fn query(&self) -> Result<Query> {
        let kind = |name: &String| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            Kind::of_name(name).ok_or_else(|| UsageError(format!("--kind {name:?}: expected one of {names}")))
        };
        let moment = |field, text: &Option<String>| text.as_deref().map(|text| query::moment(field, text)).transpose();
        Ok(Query {
            tenant: self.tenant.clone(),
            principal: self.principal.clone(),
            kinds: self.kind.iter().map(kind).collect::<Result<_, _>>()?,
            from_us: moment("--from", &self.from)?,
            until_us: moment("--until", &self.until)?,
            ..Query::default()
        })
    }
}

/// What was typed is the user's to mend.
fn usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<AuditError>() {
        Some(mistake @ AuditError::Invalid { .. }) => UsageError(mistake.to_string()).into(),
        _ => error,
    }
}

fn told(report: &Report) -> String {
    let Report { chain, segments, records, first, last, signed_through, unfinished, .. } = report;
    let mut text = format!(
        "intact: {records} records in {segments} segments, {first} to {last}, of the chain {chain}\n\
         signed through record {signed_through} by the key {}\n",
        report.public_key,
    );
    // Writing into a string does not fail.
    let _ = match last - signed_through {
        0 => Ok(()),
        behind => writeln!(text, "{behind} records behind it have no signature yet"),
    };
    if let Some(pruned) = report.pruned_through {
        let _ = writeln!(text, "retention has removed records through {pruned}");
    }
    if *unfinished > 0 {
        let _ = writeln!(text, "{unfinished} inferences have no end: they are under way, or a crash has cut them");
    }
    if report.anchored + report.anchored_but_pruned > 0 {
        let _ = writeln!(text, "{} checkpoints that were kept elsewhere are those of the log", report.anchored);
    }
    text
}

fn line(record: &Record) -> String {
    let text = |name: &str| record.members.get(name).and_then(Value::as_str);
    let principal = record.members.get("principal").or_else(|| record.members.get("by"));
    let principal = principal.and_then(|principal| principal.as_str().or_else(|| principal.get("id")?.as_str()));
    let told = [
        text("request"),
        text("tenant"),
        principal,
        text("route"),
        text("action"),
        text("target"),
        text("outcome"),
        text("code"),
    ];
    let told: Vec<&str> = told.into_iter().flatten().collect();
    format!("{:>8}  {}  {:<10}  {}\n", record.seq, record.time, record.kind.name(), told.join("  "))
}

fn in_full(record: &Record) -> String {
    let mut text = format!("{} {} {}\n", record.seq, record.time, record.kind.name());
    for (name, value) in &record.members {
        if !["seq", "time", "kind"].contains(&name.as_str()) {
            let _ = match value {
                Value::String(value) => writeln!(text, "  {name}: {value}"),
                value => writeln!(text, "  {name}: {value}"),
            };
        }
    }
    text
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    super::print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
