//! A turn of a chat that the server runs for another of its APIs: a chat request built in code, and its one answer.
//!
//! Main types: [`TurnRequest`], which becomes a checked [`Turn`], and [`TurnStream`], the answer as it comes. The
//! request is read by the same code as a client's chat, so templates, tools and forms are the same. Invariant: an error
//! names the fields of the calling API, as its [`FieldNames`] say. Knows nothing of what the calling API makes of it.

use std::{collections::VecDeque, slice, sync::Arc};

use serde_json::{Map, Value};

use super::{
    answer::{UsageCounter, tool_call_id},
    chat::ChatCall,
    dialect::Dialect,
    error::ApiError,
    form::parsing_cost,
    generation::{self, Delta, Event, Finish, Generation},
    logprobs::{ChatToken, TokenNames},
    request::{Work, off_thread},
    state::ServedModel,
};
use crate::prompt::OutputEvent;

/// A chat request that the server writes itself.
#[derive(Debug)]
pub(super) struct TurnRequest {
    /// The body of a `POST /v1/chat/completions`. The answer is one, whatever `n` and `stream` say.
    pub(super) body: Map<String, Value>,
    /// How the fields of the body are called where the client has written them.
    pub(super) names: FieldNames,
    /// Whose form log-probabilities have.
    pub(super) dialect: Dialect,
}

/// What the calling API calls the fields of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldNames {
    names: Vec<FieldName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldName {
    chat: String,
    own: String,
    /// What is below it has no name of its own.
    is_whole: bool,
}

impl FieldNames {
    /// What the chat calls `chat` is the caller's `own`, and what is below the one is below the other.
    pub(super) fn add(&mut self, chat: impl Into<String>, own: impl Into<String>) {
        self.names.push(FieldName { chat: chat.into(), own: own.into(), is_whole: false });
    }

    /// What the chat calls `chat`, and all below it, is the caller's `own`.
    pub(super) fn add_whole(&mut self, chat: impl Into<String>, own: impl Into<String>) {
        self.names.push(FieldName { chat: chat.into(), own: own.into(), is_whole: true });
    }

    /// A path as the caller calls it. The longest name that fits decides.
    pub(super) fn own(&self, path: &str) -> String {
        let rest = |chat: &str| path.strip_prefix(chat).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let fitting = self.names.iter().filter_map(|name| Some((name, rest(&name.chat)?)));
        match fitting.max_by_key(|(name, _)| name.chat.len()) {
            Some((FieldName { own, is_whole: true, .. }, _)) => own.clone(),
            Some((FieldName { own, is_whole: false, .. }, rest)) => format!("{own}{rest}"),
            None => path.to_owned(),
        }
    }

    /// The same error in the caller's words.
    pub(super) fn translated(&self, error: ApiError) -> ApiError {
        match error {
            ApiError::Invalid { message, param, code } => {
                ApiError::Invalid { message: self.in_text(&message), param: param.map(|param| self.own(&param)), code }
            }
            other => other,
        }
    }

    /// Replaces what stands between backticks.
    fn in_text(&self, text: &str) -> String {
        let quoted = |(index, part): (usize, &str)| if index % 2 == 1 { self.own(part) } else { part.to_owned() };
        text.split('`').enumerate().map(quoted).collect::<Vec<_>>().join("`")
    }
}

/// A turn, checked and ready to be answered.
pub(super) struct Turn {
    call: ChatCall,
    model: Arc<ServedModel>,
    names: FieldNames,
    dialect: Dialect,
}

/// How an answer was told apart into pieces, in order.
#[derive(Debug)]
pub(super) enum TurnEvent {
    /// Computation began.
    Started,
    /// More of what the model thinks.
    Reasoning(String),
    /// More of what it says, with the log-probabilities of tokens whose text is complete, if they were asked for.
    Content {
        /// Empty at the end, where only log-probabilities are left.
        text: String,
        /// Empty unless asked for.
        logprobs: Vec<ChatToken>,
    },
    /// A call begins; `index` counts them.
    CallBegin { index: usize, id: String, name: String },
    /// More of a call's arguments.
    CallArguments { index: usize, fragment: String },
    /// The end.
    Finished { finish: Finish, usage: UsageCounter },
}

/// The answer as it comes. Dropping it cancels it.
pub(super) struct TurnStream {
    generation: Generation,
    model: Arc<ServedModel>,
    names: FieldNames,
    dialect: Dialect,
    usage: UsageCounter,
    queue: VecDeque<TurnEvent>,
    /// Of tokens whose log-probabilities have not come yet: do they belong to the content?
    kinds: VecDeque<bool>,
    /// Log-probabilities of tokens of the content whose text has not come yet.
    held: Vec<ChatToken>,
    /// Was the last piece a part of the content? At the beginning it may be.
    is_in_content: bool,
}

impl TurnRequest {
    /// Checks the request and writes its prompt, away from the threads that serve connections if that takes long.
    pub(super) async fn prepare(self, work: &Work) -> Result<Turn, ApiError> {
        let Self { body, names, dialect } = self;
        let (model, terms) = (Arc::clone(&work.model), work.terms.clone());
        let text = Value::Object(body).to_string();
        let cost = parsing_cost(&text);
        let parsed = move || {
            let call = ChatCall::parse(&text, Some(Dialect::OpenAi), &model, &terms);
            match call {
                Ok(call) => Ok(Turn { call, model, names, dialect }),
                Err(refusal) => Err(names.translated(refusal.into_error())),
            }
        };
        let mut turn = off_thread(&work.state, cost, parsed).await?;
        let job = &mut turn.call.job;
        work.share.apply(&mut job.params.scheduling);
        job.params.n = 1;
        Ok(turn)
    }
}

