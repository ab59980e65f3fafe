//! Forms in llguidance's dialect of Lark.
//!
//! Main type: [`Frame`], what a model of some tokenizer version writes around content and calls. Text of requests
//! enters a grammar as a JSON string or a JSON schema only, which cannot end a rule.

use std::fmt::Write as _;

use super::CallForm;
use crate::prompt::{
    Codec,
    json::{Object, Value},
    request::Tool,
    template::{Control, Controls},
    version::CallLayout,
};

/// The name of the grammar of a content that has a language of its own.
pub(super) const CONTENT: &str = "content";
/// Between the tokens of JSON. Models write new lines and indents; without a limit they could go on doing so.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";
/// As v3 to v11 give them (mistral-common, `validator.py`).
const CALL_ID: &str = "[a-zA-Z0-9]{9}";

/// What stands around content and calls.
pub(super) struct Frame {
    calls: CallLayout,
    tool_calls: Option<u32>,
    arguments: Option<u32>,
    call_id: Option<u32>,
    think: Option<(u32, u32)>,
    /// Thinking may come before JSON: from v15 on.
    thinks_before_json: bool,
    /// The first token begins with a space that is not part of the text.
    begins_with_space: bool,
}

impl Frame {
    /// What the models of a tokenizer write.
    pub(super) fn of(codec: &Codec, begins_with_space: bool) -> Self {
        let controls = Controls::of(&codec.tokenizer);
        let version = codec.version();
        let think = controls.get(Control::BeginThink).zip(controls.get(Control::EndThink));
        Self {
            calls: version.map_or_else(|| CallLayout::of(&controls), |version| version.calls()),
            tool_calls: controls.get(Control::ToolCalls),
            arguments: controls.get(Control::Arguments),
            call_id: controls.get(Control::CallId),
            think: think.filter(|_| version.is_none_or(|version| version.writes_thinking())),
            thinks_before_json: version.is_some_and(|version| version.writes_settings()),
            begins_with_space,
        }
    }

    /// JSON, or calls where there are any. Free text before a call would do for JSON, so there is none, but that models
    /// which think may say something that does not begin as JSON does.
    pub(super) fn json(&self, schema: &str, calls: Option<&CallForm>) -> Result<String, String> {
        let think = if self.thinks_before_json { self.think_first() } else { "" };
        let mut text = format!("json: {think}SPACE? %json {schema}\n");
        match calls {
            None => text.push_str("start: json\n"),
            Some(form) => {
                let first = if self.think.is_some() { "think? prelude? " } else { "" };
                let _ = writeln!(text, "start: json | {first}calls\ncalls: {}", self.call_rule(form)?);
            }
        }
        Ok(text + &self.terminals())
    }

    /// Free text, calls, or free text and calls; where a call is asked for, nothing but thinking stands before it.
    pub(super) fn calls(&self, calls: Option<&CallForm>) -> Result<String, String> {
        let think = self.think_first();
        let start = match calls {
            None => format!("start: {think}text\n"),
            Some(form) => {
                let answer = if form.required { "calls" } else { "(text | text? calls)" };
                format!("start: {think}{answer}\ncalls: {}\n", self.call_rule(form)?)
            }
        };
        Ok(start + &self.terminals())
    }

