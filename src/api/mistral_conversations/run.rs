//! One response of a conversation: an answer, and as many more as agents hand over for.
//!
//! Main type: [`Run`]. The same code answers at once and as a stream; a stream also hears of everything as it happens.
//! Invariant: the conversation is stored with all of it in one step at the end, or stays as it was.

use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, Drafts},
    entry::{Entry, Recorded},
    messages::{Messages, TextBesideCalls},
    request::{Details, HandoffExecution, Storage},
    speaker::Speaker,
};
use crate::{
    api::{
        dialect::Dialect,
        error::ApiError,
        request::Work,
        sse::{Broken, Sender},
        state::unix_seconds,
        timestamp::timestamp,
        turn::{TurnRequest, TurnStream},
    },
    store::{Append, NewConversation},
};

/// Handoffs in one response. Agents that hand over in a circle would never end.
const MOST_HANDOFFS: usize = 8;
/// Entries of one conversation; far more than any model reads.
const MOST_ENTRIES: u64 = 10_000;
pub(in crate::api) const OWNER: &str = "mistral";
pub(super) const PREFIX: &str = "conv_";

/// What is to be answered, and where it will be kept.
pub(super) struct Plan {
    pub(super) conversation_id: String,
    /// All entries so far, the request's included.
    pub(super) entries: Vec<Recorded>,
    pub(super) details: Details,
    pub(super) completion_args: Map<String, Value>,
    pub(super) handoffs: HandoffExecution,
    pub(super) place: Place,
}

/// Where the new entries go.
pub(super) enum Place {
    /// Nowhere.
    Nowhere,
    /// To a conversation that has entries up to this position; the first so many of the plan are those.
    Behind { position: u64, known: usize },
    /// To a new conversation with these labels.
    New { metadata: Option<String> },
}

/// A response that is being made.
pub(super) struct Run {
    work: Work,
    plan: Plan,
    speaker: Speaker,
    outputs: Vec<Recorded>,
    usage: Usage,
}

/// Tokens of all answers of one response.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// Who hears of a response while it is made.
pub(super) struct Listener(pub(super) Option<Sender>);

impl Listener {
    pub(super) async fn hear(&self, kind: &str, mut members: Value) -> Result<(), Broken> {
        let Some(sender) = &self.0 else { return Ok(()) };
        members["created_at"] = timestamp(unix_seconds()).into();
        let Value::Object(members) = members else { return Ok(()) };
        sender.send_event(kind, members).await
    }
}

impl Run {
    /// Finds out who answers, and begins.
    pub(super) async fn begin(work: Work, plan: Plan) -> Result<(Self, TurnStream), ApiError> {
        let handed_to = plan.entries.iter().rev().find_map(|recorded| match &recorded.entry {
            Entry::Handoff { next_agent_id, .. } => Some((next_agent_id.as_str(), recorded.path.as_deref())),
            Entry::Input { .. } | Entry::Output { .. } | Entry::Call { .. } | Entry::Result { .. } => None,
        });
        let path = handed_to.map_or("agent_id".to_owned(), |(_, path)| match path {
            Some(path) => format!("{path}.next_agent_id"),
            None => "agent_id".to_owned(),
        });
        let handed_to = handed_to.map(|(id, _)| (id, path.as_str()));
        let speaker = plan.details.who.speaker(handed_to, &plan.completion_args, &work.state).await?;
        let run = Self { work, plan, speaker, outputs: Vec::new(), usage: Usage::default() };
        let turn = run.turn().await?;
        Ok((run, turn))
    }

    /// Answers, lets other agents answer, and stores it all.
    pub(super) async fn finish(mut self, first: TurnStream, listener: &Listener) -> Result<Value, Broken> {
        let conversation = json!({ "conversation_id": self.plan.conversation_id });
        listener.hear("conversation.response.started", conversation).await?;
        let mut turn = first;
        for _ in 0..=MOST_HANDOFFS {
            let Answer { entries, handoff, usage } =
                Drafts::new(&self.speaker, self.outputs.len()).listen(turn, listener).await?;
            self.usage.prompt_tokens += usage.prompt_tokens;
            self.usage.completion_tokens += usage.completion_tokens;
            let calls_functions = entries.iter().any(|recorded| matches!(recorded.entry, Entry::Call { .. }));
            self.outputs.extend(entries);
            let is_ours = self.plan.handoffs == HandoffExecution::Server && !calls_functions;
            let next = match handoff {
                Some(target) => self.hand_over(target, listener).await?.filter(|_| is_ours),
                None => None,
            };
            let Some(next) = next else {
                self.store().await?;
                listener.hear("conversation.response.done", json!({ "usage": self.usage.object() })).await?;
                return Ok(self.object());
            };
            self.speaker = self
                .plan
                .details
                .who
                .speaker(Some((&next, "agent_id")), &self.plan.completion_args, &self.work.state)
                .await?;
            turn = self.turn().await?;
        }
        let message = format!("The agents have handed the conversation over {MOST_HANDOFFS} times without an answer.");
        Err(ApiError::Invalid { message, param: Some("agent_id".to_owned()), code: Some("no_answer") }.into())
    }

