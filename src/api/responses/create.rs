//! `POST /v1/responses`: an answer at once, as a stream, or later; and `POST /v1/responses/input_tokens`.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    MAX_CONVERSATION_ITEMS, MAX_WAITING, OWNER,
    exchange::Exchange,
    following::Following,
    items::to_store,
    object::{Draft, Ending},
    output::{ItemStatus, Output},
    request::{Asked, Continued, Delivery},
};
use crate::{
    api::{
        about::Storing,
        body::JsonText,
        error::ApiError,
        fields,
        form::parsing_cost,
        generation::Finish,
        request::{Work, off_thread, set_request_id},
        sse::{self, Broken, Framing, Sender},
        state::{AppState, unix_seconds},
        turn::{TurnEvent, TurnStream},
    },
    store::{Append, NewItem, NewResponse, ResponseState, StoredResponse},
};

/// Answers, or promises to.
pub(in crate::api) async fn create(mut work: Work, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let text = Arc::new(text);
    let (body, storing) = (Arc::clone(&text), work.state.storing().clone());
    let read = move || Asked::parse(&body, &fields::RESPONSES, &storing);
    let asked = off_thread(&work.state, text.len(), read).await?;
    let subject = asked.subject()?;
    work.share.audit().about(subject.clone());
    work.state = work.state.or_subject(subject);
    let exchange = Exchange::new(asked, &work.state).await?;
    let turn = exchange.prepare(&work).await?;
    let draft = Draft::new(&exchange.asked, &turn);
    let record = Record::new(&exchange, draft, &work.state);
    let (streamed, stored) = match exchange.asked.delivery {
        Delivery::Now { streamed, stored } => (streamed, stored),
        Delivery::Later { streamed } => {
            drop(turn);
            return queue(work, record, text.to_string(), streamed).await;
        }
    };
    let stream = turn.start()?;
    let mut answering = Answering { record, stored, output: Output::default() };
    let Work { state, in_flight, request_id, .. } = work;
    let mut response = if streamed {
        let limits = state.limits().clone();
        let produced = move |sender| async move { answering.stream(stream, &state, sender).await };
        sse::respond(Framing::Typed, &limits, in_flight, produced)
    } else {
        Json(answering.whole(stream, &state).await?).into_response()
    };
    set_request_id(&mut response, &request_id);
    Ok(response)
}

/// How many tokens the model would read.
pub(in crate::api) async fn count_input(work: Work, JsonText(text): JsonText) -> Result<Json<Value>, ApiError> {
    let cost = parsing_cost(&text);
    let read = move || Asked::parse(&text, &fields::INPUT_TOKENS, &Storing::Allowed);
    let asked = off_thread(&work.state, cost, read).await?;
    let turn = Exchange::new(asked, &work.state).await?.prepare(&work).await?;
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": turn.prompt_tokens() })))
}

/// Everything about a response but its answer, and where it will be kept.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) draft: Draft,
    previous: Option<String>,
    input: Vec<NewItem>,
    conversation: Option<(String, Option<u64>)>,
    expires_at: u64,
}

impl Record {
    pub(super) fn new(exchange: &Exchange, draft: Draft, state: &AppState) -> Self {
        let (previous, conversation) = match &exchange.asked.continued {
            None => (None, None),
            Some(Continued::Response(id)) => (Some(id.clone()), None),
            Some(Continued::Conversation(id)) => (None, Some((id.clone(), exchange.position))),
        };
        let expires_at = state.expiry(unix_seconds());
        Self { draft, previous, input: to_store(&exchange.input), conversation, expires_at }
    }

    /// What the conversation gets of the exchange.
    pub(super) fn append(&self, output: &[Value]) -> Option<Append> {
        let (conversation, after) = self.conversation.clone()?;
        Some(Append {
            conversation,
            owner: OWNER,
            after,
            items: self.input.iter().cloned().chain(to_store(output)).collect(),
            at: unix_seconds(),
            expires_at: self.expires_at,
            limit: MAX_CONVERSATION_ITEMS,
        })
    }

    fn stored(&self, state: ResponseState, ending: &Ending) -> NewResponse {
        let response = StoredResponse {
            id: self.draft.id.clone(),
            state,
            previous: self.previous.clone(),
            created_at: self.draft.created_at,
            body: self.draft.body(state, ending),
            attempts: 0,
            events: None,
        };
        let input = self.input.clone();
        NewResponse { response, request: None, behalf: None, expires_at: self.expires_at, input, output: Vec::new() }
    }
}

/// How an answer has ended, in the words of a response.
pub(super) fn state_after(finish: Finish) -> ResponseState {
    match finish {
        Finish::Stop | Finish::ToolCalls => ResponseState::Completed,
        Finish::Length | Finish::ContentFilter => ResponseState::Incomplete,
    }
}

/// Of the last item of such an answer.
pub(super) fn last_status(state: ResponseState) -> ItemStatus {
    match state {
        ResponseState::Completed => ItemStatus::Completed,
        ResponseState::Queued
        | ResponseState::InProgress
        | ResponseState::Incomplete
        | ResponseState::Failed
        | ResponseState::Cancelled => ItemStatus::Incomplete,
    }
}

