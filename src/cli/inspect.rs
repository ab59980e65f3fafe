//! `tramontane inspect`: what a checkpoint is and what serving it takes. Reads its metadata, and its weights
//! only for their digest. Opens no connection: a hub id must have been pulled.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{
    loading,
    locate::{self, Network},
    progress::TaskProgress,
};
use crate::{
    config::{Args, ByteSize, Config, ModelArgs},
    model::checkpoint::{Checkpoint, Layout, WeightTypes},
    prompt::Codec,
    telemetry::logs::LogStyle,
};

/// Tell what a checkpoint is and what serving it takes
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    directory: String,
    architecture: String,
    layout: &'static str,
    parameters: u64,
    stored: Vec<Stored>,
    quantization: Option<String>,
    skipped_tensors: String,
    files: Vec<File>,
    shape: Shape,
    tokenizer: Tokenizer,
    memory: Memory,
    digest: String,
}

/// Tensors of one stored type.
#[derive(Serialize)]
struct Stored {
    dtype: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct File {
    name: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Shape {
    layers: usize,
    hidden_size: usize,
    attention_heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    experts: Option<usize>,
    experts_per_token: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
}

#[derive(Serialize)]
struct Tokenizer {
    format: String,
    version: Option<String>,
    vocab_size: usize,
    /// What writes the prompts of chats, if anything does.
    chat_format: Option<&'static str>,
}

/// What serving takes, in the types that `serve` would compute in.
#[derive(Serialize)]
struct Memory {
    dtype: String,
    weight_bytes: u64,
    kv_bytes_per_token: u64,
}

impl InspectArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let directory = locate::checkpoint(&config.model, Network::Forbidden, style)?.directory;
        let checkpoint = loading::open(&directory)?;
        let codec = loading::open_codec(&directory, &config.model)?;
        let types = loading::cpu_types(&config.model, &checkpoint)?;
        let report = Report::new(&directory, &checkpoint, &codec, types, style);
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
        super::print(&text)
    }
}

impl Report {
    fn new(directory: &Path, checkpoint: &Checkpoint, codec: &Codec, types: WeightTypes, style: LogStyle) -> Report {
        let summary = checkpoint.summary();
        let needs = loading::cpu_needs(checkpoint, types);
        let stored = summary.dtypes.into_iter().map(|count| Stored {
            dtype: count.dtype,
            tensors: count.tensors,
            elements: count.elements,
            bytes: count.bytes,
        });
        Report {
            directory: directory.display().to_string(),
            architecture: summary.architecture,
            layout: match summary.layout {
                Layout::HuggingFace => "hugging face",
                Layout::Native => "native",
            },
            parameters: summary.parameters,
            stored: stored.collect(),
            quantization: summary.quantization,
            skipped_tensors: format!("{:?}", summary.skipped),
            files: summary.files.into_iter().map(|file| File { name: file.name, bytes: file.bytes }).collect(),
            shape: Shape::new(checkpoint),
            tokenizer: Tokenizer {
                format: format!("{:?}", codec.format()),
                version: codec.version().map(|version| version.to_string()),
                vocab_size: codec.vocab_size(),
                chat_format: match (codec.uses_jinja(), codec.version()) {
                    (true, _) => Some("jinja"),
                    (false, Some(_)) => Some("native"),
                    (false, None) => None,
                },
            },
            memory: Memory {
                dtype: types.to_string(),
                weight_bytes: needs.weight_bytes,
                kv_bytes_per_token: needs.kv_bytes_per_token,
            },
            digest: checkpoint.digest(&TaskProgress::new("checking", style)),
        }
    }

    fn to_text(&self) -> String {
        let human = |bytes: u64| ByteSize::new(bytes).human();
        let stored: Vec<String> =
            self.stored.iter().map(|s| format!("{} in {} tensors ({})", s.dtype, s.tensors, human(s.bytes))).collect();
        let Shape { layers, hidden_size, attention_heads, key_value_heads, head_dim, .. } = self.shape;
        let mut lines = vec![
            ("directory", self.directory.clone()),
            ("architecture", format!("{} ({} layout)", self.architecture, self.layout)),
            ("parameters", thousands(self.parameters)),
            ("stored as", stored.join(", ")),
            (
                "shape",
                format!(
                    "{layers} layers of {hidden_size}, {attention_heads} query and {key_value_heads} key/value heads \
                     of {head_dim}, {} tokens of context",
                    self.shape.max_position_embeddings
                ),
            ),
        ];
        if let (Some(experts), Some(used)) = (self.shape.experts, self.shape.experts_per_token) {
            lines.push(("experts", format!("{experts} per layer, {used} per token")));
        }
        if let Some(quantization) = &self.quantization {
            lines.push(("quantization", quantization.clone()));
        }
        let Tokenizer { format, version, vocab_size, chat_format } = &self.tokenizer;
        let version = version.as_deref().map_or("no version".into(), |version| format!("version {version}"));
        let chat_format = match chat_format {
            Some("jinja") => "the checkpoint's Jinja template",
            Some(_) => "that of the tokenizer's version",
            None => "none: the checkpoint has no template, and its tokenizer states no version",
        };
        let Memory { dtype, weight_bytes, kv_bytes_per_token } = &self.memory;
        lines.extend([
            ("tokenizer", format!("{format}, {version}, {vocab_size} tokens")),
            ("chat format", chat_format.to_owned()),
            ("weights need", format!("{} in {dtype}", human(*weight_bytes))),
            ("a token needs", format!("{} of keys and values", human(*kv_bytes_per_token))),
            ("sha256", self.digest.clone()),
        ]);
        lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
    }
}

impl Shape {
    fn new(checkpoint: &Checkpoint) -> Shape {
        let config = checkpoint.config();
        let experts = config.feed_forward.experts;
        Shape {
            layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            attention_heads: config.attention.num_attention_heads,
            key_value_heads: config.attention.num_key_value_heads,
            head_dim: config.attention.head_dim,
            experts: experts.map(|experts| experts.num_experts),
            experts_per_token: experts.map(|experts| experts.experts_per_token),
            vocab_size: config.vocab_size,
            max_position_embeddings: config.max_position_embeddings,
        }
    }
}

/// `7,248,023,552`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands() {
        let check = |number: u64, expected: &str| assert_eq!(super::thousands(number), expected);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(7_248_023_552, "7,248,023,552");
    }
}
