//! Tokens of one answer -> what a client sees of them: text, reasoning, tool calls, log-probabilities.
//!
//! Main type: [`Assembler`], a pure state machine. Invariants: no part of a stop string comes out, a token's
//! log-probabilities come out no earlier than its text, and every generated token up to the one that ends the
//! answer is counted once. Knows nothing of the engine's stream or of HTTP.

use std::collections::VecDeque;

use super::stop_strings::{Matched, StopStrings};
use crate::{
    engine::TokenLogprobs,
    prompt::{Detokenizer, OutputEvent, OutputParser},
};

/// What one or more tokens added to the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Text and calls, in order. Empty while text is held back.
    pub events: Vec<OutputEvent>,
    /// Log-probabilities of the tokens whose text is complete, if they were asked for.
    pub logprobs: Vec<ScoredToken>,
    /// Every token, also those that end the answer or have no text.
    pub token_ids: Vec<u32>,
}

/// A token with its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Vocabulary id.
    pub id: u32,
    /// Characters of content before it.
    pub text_offset: usize,
    /// Its own and those of the most likely tokens.
    pub logprobs: TokenLogprobs,
}

/// Where the text of tokens comes from.
pub(super) enum TextSource {
    /// The tokens' text as it is.
    Plain(Detokenizer),
    /// Text, reasoning and tool calls told apart.
    Parsed(Box<OutputParser>),
}

/// When text ends an answer.
pub(super) struct EndRules {
    pub(super) stop_strings: Vec<String>,
    pub(super) include_in_output: bool,
    /// Stop strings are looked for only after so many tokens.
    pub(super) min_tokens: usize,
    /// Ids after which the engine may end the answer.
    pub(super) terminators: Vec<u32>,
}

/// Tokens of an answer, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// All generated tokens up to the end.
    pub completion: usize,
    /// Those of them that were reasoning.
    pub reasoning: usize,
}

pub(super) struct Assembler {
    source: TextSource,
    stop: StopStrings,
    min_tokens: usize,
    include_in_output: bool,
    terminators: Vec<u32>,
    /// A terminator whose meaning the next update tells.
    candidate: Option<Token>,
    /// Tokens whose text is not out yet.
    pending: VecDeque<PendingToken>,
    /// Bytes of content that the source gave.
    content_len: usize,
    /// The same in characters.
    content_chars: usize,
    counts: TokenCounts,
    in_reasoning: bool,
    called_tools: bool,
}

struct Token {
    id: u32,
    logprobs: Option<TokenLogprobs>,
}

struct PendingToken {
    scored: ScoredToken,
    /// Bytes of content that must be out before.
    end: usize,
}

impl Assembler {
    pub(super) fn new(source: TextSource, rules: EndRules) -> Self {
        Self {
            source,
            stop: StopStrings::new(rules.stop_strings, rules.include_in_output),
            min_tokens: rules.min_tokens,
            include_in_output: rules.include_in_output,
            terminators: rules.terminators,
            candidate: None,
            pending: VecDeque::new(),
            content_len: 0,
            content_chars: 0,
            counts: TokenCounts::default(),
            in_reasoning: false,
            called_tools: false,
        }
    }

    pub(super) fn counts(&self) -> TokenCounts {
        self.counts
    }

    /// Did the answer call a tool?
    pub(super) fn called_tools(&self) -> bool {
        self.called_tools
    }

