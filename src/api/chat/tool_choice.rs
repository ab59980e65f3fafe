//! `tool_choice` and `parallel_tool_calls`: whether and how the model calls tools.

use serde_json::Value;

use crate::api::{
    body::{Fields, wrong},
    error::ApiError,
};
use crate::prompt::{AnswerForm, CallForm, ChatRequest, ContentForm, ContentKind, ToolsOffered};

const EXPECTED: &str = r#"auto, none, required, any, or {"type": "function", "function": {"name": ...}}"#;

/// What a request says of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallWishes {
    choice: ToolChoice,
    parallel: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ToolChoice {
    /// The model decides.
    Auto,
    /// The tools are left out of the prompt.
    None,
    /// Some tool is called; Mistral's older name is `any`.
    Required,
    /// This tool is called.
    Named(String),
}

impl CallWishes {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let choice = match fields.take("tool_choice") {
            None => ToolChoice::Auto,
            Some(Value::String(name)) => match name.as_str() {
                "auto" => ToolChoice::Auto,
                "none" => ToolChoice::None,
                "required" | "any" => ToolChoice::Required,
                _ => return Err(wrong("tool_choice", EXPECTED, &name.into())),
            },
            Some(named) => ToolChoice::Named(function_name(&named)?),
        };
        Ok(Self { choice, parallel: fields.flag("parallel_tool_calls")?.unwrap_or(true) })
    }

    /// Are the tools in the prompt?
    pub(super) fn tools_offered(&self) -> ToolsOffered {
        match self.choice {
            ToolChoice::None => ToolsOffered::No,
            ToolChoice::Auto | ToolChoice::Required | ToolChoice::Named(_) => ToolsOffered::Yes,
        }
    }

    /// What the answer has to be, with the form of its text.
    pub(super) fn form(self, content: Option<ContentForm>, chat: &ChatRequest) -> Result<AnswerForm, ApiError> {
        let invalid = |message: String| Err(ApiError::invalid("tool_choice", message));
        let mut tools: Vec<_> = chat.tools.iter().cloned().enumerate().collect();
        let required = match &self.choice {
            ToolChoice::Auto | ToolChoice::None => false,
            ToolChoice::Required | ToolChoice::Named(_) if tools.is_empty() => {
                return invalid("`tool_choice` asks for a call, but there are no `tools`.".to_owned());
            }
            ToolChoice::Required => true,
            ToolChoice::Named(name) => {
                tools.retain(|(_, tool)| tool.name == *name);
                if tools.is_empty() {
                    return invalid(format!("`tool_choice` names `{name}`, which is none of the `tools`."));
                }
                true
            }
        };
        let calls = (!tools.is_empty()).then_some(CallForm { tools, required, parallel: self.parallel });
        match (&content, &calls) {
            (Some(ContentForm { field, .. }), Some(calls)) if calls.required => {
                return invalid(format!("`tool_choice` asks for a call, and `{field}` for a text of a form."));
            }
            (Some(ContentForm { field, kind }), Some(_)) if !matches!(kind, ContentKind::Json { .. }) => {
                let message = format!("`{field}` cannot be combined with calls: `tool_choice` must be none.");
                return Err(ApiError::invalid(field, message));
            }
            (Some(_) | None, _) => {}
        }
        Ok(AnswerForm { content, calls })
    }
}

fn function_name(choice: &Value) -> Result<String, ApiError> {
    let known = |object: &Value, keys: &[&str]| {
        object.as_object().is_some_and(|object| object.keys().all(|key| keys.contains(&key.as_str())))
    };
    let function = choice.get("function");
    let name = function.and_then(|function| function.get("name")).and_then(Value::as_str);
    let is_function = choice.get("type").is_none_or(|kind| kind == "function");
    match name {
        Some(name)
            if is_function
                && known(choice, &["type", "function"])
                && function.is_some_and(|function| known(function, &["name"])) =>
        {
            Ok(name.to_owned())
        }
        Some(_) | None => Err(wrong("tool_choice", EXPECTED, choice)),
    }
}
