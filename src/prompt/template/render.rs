//! Writing the turns of a conversation as token ids.
//!
//! Main type: [`Renderer`], the ids so far. It writes turn by turn, each with its [`Place`] in the
//! [`Chat`]; the layouts in `version` decide what a turn looks like.

use super::controls::{Control, Controls};
use crate::prompt::error::PromptError;
use crate::prompt::json::{Object, Value};
use crate::prompt::normalize::{self, AssistantContent, Call, Conversation, Part, ToolResult, Turn, TurnKind};
use crate::prompt::request::Tool;
use crate::prompt::tokenizer::Tokenizer;
use crate::prompt::version::{CallLayout, ResultLayout, SystemLayout, TokenizerVersion, ToolsLayout};

/// What a prompt is made of.
pub(super) struct Chat<'a> {
    conversation: &'a Conversation,
    tools: &'a [Tool],
    /// The JSON between `[MODEL_SETTINGS]` and its end.
    settings: Option<&'a str>,
    first_user: Option<usize>,
    last_user: Option<usize>,
}

/// Where a turn stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    chat: &'a Chat<'a>,
    index: usize,
}

/// Writes a prompt.
pub(super) struct Renderer<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) controls: &'a Controls,
    pub(super) version: TokenizerVersion,
    /// The prompt so far.
    pub(super) ids: Vec<u32>,
}

impl<'a> Chat<'a> {
    pub(super) fn new(conversation: &'a Conversation, tools: &'a [Tool], settings: Option<&'a str>) -> Chat<'a> {
        let is_user = |turn: &Turn| matches!(turn.kind, TurnKind::User(_));
        let first_user = conversation.turns.iter().position(is_user);
        let last_user = conversation.turns.iter().rposition(is_user);
        Chat { conversation, tools, settings, first_user, last_user }
    }

    pub(super) fn place(&'a self, index: usize) -> Place<'a> {
        Place { chat: self, index }
    }
}

impl Place<'_> {
    fn is_before_last_user(self) -> bool {
        self.chat.last_user.is_some_and(|last| self.index < last)
    }

    fn is_first_user(self) -> bool {
        self.chat.first_user == Some(self.index)
    }

    fn is_last_user(self) -> bool {
        self.chat.last_user == Some(self.index)
    }
}

impl Renderer<'_> {
    /// Writes a control token, or says that the vocabulary has none of the kind.
    pub(super) fn control(&mut self, control: Control) -> Result<(), PromptError> {
        match self.controls.get(control) {
            Some(id) => {
                self.ids.push(id);
                Ok(())
            }
            None => {
                let feature = format!("what needs the control token `{}`", control.name());
                Err(PromptError::unsupported("messages", feature, self.version))
            }
        }
    }

    /// Writes text; nothing in it becomes a control token.
    pub(super) fn text(&mut self, text: &str) {
        self.tokenizer.encode_text_into(text, &mut self.ids);
    }

    /// Writes one turn.
    pub(super) fn turn(&mut self, turn: &Turn, place: Place<'_>) -> Result<(), PromptError> {
        match &turn.kind {
            TurnKind::System(parts) => {
                self.control(Control::BeginSystem)?;
                self.parts(parts)?;
                self.control(Control::EndSystem)
            }
            TurnKind::User(text) => self.user(text, place),
            TurnKind::Assistant { content, calls, prefix } => {
                if calls.is_empty() {
                    self.answer(content, turn.first_message)?;
                } else {
                    self.answer_with_calls(content, calls, turn.first_message, place)?;
                }
                let is_dropped =
                    self.version.calls() == CallLayout::List && !calls.is_empty() && place.is_before_last_user();
                if *prefix || is_dropped { Ok(()) } else { self.control(Control::Eos) }
            }
            TurnKind::Result(result) => self.result(result, turn.first_message, place),
        }
    }

    fn user(&mut self, text: &str, place: Place<'_>) -> Result<(), PromptError> {
        let writes_tools = match self.version.tools() {
            ToolsLayout::Nowhere => false,
            ToolsLayout::BeforeLastUser => place.is_last_user(),
            ToolsLayout::BeforeFirstUser => place.is_first_user(),
        };
        if writes_tools {
            self.tools_and_settings(place)?;
        }
        let system_prompt = match self.version.system() {
            SystemLayout::InFirstUser if place.is_first_user() => place.chat.conversation.system_prompt.as_deref(),
            SystemLayout::InLastUser if place.is_last_user() => place.chat.conversation.system_prompt.as_deref(),
            SystemLayout::InFirstUser | SystemLayout::InLastUser | SystemLayout::OwnBlock => None,
        };
        let joined = match system_prompt {
            Some(system) if !system.is_empty() => format!("{system}\n\n{text}"),
            Some(_) | None => text.to_owned(),
        };
        if self.version == TokenizerVersion::V1 {
            // v1 has no control tokens for this: the markers are plain text.
            self.text(&format!("[INST] {joined} [/INST]"));
            return Ok(());
        }
        self.control(Control::BeginInst)?;
        self.text(&joined);
        self.control(Control::EndInst)
    }

    fn tools_and_settings(&mut self, place: Place<'_>) -> Result<(), PromptError> {
        if !place.chat.tools.is_empty() {
            let tools: Vec<Value> = place.chat.tools.iter().map(Tool::to_json).collect();
            self.control(Control::BeginTools)?;
            self.text(&Value::Array(tools).to_python_json());
            self.control(Control::EndTools)?;
        }
        if let Some(settings) = place.chat.settings {
            self.control(Control::BeginSettings)?;
            self.text(settings);
            self.control(Control::EndSettings)?;
        }
        Ok(())
    }