    /// The next token. `Some` is the stop string that ended the answer.
    pub(super) fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>, delta: &mut Delta) -> Option<String> {
        delta.token_ids.push(id);
        self.counts.completion += 1;
        if let Some(token) = self.candidate.take()
            && let Some(stop) = self.write(token, delta)
        {
            return Some(stop);
        }
        let token = Token { id, logprobs };
        if self.terminators.contains(&id) {
            self.candidate = Some(token);
            return None;
        }
        self.write(token, delta)
    }

    /// The answer is over; `by_token` if its last token ended it. `Some` is a stop string found in the rest.
    pub(super) fn finish(&mut self, by_token: bool, delta: &mut Delta) -> Option<String> {
        if let Some(token) = self.candidate.take()
            && (self.include_in_output || !by_token)
            && let Some(stop) = self.write(token, delta)
        {
            return Some(stop);
        }
        let events = match &mut self.source {
            TextSource::Plain(detokenizer) => content(detokenizer.finish()),
            TextSource::Parsed(parser) => parser.finish(),
        };
        let stop = self.pass(events, delta);
        if stop.is_none() {
            self.release_held(delta);
            self.release_logprobs(usize::MAX, delta);
        }
        stop
    }

    fn write(&mut self, token: Token, delta: &mut Delta) -> Option<String> {
        let events = match &mut self.source {
            TextSource::Plain(detokenizer) => content(detokenizer.push(token.id)),
            TextSource::Parsed(parser) => parser.push(token.id),
        };
        if let Some(logprobs) = token.logprobs {
            // A token without text may be a part of a character: it waits for the text that follows.
            let len = if events.is_empty() { 1 } else { events.iter().map(content_bytes).sum() };
            let scored = ScoredToken { id: token.id, text_offset: self.content_chars, logprobs };
            self.pending.push_back(PendingToken { scored, end: self.content_len + len });
        }
        let stop = self.pass(events, delta);
        if self.in_reasoning {
            self.counts.reasoning += 1;
        }
        stop
    }

    /// Sends events through the stop strings. Only content can hold one.
    fn pass(&mut self, events: Vec<OutputEvent>, delta: &mut Delta) -> Option<String> {
        for event in events {
            let piece = match event {
                OutputEvent::Content(text) => {
                    self.in_reasoning = false;
                    text
                }
                OutputEvent::Reasoning(_)
                | OutputEvent::ToolCallBegin { .. }
                | OutputEvent::ToolCallArguments { .. } => {
                    self.in_reasoning = matches!(event, OutputEvent::Reasoning(_));
                    self.called_tools |= matches!(event, OutputEvent::ToolCallBegin { .. });
                    self.release_held(delta);
                    delta.events.push(event);
                    continue;
                }
            };
            self.content_len += piece.len();
            self.content_chars += piece.chars().count();
            if self.counts.completion <= self.min_tokens {
                push_content(piece, delta);
                continue;
            }
            let held_from = self.content_len - piece.len() - self.stop.held_len();
            match self.stop.push(&piece) {
                Matched::Text(text) => push_content(text, delta),
                Matched::Stop { text, stop } => {
                    self.release_logprobs(held_from + text.len(), delta);
                    self.pending.clear();
                    push_content(text, delta);
                    return Some(stop);
                }
            }
        }
        self.release_logprobs(self.content_len - self.stop.held_len(), delta);
        None
    }

    fn release_held(&mut self, delta: &mut Delta) {
        push_content(self.stop.flush(), delta);
    }

    /// Tokens whose text lies in the first `emitted` bytes of content.
    fn release_logprobs(&mut self, emitted: usize, delta: &mut Delta) {
        while let Some(token) = self.pending.pop_front_if(|token| token.end <= emitted) {
            delta.logprobs.push(token.scored);
        }
    }
}

fn content(text: String) -> Vec<OutputEvent> {
    if text.is_empty() { Vec::new() } else { vec![OutputEvent::Content(text)] }
}

fn content_bytes(event: &OutputEvent) -> usize {
    match event {
        OutputEvent::Content(text) => text.len(),
        OutputEvent::Reasoning(_) | OutputEvent::ToolCallBegin { .. } | OutputEvent::ToolCallArguments { .. } => 0,
    }
}

/// Appends content, joining it to content that is already there.
fn push_content(text: String, delta: &mut Delta) {
    if text.is_empty() {
        return;
    }
    match delta.events.last_mut() {
        Some(OutputEvent::Content(before)) => before.push_str(&text),
        Some(OutputEvent::Reasoning(_) | OutputEvent::ToolCallBegin { .. } | OutputEvent::ToolCallArguments { .. })
        | None => delta.events.push(OutputEvent::Content(text)),
    }
}
