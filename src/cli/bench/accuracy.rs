//! `tramontane bench accuracy`: what quantizing a model changes in what it finds likely.

use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;

use super::OutputFile;
use crate::{
    bench::accuracy::{Accuracy, Writing, compare, own_text},
    cli::{
        error::UsageError,
        loading::{self, Prepared},
        locate::Network,
        machine,
    },
    config::{Args, ByteSize, Config, ModelArgs, Quantize},
    telemetry::logs::LogStyle,
};

/// Measure what --quantize changes: the distributions with and without it, over the same tokens
#[derive(Debug, clap::Args)]
pub(super) struct BenchAccuracyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A text; without one the model, not quantized, writes its own
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Parts that the text is cut into, or texts that the model writes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    sequences: u16,
    /// Tokens of each
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..))]
    tokens: u16,
    /// Of the text that the model writes; 0 takes the most likely token
    #[arg(long, default_value_t = 1.0, value_parser = temperature, conflicts_with = "text")]
    temperature: f64,
    /// Of that text
    #[arg(long, default_value_t = 1, conflicts_with = "text")]
    seed: u64,
    /// All figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All figures.
#[derive(Serialize)]
struct Report {
    format: &'static str,
    tramontane: &'static str,
    model: String,
    quantize: String,
    text: String,
    #[serde(flatten)]
    accuracy: Accuracy,
}

impl BenchAccuracyArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        if config.model.quantize == Quantize::None {
            return Err(
                UsageError("bench accuracy compares a model with itself quantized: give --quantize".into()).into()
            );
        }
        let quantized = loading::prepare(config, Network::Allowed, style)?;
        let mut plain = config.clone();
        plain.model.quantize = Quantize::None;
        let plain = loading::prepare(&plain, Network::Allowed, style)?;
        let (sequences, tokens) = (usize::from(self.sequences), usize::from(self.tokens));
        let (max_model_len, _) = plain.sequence_limits();
        if tokens > max_model_len {
            return Err(UsageError(format!("--tokens {tokens}: a sequence has {max_model_len} tokens at most")).into());
        }
        let json = self.json.as_ref().map(OutputFile::create).transpose()?;
        let block_size = plain.limits().block_size;
        let given = self.text.as_ref().map(|path| given_text(path, &plain, (sequences, tokens))).transpose()?;
        let first = plain.codec().encode_text("", true).first().copied().unwrap_or(0);
        let blocks = tokens.div_ceil(block_size);
        // A model that writes has all texts in its cache.
        let reference_blocks = if given.is_some() { blocks } else { sequences * blocks };
        let needed = plain.bytes(reference_blocks).saturating_add(quantized.bytes(blocks));
        if let Some(memory) = machine::memory().filter(|memory| needed > memory.available.bytes()) {
            let (needed, available) = (ByteSize::new(needed).human(), memory.available.human());
            let advice = "lower --tokens or --sequences, or measure a smaller model";
            return Err(UsageError(format!("both models need {needed}, {available} are available: {advice}")).into());
        }
        let mut reference = plain.load_alone(reference_blocks, style)?;
        let mut other = quantized.load_alone(blocks, style)?;
        let writing = Writing { sequences, tokens, temperature: self.temperature, seed: self.seed };
        let (texts, text) = match given {
            Some(given) => given,
            None => (
                own_text(&mut reference.decoder, writing, first, block_size)?,
                format!("its own, temperature {}, seed {}", self.temperature, self.seed),
            ),
        };
        let bar = match style {
            LogStyle::Human => ProgressBar::new(texts.iter().map(|text| text.len() as u64 - 1).sum()),
            LogStyle::Json => ProgressBar::hidden(),
        };
        let done = |tokens: usize| bar.inc(tokens as u64);
        let accuracy = compare(&mut reference.decoder, &mut other.decoder, &texts, block_size, &done)?;
        bar.finish_and_clear();
        let report = Report {
            format: "tramontane.bench.accuracy/1",
            tramontane: env!("CARGO_PKG_VERSION"),
            model: reference.name,
            quantize: config.model.quantize.to_string(),
            text,
            accuracy,
        };
        let printed = super::super::print(&report.to_text());
        if let Some(file) = json {
            file.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        printed
    }
}

/// The text of a file in parts of equal length, and its name.
fn given_text(
    path: &PathBuf,
    prepared: &Prepared,
    (sequences, tokens): (usize, usize),
) -> Result<(Vec<Vec<u32>>, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let ids = prepared.codec().encode_text(&text, true);
    let wanted = sequences * tokens;
    if ids.len() < wanted {
        let problem = format!("has {} tokens, fewer than {sequences} times {tokens}", ids.len());
        return Err(UsageError(format!("--text {} {problem}", path.display())).into());
    }
    let parts = ids[..wanted].chunks_exact(tokens).map(<[u32]>::to_vec).collect();
    Ok((parts, path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())))
}

impl Report {
    fn to_text(&self) -> String {
        let Self { model, quantize, text, accuracy, .. } = self;
        let Accuracy { tokens, reference_perplexity, perplexity, kl_mean, kl_p99, same_top_share } = accuracy;
        format!(
            "{model}, {quantize} beside what it is made of, {tokens} tokens (text: {text})\n\
             perplexity      {reference_perplexity:.4} -> {perplexity:.4} ({:+.2} %)\n\
             KL divergence   {kl_mean:.2e} nats in the mean, {kl_p99:.2e} or more after one token of a hundred\n\
             same top token  {:.2} %\n",
            (perplexity / reference_perplexity - 1.0) * 100.0,
            same_top_share * 100.0
        )
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    let temperature = text.parse().ok().filter(|temperature| (0.0..=5.0).contains(temperature));
    temperature.ok_or_else(|| "write a number from 0 to 5".to_owned())
}
