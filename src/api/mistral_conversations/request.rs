//! The bodies that begin, continue and restart a conversation -> what is asked for, checked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    entry::{Recorded, take_inputs},
    speaker::Who,
};
use crate::api::{
    about::Storing,
    agents::settings::{Settings, take_arguments, take_metadata, take_text, take_tools},
    body::{Fields, wrong},
    error::ApiError,
    fields,
};

const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 0..=256;
const DESCRIPTION_CHARACTERS: std::ops::RangeInclusive<usize> = 0..=4096;

/// What is known of a conversation beside its entries and labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) who: Who,
}

/// What all three say of the answer.
#[derive(Debug)]
pub(super) struct Wishes {
    /// New entries; none where the conversation goes on by itself.
    pub(super) inputs: Vec<Recorded>,
    /// For this answer; they win over the conversation's.
    pub(super) completion_args: Map<String, Value>,
    pub(super) delivery: Delivery,
    pub(super) storage: Storage,
    pub(super) handoffs: HandoffExecution,
}

/// Is the answer told as it comes?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Streamed,
}

/// Is anything of it kept?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Kept,
    Forgotten,
}

/// Who lets the next agent go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandoffExecution {
    Server,
    Client,
}

/// `POST /v1/conversations`.
pub(super) struct Start {
    pub(super) wishes: Wishes,
    pub(super) details: Details,
    pub(super) metadata: Option<Map<String, Value>>,
}

/// `POST /v1/conversations/{id}/restart`.
pub(super) struct Restart {
    pub(super) wishes: Wishes,
    pub(super) from_entry_id: String,
    /// The conversation's if absent.
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) agent_version: Option<String>,
}

impl Start {
    pub(super) fn parse(text: &str, now: u64, storing: &Storing) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::MISTRAL_CONVERSATIONS)?;
        let completion_args = take_arguments(&mut fields)?.unwrap_or_default();
        let wishes = Wishes::take(&mut fields, now, Map::new(), storing)?;
        if wishes.inputs.is_empty() {
            return Err(wrong("inputs", "a text, or at least one entry", &Value::Null));
        }
        let name = take_text(&mut fields, "name", NAME_CHARACTERS)?;
        let description = take_text(&mut fields, "description", DESCRIPTION_CHARACTERS)?;
        let metadata = take_metadata(&mut fields)?;
        let who = take_who(&mut fields, completion_args)?;
        fields.finish()?;
        Ok(Self { wishes, details: Details { name, description, who }, metadata })
    }
}

/// Reads `POST /v1/conversations/{id}`.
pub(super) fn parse_append(text: &str, now: u64, storing: &Storing) -> Result<Wishes, ApiError> {
    let mut fields = Fields::parse(text, &fields::MISTRAL_APPEND)?;
    let completion_args = take_arguments(&mut fields)?.unwrap_or_default();
    let wishes = Wishes::take(&mut fields, now, completion_args, storing)?;
    fields.finish()?;
    Ok(wishes)
}

impl Restart {
    pub(super) fn parse(text: &str, now: u64, storing: &Storing) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text, &fields::MISTRAL_RESTART)?;
        let completion_args = take_arguments(&mut fields)?.unwrap_or_default();
        let wishes = Wishes::take(&mut fields, now, completion_args, storing)?;
        let Some(from_entry_id) = fields.string("from_entry_id")? else {
            return Err(wrong("from_entry_id", "the id of an entry", &Value::Null));
        };
        let (metadata, agent_version) = (take_metadata(&mut fields)?, take_version(&mut fields)?);
        fields.finish()?;
        Ok(Self { wishes, from_entry_id, metadata, agent_version })
    }
}

impl Wishes {
    fn take(
        fields: &mut Fields,
        now: u64,
        completion_args: Map<String, Value>,
        storing: &Storing,
    ) -> Result<Self, ApiError> {
        let is_streamed = fields.flag("stream")?.unwrap_or(false);
        let is_kept = storing.decide(fields.flag("store")?)?;
        let handoffs = match fields.string("handoff_execution")?.as_deref() {
            None | Some("server") => HandoffExecution::Server,
            Some("client") => HandoffExecution::Client,
            Some(other) => return Err(wrong("handoff_execution", "server or client", &other.into())),
        };
        Ok(Self {
            inputs: take_inputs(fields, now)?.unwrap_or_default(),
            completion_args,
            delivery: if is_streamed { Delivery::Streamed } else { Delivery::Whole },
            storage: if is_kept { Storage::Kept } else { Storage::Forgotten },
            handoffs,
        })
    }
}

/// An agent, which has all of its own but arguments; or a model with what is said beside it.
fn take_who(fields: &mut Fields, completion_args: Map<String, Value>) -> Result<Who, ApiError> {
    let (agent, version) = (fields.string("agent_id")?, take_version(fields)?);
    let (model, instructions) = (fields.string("model")?, fields.string("instructions")?);
    let tools = take_tools(fields)?;
    let both = |field: &str| Err(ApiError::invalid(field, format!("`{field}` is the agent's: give it or `agent_id`.")));
    match (agent, model) {
        (Some(_), Some(_)) => both("model"),
        (Some(_), None) if instructions.is_some() => both("instructions"),
        (Some(_), None) if tools.as_ref().is_some_and(|tools| !tools.is_empty()) => both("tools"),
        (Some(id), None) => Ok(Who::Agent { id, version, completion_args }),
        (None, _) if version.is_some() => {
            Err(ApiError::invalid("agent_version", "`agent_version` needs `agent_id` beside it."))
        }
        (None, Some(model)) => {
            Ok(Who::Model(Settings { model, instructions, tools: tools.unwrap_or_default(), completion_args }))
        }
        (None, None) => Err(wrong("model", "one of the served names (or give `agent_id`)", &Value::Null)),
    }
}

/// Takes `agent_version`: a number or an alias.
fn take_version(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.take("agent_version") {
        None => Ok(None),
        Some(Value::String(alias)) if !alias.is_empty() => Ok(Some(alias)),
        Some(Value::Number(number)) if number.is_u64() => Ok(Some(number.to_string())),
        Some(other) => Err(wrong("agent_version", "the number of a version, or an alias", &other)),
    }
}
