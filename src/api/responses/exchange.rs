//! What is asked, with all that it continues -> a turn.
//!
//! Main type: [`Exchange`]: the request, its items with references looked up, and the items before them.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    OWNER,
    items::{Given, from_store, id_of},
    request::{Asked, Continued, Delivery, Truncation},
    thread::{Place, Thread},
};
use crate::{
    api::{
        dialect::Dialect,
        error::ApiError,
        request::{Work, off_thread},
        state::AppState,
        stored_error::named_by,
        turn::{Turn, TurnRequest},
    },
    engine::TakenPlace,
    store::{Store, StoreError},
};

/// Most items of an input that are only named.
const MAX_REFERENCES: usize = 1000;

/// A request with everything that the model is to read.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) asked: Asked,
    /// The items of the input.
    pub(super) input: Vec<Value>,
    /// What went before, oldest first.
    before: Vec<Value>,
    /// The conversation's position behind what went before.
    pub(super) position: Option<u64>,
    /// What went before takes the place of a body.
    _memory: Option<TakenPlace>,
}

impl Exchange {
    /// Looks up what the request names.
    pub(super) async fn new(mut asked: Asked, state: &AppState) -> Result<Self, ApiError> {
        check_references(&asked.input.items)?;
        let (store, max_bytes) = (state.store(), state.limits().body_bytes);
        let (mut position, mut bodies, mut taken) = (None, Vec::new(), None);
        match &asked.continued {
            None => {}
            Some(continued @ Continued::Response(id)) => {
                bodies = store.response_chain(id, max_bytes).await.map_err(named_by(continued.field()))?;
                check_ended(store, id).await?;
            }
            Some(continued @ Continued::Conversation(id)) => {
                let found = store.whole_conversation(OWNER, id, max_bytes).await;
                let (conversation, items) = found.map_err(named_by(continued.field()))?;
                position = Some(conversation.last_position);
                if !matches!(asked.delivery, Delivery::Now { stored: false, .. }) {
                    taken = Some(items.iter().map(|item| item.id.clone()).collect());
                }
                bodies = items.into_iter().map(|item| item.body).collect();
            }
        }
        let bytes: usize = bodies.iter().map(String::len).sum();
        let mut along = Along { bytes, memory: None, taken };
        state.reserve_body(&mut along.memory, bytes)?;
        let read = move || bodies.iter().map(|body| from_store(body)).collect();
        let before = off_thread(state, bytes, read).await?;
        let mut input = Vec::new();
        for given in std::mem::take(&mut asked.input.items) {
            input.push(match given {
                Given::Item(item) if along.is_taken(id_of(&item)) => {
                    return Err(StoreError::ItemExists { id: id_of(&item).to_owned() }.into());
                }
                Given::Item(item) => item,
                Given::Reference { id, path } => along.referred(&id, &format!("{path}.id"), state).await?,
            });
        }
        Ok(Self { asked, input, before, position, _memory: along.memory })
    }

    /// The turn that answers it. With `truncation` auto as few of the oldest items are left out as is possible.
    pub(super) async fn prepare(&self, work: &Work) -> Result<Turn, ApiError> {
        let whole = self.request(0).prepare(work).await?;
        if self.asked.truncation == Truncation::Disabled || self.fits(&whole) {
            return Ok(whole);
        }
        let starts = self.starts();
        let (mut low, mut high) = (0, starts.len());
        let mut shortest = whole;
        while low < high {
            let middle = low.midpoint(high);
            let turn = self.request(starts[middle]).prepare(work).await?;
            if self.fits(&turn) {
                high = middle;
            } else {
                low = middle + 1;
            }
            if turn.prompt_tokens() < shortest.prompt_tokens() {
                shortest = turn;
            }
        }
        match starts.get(low) {
            Some(&start) => self.request(start).prepare(work).await,
            None => Ok(shortest), // which will be refused as too long
        }
    }

    fn fits(&self, turn: &Turn) -> bool {
        let reserve = self.asked.max_output_tokens.unwrap_or(1);
        turn.prompt_tokens().saturating_add(reserve) <= turn.model().max_model_len
    }

