//! Chat templates in Jinja, for checkpoints that come with nothing better.
//!
//! Main type: [`JinjaTemplate`]. The template gets the variables that Hugging Face's
//! `apply_chat_template` passes and renders one text, in which control tokens are recognized by
//! their written form. Text from the request must not be recognized: `guard` marks it before
//! rendering. The markers are also why the template is never asked to write a control token that
//! the request brought along.
//!
//! A template is a program that came with the weights: what it may compute and write is limited, so
//! that no template holds up the server.
//!
//! Which messages make sense, only the template knows: it raises an exception, which becomes an
//! error about `messages`.

mod guard;
mod python;

use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::value::Value as JinjaValue;
use minijinja::{Environment, ErrorKind};
use regex::Regex;

use super::ChatPrompt;
use super::error::PromptError;
use super::json::{Object, Value};
use super::normalize::parse_or_keep;
use super::request::{ChatRequest, Chunk, Content, Message, ToolCall};
use super::tokenizer::{RenderedText, Tokenizer};
use guard::Guard;

/// What rendering may cost: an instruction takes 1, and so do 64 bytes of text that it makes. Writing a
/// conversation of thousands of messages takes a hundredth of this; using it up takes about a second.
const FUEL: u64 = 10_000_000;
/// The longest prompt. A server's own limit on bodies is of this size.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// The templates of a checkpoint, as text.
#[derive(Debug, Clone, Default)]
pub(super) struct TemplateSources {
    /// For chats.
    pub(super) default: String,
    /// For chats with tools, if the checkpoint has a template of its own for them.
    pub(super) tool_use: Option<String>,
}

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    has_tool_use: bool,
    guard: Guard,
    /// Any control token of the vocabulary; `None` if it has none.
    control_tokens: Option<Regex>,
}

