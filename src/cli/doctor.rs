//! `tramontane doctor`: what this machine has and what Tramontane will make of it; what a configuration would let it do.
//! Loads no model and opens no connection.

use std::net::UdpSocket;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{
    accelerator, egress,
    locate::{self, Network},
    machine,
    sandbox::{self, Sandbox},
    serve::ServeArgs,
};
use crate::{
    config::{Args, ByteSize, Config, DeviceChoice},
    telemetry::logs::LogStyle,
};

/// Tell what this machine has: processor, memory, GPU, and which kernels will be used. Settings are those of serve
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Tell every reason that the configuration gives a server to leave the machine
    #[arg(long, conflicts_with = "try_sandbox")]
    egress: bool,
    /// Confine this process as a server is, and try what it must not do
    #[arg(long)]
    try_sandbox: bool,
    #[command(flatten)]
    serve: ServeArgs,
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
    sandbox: String,
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
    pub(super) fn settings(&self) -> Args {
        self.serve.settings()
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        if self.egress {
            return self.tell_egress(config);
        }
        if self.try_sandbox {
            return self.try_sandbox(config, style);
        }
        let report = examine(config.model.threads, config.model.device);
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
        super::print(&text)
    }

    fn tell_egress(&self, config: &Config) -> Result<()> {
        let reasons = egress::reasons(config)?;
        if let Some(why) = locate::no_model(&config.model) {
            tracing::warn!("no model is configured, so nothing is said of fetching one: {why}");
        }
        if self.json {
            return super::print(&(serde_json::to_string_pretty(&reasons)? + "\n"));
        }
        let lines: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
        super::print(if reasons.is_empty() {
            "none: nothing in this configuration leaves the machine\n"
        } else {
            &lines
        })
    }

    fn try_sandbox(&self, config: &Config, style: LogStyle) -> Result<()> {
        let located = locate::checkpoint(&config.model, Network::Forbidden, style)?;
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        let sandbox = Sandbox::enter(config, &located)?;
        sandbox.close()?;
        let attempts = sandbox::try_everything(&socket);
        let refused = |(what, outcome): &sandbox::Attempt| (*what, sandbox::is_refused(outcome));
        let attempts: Vec<(&str, bool)> = attempts.iter().map(refused).collect();
        if self.json {
            let value: serde_json::Map<_, _> =
                attempts.iter().map(|(what, refused)| ((*what).to_owned(), (*refused).into())).collect();
            super::print(&format!("{:#}\n", serde_json::json!({ "refused": value })))?;
        } else {
            let word = |refused| if refused { "refused" } else { "NOT REFUSED" };
            let lines = attempts.iter().map(|(what, refused)| format!("{:<12} {what}\n", word(*refused)));
            super::print(&lines.collect::<String>())?;
        }
        let left = attempts.iter().filter(|(_, refused)| !refused).count();
        if left == 0 { Ok(()) } else { bail!("{left} of {} attempts were not refused", attempts.len()) }
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
        sandbox: sandbox::support(),
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
            ("sandbox", self.sandbox.clone()),
            ("gpu kernels", self.kernels.gpu.to_owned()),
        ];
        lines.extend(self.kernels.cublas_lt.map(|found| ("cublasLt", found.to_owned())));
        lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
    }
}

fn join(words: &[&str]) -> String {
    if words.is_empty() { "none".into() } else { words.join(" ") }
}