impl Turn {
    /// The model's name as it was asked for.
    pub(super) fn model_name(&self) -> &str {
        &self.call.model_name
    }

    /// The model that answers.
    pub(super) fn model(&self) -> &ServedModel {
        &self.model
    }

    /// How the answer will be sampled, with all defaults filled in.
    pub(super) fn params(&self) -> &super::params::GenerationParams {
        &self.call.job.params
    }

    /// Length of the prompt.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.call.job.prompt_ids.len()
    }

    /// Hands the turn to the engine.
    pub(super) fn start(self) -> Result<TurnStream, ApiError> {
        let Self { call, model, names, dialect } = self;
        let started = generation::start(&model, slice::from_ref(&call.job)).map_err(|error| names.translated(error))?;
        generation::observe_params(&model, std::slice::from_ref(&call.job));
        let usage = UsageCounter { prompt_tokens: call.job.prompt_ids.len(), ..UsageCounter::default() };
        match started.into_iter().next() {
            Some(generation) => {
                let (queue, kinds, held) = (VecDeque::new(), VecDeque::new(), Vec::new());
                Ok(TurnStream { generation, model, names, dialect, usage, queue, kinds, held, is_in_content: true })
            }
            None => Err(ApiError::Internal { message: "A turn has no answer.".to_owned() }),
        }
    }
}

impl TurnStream {
    /// The next piece; `None` after the end.
    pub(super) async fn next(&mut self) -> Option<Result<TurnEvent, ApiError>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(Ok(event));
            }
            match self.generation.next().await? {
                Ok(event) => self.take(event),
                Err(error) => return Some(Err(self.names.translated(error))),
            }
        }
    }

    /// What has been counted so far.
    pub(super) fn usage(&self) -> &UsageCounter {
        &self.usage
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started { cached_tokens } => {
                self.usage.cached_tokens = cached_tokens;
                self.queue.push_back(TurnEvent::Started);
            }
            Event::PromptLogprobs(_) => {}
            Event::Delta(delta) => self.delta(delta),
            Event::Finished(finished) => {
                if !self.held.is_empty() && self.is_in_content {
                    let logprobs = std::mem::take(&mut self.held);
                    self.queue.push_back(TurnEvent::Content { text: String::new(), logprobs });
                }
                self.usage.completion_tokens = finished.counts.completion;
                self.usage.reasoning_tokens = finished.counts.reasoning;
                self.model.metrics.longest_choice(finished.counts.completion);
                self.queue.push_back(TurnEvent::Finished { finish: finished.reason, usage: self.usage.clone() });
            }
        }
    }

    fn delta(&mut self, delta: Delta) {
        let Delta { events, logprobs, token_ids } = delta;
        self.usage.completion_tokens += token_ids.len();
        let names = TokenNames { codec: &self.model.codec, as_token_ids: false, dialect: self.dialect };
        let says_something = events.iter().any(|event| matches!(event, OutputEvent::Content(_)));
        let is_content = says_something || (events.is_empty() && self.is_in_content);
        self.kinds.extend(token_ids.iter().map(|&id| is_content && !self.model.codec.is_control(id)));
        // They come in the order of the tokens, late if text is held back. Those of thoughts and calls have no place here.
        let of_content = names.chat(&logprobs).into_iter().filter(|_| self.kinds.pop_front().unwrap_or(true));
        self.held.extend(of_content);
        for event in events {
            self.is_in_content = matches!(event, OutputEvent::Content(_));
            self.queue.push_back(match event {
                OutputEvent::Reasoning(text) => TurnEvent::Reasoning(text),
                OutputEvent::Content(text) => TurnEvent::Content { text, logprobs: std::mem::take(&mut self.held) },
                OutputEvent::ToolCallBegin { index, id, name } => {
                    TurnEvent::CallBegin { index, id: tool_call_id(id), name }
                }
                OutputEvent::ToolCallArguments { index, fragment } => TurnEvent::CallArguments { index, fragment },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_fits_decides() {
        let mut names = FieldNames::default();
        names.add("messages[1]", "input[3]");
        names.add("messages[1].tool_calls[0].function", "input[4]");
        names.add("max_tokens", "max_output_tokens");
        names.add_whole("messages[0]", "instructions");
        for (chat, own) in [
            ("messages[1].content[0].text", "input[3].content[0].text"),
            ("messages[1].tool_calls[0].function.name", "input[4].name"),
            ("messages[10].content", "messages[10].content"),
            ("messages[0].content", "instructions"),
            ("max_tokens", "max_output_tokens"),
            ("temperature", "temperature"),
        ] {
            assert_eq!(names.own(chat), own);
        }
        let message = "`messages[1].content` is 1, expected `a` or max_tokens".to_owned();
        let error = ApiError::Invalid { message, param: Some("messages[1].content".to_owned()), code: Some("x") };
        let expected = ApiError::Invalid {
            message: "`input[3].content` is 1, expected `a` or max_tokens".to_owned(),
            param: Some("input[3].content".to_owned()),
            code: Some("x"),
        };
        assert_eq!(names.translated(error), expected);
    }
}
