//! One answer to the terminal, for `generate` and `chat`: sampling flags, and text as it is generated.

use std::io::{self, Write};

use anyhow::{Context, Result, anyhow};

use crate::{
    api::{
        GenerationParams, ServedModel,
        generation::{self, Event, Finish, Finished, Job, OutputFormat},
    },
    prompt::{OutputEvent, ToolsOffered},
};

/// How tokens are chosen, and when to stop.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingArgs {
    /// Most tokens to generate [default: as many as fit]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 is greedy [default: the model's]
    #[arg(long)]
    temperature: Option<f32>,
    /// Keep the most likely tokens up to this mass [default: the model's]
    #[arg(long)]
    top_p: Option<f32>,
    /// Keep this many most likely tokens, 0 for all [default: the model's]
    #[arg(long)]
    top_k: Option<u32>,
    /// Drop tokens less likely than this share of the most likely [default: the model's]
    #[arg(long)]
    min_p: Option<f32>,
    /// Seed; the same one gives the same answer
    #[arg(long)]
    seed: Option<u64>,
    /// Text that ends the answer; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// Over the model's defaults; a value out of range is refused by name.
    pub(super) fn params(&self, model: &ServedModel) -> Result<GenerationParams> {
        let mut params = GenerationParams::new(&model.defaults);
        let sampling = &mut params.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.seed = self.seed;
        sampling.validate().map_err(|invalid| super::error::UsageError(invalid.to_string()))?;
        params.stopping.max_tokens = self.max_tokens;
        params.stopping.strings = self.stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Ok(params)
    }
}

/// An answer that was written out.
pub(super) struct Answer {
    /// Without its reasoning, as a conversation goes on with it.
    pub(super) text: String,
    pub(super) finished: Finished,
}

/// A prompt whose answer is a chat message.
pub(super) fn message_format(n_continued: usize) -> OutputFormat {
    OutputFormat::Message { tools: ToolsOffered::No, n_continued }
}

/// Generates and writes to standard output as the text comes, ending with a newline.
pub(super) async fn write(model: &ServedModel, job: &Job) -> Result<Answer> {
    let mut generations = generation::start(model, std::slice::from_ref(job)).map_err(|error| anyhow!("{error}"))?;
    let mut generation = generations.pop().context("a job has one choice at least")?;
    let mut out = io::stdout();
    let mut text = String::new();
    while let Some(event) = generation.next().await {
        match event.map_err(|error| anyhow!("{error}"))? {
            Event::Delta(delta) => {
                for event in &delta.events {
                    out.write_all(visible(event).as_bytes())?;
                    if let OutputEvent::Content(content) = event {
                        text.push_str(content);
                    }
                }
                out.flush()?;
            }
            Event::Finished(finished) => {
                out.write_all(b"\n")?;
                out.flush()?;
                return Ok(Answer { text, finished });
            }
            Event::Started { .. } | Event::PromptLogprobs(_) => {}
        }
    }
    Err(anyhow!("the engine stopped before the answer was complete"))
}

/// A note for people where an answer did not end by itself.
pub(super) fn note_end(finished: &Finished) {
    if finished.reason == Finish::Length {
        tracing::warn!(tokens = finished.counts.completion, "the answer was cut off at its longest");
    }
}

/// Reasoning is shown as well: whoever watches a terminal wants to see that something happens.
fn visible(event: &OutputEvent) -> &str {
    match event {
        OutputEvent::Content(text) | OutputEvent::Reasoning(text) => text,
        _ => "",
    }
}
