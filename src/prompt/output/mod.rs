//! What a model generates, as content, reasoning and tool calls, one token at a time.
//!
//! Main type: [`OutputParser`]. Control tokens switch between the kinds of output; they are
//! recognized by id, so text that merely looks like one is text. A call list (v2 to v7) is handed
//! out call by call; where name and arguments have tokens of their own (v11 on) the arguments are
//! handed out as they come.
//!
//! Invariants: nothing the model wrote is lost: what was expected to be a call and is none comes
//! out as content. And the result does not depend on where the text is cut into tokens: text is
//! looked at character by character. This module never fails; a model's mistakes are data.

mod call_list;
mod json_scanner;

use call_list::{CallList, ListStep};
use json_scanner::JsonScanner;

use super::detokenizer::Detokenizer;
use super::template::{Control, Controls};
use super::version::CallLayout;

/// Whether the request offered tools; without them a call is only text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsOffered {
    /// Calls are recognized.
    Yes,
    /// Whatever the model writes is content or reasoning.
    No,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// More of the answer.
    Content(String),
    /// More of the reasoning before the answer.
    Reasoning(String),
    /// The model calls a function; its arguments follow.
    ToolCallBegin {
        /// Which call of this output, from 0.
        index: usize,
        /// The id the model gave it, in versions where models do.
        id: Option<String>,
        /// The function.
        name: String,
    },
    /// More of the arguments' JSON text; the fragments of one index make the whole.
    ToolCallArguments {
        /// Which call.
        index: usize,
        /// The text.
        fragment: String,
    },
}

/// An incremental parser of one output.
#[derive(Debug, Clone)]
pub struct OutputParser {
    detokenizer: Detokenizer,
    controls: Controls,
    calls: CallLayout,
    state: State,
    n_calls: usize,
}

#[derive(Debug, Clone)]
enum State {
    Content,
    Reasoning,
    List(CallList),
    Name(String),
    Id { name: String, id: String },
    Arguments(Arguments),
}

/// The arguments of a call that began.
#[derive(Debug, Clone, Default)]
struct Arguments {
    scanner: JsonScanner,
    phase: Phase,
    /// White space after the end, in case content follows.
    trailing: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Before,
    /// Inside an object or a list.
    Inside,
    /// The text began with neither: all of it is arguments.
    Shapeless,
    After,
}

impl OutputParser {
    pub(super) fn new(
        detokenizer: Detokenizer,
        controls: Controls,
        calls: CallLayout,
        tools: ToolsOffered,
    ) -> OutputParser {
        let calls = match tools {
            ToolsOffered::Yes => calls,
            ToolsOffered::No => CallLayout::None,
        };
        OutputParser { detokenizer, controls, calls, state: State::Content, n_calls: 0 }
    }

    /// Takes the ids of the message that the output continues; they give no events.
    pub(super) fn skip(&mut self, ids: &[u32]) {
        let mut text = String::new();
        for id in ids {
            self.detokenizer.push_into(*id, &mut text);
            match self.controls.which(*id) {
                Some(Control::BeginThink) => self.state = State::Reasoning,
                Some(Control::EndThink) => self.state = State::Content,
                Some(_) | None => {}
            }
        }
    }

    /// Takes the next id; returns what is now certain.
    pub fn push(&mut self, id: u32) -> Vec<OutputEvent> {
        let mut events = Events(Vec::new());
        let text = self.detokenizer.push(id);
        self.feed(&text, &mut events);
        if let Some(control) = self.controls.which(id) {
            self.control(control, &mut events);
        }
        events.0
    }

    /// What was still waiting when the output ended.
    pub fn finish(&mut self) -> Vec<OutputEvent> {
        let mut events = Events(Vec::new());
        let text = self.detokenizer.finish();
        self.feed(&text, &mut events);
        self.leave(&mut events);
        events.0
    }

    fn control(&mut self, control: Control, events: &mut Events) {
        match control {
            Control::BeginThink => {
                self.leave(events);
                self.state = State::Reasoning;
            }
            Control::ToolCalls => match self.calls {
                CallLayout::None => {}
                CallLayout::List | CallLayout::ListWithIds => {
                    self.leave(events);
                    self.state = State::List(CallList::default());
                }
                CallLayout::NameIdArguments | CallLayout::NameArguments => {
                    self.leave(events);
                    self.state = State::Name(String::new());
                }
            },
            Control::CallId => {
                if let State::Name(name) = &mut self.state {
                    self.state = State::Id { name: std::mem::take(name), id: String::new() };
                }
            }
            Control::Arguments => self.begin_call(events),
            Control::EndThink
            | Control::Bos
            | Control::Eos
            | Control::BeginInst
            | Control::EndInst
            | Control::BeginTools
            | Control::EndTools
            | Control::BeginToolResults
            | Control::EndToolResults
            | Control::Prefix
            | Control::Suffix
            | Control::BeginSystem
            | Control::EndSystem
            | Control::ToolContent
            | Control::BeginSettings
            | Control::EndSettings => self.leave(events),
        }
    }

