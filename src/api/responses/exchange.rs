//! What is asked, with all that it continues -> a turn.
//!
//! Main type: [`Exchange`]: the request, its items with references looked up, and the items before them.

use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    OWNER,
    items::{Given, from_store},
    request::{Asked, Continued, Truncation},
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
    store::Store,
};

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
    _memory: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Looks up what the request names.
    pub(super) async fn new(mut asked: Asked, state: &AppState) -> Result<Self, ApiError> {
        let (store, max_bytes) = (state.store(), state.limits().body_bytes);
        let (mut position, mut bodies) = (None, Vec::new());
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
                bodies = items.into_iter().map(|item| item.body).collect();
            }
        }
        let (mut memory, bytes) = (None, bodies.iter().map(String::len).sum());
        state.reserve_body(&mut memory, bytes)?;
        let read = move || bodies.iter().map(|body| from_store(body)).collect();
        let before = off_thread(state, bytes, read).await?;
        let mut input = Vec::new();
        for given in std::mem::take(&mut asked.input.items) {
            input.push(match given {
                Given::Item(item) => item,
                Given::Reference { id, path } => {
                    let path = format!("{path}.id");
                    from_store(&store.any_item(OWNER, &id).await.map_err(named_by(&path))?)?
                }
            });
        }
        Ok(Self { asked, input, before, position, _memory: memory })
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

/// A response that is still to be answered has nothing to go on from.
async fn check_ended(store: &Store, id: &str) -> Result<(), ApiError> {
    use crate::store::ResponseState::{Cancelled, Completed, Failed, InProgress, Incomplete, Queued};
    let field = "previous_response_id";
    let (response, _) = store.response(id).await.map_err(named_by(field))?;
    match response.state {
        Completed | Incomplete => Ok(()),
        Queued | InProgress | Failed | Cancelled => {
            let state = response.state.as_str();
            Err(ApiError::invalid(field, format!("`{field}`: the response is {state} and cannot be continued.")))
        }
    }
}
