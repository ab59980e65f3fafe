//! The worker for responses that nobody waits for: one for the server, for as long as it serves.
//!
//! A few are answered at once, after everybody else. What is to be done is in the store: a response that was being
//! answered when the server stopped is answered from its beginning by the next one. One that is cancelled or deleted
//! is dropped within a moment.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    create::{Record, last_status, state_after},
    exchange::Exchange,
    following::Kept,
    items::{Given, from_store, to_store},
    object::{Draft, Ending},
    request::Asked,
    streams::Telling,
};
use crate::{
    api::{
        about::{About, Storing},
        audit::Cause,
        batches::keep_running,
        behalf::caller_of,
        error::ApiError,
        fields,
        request::{Work, off_thread},
        state::{AppState, unix_seconds},
        turn::TurnEvent,
    },
    store::{ResponseEnd, ResponseState, StoreError, StoredResponse, WaitingResponse},
};

/// Where they were asked for.
const ROUTE: &str = "/v1/responses";
/// After something that was not possible just now; twice as long after each further time.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// After the database failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// A response that takes longer than this fails.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Answers what waits; never ends. What it was doing when it is dropped is taken up by the next one.
pub async fn run(state: AppState) {
    keep_running("responses", FAILURE_PAUSE, || work(state.clone())).await;
}

async fn work(state: AppState) {
    let mut worker = Worker { state, running: JoinSet::new(), by_id: HashMap::new() };
    while let Err(error) = worker.state.store().requeue_responses().await {
        tracing::warn!(%error, "responses in the background have to wait");
        sleep(FAILURE_PAUSE).await;
    }
    loop {
        if let Err(error) = worker.turn().await {
            tracing::warn!(%error, "responses in the background have to wait");
            sleep(FAILURE_PAUSE).await;
        }
    }
}

struct Worker {
    state: AppState,
    /// Each gives its id when it has ended.
    running: JoinSet<String>,
    by_id: HashMap<String, AbortHandle>,
}

impl Worker {
    /// Begins what can begin, then waits for something to change.
    async fn turn(&mut self) -> Result<(), StoreError> {
        self.drop_unwanted().await?;
        while self.by_id.len() < self.state.limits().storage.answers_at_once {
            let Some(waiting) = self.state.store().take_response().await? else { break };
            let id = waiting.response.id.clone();
            // What it leaves in a conversation is kept for the same purpose.
            let state = self.state.with_about(About::of_kept(waiting.kept.clone()));
            let handle = self.running.spawn(answer(state, waiting));
            self.by_id.insert(id, handle);
        }
        tokio::select! {
            Some(ended) = self.running.join_next() => {
                match ended {
                    // It may be answered again by now, by another task.
                    Ok(id) => drop(self.by_id.extract_if(|known, task| *known == id && task.is_finished()).next()),
                    // One that was aborted has been forgotten already.
                    Err(_) => self.fail_finished().await,
                }
            }
            () = self.state.responses_changed().notified() => {}
        }
        Ok(())
    }

    async fn drop_unwanted(&mut self) -> Result<(), StoreError> {
        let ids: Vec<String> = self.by_id.keys().cloned().collect();
        for id in ids {
            let is_wanted = match self.state.store().response_state(&id).await {
                Ok(state) => state == ResponseState::InProgress,
                Err(StoreError::Missing { .. }) => false,
                Err(error) => return Err(error),
            };
            if !is_wanted && let Some(handle) = self.by_id.remove(&id) {
                handle.abort();
            }
        }
        Ok(())
    }

