//! Landlock and seccomp.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::{FileRules, Outbound};

/// What is asked for; a kernel that knows less enforces what it knows.
const NEWEST: ABI = ABI::V6;
/// Places that the runtime reads from: its own process, the machine, time zones, roots of certificates, libraries.
const SYSTEM: [&str; 16] = [
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/sys/kernel",
    "/proc/driver/nvidia",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/urandom",
    "/etc/localtime",
    "/etc/ssl",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/lib",
];
/// The same for looking up names.
const NAMES: [&str; 5] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// What a server never does, and whoever takes it over would begin with: run programs, look into other processes, load code
/// into the kernel, mount, or go around these very rules (`io_uring` opens sockets that seccomp does not see).
const NEVER: [i64; 23] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// What this kernel can do of it.
pub(super) fn support() -> String {
    let knows = |abi: &ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(AccessFs::from_all(*abi)).is_ok_and(|ruleset| ruleset.create().is_ok())
    };
    let known = [ABI::V5, ABI::V3, ABI::V2, ABI::V1].into_iter().find(knows);
    let landlock = known.map_or("no landlock".to_owned(), |abi| format!("landlock {} or newer", abi as i32));
    let seccomp = if architecture().is_ok() { "seccomp" } else { "no seccomp" };
    format!("{landlock}, {seccomp}")
}

/// With its parents, if it is not there.
pub(super) fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// From now on this thread, and those that it starts, reach only these files. Returns whether the kernel enforces all of it.
pub(super) fn confine_files(rules: &FileRules) -> Result<bool> {
    let all = AccessFs::from_all(NEWEST);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let system = SYSTEM.iter().copied().map(PathBuf::from);
    let names = NAMES.iter().copied().map(PathBuf::from).filter(|_| rules.outbound == Outbound::Allowed);
    let readable: Vec<PathBuf> = rules.read.iter().cloned().chain(system).chain(names).collect();
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    if rules.outbound == Outbound::Refused {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?; // and nothing permits it
    }
    let ruleset = ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal)?.create()?;
    let ruleset = ruleset.add_rules(path_beneath_rules(&readable, read))?;
    let ruleset = ruleset.add_rules(path_beneath_rules(&rules.write, all))?;
    let status = ruleset.restrict_self().context("landlock")?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// From now on no thread of this process opens a connection or does what a server never does.
pub(super) fn confine_calls(outbound: Outbound) -> Result<()> {
    let program = program(outbound).context("seccomp")?;
    apply_filter_all_threads(&program).context("seccomp")
}

fn program(outbound: Outbound) -> Result<BpfProgram> {
    // An empty list of conditions holds always.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = NEVER.into_iter().map(|call| (call, Vec::new())).collect();
    if outbound == Outbound::Refused {
        // What is accepted is connected already. Sockets of this machine's own services are not outbound.
        let elsewhere = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![elsewhere])?]);
    }
    let refuse = SeccompAction::Errno(libc::EACCES as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture()?)?.try_into()?)
}

fn architecture() -> Result<TargetArch> {
    let name = std::env::consts::ARCH;
    TargetArch::try_from(name).map_err(|_| io::Error::other(format!("not on {name}")).into())
}
