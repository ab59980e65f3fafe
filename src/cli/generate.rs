//! `tramontane generate`: one prompt, one answer, no server. The prompt is a chat message unless `--raw`.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result};

use super::{
    answer::{self, SamplingArgs},
    error::UsageError,
    loading,
    locate::Network,
};
use crate::{
    api::{
        AnswerGuard, ServedModel,
        generation::{Job, OutputFormat},
    },
    config::{Args, Config, EngineArgs, ModelArgs},
    prompt::{ChatRequest, Content, Message, ResponseFormat},
    telemetry::logs::LogStyle,
};

/// Answer one prompt in the terminal
#[derive(Debug, clap::Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt; read from standard input if absent or -
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Instructions that stand before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as plain text instead of answering it as a chat message
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

impl GenerateArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), engine: self.engine.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let prompt = self.read_prompt()?;
        let model = loading::prepare(config, Network::Allowed, style)?.load(style)?;
        let job = self.job(&model, prompt)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(answer::write(&model, &job))?;
        answer::note_end(&answer.finished);
        Ok(())
    }

    fn read_prompt(&self) -> Result<String> {
        match self.prompt.as_deref() {
            Some(text) if text != "-" => Ok(text.to_owned()),
            None if std::io::stdin().is_terminal() => Err(UsageError("no prompt: give one with -p".into()).into()),
            _ => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input")?;
                Ok(text)
            }
        }
    }

    fn job(&self, model: &ServedModel, prompt: String) -> Result<Job> {
        let params = self.sampling.params(model)?;
        if self.raw {
            let prompt_ids = model.codec.encode_text(&prompt, true);
            return Ok(Job {
                prompt_ids,
                params,
                format: OutputFormat::Text,
                constraint: None,
                guard: AnswerGuard::default(),
            });
        }
        let system = self.system.clone().map(|text| Message::System { content: Content::Text(text) });
        let user = Message::User { content: Content::Text(prompt) };
        let request = chat_request(system.into_iter().chain([user]).collect());
        let prompt = model.codec.encode_chat_prompt(&request).context("with --raw no chat format is needed")?;
        let format = answer::message_format(prompt.n_continued);
        Ok(Job { prompt_ids: prompt.ids, params, format, constraint: None, guard: AnswerGuard::default() })
    }
}

/// A conversation without tools.
pub(super) fn chat_request(messages: Vec<Message>) -> ChatRequest {
    ChatRequest {
        messages,
        tools: Vec::new(),
        reasoning_effort: None,
        prompt_mode: None,
        response_format: ResponseFormat::Text,
    }
}