    /// Fails the responses whose tasks have ended without saying so.
    async fn fail_finished(&mut self) {
        let finished = self.by_id.extract_if(|_, handle| handle.is_finished());
        let ids: Vec<String> = finished.map(|(id, _)| id).collect();
        for id in ids {
            loop {
                match self.state.store().response(&id).await {
                    Ok((response, _)) => {
                        let message = "The request failed; this is a bug of the server.".to_owned();
                        let ending = Ending { error: Some(ApiError::Internal { message }), ..Ending::default() };
                        break fail(&self.state, &response, &ending, None).await;
                    }
                    Err(StoreError::Missing { .. }) => break, // it was deleted
                    Err(error) => {
                        tracing::warn!(%error, response = id, "responses in the background have to wait");
                        sleep(FAILURE_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// How an answer has ended: its state, its items with what is to be kept of their events, and what else is to be told.
struct Ended {
    state: ResponseState,
    output: Vec<Value>,
    events: Kept,
    ending: Ending,
    record: Option<Record>,
}

/// Answers one response, however often that has to be tried, and gives its id.
async fn answer(state: AppState, waiting: WaitingResponse) -> String {
    let id = waiting.response.id.clone();
    let telling = state.response_streams().enter(&id).tell(waiting.response.attempts);
    // However often it is begun.
    let age = Duration::from_secs(unix_seconds().saturating_sub(waiting.response.created_at));
    let deadline = Instant::now() + PATIENCE.saturating_sub(age);
    let mut pause = RETRY;
    let ended = loop {
        let error = match attempt(&state, &waiting, &telling, deadline).await {
            Ok(ended) => break ended,
            Err(error) if is_for_now(&error) && Instant::now() + pause < deadline => {
                sleep(pause).await;
                if telling.events_len() > 0 {
                    // What was told is not taken back: it begins again with numbers of its own.
                    requeue(&state, &id).await;
                    return id;
                }
                pause = (pause * 2).min(LONGEST_RETRY);
                continue;
            }
            Err(error) if is_for_now(&error) => ApiError::DeadlineExceeded,
            Err(error) => error,
        };
        let ending = Ending { error: Some(error), ..Ending::default() };
        let events = Kept::cut(telling.events_len());
        break Ended { state: ResponseState::Failed, output: Vec::new(), events, ending, record: None };
    };
    keep(&state, &waiting, ended, telling.events_len()).await;
    id
}

/// Is it worth trying again? A budget that is used up is not free again for hours.
fn is_for_now(error: &ApiError) -> bool {
    match error {
        ApiError::Busy { .. } | ApiError::Unavailable { .. } => true,
        ApiError::Quota(error) => error.passes(),
        _ => false,
    }
}

async fn attempt(
    state: &AppState,
    waiting: &WaitingResponse,
    telling: &Telling,
    deadline: Instant,
) -> Result<Ended, ApiError> {
    let caller = caller_of(state, waiting.behalf.as_deref(), ROUTE).await?;
    let cause = (Cause::Response { id: waiting.response.id.clone() }, waiting.kept.clone());
    let work = Work::in_background(state, ROUTE, deadline, caller.clone(), cause)?;
    let Some(principal) = caller.principal else { return answered(&work, waiting, telling).await };
    tokio::select! {
        biased; // of both at once, what is over counts
        // The next attempt finds out whether somebody else stands for its credential.
        _ = principal.until_over() => Err(ApiError::Unavailable { reason: "the credential that asked for it is over" }),
        ended = answered(&work, waiting, telling) => ended,
    }
}

async fn answered(work: &Work, waiting: &WaitingResponse, telling: &Telling) -> Result<Ended, ApiError> {
    let state = &work.state;
    let (text, len) = (waiting.request.clone(), waiting.request.len());
    let mut asked = off_thread(state, len, move || Asked::parse(&text, &fields::RESPONSES, &Storing::Allowed)).await?;
    // The items have the ids that their client knows by now.
    let stored = waiting.input.iter().map(|item| from_store(item).map(Given::Item));
    asked.input.items = stored.collect::<Result<_, _>>()?;
    let exchange = Exchange::new(asked, state).await?;
    let mut stream = exchange.prepare(work).await?.start()?;
    let record = Record::new(&exchange, Draft::stored(&waiting.response)?, state);
    while let Some(event) = stream.next().await {
        match event? {
            TurnEvent::Finished { finish, usage } => {
                let ended = state_after(finish);
                let (output, events) = telling.change(|output| {
                    output.finish(last_status(ended));
                    (output.items(), Kept::whole(output))
                });
                let ending = Ending { usage: Some(usage), finish: Some(finish), error: None };
                return Ok(Ended { state: ended, output, events, ending, record: Some(record) });
            }
            event => telling.change(|output| output.push(event)),
        }
    }
    Err(ApiError::Internal { message: "The answer has no end.".to_owned() })
}

/// Stores the end of a response. If that cannot be, because its conversation has gone on without it or nothing more can
/// be stored, it has failed.
async fn keep(state: &AppState, waiting: &WaitingResponse, ended: Ended, told: usize) {
    let id = &waiting.response.id;
    let has_stream = waiting.response.events.is_some();
    let Ended { state: last, output, events, ending, record } = ended;
    let stored = match Draft::stored(&waiting.response) {
        Ok(draft) => {
            let append = record.and_then(|record| record.append(&output));
            let events = has_stream.then(|| events.to_store());
            let body = draft.body(last, &ending);
            let end = ResponseEnd { state: last, body, output: to_store(&output), events, append };
            state.store().end_response(id, end).await.map_err(ApiError::from)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = stored {
        tracing::warn!(%error, response = id, "the end of a response could not be stored");
        let ending = Ending { error: ending.error.clone().or(Some(error)), ..ending };
        fail(state, &waiting.response, &ending, has_stream.then(|| Kept::cut(told))).await;
    }
}

/// Ends a response as failed, without output, however often that has to be tried.
async fn fail(state: &AppState, response: &StoredResponse, ending: &Ending, events: Option<Kept>) {
    let id = &response.id;
    let failed = ResponseState::Failed;
    let body = Draft::stored(response).map_or_else(|_| response.body.clone(), |draft| draft.body(failed, ending));
    let events = events.map(|events| events.to_store());
    while let Err(error) = state.store().fail_response(id, body.clone(), events.clone()).await {
        tracing::warn!(%error, response = id, "a response cannot even fail");
        sleep(FAILURE_PAUSE).await;
    }
    state.response_streams().ring(id);
}

/// Puts a response back into the queue, however often that has to be tried.
async fn requeue(state: &AppState, id: &str) {
    while let Err(error) = state.store().requeue_response(id).await {
        tracing::warn!(%error, response = id, "a response in the background has to wait");
        sleep(FAILURE_PAUSE).await;
    }
}