impl JinjaTemplate {
    /// Compiles the templates for one vocabulary.
    pub(super) fn new(sources: &TemplateSources, tokenizer: &Tokenizer) -> Result<JinjaTemplate, PromptError> {
        let refuse = |error: minijinja::Error| PromptError::ChatTemplate { reason: described(&error) };
        let mut environment = python::environment();
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned("default", sources.default.clone()).map_err(refuse)?;
        if let Some(source) = &sources.tool_use {
            environment.add_template_owned("tool_use", source.clone()).map_err(refuse)?;
        }
        let mut names: Vec<&str> = tokenizer.control_tokens().into_iter().map(|(name, _)| name).collect();
        // Of two names where one begins with the other, the longer one is meant.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        // A name of one character has no place for a marker, so wherever it stands it is text.
        let (names, letters): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| name.chars().nth(1).is_some());
        if letters.iter().any(|name| !name.is_empty()) {
            tracing::warn!(?letters, "control tokens of one character are text where a chat template writes them");
        }
        let alternatives: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
        let control_tokens = match alternatives.is_empty() {
            true => None,
            false => Some(Regex::new(&alternatives.join("|")).map_err(|error| PromptError::ChatTemplate {
                reason: format!("cannot look for {} control tokens: {error}", names.len()),
            })?),
        };
        let guard = Guard::new(names.into_iter().map(str::to_owned).collect());
        Ok(JinjaTemplate { environment, has_tool_use: sources.tool_use.is_some(), guard, control_tokens })
    }

    /// The prompt of a chat request. `now` is what `strftime_now` tells the template.
    pub(super) fn encode_chat(
        &self,
        tokenizer: &Tokenizer,
        request: &ChatRequest,
        now: SystemTime,
    ) -> Result<ChatPrompt, PromptError> {
        if let Some(effort) = request.reasoning_effort {
            let expected = "no value; the chat template of this model has no such setting";
            return Err(PromptError::invalid("reasoning_effort", effort.as_str(), expected));
        }
        let messages = messages_json(&request.messages)?;
        let tools = Value::Array(request.tools.iter().map(|tool| tool.to_json()).collect());
        let Some(marker) = self.guard.marker_for(&[&messages, &tools]) else {
            let expected = "text that leaves one of U+FDD0 to U+FDEF (never characters) unused";
            return Err(PromptError::rule("messages", "text with all of U+FDD0 to U+FDEF", expected));
        };
        let guarded_messages = self.guard.mark(&messages, marker);
        let continued = continued_text(&request.messages, &guarded_messages);
        let variables = Variables {
            messages: guarded_messages,
            tools: self.guard.mark(&tools, marker),
            continues: continued.is_some(),
        };
        let rendered = self.render(tokenizer, &variables, now)?;
        let Some(continued) = continued else {
            return Ok(ChatPrompt { ids: self.encode(tokenizer, &rendered, marker), n_continued: 0 });
        };
        let (before, whole) = cut_after(&rendered, &continued)?;
        let ids = self.encode(tokenizer, whole, marker);
        let n_before = self.encode(tokenizer, before, marker).len();
        Ok(ChatPrompt { n_continued: ids.len().saturating_sub(n_before), ids })
    }

    fn render(&self, tokenizer: &Tokenizer, variables: &Variables, now: SystemTime) -> Result<String, PromptError> {
        let has_tools = variables.tools.as_array().is_some_and(|tools| !tools.is_empty());
        let name = if has_tools && self.has_tool_use { "tool_use" } else { "default" };
        let token = |id: Option<u32>| match id.map(|id| tokenizer.piece(id)) {
            Some(super::Piece::Control(name)) => JinjaValue::from(name.as_ref()),
            Some(_) | None => JinjaValue::from(""),
        };
        let context = JinjaValue::from_pairs([
            ("messages", python::to_jinja(&variables.messages)),
            ("tools", if has_tools { python::to_jinja(&variables.tools) } else { JinjaValue::from(()) }),
            ("add_generation_prompt", JinjaValue::from(!variables.continues)),
            ("continue_final_message", JinjaValue::from(variables.continues)),
            ("bos_token", token(tokenizer.bos_id())),
            ("eos_token", token(tokenizer.eos_id())),
            ("strftime_now", python::strftime_now(now)),
        ]);
        let template = self
            .environment
            .get_template(name)
            .map_err(|error| PromptError::ChatTemplate { reason: described(&error) })?;
        let mut output = LimitedOutput::default();
        // What was captured is the state after rendering, which nobody needs.
        match template.render_captured_to(context, &mut output).map(drop) {
            Ok(()) => String::from_utf8(output.bytes)
                .map_err(|error| PromptError::ChatTemplate { reason: format!("writes what is not UTF-8: {error}") }),
            Err(error) => Err(render_error(&error, output.is_full)),
        }
    }

    /// Ids of a rendered prompt: control tokens where the template wrote them, text elsewhere.
    fn encode(&self, tokenizer: &Tokenizer, rendered: &str, marker: char) -> Vec<u32> {
        let mut parts = Vec::new();
        let mut at = 0;
        for found in self.control_tokens.iter().flat_map(|pattern| pattern.find_iter(rendered)) {
            if let Some(id) = tokenizer.control_id(found.as_str()) {
                parts.push(RenderedText::Text(&rendered[at..found.start()]));
                parts.push(RenderedText::Control(id));
                at = found.end();
            }
        }
        parts.push(RenderedText::Text(&rendered[at..]));
        tokenizer.encode_rendered(&parts, marker)
    }
}

struct Variables {
    messages: Value,
    tools: Value,
    continues: bool,
}

/// The rendered text, up to [`MAX_OUTPUT_BYTES`].
#[derive(Debug, Default)]
struct LimitedOutput {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn render_error(error: &minijinja::Error, is_full: bool) -> PromptError {
    let found = if is_full {
        format!("made into more than {MAX_OUTPUT_BYTES} bytes by the model's chat template")
    } else if is_out_of_fuel(error) {
        format!("more than the model's chat template can write in {FUEL} steps")
    } else {
        format!("refused by the model's chat template ({})", described(error))
    };
    PromptError::rule("messages", found, "a conversation the template can write")
}

/// Whether the template ran out of steps, maybe inside of something it called.
fn is_out_of_fuel(error: &minijinja::Error) -> bool {
    let causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<minijinja::Error>())
        .any(|cause| cause.kind() == ErrorKind::OutOfFuel)
}

