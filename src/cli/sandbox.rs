//! What the server keeps itself from doing, where the system can hold it to that: reading files that are none of its
//! business, writing outside its data directory, opening connections, running programs.
//!
//! Two steps, because each takes its moment: [`Sandbox::enter`] before there is any other thread, since Landlock binds a
//! thread and those that it starts; [`Sandbox::close`] once the port is open, since seccomp then refuses every further socket.
//! Where a reason to connect is configured, connections are left open and the rest holds.

mod places;
#[cfg(not(target_os = "linux"))]
#[path = "sandbox/elsewhere.rs"]
mod system;
#[cfg(target_os = "linux")]
#[path = "sandbox/linux.rs"]
mod system;

use std::{
    fs, io,
    net::{TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    data, egress,
    locate::{Located, parent_of},
};
use crate::config::{AuditAnchor, Config, DeviceChoice, QuantizeCache, SandboxChoice};

/// May connections be opened?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outbound {
    /// The configuration names a reason to.
    Allowed,
    /// It names none, but a GPU's driver talks to programs of this machine.
    Local,
    /// It names none.
    Refused,
}

/// Which files may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileRules {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    outbound: Outbound,
}

/// What holds for the process.
#[derive(Debug)]
pub(super) struct Sandbox {
    choice: SandboxChoice,
    outbound: Outbound,
    /// In words.
    files: &'static str,
}

/// What this system can do.
pub(super) fn support() -> String {
    system::support()
}

impl Sandbox {
    /// Confines this thread and all that it will start to the files that the configuration names.
    pub(super) fn enter(config: &Config, located: &Located) -> Result<Self> {
        let choice = config.sandbox;
        let of_gpu = cfg!(feature = "cuda") && config.model.device != DeviceChoice::Cpu;
        let outbound = match (egress::reasons_of_server(config)?.is_empty(), of_gpu) {
            (true, false) => Outbound::Refused,
            (true, true) => Outbound::Local,
            (false, _) => Outbound::Allowed,
        };
        let files = match (choice, of_gpu) {
            (SandboxChoice::Off, _) => "any",
            (SandboxChoice::Auto, true) => "any, as a GPU's driver opens its own",
            (SandboxChoice::Auto | SandboxChoice::On, _) => {
                let is_enforced = system::confine_files(&rules(config, located, outbound)?);
                match (is_enforced, choice) {
                    (Ok(true), _) => "those of the configuration",
                    (Ok(false), SandboxChoice::On) => {
                        bail!("sandbox = \"on\": this system cannot hold the server to its files ({})", support())
                    }
                    (Ok(false), _) => "those of the configuration, as far as the kernel can",
                    (Err(error), SandboxChoice::On) => return Err(error.context("sandbox = \"on\"")),
                    (Err(error), _) => {
                        tracing::warn!(error = format!("{error:#}"), "files are not confined");
                        "any"
                    }
                }
            }
        };
        Ok(Self { choice, outbound, files })
    }

    /// Confines the whole process to the sockets that it has.
    pub(super) fn close(&self) -> Result<()> {
        let calls = match (self.choice, system_confines(self.choice, self.outbound)) {
            (SandboxChoice::Off, _) => "any",
            (_, Ok(())) => match self.outbound {
                Outbound::Refused => "none",
                Outbound::Local => "none but to programs of this machine",
                Outbound::Allowed => "as configured (see `doctor --egress`)",
            },
            (SandboxChoice::On, Err(error)) => return Err(error.context("sandbox = \"on\"")),
            (_, Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "system calls are not confined");
                "any"
            }
        };
        tracing::info!(sandbox = %self.choice, files = self.files, connections = calls, "what the server may use");
        Ok(())
    }
}

fn system_confines(choice: SandboxChoice, outbound: Outbound) -> Result<()> {
    if choice == SandboxChoice::Off { Ok(()) } else { system::confine_calls(outbound) }
}

/// Directories of configured files, rather than the files: an editor puts a new file in place of one that is read again.
fn rules(config: &Config, located: &Located, outbound: Outbound) -> Result<FileRules> {
    let parent = |path: &Path| parent_of(path).to_path_buf();
    let mut read = Vec::new();
    // One that is not there is told of by whoever opens it, with the setting's name.
    let draft_model = config.engine.draft_model.as_ref().filter(|directory| directory.is_dir());
    for directory in [Some(&located.directory), draft_model].into_iter().flatten() {
        read.push(directory.clone());
        // In the hub's cache the files are links to another folder.
        let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        read.extend(entries.flatten().filter_map(|entry| Some(parent(&entry.path().canonicalize().ok()?))));
    }
    // Whatever setting names a file or a directory means to have it read.
    for (_, text) in config.texts() {
        read.extend(places::of(Path::new(&text)));
    }
    if let Some(path) = &config.access.identity_file {
        read.extend(egress::identity_sources(path)?.files.iter().flat_map(|file| places::of(file)));
    }
    read.extend(std::env::current_exe().ok()); // for the names in a panic's trace
    let mut write: Vec<PathBuf> = data::directory(&config.storage.place)?.into_iter().collect();
    match &config.model.quantize_cache {
        QuantizeCache::Off => {}
        QuantizeCache::On => write.push(located.directory.clone()),
        QuantizeCache::Directory(directory) => write.push(directory.clone()),
    }
    write.extend(config.audit.directory.clone());
    if let Some(AuditAnchor::File(path)) = &config.audit.anchor {
        write.push(parent(path));
    }
    for directory in &write {
        // A rule is about a directory that is there. Whoever opens one that cannot be made says so. Nobody else reads it.
        let _ = system::make_private_directory(directory);
    }
    read.sort();
    read.dedup();
    Ok(FileRules { read, write, outbound })
}

/// What was tried inside, and what became of it.
pub(super) type Attempt = (&'static str, io::Result<()>);

/// Tries what must not be possible: for `doctor --try-sandbox`. What is not refused leaves nothing behind.
/// `socket` was there before.
pub(super) fn try_everything(socket: &UdpSocket) -> Vec<Attempt> {
    let elsewhere = std::env::temp_dir().join(format!("tramontane-{}", std::process::id()));
    let attempts = vec![
        ("read a file elsewhere", fs::read("/proc/version").map(drop)),
        ("list a directory elsewhere", fs::read_dir("/").map(drop)),
        ("write a file elsewhere", fs::write(&elsewhere, "")),
        ("connect to another program", connect().map(drop)),
        ("connect a socket that there was", socket.connect(("127.0.0.1", 9))),
        ("open a socket for datagrams", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("run a program", Command::new("/bin/true").status().map(drop)),
    ];
    // It is there only if it was not refused.
    let _ = fs::remove_file(elsewhere);
    attempts
}

/// To nobody, so that there is an error in any case; but which one?
fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", 9))
}

/// Was this refused by the sandbox? Whatever else it failed by would have been tried.
pub(super) fn is_refused(outcome: &io::Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
