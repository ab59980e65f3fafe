//! What this machine is: processor, memory, accelerator. Read from the kernel's files, so a field that this
//! system does not tell is simply absent.

use std::{fs, path::Path};

use crate::config::ByteSize;

/// Memory of the machine, or of the container that this process runs in, whichever is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: ByteSize,
    pub(super) available: ByteSize,
}

/// Instruction sets that matter to kernels, in the order they are reported.
const X86_FEATURES: [(&str, &str); 8] = [
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("f16c", "f16c"),
    ("avx512f", "avx512f"),
    ("avx512-bf16", "avx512_bf16"),
    ("avx512-vnni", "avx512_vnni"),
    ("amx-bf16", "amx_bf16"),
    ("amx-int8", "amx_int8"),
];
const ARM_FEATURES: [(&str, &str); 5] =
    [("neon", "asimd"), ("dotprod", "asimddp"), ("bf16", "bf16"), ("i8mm", "i8mm"), ("sve", "sve")];

/// Memory in total and as far as it is free for the taking.
pub(super) fn memory() -> Option<Memory> {
    let host = parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(match container_limit(Path::new("/sys/fs/cgroup")) {
        Some((limit, used)) => Memory {
            total: host.total.min(limit),
            available: host.available.min(ByteSize::new(limit.bytes().saturating_sub(used.bytes()))),
        },
        None => host,
    })
}

/// Name of the processor.
pub(super) fn processor() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    cpuinfo_field(&cpuinfo, "model name").map(str::to_owned)
}

/// Instruction sets that matter to kernels, with whether this processor has them.
pub(super) fn features() -> Vec<(&'static str, bool)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (names, field): (&[_], _) =
        if cfg!(target_arch = "aarch64") { (&ARM_FEATURES, "Features") } else { (&X86_FEATURES, "flags") };
    let flags: Vec<&str> = cpuinfo_field(&cpuinfo, field).unwrap_or_default().split_whitespace().collect();
    names.iter().map(|(name, flag)| (*name, flags.contains(flag))).collect()
}

/// Version of the NVIDIA kernel driver, if it is loaded.
pub(super) fn nvidia_driver() -> Option<String> {
    parse_nvidia_version(&fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// Processor time that this process has used so far, of all its threads; known on Linux.
pub(super) fn processor_seconds() -> Option<f64> {
    parse_processor_seconds(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Names of the NVIDIA GPUs that the driver lists.
pub(super) fn nvidia_gpus() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("information")).ok())
        .filter_map(|text| cpuinfo_field(&text, "Model").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let kib = |field| cpuinfo_field(text, field)?.strip_suffix("kB")?.trim().parse::<u64>().ok();
    let size = |field| kib(field).map(|kib| ByteSize::new(kib << 10));
    Some(Memory { total: size("MemTotal")?, available: size("MemAvailable")? })
}

/// User and system time of proc_pid_stat(5), in ticks of a hundredth of a second, as Linux shows them to programs.
fn parse_processor_seconds(text: &str) -> Option<f64> {
    let (_, fields) = text.rsplit_once(") ")?; // the name before it may hold anything
    let ticks = |index| fields.split(' ').nth(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

/// Limit and use of the control group (version 2) at `root`, if it has a limit. Cached files count as used
/// there although the kernel drops them for whoever needs the memory, so they are taken out: a checkpoint
/// that was just downloaded would otherwise leave no room for itself.
fn container_limit(root: &Path) -> Option<(ByteSize, ByteSize)> {
    let read = |file: &str| fs::read_to_string(root.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = read("memory.max")?;
    let stat = fs::read_to_string(root.join("memory.stat")).unwrap_or_default();
    // Not `file`: that includes shared memory, which has nowhere to be dropped to.
    let cached = stat_field(&stat, "active_file").saturating_add(stat_field(&stat, "inactive_file"));
    let used = read("memory.current").unwrap_or(0).saturating_sub(cached);
    Some((ByteSize::new(limit), ByteSize::new(used)))
}

/// The value of a `name value` line, 0 without one.
fn stat_field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// The value of the first `name : value` line.
fn cpuinfo_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The word after `Kernel Module` that looks like a version.
fn parse_nvidia_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("Kernel Module"))?;
    let looks_like_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    line.split_whitespace().find(looks_like_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24689764 kB\nMemFree:  100 kB\nMemAvailable:   23000000 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!(memory.total.bytes(), 24_689_764 << 10);
        assert_eq!(memory.available.bytes(), 23_000_000 << 10);
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn container_limits() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(container_limit(root.path()), None);
        std::fs::write(root.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(container_limit(root.path()), None);
        std::fs::write(root.path().join("memory.max"), "1048576\n").unwrap();
        std::fs::write(root.path().join("memory.current"), "4096\n").unwrap();
        assert_eq!(container_limit(root.path()), Some((ByteSize::mib(1), ByteSize::new(4096))));
    }

    #[test]
    fn cached_files_of_a_container_are_available() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(root.path().join(file), text).unwrap();
        write("memory.max", "1048576\n");
        write("memory.current", "900000\n");
        write("memory.stat", "anon 100000\nfile 800000\nshmem 99000\ninactive_file 600000\nactive_file 101000\n");
        assert_eq!(container_limit(root.path()), Some((ByteSize::mib(1), ByteSize::new(199_000))));
        // The counters are read one after the other, so they may contradict each other.
        write("memory.current", "4096\n");
        assert_eq!(container_limit(root.path()), Some((ByteSize::mib(1), ByteSize::new(0))));
    }

    #[test]
    fn processor_time() {
        let text = "1234 (a) b) c) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 100";
        assert_eq!(parse_processor_seconds(text), Some(3.0));
        assert_eq!(parse_processor_seconds("nonsense"), None);
    }

    #[test]
    fn nvidia_versions() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse_nvidia_version(text).as_deref(), expected);
        };
        check(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.154.05  Thu Dec 28\nGCC version: 12",
            Some("535.154.05"),
        );
        check("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", Some("580.65.06"));
        check("", None);
    }
}
