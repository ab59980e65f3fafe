//! `tramontane chat`: a conversation in the terminal, or over a pipe with one message per line.
//!
//! Invariant: the history holds complete exchanges only, so a message that could not be answered can be
//! followed by another.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    answer::{self, SamplingArgs},
    generate::chat_request,
    loading,
    locate::Network,
};
use crate::{
    api::{AnswerGuard, ServedModel, generation::Job},
    config::{Args, Config, EngineArgs, ModelArgs},
    prompt::{Content, Message},
    telemetry::logs::LogStyle,
};

const HELP: &str = "/system TEXT sets the instructions, /reset forgets the conversation, /quit ends it.";

/// Talk to a model in the terminal
#[derive(Debug, clap::Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Say(&'a str),
    System(&'a str),
    Reset,
    Quit,
    Nothing,
    Unknown(&'a str),
}

struct Conversation<'a> {
    model: &'a ServedModel,
    sampling: &'a SamplingArgs,
    system: Option<String>,
    /// User and assistant in turn.
    exchanges: Vec<Message>,
    interrupts: Interrupts,
}

/// What Ctrl-C does: it cuts off the answer that is being written, and otherwise ends the process. One listener
/// hears all of them and decides which of the two each one does.
struct Interrupts {
    answering: Arc<AtomicBool>,
    /// How many answers were asked to end.
    cut: watch::Receiver<u64>,
}

/// Exit code after Ctrl-C: that of a process which SIGINT killed.
const INTERRUPTED: i32 = 130;

impl ChatArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), engine: self.engine.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let model = loading::prepare(config, Network::Allowed, style)?.load(style)?;
        // Sampling is checked before the first message, not after it.
        self.sampling.params(&model)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut conversation = Conversation {
            model: &model,
            sampling: &self.sampling,
            system: self.system.clone(),
            exchanges: Vec::new(),
            interrupts: Interrupts::listen(&runtime)?,
        };
        let interactive = io::stdin().is_terminal();
        if interactive {
            eprintln!("{}. {HELP}", model.name());
        }
        let mut line = String::new();
        while read_line(&mut line, interactive)? {
            match parse(&line) {
                Line::Quit => break,
                Line::Say(text) => conversation.say(text, &runtime)?,
                Line::System(text) => conversation.system = (!text.is_empty()).then(|| text.to_owned()),
                Line::Reset => conversation.exchanges.clear(),
                Line::Nothing => {}
                Line::Unknown(command) => eprintln!("{command} is no command. {HELP}"),
            }
        }
        // What still blocks is a wait for Ctrl-C.
        runtime.shutdown_background();
        Ok(())
    }
}

impl Conversation<'_> {
    /// An error ends this exchange only, unless nobody can read the answer.
    fn say(&mut self, text: &str, runtime: &Runtime) -> Result<()> {
        let user = Message::User { content: Content::Text(text.to_owned()) };
        let cut = self.interrupts.begin_answer();
        let answer = runtime.block_on(self.answer(user.clone(), cut));
        self.interrupts.end_answer();
        match answer {
            Ok(Some(answer)) => {
                let content = Content::Text(answer);
                self.exchanges.extend([user, Message::Assistant { content, tool_calls: Vec::new(), prefix: false }]);
                Ok(())
            }
            Ok(None) => {
                println!();
                Ok(())
            }
            Err(error) if error.is::<io::Error>() => Err(error),
            Err(error) => {
                eprintln!("error: {error:#}");
                Ok(())
            }
        }
    }

    /// `None` if Ctrl-C cut it off.
    async fn answer(&self, user: Message, mut cut: watch::Receiver<u64>) -> Result<Option<String>> {
        let system = self.system.clone().map(|text| Message::System { content: Content::Text(text) });
        let messages = system.into_iter().chain(self.exchanges.iter().cloned()).chain([user]);
        let prompt = self.model.codec.encode_chat_prompt(&chat_request(messages.collect()))?;
        let format = answer::message_format(prompt.n_continued);
        let job = Job {
            prompt_ids: prompt.ids,
            params: self.sampling.params(self.model)?,
            format,
            constraint: None,
            guard: AnswerGuard::default(),
        };
        tokio::select! {
            answer = answer::write(self.model, &job) => {
                let answer = answer?;
                answer::note_end(&answer.finished);
                Ok(Some(answer.text))
            }
            // An error would mean that the listener is gone, and that happens with the process only.
            Ok(()) = cut.changed() => Ok(None),
        }
    }
}

impl Interrupts {
    fn listen(runtime: &Runtime) -> Result<Interrupts> {
        let _guard = runtime.enter();
        let signals = signal(SignalKind::interrupt())?;
        let (sender, cut) = watch::channel(0);
        let answering = Arc::default();
        runtime.spawn(hear(signals, Arc::clone(&answering), sender));
        Ok(Interrupts { answering, cut })
    }

    /// From now on Ctrl-C changes what the receiver holds. What came before is of no concern to this answer.
    fn begin_answer(&self) -> watch::Receiver<u64> {
        let mut cut = self.cut.clone();
        cut.mark_unchanged();
        self.answering.store(true, Ordering::Release);
        cut
    }

    fn end_answer(&self) {
        self.answering.store(false, Ordering::Release);
    }
}

async fn hear(mut signals: Signal, answering: Arc<AtomicBool>, cut: watch::Sender<u64>) {
    while signals.recv().await.is_some() {
        if answering.load(Ordering::Acquire) {
            cut.send_modify(|count| *count += 1);
        } else {
            process::exit(INTERRUPTED);
        }
    }
}

/// False at the end of the input.
fn read_line(line: &mut String, interactive: bool) -> Result<bool> {
    if interactive {
        eprint!("> ");
        io::stderr().flush()?;
    }
    line.clear();
    Ok(io::stdin().lock().read_line(line)? > 0)
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
        ("", _) => Line::Nothing,
        ("/quit" | "/exit", _) => Line::Quit,
        ("/reset", _) => Line::Reset,
        ("/system", text) => Line::System(text.trim()),
        // A path is something to say.
        (word, _) if word.starts_with('/') && !word[1..].contains('/') => Line::Unknown(word),
        _ => Line::Say(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |line: &str, expected: Line| assert_eq!(parse(line), expected, "{line:?}");
        check("Hello there\n", Line::Say("Hello there"));
        check("\n", Line::Nothing);
        check("/quit\n", Line::Quit);
        check("/reset", Line::Reset);
        check("/system You are brief.\n", Line::System("You are brief."));
        check("/system\n", Line::System(""));
        check("/help", Line::Unknown("/help"));
        check("/etc/passwd is what?", Line::Say("/etc/passwd is what?"));
    }
}
