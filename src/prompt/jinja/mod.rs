//! Chat templates in Jinja, for checkpoints that come with nothing better.
//!
//! Main type: [`JinjaTemplate`]. The template gets the variables that Hugging Face's
//! `apply_chat_template` passes and renders one text, in which control tokens are recognized by
//! their written form, in the template's own text and nowhere else: `literals` finds that text, and
//! `stand_ins` puts characters for the names there, which no request contains.
//!
//! A template is a program that came with the weights: what it may compute and write is limited, so
//! that no template holds up the server.
//!
//! Which messages make sense, only the template knows: it raises an exception, which becomes an
//! error about `messages`.

mod literals;
mod python;
mod stand_ins;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::value::Value as JinjaValue;
use minijinja::{Environment, ErrorKind};

use super::ChatPrompt;
use super::error::PromptError;
use super::json::{Object, Value};
use super::normalize::parse_or_keep;
use super::request::{ChatRequest, Chunk, Content, Message, ToolCall};
use super::tokenizer::{RenderedText, Tokenizer};
use literals::map_literals;
use stand_ins::{Names, StandIns, add_private_use, add_private_use_of};

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

/// A chat template for one vocabulary.
#[derive(Debug)]
pub(super) struct JinjaTemplate {
    sources: TemplateSources,
    names: Names,
    compiled: Compiled,
}

/// The templates with stand-ins for control tokens.
#[derive(Debug)]
struct Compiled {
    environment: Environment<'static>,
    has_tool_use: bool,
    stand_ins: StandIns,
}

impl JinjaTemplate {
    /// Compiles the templates for one vocabulary.
    pub(super) fn new(sources: &TemplateSources, tokenizer: &Tokenizer) -> Result<JinjaTemplate, PromptError> {
        let names = Names::of(tokenizer)?;
        let Some(compiled) = Compiled::new(sources, &names, BTreeSet::new())? else {
            let reason = "its vocabulary has more control tokens than there are characters for private use";
            return Err(PromptError::ChatTemplate { reason: reason.to_owned() });
        };
        let template = JinjaTemplate { sources: sources.clone(), names, compiled };
        template.warn_of_composed_names(tokenizer);
        Ok(template)
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
        let other = self.compiled_without([&messages, &tools])?;
        let compiled = other.as_ref().unwrap_or(&self.compiled);
        let continued = continued_text(&request.messages, &messages);
        let variables = Variables { messages, tools, continues: continued.is_some() };
        let rendered = compiled.render(tokenizer, &variables, now)?;
        let Some(continued) = continued else {
            return Ok(ChatPrompt { ids: compiled.encode(tokenizer, &rendered), n_continued: 0 });
        };
        let (before, whole) = cut_after(&rendered, &continued)?;
        let ids = compiled.encode(tokenizer, whole);
        let n_before = compiled.encode(tokenizer, before).len();
        Ok(ChatPrompt { n_continued: ids.len().saturating_sub(n_before), ids })
    }

    /// The templates with other stand-ins, if the request contains some of the usual ones.
    fn compiled_without(&self, values: [&Value; 2]) -> Result<Option<Compiled>, PromptError> {
        let mut taken = BTreeSet::new();
        values.into_iter().for_each(|value| add_private_use_of(value, &mut taken));
        if !taken.iter().any(|character| self.compiled.stand_ins.id(*character).is_some()) {
            return Ok(None);
        }
        match Compiled::new(&self.sources, &self.names, taken)? {
            Some(compiled) => Ok(Some(compiled)),
            None => {
                let expected = "text that leaves more characters for private use unused";
                Err(PromptError::rule("messages", "text with characters all over U+108000 to U+10FFFD", expected))
            }
        }
    }

    /// A name that the template puts together is text, as part of it could be the request's. That it has one
    /// shows in any conversation.
    fn warn_of_composed_names(&self, tokenizer: &Tokenizer) {
        let content = Content::Text("Hello".to_owned());
        let Ok(messages) = messages_json(&[Message::User { content }]) else { return };
        let variables = Variables { messages, tools: Value::Array(Vec::new()), continues: false };
        // A template may refuse the conversation.
        let rendered = self.compiled.render(tokenizer, &variables, SystemTime::now()).unwrap_or_default();
        let names = self.names.found_in(&rendered);
        if !names.is_empty() {
            tracing::warn!(?names, "the chat template puts control tokens together from parts, which makes them text");
        }
    }
}

impl Compiled {
    /// `None` if `taken`, which grows by what the templates contain, leaves no stand-ins.
    fn new(
        sources: &TemplateSources,
        names: &Names,
        mut taken: BTreeSet<char>,
    ) -> Result<Option<Compiled>, PromptError> {
        let templates = [("default", Some(&sources.default)), ("tool_use", sources.tool_use.as_ref())];
        templates.iter().filter_map(|(_, source)| *source).for_each(|source| add_private_use(source, &mut taken));
        let Some(stand_ins) = names.stand_ins(&taken) else { return Ok(None) };
        let mut environment = python::environment();
        environment.set_fuel(Some(FUEL));
        for (name, source) in templates {
            let Some(source) = source else { continue };
            let source = map_literals(source, &|text| names.replaced(text, &stand_ins));
            environment
                .add_template_owned(name, source)
                .map_err(|error| PromptError::ChatTemplate { reason: stand_ins.spelled(&described(&error)) })?;
        }
        Ok(Some(Compiled { environment, has_tool_use: sources.tool_use.is_some(), stand_ins }))
    }

    fn render(&self, tokenizer: &Tokenizer, variables: &Variables, now: SystemTime) -> Result<String, PromptError> {
        let has_tools = variables.tools.as_array().is_some_and(|tools| !tools.is_empty());
        let name = if has_tools && self.has_tool_use { "tool_use" } else { "default" };
        let token = |id: Option<u32>| match id.and_then(|id| self.stand_ins.of(id)) {
            Some(stand_in) => JinjaValue::from(stand_in.to_string()),
            None => JinjaValue::from(""),
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
            Err(error) => Err(render_error(&self.stand_ins.spelled(&described(&error)), &error, output.is_full)),
        }
    }

    /// Ids of a rendered prompt: control tokens where their stand-ins are, text elsewhere.
    fn encode(&self, tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
        let mut parts = Vec::new();
        let mut at = 0;
        for (start, character) in rendered.char_indices() {
            if let Some(id) = self.stand_ins.id(character) {
                parts.push(RenderedText::Text(&rendered[at..start]));
                parts.push(RenderedText::Control(id));
                at = start + character.len_utf8();
            }
        }
        parts.push(RenderedText::Text(&rendered[at..]));
        tokenizer.encode_rendered(&parts)
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

fn render_error(description: &str, error: &minijinja::Error, is_full: bool) -> PromptError {
    let found = if is_full {
        format!("made into more than {MAX_OUTPUT_BYTES} bytes by the model's chat template")
    } else if is_out_of_fuel(error) {
        format!("more than the model's chat template can write in {FUEL} steps")
    } else {
        format!("refused by the model's chat template ({description})")
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

/// The text of a last message that the model is to continue.
fn continued_text(messages: &[Message], written: &Value) -> Option<String> {
    let Some(Message::Assistant { prefix: true, .. }) = messages.last() else {
        return None;
    };
    let content = written.as_array()?.last()?.get("content")?;
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
