//! What an agent is: the fields of the requests that make and change one -> a checked definition -> what is stored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    handoff,
    settings::{Settings, take_arguments, take_metadata, take_text, take_tools},
};
use crate::{
    api::{
        body::{Fields, wrong},
        error::ApiError,
        fields,
        state::{AppState, ServedModel},
        stored_error::named_by,
        timestamp::timestamp,
    },
    store::{Agent, AgentDefinition, AgentVersion},
};

const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 1..=256;
const TEXT_CHARACTERS: std::ops::RangeInclusive<usize> = 0..=4096;
const MOST_HANDOFFS: usize = 32;
/// Of all that is stored of a version.
const MOST_BYTES: usize = 1 << 20;

/// One version of an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::api) struct Definition {
    pub(in crate::api) name: String,
    pub(in crate::api) metadata: Option<Map<String, Value>>,
    pub(in crate::api) body: Body,
}

/// What only this layer reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::api) struct Body {
    pub(in crate::api) settings: Settings,
    pub(in crate::api) description: Option<String>,
    /// Ids of agents.
    pub(in crate::api) handoffs: Vec<String>,
    pub(in crate::api) version_message: Option<String>,
}

impl Definition {
    /// Reads what a new agent is to be.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::AGENTS)?;
        for name in ["model", "name"] {
            if fields.peek(name).is_none_or(Value::is_null) {
                return Err(wrong(name, "a text", &Value::Null));
            }
        }
        let mut definition = Self::default();
        definition.take(&mut fields)?;
        fields.finish()?;
        Ok(definition)
    }

    /// The definition with what a request changes; a field that is null is taken away.
    pub(super) fn changed(mut self, text: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::AGENT_CHANGES)?;
        self.body.version_message = None; // is about one version
        self.take(&mut fields)?;
        fields.finish()?;
        Ok(self)
    }

    fn take(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let Self { name, metadata, body } = self;
        if let Some(model) = fields.string("model")? {
            body.settings.model = model;
        }
        if let Some(text) = take_text(fields, "name", NAME_CHARACTERS)? {
            *name = text;
        }
        set(fields, "instructions", &mut body.settings.instructions, |fields| fields.string("instructions"))?;
        let text = |name| move |fields: &mut Fields| take_text(fields, name, TEXT_CHARACTERS);
        set(fields, "description", &mut body.description, text("description"))?;
        set(fields, "version_message", &mut body.version_message, text("version_message"))?;
        set(fields, "metadata", metadata, take_metadata)?;
        set_or_empty(fields, "tools", &mut body.settings.tools, take_tools)?;
        set_or_empty(fields, "completion_args", &mut body.settings.completion_args, take_arguments)?;
        set_or_empty(fields, "handoffs", &mut body.handoffs, take_handoffs)
    }

    /// The functions that hand over to the agents it names, which must be there.
    pub(super) async fn handoff_functions(&self, state: &AppState) -> Result<Vec<Value>, ApiError> {
        let mut targets = Vec::new();
        for (index, id) in self.body.handoffs.iter().enumerate() {
            let path = format!("handoffs[{index}]");
            targets.push(state.store().agent(id, AgentVersion::Current).await.map_err(named_by(&path))?);
        }
        Ok(handoff::offered(&self.body.settings.tools, targets).iter().map(handoff::Handoff::function).collect())
    }

    /// Refuses what could not be asked.
    pub(super) fn check(&self, handoff_functions: &[Value], model: &ServedModel) -> Result<(), ApiError> {
        self.body.settings.check(handoff_functions, model)
    }

    /// As it is stored.
    pub(super) fn stored(self) -> Result<AgentDefinition, ApiError> {
        let body =
            serde_json::to_string(&self.body).map_err(|error| ApiError::Internal { message: error.to_string() })?;
        if body.len() > MOST_BYTES {
            let message = format!("An agent may have {MOST_BYTES} bytes as JSON, got {}.", body.len());
            return Err(ApiError::Invalid { message, param: None, code: None });
        }
        let metadata = Value::Object(self.metadata.unwrap_or_default()).to_string();
        Ok(AgentDefinition { name: self.name, metadata, body })
    }

    /// Reads what was stored.
    pub(in crate::api) fn of(stored: &AgentDefinition) -> Result<Self, ApiError> {
        let broken = |error: serde_json::Error| ApiError::Internal { message: format!("A stored agent: {error}.") };
        let metadata: Map<String, Value> = serde_json::from_str(&stored.metadata).map_err(broken)?;
        Ok(Self {
            name: stored.name.clone(),
            metadata: Some(metadata).filter(|labels| !labels.is_empty()),
            body: serde_json::from_str(&stored.body).map_err(broken)?,
        })
    }
}

/// Mistral's `Agent`.
pub(super) fn object(agent: &Agent) -> Result<Value, ApiError> {
    let Definition { name, metadata, body } = Definition::of(&agent.definition)?;
    let Body { settings, description, handoffs, version_message } = body;
    Ok(json!({
        "id": agent.id,
        "object": "agent",
        "created_at": timestamp(agent.created_at),
        "updated_at": timestamp(agent.version_created_at),
        "version": agent.version,
        "versions": agent.versions,
        "version_message": version_message,
        "name": name,
        "description": description,
        "model": settings.model,
        "instructions": settings.instructions,
        "tools": settings.tools,
        "completion_args": settings.completion_args,
        "guardrails": null,
        "handoffs": Some(handoffs).filter(|ids| !ids.is_empty()),
        "metadata": metadata,
        "deployment_chat": false,
        "source": "api",
        "owner_id": null,
    }))
}

/// Sets what a field says; null takes it away.
fn set<T>(
    fields: &mut Fields,
    name: &str,
    target: &mut Option<T>,
    take: impl FnOnce(&mut Fields) -> Result<Option<T>, ApiError>,
) -> Result<(), ApiError> {
    if fields.peek(name).is_some() {
        *target = take(fields)?;
    }
    Ok(())
}

fn set_or_empty<T: Default>(
    fields: &mut Fields,
    name: &str,
    target: &mut T,
    take: impl FnOnce(&mut Fields) -> Result<Option<T>, ApiError>,
) -> Result<(), ApiError> {
    if fields.peek(name).is_some() {
        *target = take(fields)?.unwrap_or_default();
    }
    Ok(())
}

fn take_handoffs(fields: &mut Fields) -> Result<Option<Vec<String>>, ApiError> {
    let ids = match fields.take("handoffs") {
        None => return Ok(None),
        Some(Value::Array(ids)) if ids.len() <= MOST_HANDOFFS => ids,
        Some(other) => {
            return Err(wrong("handoffs", format_args!("a list of at most {MOST_HANDOFFS} ids of agents"), &other));
        }
    };
    let id = |(index, id): (usize, &Value)| {
        let path = format!("handoffs[{index}]");
        let text = id.as_str().ok_or_else(|| wrong(&path, "the id of an agent", id))?;
        if ids[..index].contains(id) {
            return Err(wrong(&path, "an agent that is not there before", id));
        }
        Ok(text.to_owned())
    };
    ids.iter().enumerate().map(id).collect::<Result<_, _>>().map(Some)
}