    /// Asks who speaks for the next answer.
    async fn turn(&self) -> Result<TurnStream, ApiError> {
        let settings = &self.speaker.settings;
        let mut names = settings.names();
        names.add("prompt", "inputs");
        names.add_whole("messages", "inputs");
        let (offset, beside) =
            (usize::from(settings.instructions.is_some()), TextBesideCalls::of(&self.work.model.codec));
        let mut messages = Messages::behind(offset, names, beside);
        self.plan.entries.iter().chain(&self.outputs).for_each(|recorded| messages.add(recorded));
        let (messages, names) = messages.finish();
        let body = settings.chat(messages, &self.speaker.functions());
        TurnRequest { body, names, dialect: Dialect::Mistral }.prepare(&self.work).await?.start()
    }

    /// Writes down that another agent goes on, and gives its id.
    async fn hand_over(&mut self, target: (String, String), listener: &Listener) -> Result<Option<String>, Broken> {
        // Only agents are offered handoffs.
        let Some((id, name)) = self.speaker.agent.clone() else { return Ok(None) };
        let (next_agent_id, next_agent_name) = target;
        let entry = Entry::Handoff {
            previous_agent_id: id.clone(),
            previous_agent_name: name.clone(),
            next_agent_id: next_agent_id.clone(),
            next_agent_name: next_agent_name.clone(),
        };
        let recorded = Recorded::new(entry, unix_seconds());
        let index = self.outputs.len();
        let started = json!({
            "id": recorded.id, "output_index": index, "previous_agent_id": id, "previous_agent_name": name,
        });
        listener.hear("agent.handoff.started", started).await?;
        let done = json!({
            "id": recorded.id, "output_index": index, "next_agent_id": next_agent_id, "next_agent_name": next_agent_name,
        });
        listener.hear("agent.handoff.done", done).await?;
        self.outputs.push(recorded);
        Ok(Some(next_agent_id))
    }

    /// Keeps what was asked and answered, in one step.
    async fn store(&self) -> Result<(), ApiError> {
        let known = match &self.plan.place {
            Place::Nowhere => return Ok(()),
            Place::Behind { known, .. } => *known,
            Place::New { .. } => 0,
        };
        let new = self.plan.entries.iter().skip(known).chain(&self.outputs);
        let items = new.map(Recorded::item).collect::<Result<Vec<_>, _>>()?;
        let store = self.work.state.store();
        let at = unix_seconds();
        let expires_at = self.work.state.expiry(at);
        match &self.plan.place {
            Place::Nowhere => {}
            Place::Behind { position, .. } => {
                let append = Append {
                    conversation: self.plan.conversation_id.clone(),
                    owner: OWNER,
                    after: Some(*position),
                    items,
                    at,
                    expires_at,
                    limit: MOST_ENTRIES,
                };
                store.append_items(append).await?;
            }
            Place::New { metadata } => {
                let details = serde_json::to_string(&self.plan.details);
                let details = details.map_err(|error| ApiError::Internal { message: error.to_string() })?;
                let new = NewConversation {
                    prefix: PREFIX,
                    owner: OWNER,
                    created_at: at,
                    expires_at,
                    metadata: metadata.clone(),
                    details: Some(details),
                };
                store.create_conversation_as(self.plan.conversation_id.clone(), new, items).await?;
            }
        }
        Ok(())
    }

    /// Mistral's `ConversationResponse`.
    fn object(&self) -> Value {
        json!({
            "object": "conversation.response",
            "conversation_id": self.plan.conversation_id,
            "outputs": self.outputs.iter().map(Recorded::object).collect::<Vec<_>>(),
            "usage": self.usage.object(),
            "guardrails": null,
        })
    }
}

impl Usage {
    /// Mistral's `ConversationUsageInfo`.
    fn object(self) -> Value {
        let Self { prompt_tokens, completion_tokens } = self;
        json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "connector_tokens": null,
            "connectors": null,
        })
    }
}

/// Was the request to be kept, and where?
pub(super) fn place(storage: Storage, kept: Place) -> Place {
    match storage {
        Storage::Kept => kept,
        Storage::Forgotten => Place::Nowhere,
    }
}