/// The error and what caused it, on one line.
fn described(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.to_string(),
    }
}

/// The messages as templates expect them: arguments parsed, no keys that say nothing.
fn messages_json(messages: &[Message]) -> Result<Value, PromptError> {
    let items = messages.iter().enumerate().map(|(index, message)| message_json(message, index));
    items.collect::<Result<Vec<Value>, PromptError>>().map(Value::Array)
}

fn message_json(message: &Message, index: usize) -> Result<Value, PromptError> {
    let mut object = Object::new();
    object.insert("role", message.role());
    match message {
        Message::System { content } | Message::User { content } => {
            object.insert("content", content_json(content, index)?);
        }
        Message::Assistant { content, tool_calls, .. } => {
            object.insert("content", content_json(content, index)?);
            if !tool_calls.is_empty() {
                let calls = tool_calls.iter().enumerate();
                let calls = calls.map(|(place, call)| call_json(call, index, place));
                object.insert("tool_calls", calls.collect::<Result<Vec<Value>, PromptError>>()?);
            }
        }
        Message::Tool { content, tool_call_id, name } => {
            object.insert("content", content_json(content, index)?);
            if let Some(id) = tool_call_id {
                object.insert("tool_call_id", id.as_str());
            }
            if let Some(name) = name {
                object.insert("name", name.as_str());
            }
        }
    }
    Ok(Value::Object(object))
}

fn content_json(content: &Content, index: usize) -> Result<Value, PromptError> {
    match content {
        Content::Text(text) => Ok(Value::from(text.as_str())),
        Content::Chunks(chunks) => {
            let field = |place| format!("messages[{index}].content[{place}].type");
            let items = chunks.iter().enumerate().map(|(place, chunk)| chunk_json(chunk, field(place)));
            items.collect::<Result<Vec<Value>, PromptError>>().map(Value::Array)
        }
    }
}

fn chunk_json(chunk: &Chunk, field: String) -> Result<Value, PromptError> {
    let mut object = Object::new();
    object.insert("type", chunk.kind());
    match chunk {
        Chunk::Text(text) => object.insert("text", text.as_str()),
        Chunk::Thinking { text, closed } => {
            object.insert("thinking", text.as_str());
            object.insert("closed", *closed);
        }
        Chunk::Image | Chunk::Audio => {
            return Err(PromptError::invalid(field, chunk.kind(), "text; the model's tokenizer writes nothing else"));
        }
    }
    Ok(Value::Object(object))
}

fn call_json(call: &ToolCall, index: usize, place: usize) -> Result<Value, PromptError> {
    let field = format!("messages[{index}].tool_calls[{place}].function.arguments");
    let mut function = Object::new();
    function.insert("name", call.name.as_str());
    function.insert("arguments", parse_or_keep(&call.arguments, &field)?);
    let mut object = Object::new();
    if let Some(id) = &call.id {
        object.insert("id", id.as_str());
    }
    object.insert("type", "function");
    object.insert("function", function);
    Ok(Value::Object(object))
}

/// The guarded text of a last message that the model is to continue.
fn continued_text(messages: &[Message], guarded: &Value) -> Option<String> {
    let Some(Message::Assistant { prefix: true, .. }) = messages.last() else {
        return None;
    };
    let content = guarded.as_array()?.last()?.get("content")?;
    let last_text = |chunks: &[Value]| chunks.last().and_then(|chunk| chunk.get("text")).cloned();
    let text = match content {
        Value::Array(chunks) => last_text(chunks)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => content.clone(),
    };
    text.as_str().map(|text| text.trim().to_owned())
}

/// Cuts what the template wrote behind the continued text; also returns what stands before it.
fn cut_after<'t>(rendered: &'t str, continued: &str) -> Result<(&'t str, &'t str), PromptError> {
    match rendered.rfind(continued) {
        Some(start) if !continued.is_empty() => Ok((&rendered[..start], &rendered[..start + continued.len()])),
        Some(_) | None => {
            let found = "a last message that the model's chat template does not write as it is";
            Err(PromptError::rule("messages", found, "a last message with text to continue"))
        }
    }
}
