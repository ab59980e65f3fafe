//! `[MODEL_SETTINGS]`: what a tokenizer file lets a request set, and how it is written.
//!
//! Main type: [`SettingsRules`], read from `model_settings_builder` of a tekken file (v15 on). The
//! settings are one JSON object whose top-level keys are sorted; a schema inside keeps its order.

use serde::Deserialize;

use crate::prompt::error::PromptError;
use crate::prompt::json::{Object, Value};
use crate::prompt::request::{ChatRequest, ReasoningEffort, ResponseFormat};

/// Which settings a model takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct SettingsRules {
    reasoning_effort: Option<EffortRule>,
    json_schema: Option<SchemaRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct EffortRule {
    values: Vec<String>,
    default: String,
}

/// There is nothing to read: that it is there says that schemas are written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SchemaRule {}

impl SettingsRules {
    /// Refuses rules that no request could follow.
    pub(crate) fn check(&self, file: &str) -> Result<(), PromptError> {
        let Some(rule) = &self.reasoning_effort else {
            return Ok(());
        };
        let unknown = rule.values.iter().find(|name| ReasoningEffort::from_name(name).is_none());
        if let Some(name) = unknown {
            return Err(PromptError::file(file, format!("model_settings_builder: unknown reasoning effort {name:?}")));
        }
        if !rule.values.contains(&rule.default) {
            let reason = format!("model_settings_builder: the default {:?} is not one of its values", rule.default);
            return Err(PromptError::file(file, reason));
        }
        Ok(())
    }

    /// The JSON to write for a request, or `None` if there is nothing to say.
    pub(crate) fn render(&self, request: &ChatRequest) -> Result<Option<String>, PromptError> {
        let mut settings = Object::new();
        if self.json_schema.is_some()
            && let Some(schema) = written_schema(&request.response_format)
        {
            settings.insert("json_schema", schema);
        }
        if let Some(effort) = self.effort(request.reasoning_effort)? {
            settings.insert("reasoning_effort", effort);
        }
        if settings.is_empty() {
            return Ok(None);
        }
        Ok(Some(Value::Object(settings).to_python_json()))
    }

    fn effort(&self, wanted: Option<ReasoningEffort>) -> Result<Option<&str>, PromptError> {
        let invalid = |wanted: ReasoningEffort, expected: String| {
            Err(PromptError::invalid("reasoning_effort", wanted.as_str(), expected))
        };
        match (&self.reasoning_effort, wanted) {
            (None, None) => Ok(None),
            (None, Some(wanted)) => invalid(wanted, "no value; this model has no such setting".to_owned()),
            (Some(rule), None) => Ok(Some(&rule.default)),
            (Some(rule), Some(wanted)) => match rule.values.iter().find(|name| *name == wanted.as_str()) {
                Some(name) => Ok(Some(name)),
                None => invalid(wanted, format!("one of {}", rule.values.join(", "))),
            },
        }
    }
}

fn written_schema(format: &ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonSchema(schema) => Some(schema.clone()),
        ResponseFormat::JsonObject => {
            let of_type = |name: &str| {
                let mut schema = Object::new();
                schema.insert("type", name);
                Value::Object(schema)
            };
            let mut schema = Object::new();
            schema.insert("anyOf", vec![of_type("object"), of_type("array")]);
            Some(Value::Object(schema))
        }
    }
}