    fn begin_call(&mut self, events: &mut Events) {
        let (name, id) = match &mut self.state {
            State::Name(name) => (std::mem::take(name), None),
            State::Id { name, id } => (std::mem::take(name), Some(std::mem::take(id))),
            State::Content | State::Reasoning | State::List(_) | State::Arguments(_) => return,
        };
        let id = id.map(|id| id.trim().to_owned());
        events.0.push(OutputEvent::ToolCallBegin { index: self.n_calls, id, name: name.trim().to_owned() });
        self.n_calls += 1;
        self.state = State::Arguments(Arguments::default());
    }

    /// Ends the current kind of output; what cannot be a call any more is content.
    fn leave(&mut self, events: &mut Events) {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content | State::Reasoning => {}
            State::List(mut list) => events.content(&list.rest()),
            State::Name(name) => events.content(&name),
            State::Id { name, id } => {
                events.content(&name);
                events.content(&id);
            }
            State::Arguments(arguments) => {
                if arguments.phase == Phase::Before {
                    // A function without parameters: clients expect JSON even so.
                    events.arguments(self.n_calls - 1, "{}");
                }
            }
        }
    }

    fn feed(&mut self, text: &str, events: &mut Events) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (now, later) = rest.split_at(character.len_utf8());
            match &mut self.state {
                State::Content => return events.content(rest),
                State::Reasoning => return events.reasoning(rest),
                State::Name(name) => return name.push_str(rest),
                State::Id { id, .. } => return id.push_str(rest),
                State::List(list) => match list.step(character) {
                    ListStep::More => {}
                    ListStep::End => self.state = State::Content,
                    ListStep::Broken(held_back) => {
                        events.content(&held_back);
                        self.state = State::Content;
                    }
                    ListStep::Call(call) => {
                        let index = self.n_calls;
                        self.n_calls += 1;
                        events.0.push(OutputEvent::ToolCallBegin { index, id: call.id, name: call.name });
                        events.arguments(index, &call.arguments);
                    }
                },
                State::Arguments(arguments) => {
                    if arguments.take(character) {
                        events.arguments(self.n_calls - 1, now);
                    } else if arguments.phase == Phase::After && !character.is_whitespace() {
                        let trailing = std::mem::take(&mut arguments.trailing);
                        self.state = State::Content;
                        events.content(&trailing);
                        continue;
                    }
                }
            }
            rest = later;
        }
    }
}

impl Arguments {
    /// Takes a character; returns whether it belongs to the arguments.
    fn take(&mut self, character: char) -> bool {
        match self.phase {
            Phase::Before if character.is_whitespace() => false,
            Phase::Before => {
                let is_open = self.scanner.step(character) > 0;
                self.phase = if is_open { Phase::Inside } else { Phase::Shapeless };
                true
            }
            Phase::Inside => {
                if self.scanner.step(character) == 0 {
                    self.phase = Phase::After;
                }
                true
            }
            Phase::Shapeless => true,
            Phase::After => {
                if character.is_whitespace() {
                    self.trailing.push(character);
                }
                false
            }
        }
    }
}

/// Events of one step; text of the same kind is joined.
struct Events(Vec<OutputEvent>);

impl Events {
    fn content(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(OutputEvent::Content(last)) => last.push_str(text),
            Some(_) | None => self.0.push(OutputEvent::Content(text.to_owned())),
        }
    }

    fn reasoning(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(OutputEvent::Reasoning(last)) => last.push_str(text),
            Some(_) | None => self.0.push(OutputEvent::Reasoning(text.to_owned())),
        }
    }

    fn arguments(&mut self, index: usize, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(OutputEvent::ToolCallArguments { index: last, fragment }) if *last == index => fragment.push_str(text),
            Some(_) | None => self.0.push(OutputEvent::ToolCallArguments { index, fragment: text.to_owned() }),
        }
    }
}
