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
    TargetArch, apply_filter_all_threads, sock_filter,
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
const NEVER: [i64; 29] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
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

/// Calls that send, with the place of their flags: one of those has TCP connect on the way.
const SENDING: [(i64, u8); 3] = [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)];
/// On x86-64 numbers from here on are x32's: other names of the same calls, which rules by number do not know. No other
/// architecture has such numbers.
const X32: u32 = 0x4000_0000;

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
    if rules.outbound != Outbound::Allowed {
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
    if outbound != Outbound::Allowed {
        // What is accepted is connected already. Sockets of this machine's own services are not outbound.
        rules.insert(libc::SYS_socket, vec![holds(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
        let fast_open = libc::MSG_FASTOPEN as u64;
        for (call, flags) in SENDING {
            rules.insert(call, vec![holds(flags, SeccompCmpOp::MaskedEq(fast_open), fast_open)?]);
        }
    }
    if outbound == Outbound::Refused {
        // A socket that was accepted, or that listens, could be taken apart and be connected elsewhere.
        rules.insert(libc::SYS_connect, Vec::new());
    }
    let refuse = SeccompAction::Errno(libc::EACCES as u32);
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture()?)?.try_into()?;
    Ok(without_x32().into_iter().chain(program).collect())
}

fn holds(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])?)
}

/// Refuses x32's numbers. Calls of other architectures end the process: that is how every filter of the library begins.
fn without_x32() -> [sock_filter; 3] {
    let instruction = |code: u32, jf: u8, k: u32| sock_filter { code: code as u16, jt: 0, jf, k };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // the number of the call
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
    ]
}

fn architecture() -> Result<TargetArch> {
    let name = std::env::consts::ARCH;
    TargetArch::try_from(name).map_err(|_| io::Error::other(format!("not on {name}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;
    // Of linux/audit.h.
    const X86_64: u32 = 0xC000_003E;
    const AARCH64: u32 = 0xC000_00B7;
    const I386: u32 = 0x4000_0003;
    const OWN: u32 = if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 };

    /// What the kernel makes of a call: runs the instructions that such programs consist of.
    fn decide(program: &[sock_filter], architecture: u32, number: u32, arguments: &[u64]) -> u32 {
        let mut data = vec![number, architecture, 0, 0];
        data.extend((0..6).flat_map(|at| {
            let value = arguments.get(at).copied().unwrap_or(0);
            [value as u32, (value >> 32) as u32]
        }));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1 + match code {
                0x20 => {
                    accumulator = data[k as usize / 4];
                    0
                }
                0x54 => {
                    accumulator &= k;
                    0
                }
                0x05 => k as usize,
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x06 => return k,
                other => panic!("an instruction that was not thought of: {other:#x}"),
            };
        }
    }

    #[test]
    fn what_becomes_of_calls() {
        let decide = |outbound, call: i64, arguments: &[u64]| {
            decide(&program(outbound).expect("a program"), OWN, call as u32, arguments)
        };
        let (inet, unix) = (libc::AF_INET as u64, libc::AF_UNIX as u64);
        let fast_open = libc::MSG_FASTOPEN as u64 | libc::MSG_NOSIGNAL as u64;
        let quiet = libc::MSG_NOSIGNAL as u64;
        for (call, arguments, [allowed, local, refused]) in [
            (libc::SYS_read, &[][..], [ALLOW; 3]),
            (libc::SYS_accept4, &[], [ALLOW; 3]),
            (libc::SYS_execve, &[], [REFUSE; 3]),
            (libc::SYS_io_uring_setup, &[], [REFUSE; 3]),
            (libc::SYS_pidfd_getfd, &[], [REFUSE; 3]),
            (libc::SYS_kexec_file_load, &[], [REFUSE; 3]),
            (libc::SYS_socket, &[inet], [ALLOW, REFUSE, REFUSE]),
            (libc::SYS_socket, &[libc::AF_NETLINK as u64], [ALLOW, REFUSE, REFUSE]),
            (libc::SYS_socket, &[unix], [ALLOW; 3]),
            (libc::SYS_connect, &[3], [ALLOW, ALLOW, REFUSE]),
            (libc::SYS_sendto, &[3, 0, 9, quiet], [ALLOW; 3]),
            (libc::SYS_sendto, &[3, 0, 9, fast_open], [ALLOW, REFUSE, REFUSE]),
            (libc::SYS_sendmsg, &[3, 0, fast_open], [ALLOW, REFUSE, REFUSE]),
            (libc::SYS_sendmmsg, &[3, 0, 1, fast_open], [ALLOW, REFUSE, REFUSE]),
            (libc::SYS_writev, &[3], [ALLOW; 3]),
        ] {
            let found = [Outbound::Allowed, Outbound::Local, Outbound::Refused]
                .map(|outbound| decide(outbound, call, arguments));
            assert_eq!(found, [allowed, local, refused], "call {call} {arguments:?}");
        }
    }

    #[test]
    fn there_is_no_way_around_by_other_numbers() {
        for outbound in [Outbound::Allowed, Outbound::Local, Outbound::Refused] {
            let program = program(outbound).expect("a program");
            // x32: the same calls by other names, and those that it has by itself.
            for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_execve, libc::SYS_read, 512 + 8] {
                assert_eq!(decide(&program, OWN, X32 | call as u32, &[]), REFUSE, "call {call}");
            }
            // What i386 calls 11 is execve, and 102 all of sockets.
            for call in [11, 102, 359, 362] {
                assert_eq!(decide(&program, I386, call, &[]), KILL, "call {call}");
            }
            let foreign = if OWN == X86_64 { AARCH64 } else { X86_64 };
            assert_eq!(decide(&program, foreign, 0, &[]), KILL);
        }
    }
}