    fn think_first(&self) -> &'static str {
        if self.think.is_some() { "think? " } else { "" }
    }

    /// What stands before a content of another grammar; `None` if nothing can.
    pub(super) fn around(&self, content: &str) -> Option<String> {
        match (self.think, self.thinks_before_json, self.begins_with_space) {
            (Some(_), true, _) => Some(format!("start: think? @{content}\n{}", self.terminals())),
            (_, _, true) => Some(format!("start: \" \"? @{content}\n")),
            _ => None,
        }
    }

    fn terminals(&self) -> String {
        let mut text = "text: (/(.|\\n)+/)+\nSPACE: /[ \\t\\r\\n]{1,8}/\n".to_owned();
        if let Some((begin, end)) = self.think {
            let _ = writeln!(text, "think: <[{begin}]> text <[{end}]>\nprelude: (/[ \\t\\r\\n]*[^\\s{{\\[](.|\\n)*/)+");
        }
        text
    }

    /// Whether the tokenizer has a form for calls.
    pub(super) fn has_calls(&self) -> bool {
        self.tool_calls.is_some() && self.calls != CallLayout::None
    }

    /// One call or several, in the layout of the version.
    fn call_rule(&self, form: &CallForm) -> Result<String, String> {
        let Some(begin) = self.tool_calls.filter(|_| self.calls != CallLayout::None) else {
            return Err("this model's tokenizer has no form for calls".to_owned());
        };
        match (self.calls, self.arguments) {
            (CallLayout::NameIdArguments | CallLayout::NameArguments, Some(arguments)) => {
                let id = match self.call_id.filter(|_| self.calls == CallLayout::NameIdArguments) {
                    Some(control) => format!("(<[{control}]> /{CALL_ID}/)? "),
                    None => String::new(),
                };
                let call = |(_, tool): &(usize, Tool)| {
                    let (name, schema) = (quoted(&tool.name), schema_text(&arguments_schema(tool), None)?);
                    Ok(format!("(<[{begin}]> SPACE? {name} {id}<[{arguments}]> SPACE? %json {schema} SPACE?)"))
                };
                let calls = form.tools.iter().map(call).collect::<Result<Vec<_>, String>>()?;
                Ok(format!("({}){}", calls.join(" | "), if form.parallel { "+" } else { "" }))
            }
            (layout, _) => {
                let call = |(_, tool): &(usize, Tool)| listed_call(layout, tool);
                let calls = form.tools.iter().map(call).collect::<Result<Vec<_>, String>>()?.join(" | ");
                let more = if form.parallel { format!(" (SPACE? \",\" SPACE? ({calls}))*") } else { String::new() };
                Ok(format!("<[{begin}]> SPACE? \"[\" SPACE? ({calls}){more} SPACE? \"]\" SPACE?"))
            }
        }
    }
}

/// One of these texts.
pub(super) fn choice(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("start: {}\n", texts.join(" | "))
}

/// A schema as it stands behind `%json`, with what may stand between tokens. Wishes of the schema to llguidance itself are
/// left out: they could lift what the schema says.
pub(super) fn schema_text(schema: &Value, whitespace: Option<&str>) -> Result<String, String> {
    const OPTIONS: &str = "x-guidance";
    let mut written = Object::new();
    match schema {
        Value::Object(keywords) => {
            keywords.iter().filter(|(keyword, _)| *keyword != OPTIONS).for_each(|(keyword, value)| {
                written.push_unique(keyword.to_owned(), value.clone());
            });
        }
        // As an object, which has room for the white space.
        Value::Bool(true) => {}
        Value::Bool(false) | Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err("no answer fulfils it".to_owned());
        }
    }
    let mut options = Object::new();
    options.insert("whitespace_pattern", whitespace.unwrap_or(WHITESPACE));
    written.push_unique(OPTIONS.to_owned(), options.into());
    Ok(Value::Object(written).to_json())
}

/// Only a strict tool's arguments are held to its schema.
fn arguments_schema(tool: &Tool) -> Value {
    match &tool.parameters {
        Value::Object(parameters) if tool.strict && !parameters.is_empty() => tool.parameters.clone(),
        _ if tool.strict => {
            let mut schema = of_type("object");
            schema.insert("additionalProperties", Value::Bool(false));
            Value::Object(schema)
        }
        _ => Value::Object(of_type("object")),
    }
}

/// A call in the list of v2 to v7: name, arguments, and from v3 on an id if the model gives one. A rule and not a schema of
/// the whole list, in which references of the arguments' schema would mean something else.
fn listed_call(layout: CallLayout, tool: &Tool) -> Result<String, String> {
    let member = |key: &str| format!("{} SPACE? \":\" SPACE?", quoted(&quoted(key)));
    let (name, arguments) = (quoted(&quoted(&tool.name)), schema_text(&arguments_schema(tool), None)?);
    let id = match layout {
        CallLayout::ListWithIds => format!("(SPACE? \",\" SPACE? {} /\"{CALL_ID}\"/)? ", member("id")),
        _ => String::new(),
    };
    Ok(format!(
        "(\"{{\" SPACE? {} {name} SPACE? \",\" SPACE? {} %json {arguments} {id}SPACE? \"}}\")",
        member("name"),
        member("arguments"),
    ))
}

fn of_type(name: &str) -> Object {
    let mut schema = Object::new();
    schema.insert("type", name);
    schema
}

/// A text as a string of Lark, which is one of JSON.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_json().replace('\u{7f}', "\\u007f")
}