/// Puts the response into the queue; with a stream its client may watch what becomes of it.
async fn queue(work: Work, record: Record, request: String, streamed: bool) -> Result<Response, ApiError> {
    let Work { state, in_flight, terms, caller, share, .. } = work;
    // Whoever watches takes no place from those who wait for an answer of their own.
    let watching = if streamed { Some(state.admit_follower()?) } else { None };
    let mut queued = record.stored(ResponseState::Queued, &Ending::default());
    queued.response.events = streamed.then(String::new);
    state
        .store()
        .queue_response(NewResponse { request: Some(request), behalf: caller.behalf(), ..queued }, MAX_WAITING)
        .await?;
    share.audit().queued("responses.queue", &record.draft.id)?;
    state.responses_changed().notify_one();
    drop(in_flight);
    match watching {
        None => Ok(Json(record.draft.object(ResponseState::Queued, &[], &Ending::default())).into_response()),
        Some(place) => Ok(Following::new(state, record.draft.id, terms.deadline).respond(place)),
    }
}

/// A response that is being answered while its client waits.
struct Answering {
    record: Record,
    stored: bool,
    output: Output,
}

impl Answering {
    async fn whole(&mut self, mut stream: TurnStream, state: &AppState) -> Result<Value, ApiError> {
        while let Some(event) = stream.next().await {
            match event? {
                TurnEvent::Finished { finish, .. } => {
                    let ended = state_after(finish);
                    self.output.finish(last_status(ended));
                    return self.end(finish, &stream, state).await;
                }
                event => self.output.push(event),
            }
        }
        Err(ApiError::Internal { message: "The answer has no end.".to_owned() })
    }

    async fn stream(&mut self, mut stream: TurnStream, state: &AppState, sender: Sender) -> Result<(), Broken> {
        for kind in ["response.created", "response.in_progress"] {
            let object = self.record.draft.object(ResponseState::InProgress, &[], &Ending::default());
            sender.send_typed(kind, with_response(object)).await?;
        }
        match self.tell(&mut stream, state, &sender).await {
            Err(Broken::Failed(error)) => {
                tracing::warn!(%error, "response failed");
                self.output.finish(ItemStatus::Incomplete);
                let ending = Ending { usage: Some(stream.usage().clone()), error: Some(error), finish: None };
                // What cannot be kept is at least told.
                if let Err(error) = self.keep(ResponseState::Failed, &ending, None, state).await {
                    tracing::warn!(%error, "a failed response could not be stored");
                }
                let object = self.record.draft.object(ResponseState::Failed, &self.output.items(), &ending);
                sender.send_typed("response.failed", with_response(object)).await
            }
            told => told,
        }
    }

    async fn tell(&mut self, stream: &mut TurnStream, state: &AppState, sender: &Sender) -> Result<(), Broken> {
        let mut told = 0;
        while let Some(event) = stream.next().await {
            let event = event?;
            let ended = match &event {
                TurnEvent::Finished { finish, .. } => Some(*finish),
                TurnEvent::Started
                | TurnEvent::Reasoning(_)
                | TurnEvent::Content { .. }
                | TurnEvent::CallBegin { .. }
                | TurnEvent::CallArguments { .. } => None,
            };
            match ended {
                None => self.output.push(event),
                Some(finish) => self.output.finish(last_status(state_after(finish))),
            }
            while let Some((kind, members)) = self.output.event(told) {
                sender.send_typed(kind, members).await?;
                told += 1;
            }
            if let Some(finish) = ended {
                let object = self.end(finish, stream, state).await?;
                let kind = if state_after(finish) == ResponseState::Completed {
                    "response.completed"
                } else {
                    "response.incomplete"
                };
                return sender.send_typed(kind, with_response(object)).await;
            }
        }
        Err(ApiError::Internal { message: "The answer has no end.".to_owned() }.into())
    }

    /// Keeps the answer before the client is told of its end, so that it can be continued at once.
    async fn end(&self, finish: Finish, stream: &TurnStream, state: &AppState) -> Result<Value, ApiError> {
        let ended = state_after(finish);
        let ending = Ending { usage: Some(stream.usage().clone()), finish: Some(finish), error: None };
        let items = self.output.items();
        self.keep(ended, &ending, self.record.append(&items), state).await?;
        Ok(self.record.draft.object(ended, &items, &ending))
    }

    async fn keep(
        &self,
        ended: ResponseState,
        ending: &Ending,
        append: Option<Append>,
        state: &AppState,
    ) -> Result<(), ApiError> {
        if !self.stored {
            return Ok(());
        }
        let new = NewResponse { output: to_store(&self.output.items()), ..self.record.stored(ended, ending) };
        Ok(state.store().store_response(new, append).await?)
    }
}

pub(super) fn with_response(response: Value) -> Map<String, Value> {
    Map::from_iter([("response".to_owned(), response)])
}
