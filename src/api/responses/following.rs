//! A response in the background as a stream: from its beginning or from where a client left it, while it is answered and
//! afterwards.
//!
//! Main type: [`Following`]. It reads the store for where the response is, `streams` for an answer that is under way, and
//! the store again for the rest; whatever comes from where, an event has the same number and the same members. Only the
//! events of an answer that failed or was cancelled are not kept: its stream goes on with the last one.
//!
//! Numbers: 0 and 1 are of the queue, then each attempt to answer has 2^32 of its own, so a client that comes back after a
//! restart of the server cannot take events of a new answer for those of the one that it knows.

use std::time::Instant;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::watch, time::timeout_at};

use super::{
    create::with_response,
    items::from_store,
    object::{Draft, Ending, shown},
    output::{Output, Pieces, TypedEvent},
    streams::{Seat, Told},
};
use crate::{
    api::{
        error::ApiError,
        request::off_thread,
        sse::{self, Broken, Framing, Sender},
        state::{AppState, InFlight},
    },
    store::{ResponseState, StoredResponse},
};

const CREATED: u64 = 0;
const QUEUED: u64 = 1;
/// Of the first attempt.
const FIRST: u64 = 2;
/// More than an attempt can have events.
const NUMBERS_OF_AN_ATTEMPT: u64 = 1 << 32;

/// Somebody who watches a response.
pub(super) struct Following {
    state: AppState,
    id: String,
    /// The last event that the client has.
    seen: Option<u64>,
    /// When it has to come back.
    deadline: Instant,
}

/// What is stored of an attempt's events.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// How many tell of the output.
    told: usize,
    /// What the output lacks to tell them again; empty if there is no output.
    pieces: Vec<Pieces>,
}

/// Where a response is.
struct Position {
    response: StoredResponse,
    kept: Option<Kept>,
}

impl Kept {
    /// Of an output that is kept.
    pub(super) fn whole(output: &Output) -> Self {
        Self { told: output.events_len(), pieces: output.pieces() }
    }

    /// Of an output that is not kept.
    pub(super) fn cut(told: usize) -> Self {
        Self { told, pieces: Vec::new() }
    }

