//! Mistral's own prompt formats: from a normalized conversation to token ids.
//!
//! Main type: [`NativeTemplate`]. One renderer serves all versions; what they disagree on is data
//! in `version`. Invariant: text that came with the request is only ever passed to
//! [`Tokenizer::encode_text`], which cannot produce a control token; control tokens come from
//! [`Controls`] alone. So a user who types `[INST]` gets the letters.

mod controls;
mod settings;

pub(crate) use controls::{Control, Controls};
pub(crate) use settings::SettingsRules;

use super::ChatPrompt;
use super::error::PromptError;
use super::json::{Object, Value};
use super::normalize::{self, AssistantContent, Call, Conversation, Part, ToolResult, Turn, TurnKind};
use super::request::{ChatRequest, FimRequest, Tool};
use super::tokenizer::Tokenizer;
use super::validate;
use super::version::{CallLayout, ResultLayout, SystemLayout, TokenizerVersion, ToolsLayout};

/// Puts one character in front of a suffix whose own first space must not be added or lost; the
/// two tokens it becomes are cut off again.
const SUFFIX_GUARD: &str = "☺";
const SUFFIX_GUARD_TOKENS: usize = 2;

/// The prompt format of one checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct NativeTemplate {
    version: TokenizerVersion,
    controls: Controls,
    settings: Option<SettingsRules>,
}

impl NativeTemplate {
    /// Refuses a vocabulary that lacks a token this version writes; `file` is named in the error.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        version: TokenizerVersion,
        file: &str,
    ) -> Result<NativeTemplate, PromptError> {
        let controls = Controls::of(tokenizer);
        controls.check(version, file)?;
        let settings = tokenizer.settings_rules().cloned();
        if let Some(rules) = &settings {
            rules.check(file)?;
        }
        if version.writes_settings() && settings.is_none() {
            let reason = format!("has no model_settings_builder, which tokenizer version {version} needs");
            return Err(PromptError::file(file, reason));
        }
        Ok(NativeTemplate { version, controls, settings })
    }

    pub(crate) fn version(&self) -> TokenizerVersion {
        self.version
    }

    /// The prompt of a chat request.
    pub(crate) fn encode_chat(&self, tokenizer: &Tokenizer, request: &ChatRequest) -> Result<ChatPrompt, PromptError> {
        validate::check(request, self.version)?;
        let conversation = normalize::conversation(request, self.version)?;
        // Settings are checked even in a conversation that has no user turn to write them before.
        let settings = match &self.settings {
            Some(rules) if self.version.writes_settings() => rules.render(request)?,
            Some(_) | None => None,
        };
        let users = UserTurns::of(&conversation);
        let mut renderer = Renderer { template: self, tokenizer, ids: Vec::new() };
        renderer.control(Control::Bos)?;
        let mut last_start = 0;
        for (index, turn) in conversation.turns.iter().enumerate() {
            last_start = renderer.ids.len();
            renderer.turn(
                turn,
                Place {
                    index,
                    users,
                    conversation: &conversation,
                    tools: &request.tools,
                    settings: settings.as_deref(),
                },
            )?;
        }
        let is_continued =
            matches!(conversation.turns.last(), Some(Turn { kind: TurnKind::Assistant { prefix: true, .. }, .. }));
        let n_continued = if is_continued { renderer.ids.len() - last_start } else { 0 };
        Ok(ChatPrompt { ids: renderer.ids, n_continued })
    }

    /// The prompt of a fill-in-the-middle request: `<s>[SUFFIX]` suffix `[PREFIX]` prompt.
    pub(crate) fn encode_fim(&self, tokenizer: &Tokenizer, request: &FimRequest) -> Result<Vec<u32>, PromptError> {
        let has_tokens = [Control::Prefix, Control::Suffix].iter().all(|control| self.controls.get(*control).is_some());
        if self.version == TokenizerVersion::V1 || !has_tokens {
            return Err(PromptError::unsupported("prompt", "fill-in-the-middle", self.version));
        }
        let mut renderer = Renderer { template: self, tokenizer, ids: Vec::new() };
        renderer.control(Control::Bos)?;
        renderer.control(Control::Suffix)?;
        if let Some(suffix) = request.suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
            let guarded = tokenizer.encode_text(&format!("{SUFFIX_GUARD}{suffix}"));
            renderer.ids.extend(guarded.into_iter().skip(SUFFIX_GUARD_TOKENS));
        }
        renderer.control(Control::Prefix)?;
        renderer.text(&request.prompt);
        Ok(renderer.ids)
    }
}

/// Where the first and last user turns are, if there is one.
#[derive(Debug, Clone, Copy)]
struct UserTurns {
    first: Option<usize>,
    last: Option<usize>,
}

