//! `tramontane doctor`: what this machine has and what Tramontane will make of it. Loads no model and opens
//! no connection.

use anyhow::Result;
use serde::Serialize;

use super::{accelerator, machine};
use crate::config::{ByteSize, Config, DeviceChoice};

/// Tell what this machine has: processor, memory, GPU, and which kernels will be used
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    os: &'static str,
    architecture: &'static str,
    processor: Option<String>,
    threads: usize,
    features: Vec<Feature>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    nvidia_driver: Option<String>,
    gpus: Vec<String>,
    kernels: Kernels,
}

#[derive(Serialize)]
struct Feature {
    name: &'static str,
    present: bool,
}

/// What computes.
#[derive(Serialize)]
struct Kernels {
    device: &'static str,
    instructions: &'static str,
    /// Which GPU is used by default, or why none is.
    gpu: String,
    /// Whether cuBLASLt computes products of prompts; nothing without a GPU.
    cublas_lt: Option<&'static str>,
}

impl DoctorArgs {
    pub(super) fn run(&self, config: &Config) -> Result<()> {
        let report = examine(config.model.threads, config.model.device);
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
        super::print(&text)
    }
}

fn examine(threads: usize, device: DeviceChoice) -> Report {
    let memory = machine::memory();
    let accelerator = accelerator::choose(device);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        processor: machine::processor(),
        threads,
        features: machine::features().into_iter().map(|(name, present)| Feature { name, present }).collect(),
        memory_bytes: memory.map(|memory| memory.total.bytes()),
        memory_available_bytes: memory.map(|memory| memory.available.bytes()),
        nvidia_driver: machine::nvidia_driver(),
        gpus: machine::nvidia_gpus(),
        kernels: Kernels {
            device: accelerator
                .as_ref()
                .map_or("none", |accelerator| if accelerator.is_gpu() { "cuda" } else { "cpu" }),
            instructions: tramontane_kernels::instruction_set(),
            gpu: match &accelerator {
                Ok(accelerator) if accelerator.is_gpu() => accelerator.name().to_owned(),
                Ok(_) if cfg!(feature = "cuda") => "not used: there is no NVIDIA driver, or it finds no GPU".to_owned(),
                Ok(_) => "not used: this build has no CUDA kernels (build with --features cuda)".to_owned(),
                Err(error) => format!("not used: {error}"),
            },
            cublas_lt: accelerator.as_ref().ok().and_then(accelerator::Accelerator::cublas_lt),
        },
    }
}

impl Report {
    fn to_text(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| ByteSize::new(bytes).human());
        let present: Vec<_> = self.features.iter().filter(|feature| feature.present).map(|f| f.name).collect();
        let absent: Vec<_> = self.features.iter().filter(|feature| !feature.present).map(|f| f.name).collect();
        let mut lines = vec![
            ("tramontane", self.version.to_owned()),
            ("system", format!("{} {}", self.os, self.architecture)),
            ("processor", self.processor.clone().unwrap_or("unknown".into())),
            ("threads", self.threads.to_string()),
            ("features", join(&present)),
            ("without", join(&absent)),
            ("memory", format!("{}, {} available", size(self.memory_bytes), size(self.memory_available_bytes))),
            ("nvidia driver", self.nvidia_driver.clone().unwrap_or("none".into())),
            ("gpus", join(&self.gpus.iter().map(String::as_str).collect::<Vec<_>>())),
            ("kernels", format!("{}, {}", self.kernels.device, self.kernels.instructions)),
            ("gpu kernels", self.kernels.gpu.to_owned()),
        ];
        lines.extend(self.kernels.cublas_lt.map(|found| ("cublasLt", found.to_owned())));
        lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
    }
}

fn join(words: &[&str]) -> String {
    if words.is_empty() { "none".into() } else { words.join(" ") }
}