    /// As the store keeps it.
    pub(super) fn to_store(&self) -> String {
        // Numbers in lists and objects always have a form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Following {
    /// From the beginning of a response that was just made.
    pub(super) fn new(state: AppState, id: String, deadline: Instant) -> Self {
        Self { state, id, seen: None, deadline }
    }

    /// From behind the event `starting_after`, if the response has such a one.
    pub(super) async fn resumed(state: AppState, id: String, starting_after: Option<u64>) -> Result<Self, ApiError> {
        // In this order, as a client may have seen no more than what was told before it asked.
        let under_way = state.response_streams().under_way(&id);
        let (response, _) = state.store().response(&id).await?;
        if response.events.is_none() {
            let message =
                "`stream`: only a response that was created with `background` and `stream` true can be followed.";
            return Err(ApiError::invalid("stream", message));
        }
        if let Some(seen) = starting_after {
            Position::of(response)?.check(seen, under_way)?;
        }
        let deadline = Instant::now() + state.limits().request_timeout;
        Ok(Self { seen: starting_after, ..Self::new(state, id, deadline) })
    }

    /// The stream. `place` is what counts it.
    pub(super) fn respond(self, place: InFlight) -> Response {
        let limits = self.state.limits().clone();
        sse::respond(Framing::Resumable, &limits, place, move |sender| self.follow(sender))
    }

    async fn follow(mut self, sender: Sender) -> Result<(), Broken> {
        sender.count_from(self.seen.map_or(CREATED, |seen| seen + 1));
        let seat = self.state.response_streams().enter(&self.id);
        let mut changes = seat.changes();
        loop {
            let (response, output) = self.state.store().response(&self.id).await.map_err(ApiError::from)?;
            let position = Position::of(response)?;
            if self.seen.is_some_and(|seen| position.is_behind(seen)) {
                return Err(begun_again(None).into());
            }
            self.tell_beginning(&position, &sender).await?;
            match position.response.state {
                ResponseState::Queued => {}
                ResponseState::InProgress => {
                    if self.tell_answer(position.attempt(), &seat, &mut changes, &sender).await? {
                        continue; // the store knows how it has ended
                    }
                }
                ResponseState::Completed
                | ResponseState::Incomplete
                | ResponseState::Failed
                | ResponseState::Cancelled => {
                    return self.tell_end(position, output, &sender).await;
                }
            }
            self.wait(&mut changes).await?;
        }
    }

    /// What comes before the answer.
    async fn tell_beginning(&mut self, position: &Position, sender: &Sender) -> Result<(), Broken> {
        use ResponseState::{InProgress, Queued};
        let draft = Draft::stored(&position.response)?;
        let begun = position.is_begun().then(|| (begin_of(position.attempt()), "response.in_progress", InProgress));
        let queued = [(CREATED, "response.created", Queued), (QUEUED, "response.queued", Queued)];
        for (number, kind, state) in queued.into_iter().chain(begun) {
            if self.lacks(number) {
                let object = draft.object(state, &[], &Ending::default());
                self.tell(number, (kind, with_response(object)), sender).await?;
            }
        }
        Ok(())
    }

    /// An answer as it comes, until it is there no more. False if it was not there.
    async fn tell_answer(
        &mut self,
        attempt: u64,
        seat: &Seat,
        changes: &mut watch::Receiver<()>,
        sender: &Sender,
    ) -> Result<bool, Broken> {
        let mut was_there = false;
        loop {
            let index = self.index_in(attempt);
            match seat.event(attempt, index) {
                Told::Event(event) => self.tell(number_of(attempt, index), event, sender).await?,
                Told::NotYet => self.wait(changes).await?,
                Told::Elsewhere => return Ok(was_there),
            }
            was_there = true;
        }
    }

    /// What is left of a response that has ended.
    async fn tell_end(&mut self, position: Position, output: Vec<String>, sender: &Sender) -> Result<(), Broken> {
        let (attempt, last) = (position.attempt(), position.last());
        let Position { response, kept } = position;
        let bytes = output.iter().chain(&response.events).map(String::len).sum();
        let mut memory = None;
        self.state.reserve_body(&mut memory, bytes)?;
        let object = shown(&response, &output)?;
        let kind = match response.state {
            ResponseState::Completed => "response.completed",
            ResponseState::Incomplete => "response.incomplete",
            // There is no event of its own for what was cancelled: the response says it.
            ResponseState::Failed | ResponseState::Cancelled | ResponseState::Queued | ResponseState::InProgress => {
                "response.failed"
            }
        };
        let pieces = kept.map(|kept| kept.pieces).unwrap_or_default();
        if !pieces.is_empty() {
            let read = move || {
                let items: Vec<Value> = output.iter().map(|item| from_store(item)).collect::<Result<_, _>>()?;
                Output::kept(&items, &pieces)
            };
            let output = off_thread(&self.state, bytes, read).await?;
            let mut index = self.index_in(attempt);
            while let Some(event) = output.event(index) {
                self.tell(number_of(attempt, index), event, sender).await?;
                index += 1;
            }
        }
        if self.lacks(last) {
            self.tell(last, (kind, with_response(object)), sender).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, number: u64, event: TypedEvent, sender: &Sender) -> Result<(), Broken> {
        let (kind, members) = event;
        sender.send_numbered(number, kind, members).await?;
        self.seen = Some(number);
        Ok(())
    }

    fn lacks(&self, number: u64) -> bool {
        self.seen.is_none_or(|seen| seen < number)
    }

    /// Which event of an attempt's output comes next.
    fn index_in(&self, attempt: u64) -> usize {
        let seen = self.seen.map_or(0, |seen| seen.saturating_sub(begin_of(attempt)));
        usize::try_from(seen).unwrap_or(usize::MAX)
    }

    /// Waits for something new.
    async fn wait(&self, changes: &mut watch::Receiver<()>) -> Result<(), ApiError> {
        if self.state.is_draining() {
            return Err(ApiError::Unavailable { reason: "it is shutting down" });
        }
        match timeout_at(self.deadline.into(), changes.changed()).await {
            Ok(Ok(())) => Ok(()),
            // Its other end is at the seat.
            Ok(Err(_)) => Err(ApiError::Internal { message: "The response cannot be followed any more.".to_owned() }),
            Err(_) => Err(ApiError::DeadlineExceeded),
        }
    }
}

impl Position {
    fn of(response: StoredResponse) -> Result<Self, ApiError> {
        let kept = match response.events.as_deref() {
            None | Some("") => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|error| ApiError::Internal {
                message: format!("A stored response cannot be read: its stream: {error}."),
            })?),
        };
        Ok(Self { response, kept })
    }

