//! The command line: one file per subcommand, and this one, which parses, resolves the configuration, runs a
//! subcommand and turns its error into an exit code. This layer wires all others together and is the only
//! one that may use every one of them; nothing imports it.
//!
//! Exit codes: 0 done; 1 it failed while running, or had to cut requests at its end; 2 the command line or the
//! configuration is wrong; 130 it was interrupted.
//! Results go to standard output; logs, progress and errors to standard error.

mod accelerator;
mod answer;
mod audit;
mod bench;
mod chat;
mod data;
mod doctor;
mod draft_model;
mod egress;
mod error;
mod generate;
mod health;
mod hub;
mod inspect;
mod issuers;
mod keys;
mod loading;
mod locate;
mod lock;
mod machine;
mod memory_plan;
mod policy;
mod progress;
mod pull;
mod quota;
mod roles;
mod sandbox;
mod serve;
mod subjects;
mod tenants;
mod vouching;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    config::{Args, Config, Defaults, LogArgs},
    telemetry::logs::{self, LogStyle},
};

/// Serves open-weight Mistral models on your own hardware.
#[derive(Debug, Parser)]
#[command(name = "tramontane", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Every setting can also be given as TRAMONTANE_<NAME> or in the file named by --config; \
                          a flag wins over the environment, the environment over the file.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Pull(pull::PullArgs),
    Inspect(inspect::InspectArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Bench(bench::BenchArgs),
    Health(health::HealthArgs),
    Keys(keys::KeysArgs),
    Tenants(tenants::TenantsArgs),
    Subjects(subjects::SubjectsArgs),
    Roles(roles::RolesArgs),
    Policy(policy::PolicyArgs),
    Lock(lock::LockArgs),
    Audit(audit::AuditArgs),
    Quota(quota::QuotaArgs),
}

/// The process: reads its arguments, does what they say.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}

fn run(matches: &ArgMatches) -> Result<(), error::Failure> {
    let cli = Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    let mut subcommand = matches;
    while let Some((_, inner)) = subcommand.subcommand() {
        subcommand = inner;
    }
    let config = Config::resolve(&cli.settings(), subcommand, &cli.defaults()).map_err(error::Failure::before_logs)?;
    if cli.log.print_config {
        return error::ignore_closed_pipe(print(&config.to_toml())).map_err(error::Failure::before_logs);
    }
    let style = logs::init(&config.log);
    error::ignore_closed_pipe(cli.command.run(config, style)).map_err(|error| error::Failure { error, style })
}

impl Cli {
    /// The settings as typed, empty where the subcommand has none.
    fn settings(&self) -> Args {
        let log = self.log.clone();
        let mut args = match &self.command {
            Command::Serve(args) => args.settings(),
            Command::Pull(args) => Args { model: args.settings(), ..Args::default() },
            Command::Inspect(args) => args.settings(),
            Command::Generate(args) => args.settings(),
            Command::Chat(args) => args.settings(),
            Command::Bench(args) => args.settings(),
            Command::Keys(args) => args.settings(),
            Command::Tenants(args) => args.settings(),
            Command::Subjects(args) => args.settings(),
            Command::Doctor(args) => args.settings(),
            Command::Audit(args) => args.settings(),
            Command::Quota(args) => args.settings(),
            Command::Lock(_) | Command::Roles(_) | Command::Policy(_) | Command::Health(_) => Args::default(),
        };
        args.log = log;
        args
    }

    fn defaults(&self) -> Defaults {
        let threads = tramontane_kernels::threads::default_count();
        // A server tells what it does; a command in a terminal speaks up only when something is odd.
        let log_level = if matches!(self.command, Command::Serve(_)) { "info" } else { "warn" };
        let gpu = cfg!(feature = "cuda") && machine::nvidia_driver().is_some();
        Defaults { threads, log_level, gpu }
    }
}

impl Command {
    fn run(self, config: Config, style: LogStyle) -> Result<()> {
        match self {
            Command::Serve(args) => args.run(&config, style),
            Command::Pull(args) => args.run(&config, style),
            Command::Inspect(args) => args.run(&config, style),
            Command::Generate(args) => args.run(&config, style),
            Command::Chat(args) => args.run(&config, style),
            Command::Doctor(args) => args.run(&config, style),
            Command::Bench(args) => args.run(&config, style),
            Command::Health(args) => args.run(),
            Command::Keys(args) => args.run(&config),
            Command::Tenants(args) => args.run(&config),
            Command::Subjects(args) => args.run(&config),
            Command::Roles(args) => args.run(),
            Command::Policy(args) => args.run(),
            Command::Lock(args) => args.run(&config, style),
            Command::Audit(args) => args.run(&config, style),
            Command::Quota(args) => args.run(&config),
        }
    }
}

/// Writes to standard output, without the panic that `print!` ends in when the reader has gone away.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