impl UserTurns {
    fn of(conversation: &Conversation) -> UserTurns {
        let is_user = |turn: &Turn| matches!(turn.kind, TurnKind::User(_));
        UserTurns {
            first: conversation.turns.iter().position(is_user),
            last: conversation.turns.iter().rposition(is_user),
        }
    }
}

/// A turn's surroundings.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    users: UserTurns,
    conversation: &'a Conversation,
    tools: &'a [Tool],
    settings: Option<&'a str>,
}

impl Place<'_> {
    fn is_before_last_user(&self) -> bool {
        self.users.last.is_some_and(|last| self.index < last)
    }

    fn is_first_user(&self) -> bool {
        self.users.first == Some(self.index)
    }

    fn is_last_user(&self) -> bool {
        self.users.last == Some(self.index)
    }
}

struct Renderer<'a> {
    template: &'a NativeTemplate,
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
}

impl Renderer<'_> {
    fn version(&self) -> TokenizerVersion {
        self.template.version
    }

    fn control(&mut self, control: Control) -> Result<(), PromptError> {
        match self.template.controls.get(control) {
            Some(id) => {
                self.ids.push(id);
                Ok(())
            }
            None => {
                let feature = format!("what needs the control token `{}`", control.name());
                Err(PromptError::unsupported("messages", feature, self.version()))
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.tokenizer.encode_text_into(text, &mut self.ids);
    }

    fn turn(&mut self, turn: &Turn, place: Place<'_>) -> Result<(), PromptError> {
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
                    self.version().calls() == CallLayout::List && !calls.is_empty() && place.is_before_last_user();
                if *prefix || is_dropped { Ok(()) } else { self.control(Control::Eos) }
            }
            TurnKind::Result(result) => self.result(result, turn.first_message, place),
        }
    }

    fn user(&mut self, text: &str, place: Place<'_>) -> Result<(), PromptError> {
        let writes_tools = match self.version().tools() {
            ToolsLayout::Nowhere => false,
            ToolsLayout::BeforeLastUser => place.is_last_user(),
            ToolsLayout::BeforeFirstUser => place.is_first_user(),
        };
        if writes_tools {
            self.tools_and_settings(place)?;
        }
        let system_prompt = match self.version().system() {
            SystemLayout::InFirstUser if place.is_first_user() => place.conversation.system_prompt.as_deref(),
            SystemLayout::InLastUser if place.is_last_user() => place.conversation.system_prompt.as_deref(),
            SystemLayout::InFirstUser | SystemLayout::InLastUser | SystemLayout::OwnBlock => None,
        };
        let joined = match system_prompt {
            Some(system) if !system.is_empty() => format!("{system}\n\n{text}"),
            Some(_) | None => text.to_owned(),
        };
        if self.version() == TokenizerVersion::V1 {
            // v1 has no control tokens for this: the markers are plain text.
            self.text(&format!("[INST] {joined} [/INST]"));
            return Ok(());
        }
        self.control(Control::BeginInst)?;
        self.text(&joined);
        self.control(Control::EndInst)
    }

    fn tools_and_settings(&mut self, place: Place<'_>) -> Result<(), PromptError> {
        if !place.tools.is_empty() {
            let tools: Vec<Value> = place.tools.iter().map(Tool::to_json).collect();
            self.control(Control::BeginTools)?;
            self.text(&Value::Array(tools).to_python_json());
            self.control(Control::EndTools)?;
        }
        if let Some(settings) = place.settings {
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
            AssistantContent::Text(text) if self.version().trims_assistant_text() => {
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
            if !self.version().allows_text_with_calls() {
                let found = "text next to tool calls (after joining neighbouring assistant messages)";
                let expected = format!("either text or tool calls (tokenizer version {})", self.version());
                return Err(PromptError::rule(format!("messages[{message}]"), found, expected));
            }
            self.answer(content, message)?;
        }
        match self.version().calls() {
            CallLayout::None => {
                let field = format!("messages[{message}].tool_calls");
                Err(PromptError::unsupported(field, "a tool call", self.version()))
            }
            CallLayout::List if place.is_before_last_user() => Ok(()),
            CallLayout::List | CallLayout::ListWithIds => {
                let with_ids = self.version().calls() == CallLayout::ListWithIds;
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
        if self.version().calls() == CallLayout::NameIdArguments
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
        match self.version().results() {
            ResultLayout::None => {
                return Err(PromptError::unsupported(field, "a tool result", self.version()));
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
        let before = place.index.checked_sub(1).and_then(|index| place.conversation.turns.get(index));
        match before.map(|turn| &turn.kind) {
            Some(TurnKind::Result(_)) => {
                let feature = "more than one tool result after an assistant message";
                Err(PromptError::unsupported(format!("messages[{message}]"), feature, self.version()))
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
