//! One answer of a model -> entries, and the events that tell of them as they come.
//!
//! A call of a function that hands over is no entry of its own: it is told apart by its name, and of several the first
//! counts. Thinking is a part of the message, as everywhere in Mistral's API.

use serde_json::{Value, json};

use super::{
    entry::{Entry, Recorded},
    run::Listener,
    speaker::Speaker,
};
use crate::api::{
    answer::UsageCounter,
    error::ApiError,
    generation::Finish,
    sse::Broken,
    state::unix_seconds,
    turn::{TurnEvent, TurnStream},
};

/// What came of it.
pub(super) struct Answer {
    pub(super) entries: Vec<Recorded>,
    /// Id and name of the agent that is to go on.
    pub(super) handoff: Option<(String, String)>,
    pub(super) usage: UsageCounter,
}

/// An answer that is being written.
pub(super) struct Drafts<'a> {
    speaker: &'a Speaker,
    /// Outputs of the response before it.
    before: usize,
    entries: Vec<Draft>,
    /// Which entry each call is, by its index; none for those that hand over.
    calls: Vec<Option<usize>>,
    handoff: Option<(String, String)>,
}

struct Draft {
    recorded: Recorded,
    text: Text,
}

/// What is still growing.
enum Text {
    Message(Vec<Part>),
    Arguments(String),
}

/// A part of a message.
struct Part {
    kind: PartKind,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Thinking,
    Text,
}

impl PartKind {
    fn chunk(self, text: &str) -> Value {
        match self {
            Self::Thinking => json!({ "type": "thinking", "thinking": [{ "type": "text", "text": text }] }),
            Self::Text => json!({ "type": "text", "text": text }),
        }
    }
}

impl<'a> Drafts<'a> {
    /// An answer of this speaker, behind so many outputs.
    pub(super) fn new(speaker: &'a Speaker, before: usize) -> Self {
        Self { speaker, before, entries: Vec::new(), calls: Vec::new(), handoff: None }
    }

    /// Writes the answer down as it comes, and lets the listener hear it.
    pub(super) async fn listen(mut self, mut turn: TurnStream, listener: &Listener) -> Result<Answer, Broken> {
        while let Some(event) = turn.next().await {
            let told = match event? {
                TurnEvent::Started => None,
                TurnEvent::Reasoning(text) => self.said(PartKind::Thinking, &text),
                TurnEvent::Content { text, .. } => self.said(PartKind::Text, &text),
                TurnEvent::CallBegin { id, name, .. } => self.called(id, name),
                TurnEvent::CallArguments { index, fragment } => self.argued(index, &fragment),
                TurnEvent::Finished { finish, usage } => {
                    // Nobody goes on from an answer that was not to be given.
                    self.handoff.take_if(|_| finish == Finish::ContentFilter);
                    return Ok(self.finished(usage));
                }
            };
            if let Some((kind, members)) = told {
                listener.hear(kind, members).await?;
            }
        }
        Err(ApiError::Internal { message: "The answer has no end.".to_owned() }.into())
    }

    fn said(&mut self, kind: PartKind, text: &str) -> Option<(&'static str, Value)> {
        if text.is_empty() {
            return None;
        }
        let is_message = |draft: &Draft| matches!(draft.text, Text::Message(_));
        let place = self.entries.iter().position(is_message).unwrap_or_else(|| self.begin_message());
        let draft = &mut self.entries[place];
        let Text::Message(parts) = &mut draft.text else { return None };
        match parts.last_mut() {
            Some(part) if part.kind == kind => part.text.push_str(text),
            Some(_) | None => parts.push(Part { kind, text: text.to_owned() }),
        }
        let content = match kind {
            PartKind::Thinking => kind.chunk(text),
            PartKind::Text => text.into(),
        };
        let told = json!({
            "id": draft.recorded.id,
            "output_index": self.before + place,
            "content_index": parts.len() - 1,
            "role": "assistant",
            "content": content,
            "model": self.speaker.settings.model,
            "agent_id": self.agent_id(),
        });
        Some(("message.output.delta", told))
    }

    fn called(&mut self, tool_call_id: String, name: String) -> Option<(&'static str, Value)> {
        if let Some(handoff) = self.speaker.handoff(&name) {
            let target = || (handoff.target.id.clone(), handoff.target.definition.name.clone());
            self.handoff.get_or_insert_with(target);
            self.calls.push(None);
            return None;
        }
        self.calls.push(Some(self.entries.len()));
        let (agent_id, model) = (self.agent_id(), Some(self.speaker.settings.model.clone()));
        let entry = Entry::Call { tool_call_id, name, arguments: Value::Null, agent_id, model };
        let recorded = Recorded::new(entry, unix_seconds());
        self.entries.push(Draft { recorded, text: Text::Arguments(String::new()) });
        self.told_of_call(self.entries.len() - 1, "")
    }

    fn argued(&mut self, index: usize, fragment: &str) -> Option<(&'static str, Value)> {
        let place = self.calls.get(index).copied().flatten()?;
        if let Text::Arguments(arguments) = &mut self.entries[place].text {
            arguments.push_str(fragment);
        }
        self.told_of_call(place, fragment)
    }

    fn told_of_call(&self, place: usize, fragment: &str) -> Option<(&'static str, Value)> {
        let recorded = &self.entries[place].recorded;
        let Entry::Call { tool_call_id, name, agent_id, model, .. } = &recorded.entry else { return None };
        let told = json!({
            "id": recorded.id,
            "output_index": self.before + place,
            "tool_call_id": tool_call_id,
            "name": name,
            "arguments": fragment,
            "model": model,
            "agent_id": agent_id,
        });
        Some(("function.call.delta", told))
    }

    fn begin_message(&mut self) -> usize {
        let entry = Entry::Output {
            content: "".into(),
            agent_id: self.agent_id(),
            model: Some(self.speaker.settings.model.clone()),
        };
        let recorded = Recorded::new(entry, unix_seconds());
        self.entries.push(Draft { recorded, text: Text::Message(Vec::new()) });
        self.entries.len() - 1
    }

    fn finished(mut self, usage: UsageCounter) -> Answer {
        if self.entries.is_empty() && self.handoff.is_none() {
            self.begin_message(); // the model had nothing to say, and that is said
        }
        let complete = |draft: Draft| {
            let Draft { mut recorded, text } = draft;
            match (&mut recorded.entry, text) {
                (Entry::Output { content, .. }, Text::Message(parts)) => *content = message(&parts),
                (Entry::Call { arguments, .. }, Text::Arguments(text)) => *arguments = text.into(),
                (_, Text::Message(_) | Text::Arguments(_)) => {}
            }
            recorded
        };
        Answer { entries: self.entries.into_iter().map(complete).collect(), handoff: self.handoff, usage }
    }

    fn agent_id(&self) -> Option<String> {
        self.speaker.agent.as_ref().map(|(id, _)| id.clone())
    }
}

/// A text where there is nothing else.
fn message(parts: &[Part]) -> Value {
    match parts {
        [] => "".into(),
        [Part { kind: PartKind::Text, text }] => text.as_str().into(),
        parts => parts.iter().map(|part| part.kind.chunk(&part.text)).collect(),
    }
}