    fn answer(&mut self, content: &AssistantContent, message: usize) -> Result<(), PromptError> {
        match content {
            AssistantContent::Text(text) if text.is_empty() => {
                let expected = "an assistant message with text or tool calls";
                Err(PromptError::rule(format!("messages[{message}].content"), "empty", expected))
            }
            AssistantContent::Text(text) if self.version.trims_assistant_text() => {
                self.text(text.trim_end_matches(' '));
                Ok(())
            }
            AssistantContent::Text(text) => {
                self.text(text);
                Ok(())
            }
            AssistantContent::Parts(parts) => self.parts(parts),
        }
    }

    fn answer_with_calls(
        &mut self,
        content: &AssistantContent,
        calls: &[Call],
        message: usize,
        place: Place<'_>,
    ) -> Result<(), PromptError> {
        let is_empty = match content {
            AssistantContent::Text(text) => text.is_empty(),
            AssistantContent::Parts(parts) => parts.is_empty(),
        };
        if !is_empty {
            if !self.version.allows_text_with_calls() {
                let found = "text next to tool calls (after joining neighbouring assistant messages)";
                let expected = format!("either text or tool calls (tokenizer version {})", self.version);
                return Err(PromptError::rule(format!("messages[{message}]"), found, expected));
            }
            self.answer(content, message)?;
        }
        match self.version.calls() {
            CallLayout::None => {
                let field = format!("messages[{message}].tool_calls");
                Err(PromptError::unsupported(field, "a tool call", self.version))
            }
            CallLayout::List if place.is_before_last_user() => Ok(()),
            CallLayout::List | CallLayout::ListWithIds => {
                let with_ids = self.version.calls() == CallLayout::ListWithIds;
                let calls: Vec<Value> = calls.iter().map(|call| call_object(call, with_ids)).collect();
                self.control(Control::ToolCalls)?;
                self.text(&Value::Array(calls).to_python_json());
                Ok(())
            }
            CallLayout::NameIdArguments | CallLayout::NameArguments => {
                calls.iter().try_for_each(|call| self.separate_call(call))
            }
        }
    }

    fn separate_call(&mut self, call: &Call) -> Result<(), PromptError> {
        self.control(Control::ToolCalls)?;
        self.text(&call.name);
        if self.version.calls() == CallLayout::NameIdArguments
            && let Some(id) = &call.id
        {
            self.control(Control::CallId)?;
            self.text(id);
        }
        self.control(Control::Arguments)?;
        self.text(&call.arguments.to_python_json());
        Ok(())
    }

    fn result(&mut self, result: &ToolResult, message: usize, place: Place<'_>) -> Result<(), PromptError> {
        let field = format!("messages[{message}].content");
        let call_id = result.call_id.as_deref().unwrap_or_default();
        match self.version.results() {
            ResultLayout::None => {
                return Err(PromptError::unsupported(field, "a tool result", self.version));
            }
            ResultLayout::NamedList if place.is_before_last_user() => return Ok(()),
            ResultLayout::NamedList => {
                self.refuse_second_result(message, place)?;
                let mut object = Object::new();
                object.insert("name", result.name.as_deref().map_or(Value::Null, Value::from));
                object.insert("content", normalize::parse_or_keep(&result.content, &field)?);
                self.control(Control::BeginToolResults)?;
                self.text(&Value::Array(vec![Value::Object(object)]).to_python_json());
            }
            ResultLayout::Object => {
                let mut object = Object::new();
                object.insert("content", normalize::parse_or_keep(&result.content, &field)?);
                object.insert("call_id", call_id);
                self.control(Control::BeginToolResults)?;
                self.text(&Value::Object(object).to_python_json());
            }
            ResultLayout::IdAndText => {
                self.control(Control::BeginToolResults)?;
                self.text(call_id);
                self.control(Control::ToolContent)?;
                self.text(&result.content);
            }
            ResultLayout::Text => {
                self.control(Control::BeginToolResults)?;
                self.text(&result.content);
            }
        }
        self.control(Control::EndToolResults)
    }

    /// v2 writes results as a list but was only ever trained on one.
    fn refuse_second_result(&self, message: usize, place: Place<'_>) -> Result<(), PromptError> {
        let before = place.index.checked_sub(1).and_then(|index| place.chat.conversation.turns.get(index));
        match before.map(|turn| &turn.kind) {
            Some(TurnKind::Result(_)) => {
                let feature = "more than one tool result after an assistant message";
                Err(PromptError::unsupported(format!("messages[{message}]"), feature, self.version))
            }
            Some(TurnKind::System(_) | TurnKind::User(_) | TurnKind::Assistant { .. }) | None => Ok(()),
        }
    }

    fn parts(&mut self, parts: &[Part]) -> Result<(), PromptError> {
        for part in parts {
            match part {
                Part::Text(text) => self.text(text),
                Part::Thinking { text, closed } => {
                    self.control(Control::BeginThink)?;
                    self.text(text);
                    if *closed {
                        self.control(Control::EndThink)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A call as v2 to v7 write it; the id is last, and only where there is one.
fn call_object(call: &Call, with_ids: bool) -> Value {
    let mut object = Object::new();
    object.insert("name", call.name.as_str());
    object.insert("arguments", call.arguments.clone());
    if with_ids && let Some(id) = &call.id {
        object.insert("id", id.as_str());
    }
    Value::Object(object)
}
