//! `tramontane bench engine`: what the model does without a server, compared with what this machine could do.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use tramontane_kernels::{PanelFormat, instruction_set, machine, threads};

use super::OutputFile;
use crate::{
    bench::engine::{Case, Limits, Machine, Measured, measure},
    cli::{
        error::UsageError,
        loading::{self, Loaded, Prepared},
        locate::Network,
    },
    config::{Args, Config, EngineArgs, ModelArgs},
    model::checkpoint::ComputeDtype,
    telemetry::logs::LogStyle,
};

/// Measure the model without a server: prompts and steps, as shares of what this machine could do
#[derive(Debug, clap::Args)]
pub(super) struct BenchEngineArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Lengths of prompts
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',', default_value = "128,1024", value_parser = count)]
    prefill: Vec<usize>,
    /// Sequences of a decode step
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,16", value_parser = count)]
    batch: Vec<usize>,
    /// Tokens of each sequence of a decode step
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',', default_value = "128,1024", value_parser = count)]
    context: Vec<usize>,
    /// How often each is timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// All figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// All figures.
#[derive(Serialize)]
struct Report {
    format: &'static str,
    tramontane: &'static str,
    model: String,
    dtype: String,
    threads: usize,
    instructions: &'static str,
    /// Measured in the same run.
    machine: Machine,
    cases: Vec<Measured>,
}

impl BenchEngineArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), engine: self.engine.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let cases = self.cases();
        self.refuse_unused()?;
        let prepared = loading::prepare(config, Network::Allowed, style)?;
        if prepared.is_gpu() {
            let advice = "give --device cpu, or measure a GPU with scripts/gpu-check.sh";
            return Err(
                UsageError(format!("bench engine knows what a CPU can do at most, but no GPU: {advice}")).into()
            );
        }
        for case in &cases {
            fits(*case, &prepared)?;
        }
        let json = self.json.as_ref().map(OutputFile::create).transpose()?;
        // Before the model takes its memory.
        let types = prepared.types();
        let machine = Machine {
            read_bytes_per_s: machine::read_bytes_per_s(),
            operations_per_s: match (types.panels, types.dtype) {
                (Some(PanelFormat::Quantized(_)), _) => machine::byte_operations_per_s(),
                (Some(PanelFormat::Bf16) | None, ComputeDtype::Bf16) => machine::bf16_operations_per_s(),
                (Some(PanelFormat::Bf16) | None, ComputeDtype::F32 | ComputeDtype::F16) => {
                    machine::f32_operations_per_s()
                }
            },
        };
        let limits = prepared.limits();
        let blocks = cases.iter().map(|case| case.blocks(limits.block_size)).max().unwrap_or(1);
        let loaded = prepared.load_alone(blocks, style)?;
        let report = Report {
            format: "tramontane.bench.engine/1",
            tramontane: env!("CARGO_PKG_VERSION"),
            dtype: types.to_string(),
            threads: threads::count(),
            instructions: instruction_set(),
            machine,
            model: loaded.name.clone(),
            cases: self.measure(loaded, limits, (&cases, machine))?,
        };
        let printed = super::super::print(&report.to_text());
        if let Some(file) = json {
            file.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        printed
    }

    /// Settings of an engine that a model without one does not have.
    fn refuse_unused(&self) -> Result<(), UsageError> {
        let EngineArgs { prefix_caching, max_waiting, speculation, draft_model, .. } = &self.engine;
        let given = [
            ("prefix-caching", prefix_caching.is_some(), "there is no queue here"),
            ("max-waiting", max_waiting.is_some(), "there is no queue here"),
            ("speculation", speculation.is_some(), "no text is written here"),
            ("draft-model", draft_model.is_some(), "no text is written here"),
        ];
        match given.iter().find(|(_, given, _)| *given) {
            Some((option, _, why)) => Err(UsageError(format!("bench engine does not use --{option}: {why}"))),
            None => Ok(()),
        }
    }

    fn cases(&self) -> Vec<Case> {
        let prefill = self.prefill.iter().map(|&tokens| Case::Prefill { tokens });
        let decode = self
            .context
            .iter()
            .flat_map(|&context| self.batch.iter().map(move |&batch| Case::Decode { batch, context }));
        prefill.chain(decode).collect()
    }

    fn measure(
        &self,
        mut loaded: Loaded,
        limits: Limits,
        (cases, machine): (&[Case], Machine),
    ) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        for case in cases {
            let size = (&loaded.size, limits);
            measured.push(measure(&mut loaded.decoder, size, *case, usize::from(self.repeats), machine)?);
        }
        Ok(measured)
    }
}

/// Would an engine with these settings make such a step?
fn fits(case: Case, prepared: &Prepared) -> Result<(), UsageError> {
    let (asked, length, sequences) = match case {
        Case::Prefill { tokens } => (format!("--prefill {tokens}"), tokens, 1),
        Case::Decode { batch, context } => (format!("--batch {batch} with --context {context}"), context, batch),
    };
    let Limits { block_size, num_blocks, max_batched_tokens } = prepared.limits();
    let (max_model_len, max_running) = prepared.sequence_limits();
    let blocks = case.blocks(block_size);
    let refused = |problem: String| Err(UsageError(format!("{asked}: {problem}")));
    match () {
        () if length > max_model_len => refused(format!("a sequence has {max_model_len} tokens at most")),
        () if sequences > max_running => refused(format!("--max-running is {max_running}")),
        () if sequences > max_batched_tokens => refused(format!("--max-batched-tokens is {max_batched_tokens}")),
        () if blocks > num_blocks => refused(format!(
            "takes {blocks} blocks of {block_size} tokens, but keys and values have {num_blocks}; ask for less, or give \
             --kv-cache-memory more"
        )),
        () => Ok(()),
    }
}

impl Report {
    fn to_text(&self) -> String {
        let mut text = format!("{} in {}, {} threads, {}\n", self.model, self.dtype, self.threads, self.instructions);
        text += &format!(
            "memory is read at {:.1} GB/s, arithmetic of the type at most {:.0} GFLOP/s\n\n",
            self.machine.read_bytes_per_s / 1e9,
            self.machine.operations_per_s / 1e9
        );
        text += "phase    batch  context  median ms   tokens/s  bandwidth  arithmetic  roofline  time goes to\n";
        for case in &self.cases {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            let mut shares: Vec<_> = case.op_shares.iter().collect();
            shares.sort_by(|a, b| b.share.total_cmp(&a.share));
            let shares = shares.iter().take(4).map(|op| format!("{} {}", op.op, percent(op.share)));
            text += &format!(
                "{:8} {:>5} {:>8} {:>10.2} {:>10.1} {:>10} {:>11} {:>9}  {}\n",
                case.phase,
                case.batch,
                case.context,
                case.median_ms,
                case.tokens_per_s,
                percent(case.of_bandwidth),
                percent(case.of_arithmetic),
                percent(case.of_roofline),
                shares.collect::<Vec<_>>().join(", "),
            );
        }
        if self.cases.iter().any(|case| case.of_bandwidth > 1.0) {
            text += "\nwhat is read faster than memory comes from the processor's caches\n";
        }
        text
    }
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=10_000_000).contains(count));
    count.ok_or_else(|| format!("{text:?}: write numbers from 1 to 10000000 with commas between"))
}
