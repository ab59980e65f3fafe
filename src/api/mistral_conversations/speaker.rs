//! Who answers in a conversation: a model with settings of the conversation's own, or an agent.
//!
//! [`Who`] is what a conversation keeps of it, [`Speaker`] what it is at the moment: an agent may have changed meanwhile.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    api::{
        agents::{
            Definition,
            handoff::{Handoff, offered},
            settings::Settings,
            version_named,
        },
        error::ApiError,
        state::AppState,
        stored_error::named_by,
    },
    store::{AgentVersion, StoreError},
};

/// What a conversation was begun with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Who {
    Model(Settings),
    Agent {
        id: String,
        /// A number or an alias as text; the current version at any time if absent.
        version: Option<String>,
        /// Win over the agent's.
        completion_args: Map<String, Value>,
    },
}

/// Who answers now.
pub(super) struct Speaker {
    /// Id and name.
    pub(super) agent: Option<(String, String)>,
    pub(super) settings: Settings,
    pub(super) handoffs: Vec<Handoff>,
}

impl Who {
    /// Who goes on: the one that the conversation began with, or the agent it was `handed_to` last. `arguments` win.
    pub(super) async fn speaker(
        &self,
        handed_to: Option<(&str, &str)>,
        arguments: &Map<String, Value>,
        state: &AppState,
    ) -> Result<Speaker, ApiError> {
        let (id, path, version) = match (self, handed_to) {
            (Self::Model(_), Some((_, path))) => {
                let message = format!("`{path}`: the conversation has no agent that could hand it over.");
                return Err(ApiError::invalid(path, message));
            }
            (Self::Model(settings), None) => {
                let settings = with(settings.clone(), arguments);
                return Ok(Speaker { agent: None, settings, handoffs: Vec::new() });
            }
            (Self::Agent { .. }, Some((id, path))) => (id, path, AgentVersion::Current),
            (Self::Agent { id, version, .. }, None) => {
                let version = version.clone().map_or(AgentVersion::Current, version_named);
                (id.as_str(), "agent_id", version)
            }
        };
        let speaker = Speaker::agent(id, version, state).await;
        let Speaker { agent, settings, handoffs } = speaker.map_err(|error| match error {
            Unknown::Store(StoreError::Missing { kind, id }) if kind != "agent" => {
                named_by("agent_version")(StoreError::Missing { kind, id })
            }
            Unknown::Store(error) => named_by(path)(error),
            Unknown::Broken(error) => error,
        })?;
        let settings = match self {
            Self::Model(_) => settings,
            Self::Agent { completion_args, .. } => with(settings, completion_args),
        };
        Ok(Speaker { agent, settings: with(settings, arguments), handoffs })
    }
}

/// Why there is no such speaker.
enum Unknown {
    Store(StoreError),
    Broken(ApiError),
}

impl From<StoreError> for Unknown {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Speaker {
    async fn agent(id: &str, version: AgentVersion, state: &AppState) -> Result<Self, Unknown> {
        let store = state.store();
        let agent = store.agent(id, version).await?;
        let Definition { name, body, .. } = Definition::of(&agent.definition).map_err(Unknown::Broken)?;
        let mut targets = Vec::new();
        for id in &body.handoffs {
            match store.agent(id, AgentVersion::Current).await {
                Ok(target) => targets.push(target),
                // It was deleted, so nobody can hand over to it any more.
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let handoffs = offered(&body.settings.tools, targets);
        Ok(Self { agent: Some((agent.id, name)), settings: body.settings, handoffs })
    }

    /// The functions that hand over.
    pub(super) fn functions(&self) -> Vec<Value> {
        self.handoffs.iter().map(Handoff::function).collect()
    }

    /// The handoff that a function of this name is.
    pub(super) fn handoff(&self, function: &str) -> Option<&Handoff> {
        self.handoffs.iter().find(|handoff| handoff.name == function)
    }
}

fn with(mut settings: Settings, arguments: &Map<String, Value>) -> Settings {
    settings.completion_args.extend(arguments.clone());
    settings
}