    /// Numbers of items that can be left out: what is left begins with what a user says.
    fn starts(&self) -> Vec<usize> {
        let head = self.head();
        let items = self.before.iter().chain(&self.input).enumerate();
        items.filter(|(index, item)| *index > head && item["role"] == "user").map(|(index, _)| index).collect()
    }

    /// How many items at the beginning are instructions: these stay.
    fn head(&self) -> usize {
        let is_instruction = |item: &&Value| item["role"] == "system" || item["role"] == "developer";
        self.before.iter().chain(&self.input).take_while(is_instruction).count()
    }

    /// The chat, without its oldest items up to `start`.
    fn request(&self, start: usize) -> TurnRequest {
        let head = self.head();
        let mut thread = Thread::new(self.asked.names.clone());
        if let Some(instructions) = &self.asked.instructions {
            thread.instruct(instructions);
        }
        let field = self.asked.continued.as_ref().map_or("input", Continued::field);
        let before = self.before.iter().map(|item| (item, Place::Behind(field)));
        let input = self.input.iter().enumerate().map(|(index, item)| {
            let is_text = self.asked.input.is_text;
            (item, if is_text { Place::Behind("input") } else { Place::Item(format!("input[{index}]")) })
        });
        for (index, (item, place)) in before.chain(input).enumerate() {
            if index < head || index >= start {
                thread.push(item, &place);
            }
        }
        let (messages, names) = thread.finish();
        let mut body = self.asked.chat.clone();
        body.insert("messages".to_owned(), messages);
        TurnRequest { body, names, dialect: Dialect::OpenAi }
    }
}

/// What a request brings along without saying it.
struct Along {
    /// Of what it continues and refers to; each time that it does.
    bytes: usize,
    memory: Option<TakenPlace>,
    /// The ids in the conversation that gets the input, if one does.
    taken: Option<HashSet<String>>,
}

impl Along {
    /// Does the conversation have this id? From now on it does.
    fn is_taken(&mut self, id: &str) -> bool {
        self.taken.as_mut().is_some_and(|taken| !taken.insert(id.to_owned()))
    }

    /// The item that the field at `path` names.
    async fn referred(&mut self, id: &str, path: &str, state: &AppState) -> Result<Value, ApiError> {
        if self.is_taken(id) {
            let message = format!("`{path}`: the conversation has this item already, or gets it here already.");
            return Err(ApiError::invalid(path, message));
        }
        let limit = state.limits().body_bytes;
        let body = match state.store().any_item(OWNER, id, limit.saturating_sub(self.bytes)).await {
            Err(StoreError::TooLong { .. }) => {
                return Err(ApiError::Invalid {
                    message: format!("`{path}`: all that the input refers to and continues may have {limit} bytes."),
                    param: Some(path.to_owned()),
                    code: Some("context_length_exceeded"),
                });
            }
            found => found.map_err(named_by(path))?,
        };
        self.bytes += body.len();
        state.reserve_body(&mut self.memory, self.bytes)?;
        off_thread(state, body.len(), move || from_store(&body)).await
    }
}

/// Each reference is looked up on its own, so there is an end to them.
fn check_references(items: &[Given]) -> Result<(), ApiError> {
    let mut paths = items.iter().filter_map(|given| match given {
        Given::Item(_) => None,
        Given::Reference { path, .. } => Some(path),
    });
    match paths.nth(MAX_REFERENCES) {
        None => Ok(()),
        Some(path) => {
            let message = format!("`{path}`: an input may have {MAX_REFERENCES} references.");
            Err(ApiError::invalid(path, message))
        }
    }
}

/// A response that is still to be answered has nothing to go on from.
async fn check_ended(store: &Store, id: &str) -> Result<(), ApiError> {
    use crate::store::ResponseState::{Cancelled, Completed, Failed, InProgress, Incomplete, Queued};
    let field = "previous_response_id";
    let state = store.response_state(id).await.map_err(named_by(field))?;
    match state {
        Completed | Incomplete => Ok(()),
        Queued | InProgress | Failed | Cancelled => {
            let state = state.as_str();
            Err(ApiError::invalid(field, format!("`{field}`: the response is {state} and cannot be continued.")))
        }
    }
}