    /// The attempt that is under way or has ended, or else the next one.
    fn attempt(&self) -> u64 {
        if self.is_begun() { self.response.attempts } else { self.response.attempts.saturating_add(1) }
    }

    fn is_begun(&self) -> bool {
        self.response.state == ResponseState::InProgress || self.kept.is_some()
    }

    /// Is what a client has seen of an answer that was begun again since? Where there is no answer in the end, nothing can
    /// be taken for the rest of it.
    fn is_behind(&self, seen: u64) -> bool {
        match self.response.state {
            ResponseState::Failed | ResponseState::Cancelled => false,
            ResponseState::Queued
            | ResponseState::InProgress
            | ResponseState::Completed
            | ResponseState::Incomplete => seen >= FIRST && seen < begin_of(self.attempt()),
        }
    }

    /// The number of the last event of a response that has ended. Where it is not known how many were told, because the response
    /// was cancelled meanwhile, it is that of a next attempt, which is behind all of them.
    fn last(&self) -> u64 {
        match &self.kept {
            Some(kept) => number_of(self.attempt(), kept.told),
            None => begin_of(self.attempt()),
        }
    }

    /// Is this an event that there has been?
    fn check(&self, seen: u64, under_way: Option<(u64, usize)>) -> Result<(), ApiError> {
        if self.is_behind(seen) {
            return Err(begun_again(Some("starting_after")));
        }
        let last = match self.response.state {
            ResponseState::Queued => QUEUED,
            ResponseState::InProgress => match under_way {
                Some((attempt, told @ 1..)) if attempt == self.attempt() => number_of(attempt, told - 1),
                Some(_) | None => begin_of(self.attempt()),
            },
            ResponseState::Completed | ResponseState::Incomplete | ResponseState::Failed | ResponseState::Cancelled => {
                self.last()
            }
        };
        if seen > last {
            let message = format!("`starting_after` is {seen}, but the last event of the response so far is {last}.");
            return Err(ApiError::invalid("starting_after", message));
        }
        Ok(())
    }
}

/// The number of an attempt's first event.
fn begin_of(attempt: u64) -> u64 {
    FIRST.saturating_add(attempt.saturating_sub(1).saturating_mul(NUMBERS_OF_AN_ATTEMPT))
}

/// The number of the event that tells of an attempt's output at this index.
fn number_of(attempt: u64, index: usize) -> u64 {
    begin_of(attempt).saturating_add(1).saturating_add(index as u64)
}

fn begun_again(param: Option<&str>) -> ApiError {
    let message = "The response is answered from its beginning again, as its answer broke off: follow it without \
                   `starting_after`, and forget what came before.";
    ApiError::Invalid { message: message.to_owned(), param: param.map(str::to_owned), code: Some("stream_restarted") }
}
